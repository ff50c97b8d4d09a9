import { spawnSync } from "node:child_process";
import { cpSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, unlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { EngineError } from "../../src/engine/errors.js";
import { openModelFolder } from "../../src/engine/model-folder.js";
import {
  readSafetensorsHeader,
  readStoredTensor,
  SafetensorsWriter,
  type StoredTensor,
} from "../../src/engine/safetensors.js";

const GOLDEN = fileURLToPath(new URL("../fixtures/golden/", import.meta.url));
const root = mkdtempSync(join(tmpdir(), "act-folder-"));
afterAll(() => rmSync(root, { recursive: true }));

let copies = 0;
/** A copy of a golden model to damage. */
function copyOf(model: string): string {
  const path = join(root, `${copies++}`);
  cpSync(join(GOLDEN, model), path, { recursive: true });
  return path;
}

function changeJson(path: string, change: (json: Record<string, unknown>) => void): void {
  const json = JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
  change(json);
  writeFileSync(path, JSON.stringify(json));
}

type NewTensor = Pick<StoredTensor, "name" | "dtype" | "shape"> & { data: Uint8Array };

/** Writes tensors of a file again after a change. */
async function changeTensors(
  file: string,
  change: (tensors: NewTensor[]) => NewTensor[],
  to = file,
): Promise<string[]> {
  const { tensors } = await readSafetensorsHeader(file);
  const all = await Promise.all([...tensors.values()].map(async (t) => ({ ...t, data: await readStoredTensor(t) })));
  const changed = change(all);
  const writer = await SafetensorsWriter.create(to, changed);
  for (const t of changed) await writer.write(t.name, t.data);
  await writer.commit();
  return changed.map((t) => t.name);
}

async function failure(path: string): Promise<EngineError> {
  const error: unknown = await openModelFolder(path).then(
    () => null,
    (cause: unknown) => cause,
  );
  expect(error).toBeInstanceOf(EngineError);
  return error as EngineError;
}

describe("openModelFolder", () => {
  it("puts back what a process had moved aside when it was killed while it replaced the folder", async () => {
    const path = copyOf("qwen3");
    const { pid } = spawnSync(process.execPath, ["-e", ""]);
    renameSync(path, join(root, `.${basename(path)}.${pid}.0123abcd.tmp.old`));
    expect((await openModelFolder(path)).tensors.size).toBeGreaterThan(0);
    expect(readdirSync(root).filter((name) => name.startsWith("."))).toEqual([]);
  });

  it.each(["llama-tied", "llama3-rope", "qwen2", "qwen3"])("finds every tensor of %s", async (model) => {
    const folder = await openModelFolder(join(GOLDEN, model));
    const stored = (await readSafetensorsHeader(join(GOLDEN, model, "model.safetensors"))).tensors;
    expect([...folder.tensors.keys()]).toEqual([...stored.keys()].sort());
    expect(folder.eosTokens).toEqual([2]);
    expect(folder.companions.size).toBe(0);
  });

  it("lets generation_config.json name the end-of-sequence ids", async () => {
    const path = copyOf("qwen2");
    writeFileSync(join(path, "generation_config.json"), JSON.stringify({ eos_token_id: [5, 2] }));
    const folder = await openModelFolder(path);
    expect(folder.eosTokens).toEqual([5, 2]);
    expect([...folder.companions.keys()]).toEqual(["generation_config.json"]);
    writeFileSync(join(path, "generation_config.json"), JSON.stringify({ eos_token_id: 1000 }));
    expect((await failure(path)).code).toBe("MODEL_CONFIG");
    writeFileSync(join(path, "generation_config.json"), "[]");
    expect((await failure(path)).code).toBe("MODEL_CONFIG");
  });

  it("names what is missing", async () => {
    expect(await failure(root)).toMatchObject({ code: "MODEL_NOT_FOUND" });
    const path = copyOf("qwen2");
    unlinkSync(join(path, "model.safetensors"));
    writeFileSync(join(path, "pytorch_model.bin"), "");
    const error = await failure(path);
    expect(error.code).toBe("MODEL_NOT_FOUND");
    expect(error.message).toContain("pytorch_model.bin");
    await expect(openModelFolder(join(root, "none"))).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
  });

  it.each<[string, (json: Record<string, unknown>) => void, string]>([
    ["another hidden size", (c) => Object.assign(c, { hidden_size: 64 }), "shape"],
    ["another vocabulary", (c) => Object.assign(c, { vocab_size: 91 }), "model.embed_tokens.weight"],
    ["more layers", (c) => Object.assign(c, { num_hidden_layers: 3, layer_types: null }), "model.layers.2"],
    ["fewer layers", (c) => Object.assign(c, { num_hidden_layers: 1, layer_types: null }), "does not have"],
    ["an untied head that is missing", (c) => Object.assign(c, { tie_word_embeddings: false }), "lm_head.weight"],
    [
      "an architecture without biases",
      (c) => {
        Object.assign(c, { model_type: "llama", architectures: ["LlamaForCausalLM"], layer_types: null });
      },
      "k_proj.bias",
    ],
  ])("refuses tensors that contradict %s", async (_name, change, named) => {
    const path = copyOf("qwen2");
    changeJson(join(path, "config.json"), change);
    const error = await failure(path);
    expect(error.code).toBe("MODEL_TENSORS");
    expect(error.message).toContain(named);
  });

  it("takes a stored head of a tied model only where it is the embedding", async () => {
    const path = copyOf("qwen2");
    const file = join(path, "model.safetensors");
    const withHead = (data: (embedding: Uint8Array) => Uint8Array) => (tensors: NewTensor[]) => {
      const embedding = tensors.find((t) => t.name === "model.embed_tokens.weight")!;
      const others = tensors.filter((t) => t.name !== "lm_head.weight");
      return [...others, { ...embedding, name: "lm_head.weight", data: data(embedding.data) }];
    };
    await changeTensors(
      file,
      withHead((x) => x),
    );
    expect((await openModelFolder(path)).tensors.has("lm_head.weight")).toBe(false);
    await changeTensors(
      file,
      withHead((x) => x.map((byte, i) => (i === 0 ? byte ^ 1 : byte))),
    );
    const error = await failure(path);
    expect(error.code).toBe("MODEL_TENSORS");
    expect(error.message).toContain("tie_word_embeddings");
  });

  it("ignores stored rotary frequencies and refuses weights in other dtypes", async () => {
    const path = copyOf("qwen2");
    const file = join(path, "model.safetensors");
    const name = "model.layers.0.self_attn.rotary_emb.inv_freq";
    await changeTensors(file, (t) => [...t, { name, dtype: "F32", shape: [1], data: Buffer.alloc(4) }]);
    expect((await openModelFolder(path)).tensors.has(name)).toBe(false);
    await changeTensors(file, (t) => t.map((x) => (x.name === "model.norm.weight" ? { ...x, dtype: "I16" } : x)));
    expect((await failure(path)).code).toBe("MODEL_UNSUPPORTED");
  });

  it("reads shards, and refuses an index that contradicts them", async () => {
    const path = copyOf("qwen3");
    const whole = join(path, "model.safetensors");
    const expected = [...(await openModelFolder(path)).tensors.keys()];
    const half = (part: number) => (tensors: NewTensor[]) => tensors.filter((_, i) => i % 2 === part);
    const first = await changeTensors(whole, half(0), join(path, "model-1.safetensors"));
    const second = await changeTensors(whole, half(1), join(path, "model-2.safetensors"));
    unlinkSync(whole);
    const map = Object.fromEntries([
      ...first.map((name) => [name, "model-1.safetensors"]),
      ...second.map((name) => [name, "model-2.safetensors"]),
    ]) as Record<string, unknown>;
    const index = join(path, "model.safetensors.index.json");
    const refused = async (weight_map: unknown): Promise<EngineError> => {
      writeFileSync(index, JSON.stringify({ weight_map }));
      return failure(path);
    };
    writeFileSync(index, JSON.stringify({ metadata: { total_size: 1 }, weight_map: map }));
    const folder = await openModelFolder(path);
    expect([...folder.tensors.keys()]).toEqual(expected);
    expect(new Set([...folder.tensors.values()].map((t) => t.file)).size).toBe(2);

    const name = first[0]!;
    expect((await refused({ ...map, [name]: "model-2.safetensors" })).message).toContain(name);
    expect((await refused({ ...map, [name]: "model-3.safetensors" })).code).toBe("MODEL_NOT_FOUND");
    for (const hostile of ["../model-1.safetensors", "/etc/passwd", "", 3, null, "config.json"])
      expect((await refused({ ...map, [name]: hostile })).code, String(hostile)).toBe("SAFETENSORS");
    const { [name]: _left, ...without } = map;
    expect((await refused(without)).message).toContain("does not place there");
    expect((await refused([])).code).toBe("SAFETENSORS");
    writeFileSync(index, `{"weight_map": {"a": "model-1.safetensors", "a": "model-2.safetensors"}}`);
    expect((await failure(path)).message).toContain("twice");
    writeFileSync(index, "{");
    expect((await failure(path)).code).toBe("SAFETENSORS");
  });
});
