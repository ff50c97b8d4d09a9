/** Model folders in and out, adapters, plans, state files. */
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Engine } from "../../src/engine/engine.js";
import { formatBytes } from "../../src/engine/memory-plan.js";
import { readSafetensorsHeader, readStoredTensor } from "../../src/engine/safetensors.js";
import { floatsOf, roundToBf16, widen } from "../../src/engine/tensor-values.js";
import { bits, flat, TINY, tinyEngine, tokens } from "./tiny.js";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "act-engine-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const ids = tokens(40, 1);
async function logprobs(engine: Engine, adapters = true): Promise<Float32Array> {
  const { forest, rows } = flat(ids);
  return (await engine.score(forest, rows, { adapters })).logprob;
}

/** A few steps of imitation of one sequence. */
async function train(engine: Engine, steps = 3): Promise<void> {
  const { forest, rows } = flat(ids);
  for (let step = 0; step < steps; step++) {
    await engine.accumulate(forest, { ...rows, ceWeight: new Float32Array(ids.length - 1).fill(1 / 39) });
    await engine.step({ learningRate: 1e-2 });
  }
}

const SMALL = { threads: 1, maxSequences: 4, cacheTokens: 512, maxBatchTokens: 128 };

describe("initial weights", () => {
  it("are a function of the seed", async () => {
    await using a = await tinyEngine({}, 1);
    await using b = await tinyEngine({}, 1);
    await using c = await tinyEngine({}, 2);
    const name = "model.layers.1.mlp.up_proj.weight";
    const values = (await a.readTensor(name)) as Float32Array;
    expect(await b.readTensor(name)).toEqual(values);
    expect(await c.readTensor(name)).not.toEqual(values);
    const deviation = Math.sqrt(values.reduce((sum, x) => sum + x * x, 0) / values.length);
    // The sample deviation of n normal values is within 4 / sqrt(2 n) of theirs, relatively, but once in 16,000 times.
    expect(Math.abs(deviation / TINY.initializer_range - 1)).toBeLessThan(4 / Math.sqrt(2 * values.length));
    expect(await a.readTensor("model.norm.weight")).toEqual(new Float32Array(32).fill(1));
  });
});

describe("a saved model", () => {
  it.each(["fp32", "bf16"] as const)("loads to the same log-probs, bit for bit, %s", async (dtype) => {
    const dir = join(folder, `same-${dtype}`);
    await using engine = await tinyEngine({ dtype, training: true });
    await train(engine);
    await engine.saveModel(dir);
    const progress: [number, number][] = [];
    await using loaded = await Engine.load(dir, SMALL, { onProgress: (done, total) => progress.push([done, total]) });
    expect(loaded.dtype).toBe(dtype);
    expect(bits(await logprobs(loaded))).toEqual(bits(await logprobs(engine)));
    expect(loaded.eosTokens).toEqual([1]);
    expect(progress).toHaveLength(engine.tensors().length);
    expect(progress.at(-1)).toEqual([progress.length, progress.length]);
  });

  it("may have another dtype: fp32 masters of a bf16 engine, rounded values of an fp32 one", async () => {
    const name = "model.layers.0.self_attn.q_proj.weight";
    await using narrow = await tinyEngine({ dtype: "bf16", training: true });
    await train(narrow);
    await narrow.saveModel(join(folder, "wide"), { dtype: "fp32" });
    await using wide = await Engine.load(join(folder, "wide"), SMALL);
    expect(wide.dtype).toBe("fp32");
    const masters = (await narrow.readTensor(name, "master")) as Float32Array;
    expect(await wide.readTensor(name)).toEqual(masters);
    expect(await narrow.readTensor(name)).toEqual(roundToBf16(masters));

    await wide.saveModel(join(folder, "narrow"), { dtype: "bf16" });
    const config = JSON.parse(await readFile(join(folder, "narrow", "config.json"), "utf8"));
    expect(config).toMatchObject({ torch_dtype: "bfloat16", model_type: "qwen3" });
    await using again = await Engine.load(join(folder, "narrow"), SMALL);
    expect(bits(await logprobs(again))).toEqual(bits(await logprobs(narrow)));
  });

  it("keeps the files beside the weights, and replaces only an earlier save", async () => {
    const dir = join(folder, "companions");
    await using engine = await tinyEngine();
    const source = join(folder, "source");
    await mkdir(source);
    await writeFile(join(source, "tokenizer.json"), "{}");
    await writeFile(join(source, "generation_config.json"), '{"eos_token_id": [1, 5]}');
    await writeFile(join(source, "notes.txt"), "not part of a model");
    await engine.saveModel(dir, { companionsFrom: source });
    const files = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"];
    expect((await readdir(dir)).sort()).toEqual(files);
    await engine.saveModel(dir, { companionsFrom: source });
    await using loaded = await Engine.load(dir, SMALL);
    expect(loaded.eosTokens).toEqual([1, 5]);
    // Saved from the loaded folder they come along by themselves.
    await loaded.saveModel(join(folder, "copy"));
    expect((await readdir(join(folder, "copy"))).sort()).toEqual(files);

    await writeFile(join(dir, "mine.txt"), "keep me");
    await expect(engine.saveModel(dir)).rejects.toMatchObject({ code: "FOLDER_EXISTS" });
    expect(await readFile(join(dir, "mine.txt"), "utf8")).toBe("keep me");
  });

  it("is there whole or not at all", async () => {
    const place = join(folder, "atomic");
    await mkdir(place);
    await using engine = await tinyEngine();
    const controller = new AbortController();
    const saving = engine.saveModel(join(place, "model"), { signal: controller.signal });
    setTimeout(() => controller.abort(new Error("stop")), 2);
    await saving.catch(() => undefined);
    const left = await readdir(place);
    expect(left.every((name) => name === "model")).toBe(true);
    await expect(engine.saveModel(join(place, "no", "\0"))).rejects.toThrow();
    await writeFile(join(place, "file"), "");
    await expect(engine.saveModel(join(place, "file", "model"))).rejects.toMatchObject({
      code: expect.stringMatching(/^FILE_/u),
    });
    await expect(engine.saveModel(join(place, "file"))).rejects.toMatchObject({
      code: expect.stringMatching(/^FILE_/u),
    });
    expect((await readdir(place)).filter((name) => name.startsWith("."))).toEqual([]);
  });

  it("is of one step even when the next is asked for while saving", async () => {
    await using engine = await tinyEngine({ training: true });
    const before = await engine.readTensor("model.norm.weight");
    const { forest, rows } = flat(ids);
    await engine.accumulate(forest, { ...rows, ceWeight: new Float32Array(39).fill(1) });
    const saving = engine.saveModel(join(folder, "snapshot"));
    const stepping = engine.step({ learningRate: 0.1 });
    await Promise.all([saving, stepping]);
    const { tensors } = await readSafetensorsHeader(join(folder, "snapshot", "model.safetensors"));
    const stored = tensors.get("model.norm.weight");
    expect(stored && floatsOf(await readStoredTensor(stored))).toEqual(before);
    expect(await engine.readTensor("model.norm.weight")).not.toEqual(before);
  });
});

describe("loading", () => {
  let dir: string;
  beforeAll(async () => {
    dir = join(folder, "to-load");
    await using engine = await tinyEngine();
    await engine.saveModel(dir);
  });

  it("can be aborted after every tensor", async () => {
    const reason = new Error("enough");
    const { length } = await loadCounting(dir);
    for (let stop = 1; stop < length; stop++) {
      const controller = new AbortController();
      const onProgress = (loaded: number): void => {
        if (loaded === stop) controller.abort(reason);
      };
      await expect(Engine.load(dir, SMALL, { signal: controller.signal, onProgress })).rejects.toBe(reason);
    }
  });

  it.each([
    ["NaN", Number.NaN],
    ["infinite", Number.POSITIVE_INFINITY],
  ])("refuses a weight that is %s, naming its tensor", async (word, value) => {
    const bad = join(folder, `bad-${word}`);
    await using engine = await Engine.load(dir, SMALL);
    await engine.saveModel(bad);
    const file = join(bad, "model.safetensors");
    const { tensors } = await readSafetensorsHeader(file);
    const name = "model.layers.1.mlp.down_proj.weight";
    const bytes = await readFile(file);
    bytes.writeFloatLE(value, (tensors.get(name)?.offset ?? 0) + 4 * 100);
    await writeFile(file, bytes);
    await expect(Engine.load(bad, SMALL)).rejects.toMatchObject({
      name: "EngineError",
      code: "NUMERICS",
      message: expect.stringContaining(name),
    });
  });

  it("refuses a folder that is none", async () => {
    await expect(Engine.load(join(folder, "nowhere"))).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
    const empty = join(folder, "empty");
    await mkdir(empty);
    await expect(Engine.load(empty)).rejects.toMatchObject({ code: "MODEL_NOT_FOUND" });
  });

  it("plans what it will allocate", async () => {
    const planned = await Engine.plan(dir, SMALL);
    await using engine = await Engine.load(dir, SMALL);
    expect(planned.bytes).toEqual(engine.plan);
    expect(planned.cacheTokens).toBe(512);
    expect(planned.text).toMatch(/weights[^\n]*kB\n(.*\n)*total/u);
    expect(formatBytes(engine.plan.total)).toMatch(/^\d/u);
    const sum = Object.entries(planned.bytes).reduce(
      (total, [key, bytes]) => (key === "total" ? total : total + bytes),
      0,
    );
    expect(sum).toBe(planned.bytes.total);
    await expect(Engine.plan(dir, { ...SMALL, memoryLimit: 1000 })).rejects.toMatchObject({ code: "MEMORY_PLAN" });
  });
});

async function loadCounting(dir: string): Promise<number[]> {
  const seen: number[] = [];
  const engine = await Engine.load(dir, SMALL, { onProgress: (loaded) => seen.push(loaded) });
  await engine.dispose();
  return seen;
}

describe("adapters", () => {
  const lora = { rank: 3, alpha: 6, targets: ["q_proj", "v_proj", "down_proj"] as const };

  it("start as nothing, train alone, and leave the base as it was", async () => {
    await using engine = await tinyEngine({ training: true, lora: { ...lora, targets: [...lora.targets] } });
    const base = bits(await logprobs(engine, false));
    expect(bits(await logprobs(engine))).toEqual(base);
    await train(engine);
    expect(bits(await logprobs(engine, false))).toEqual(base);
    expect(bits(await logprobs(engine))).not.toEqual(base);
    const request = { prompt: ids, maxNewTokens: 5, seed: 1, stopTokens: [] };
    const [withAdapters] = await engine.generate(request);
    const [without] = await engine.generate({ ...request, adapters: false });
    await using plain = await tinyEngine();
    const [reference] = await plain.generate(request);
    expect(without?.logprobs).toEqual(reference?.logprobs);
    expect(withAdapters?.logprobs).not.toEqual(without?.logprobs);
  });

  it("are merged on export: W + alpha / rank B A", async () => {
    await using engine = await tinyEngine({ training: true, lora: { ...lora, targets: [...lora.targets] } });
    await train(engine);
    await engine.saveModel(join(folder, "merged"));
    await using merged = await Engine.load(join(folder, "merged"), SMALL);
    expect(merged.tensors().some(({ name }) => name.includes("lora"))).toBe(false);
    const name = "model.layers.1.self_attn.v_proj";
    const read = async (tensor: string, kind: "weight" | "master"): Promise<Float32Array> =>
      widen(await engine.readTensor(tensor, kind));
    const w = await read(`${name}.weight`, "weight");
    const a = await read(`base_model.model.${name}.lora_A.weight`, "master");
    const b = await read(`base_model.model.${name}.lora_B.weight`, "master");
    const expected = w.map((x, i) => {
      const [row, column] = [Math.floor(i / 32), i % 32];
      return x + 2 * [0, 1, 2].reduce((sum, r) => sum + (b[row * 3 + r] as number) * (a[r * 32 + column] as number), 0);
    });
    expect(await merged.readTensor(`${name}.weight`)).toEqual(expected);
    expect(w).not.toEqual(expected);
    // One product instead of two: equal up to the rounding of fp32, a few units in the last place of the sums.
    const [one, two] = [await logprobs(merged), await logprobs(engine)];
    one.forEach((x, i) => {
      expect(Math.abs(x - (two[i] as number))).toBeLessThan(2 ** -15 * Math.max(1, Math.abs(x)));
    });
  });

  it("are saved as PEFT names them", async () => {
    await using engine = await tinyEngine({ training: true, lora: { ...lora, targets: [...lora.targets] } });
    await engine.saveAdapters(join(folder, "adapters"));
    const { tensors } = await readSafetensorsHeader(join(folder, "adapters", "adapter_model.safetensors"));
    expect(tensors.size).toBe(2 * 2 * 3);
    expect(tensors.get("base_model.model.model.layers.0.mlp.down_proj.lora_A.weight")?.shape).toEqual([3, 48]);
    const config = JSON.parse(await readFile(join(folder, "adapters", "adapter_config.json"), "utf8"));
    expect(config).toMatchObject({ peft_type: "LORA", r: 3, lora_alpha: 6, target_modules: [...lora.targets] });
    await using plain = await tinyEngine();
    await expect(plain.saveAdapters(join(folder, "none"))).rejects.toMatchObject({ code: "BAD_ARGUMENT" });
  });
});

describe("a saved state", () => {
  let dir: string;
  beforeAll(async () => {
    dir = join(folder, "state");
    await using engine = await tinyEngine({ training: true });
    await train(engine);
    await engine.saveState(dir);
  });

  it.each([
    [
      "a flipped bit",
      "state.safetensors",
      (bytes: Buffer) => bytes.writeUInt8(bytes.readUInt8(bytes.length - 9) ^ 1, bytes.length - 9),
      "STATE",
    ],
    ["a cut file", "state.safetensors", (bytes: Buffer) => bytes.subarray(0, -4), "SAFETENSORS"],
    ["an index that is no JSON", "state.json", (bytes: Buffer) => bytes.subarray(0, -4), "STATE"],
    [
      "an index with another step",
      "state.json",
      (bytes: Buffer) => Buffer.from(bytes.toString().replace('"optimizerStep": 3', '"optimizerStep": -3')),
      "STATE",
    ],
  ] as const)("that is damaged is refused and changes nothing: %s", async (name, file, damage, code) => {
    const bad = join(folder, `state ${name}`);
    await mkdir(bad);
    for (const each of await readdir(dir)) {
      const bytes = await readFile(join(dir, each));
      const damaged = each === file ? damage(bytes) : bytes;
      await writeFile(join(bad, each), damaged instanceof Buffer ? damaged : bytes);
    }
    await using engine = await tinyEngine({ training: true }, 5);
    const before = bits(await logprobs(engine));
    await expect(engine.loadState(bad)).rejects.toMatchObject({ name: "EngineError", code });
    expect(bits(await logprobs(engine))).toEqual(before);
  });

  it("of another model, dtype or adapters is refused", async () => {
    for (const options of [{ dtype: "bf16" as const }, { lora: { rank: 2, alpha: 2 } }]) {
      await using engine = await tinyEngine({ training: true, ...options });
      await expect(engine.loadState(dir)).rejects.toMatchObject({ code: "STATE" });
    }
    await using other = await tinyEngine({ training: true }, 1, { ...TINY, intermediate_size: 64 });
    await expect(other.loadState(dir)).rejects.toMatchObject({ code: "STATE" });
    await using fewer = await tinyEngine({ training: true }, 1, { ...TINY, num_hidden_layers: 1 });
    await expect(fewer.loadState(dir)).rejects.toMatchObject({ code: "STATE" });
  });
});

describe("counters", () => {
  it("tell prefill, reuse and decoding apart", async () => {
    await using engine = await tinyEngine();
    const prompt = tokens(33, 3);
    await engine.generate({ prompt, count: 3, maxNewTokens: 5, seed: 0, stopTokens: [] });
    // The last token of each completion is never fed back.
    expect(engine.stats()).toMatchObject({ prefillTokens: 33, reusedTokens: 0, decodedTokens: 12, activeSequences: 0 });
    expect(engine.stats().cachedTokens).toBeGreaterThan(33);
    await engine.generate({ prompt, maxNewTokens: 1, seed: 0, stopTokens: [] });
    expect(engine.stats()).toMatchObject({ prefillTokens: 34, reusedTokens: 32, decodedTokens: 12 });
  });
});
