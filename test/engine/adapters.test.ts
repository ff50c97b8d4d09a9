/** Adapter folders: as PEFT writes them (test/fixtures/adapters), as this engine does, and as nobody should. */
import { cpSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { Engine } from "../../src/engine/engine.js";
import type { EngineOptions } from "../../src/engine/engine-options.js";
import { readSafetensorsHeader } from "../../src/engine/safetensors.js";
import { bits, flat, tinyEngine } from "./tiny.js";

const fixtures = fileURLToPath(new URL("../fixtures/adapters/", import.meta.url));
const base = fileURLToPath(new URL("../fixtures/golden/qwen3/", import.meta.url));
const expected = JSON.parse(readFileSync(join(fixtures, "expected.json"), "utf8")) as {
  readonly ids: number[];
  readonly plain: number[];
  readonly rslora: number[];
};
const SMALL = { threads: 1, maxSequences: 2, cacheTokens: 256, maxBatchTokens: 128, dtype: "fp32" } as const;
const ids = Int32Array.from(expected.ids);
const folder = mkdtempSync(join(tmpdir(), "act-adapters-"));

const load = (adapter: string, options: EngineOptions = {}): Promise<Engine> =>
  Engine.load(base, { ...SMALL, ...options, adapter });

async function logprobs(engine: Engine, adapters = true): Promise<Float32Array> {
  const { forest, rows } = flat(ids);
  return (await engine.score(forest, rows, { adapters })).logprob;
}

async function train(engine: Engine): Promise<void> {
  const { forest, rows } = flat(ids);
  await engine.accumulate(forest, { ...rows, ceWeight: new Float32Array(rows.rows.length).fill(1 / ids.length) });
  await engine.step({ learningRate: 0.01 });
}

describe("adapters that PEFT saved", () => {
  it.each(["plain", "rslora"] as const)("say what PEFT says: %s", async (name) => {
    await using engine = await load(join(fixtures, name));
    const found = await logprobs(engine);
    const plain = await logprobs(engine, false);
    expected[name].forEach((x, i) => {
      // The bound of the golden logits, relative to their size of up to ten.
      expect(Math.abs((found[i] as number) - x)).toBeLessThan(1e-4);
    });
    const moved = expected[name].reduce((sum, x, i) => sum + Math.abs(x - (plain[i] as number)), 0) / ids.length;
    expect(moved).toBeGreaterThan(0.05);
  });

  it("are trained on from where they are, saved, and loaded again to the same bits", async () => {
    await using engine = await load(join(fixtures, "plain"), { training: true });
    expect(engine.tensors().filter(({ trainable }) => trainable)).toHaveLength(2 * 2 * 3);
    const before = bits(await logprobs(engine));
    await train(engine);
    const trained = bits(await logprobs(engine));
    expect(trained).not.toEqual(before);
    await engine.saveAdapters(join(folder, "again"));
    await using again = await load(join(folder, "again"));
    expect(bits(await logprobs(again))).toEqual(trained);
    await engine.saveModel(join(folder, "merged"));
    await using merged = await Engine.load(join(folder, "merged"), SMALL);
    const found = await logprobs(engine);
    (await logprobs(merged)).forEach((x, i) => {
      expect(Math.abs(x - (found[i] as number))).toBeLessThan(2 ** -15 * Math.max(1, Math.abs(x)));
    });
  });

  it("keep PEFT's names, shapes and keys when saved", async () => {
    await using engine = await load(join(fixtures, "plain"));
    const target = join(folder, "ours");
    await engine.saveAdapters(target);
    const shapes = async (path: string): Promise<string[]> => {
      const { tensors } = await readSafetensorsHeader(join(path, "adapter_model.safetensors"));
      return [...tensors.values()].map(({ name, shape }) => `${name} ${shape.join()}`).sort();
    };
    expect(await shapes(target)).toEqual(await shapes(join(fixtures, "plain")));
    const theirs = JSON.parse(readFileSync(join(fixtures, "plain", "adapter_config.json"), "utf8"));
    const {
      base_model_name_or_path: _,
      target_modules,
      ...ours
    } = JSON.parse(readFileSync(join(target, "adapter_config.json"), "utf8"));
    expect(theirs).toMatchObject(ours);
    expect([...target_modules].sort()).toEqual([...theirs.target_modules].sort());
  });

  it("are planned for", async () => {
    const without = await Engine.plan(base, SMALL);
    const planned = await Engine.plan(base, { ...SMALL, adapter: join(fixtures, "plain") });
    expect(planned.bytes.weights).toBeGreaterThan(without.bytes.weights);
  });
});

/** A copy of the fixture with another configuration. */
function changed(name: string, change: (config: Record<string, unknown>) => void): string {
  const target = join(folder, name);
  cpSync(join(fixtures, "plain"), target, { recursive: true });
  const file = join(target, "adapter_config.json");
  const config = JSON.parse(readFileSync(file, "utf8")) as Record<string, unknown>;
  change(config);
  writeFileSync(file, JSON.stringify(config));
  return target;
}

describe("adapters that cannot be used are refused by name", () => {
  it.each([
    ["peft_type", "LOHA"],
    ["r", 0],
    ["r", 5],
    ["lora_alpha", -1],
    ["use_dora", true],
    ["bias", "all"],
    ["modules_to_save", ["lm_head"]],
    ["rank_pattern", { q_proj: 8 }],
    ["layers_to_transform", [0]],
    ["init_lora_weights", "pissa"],
    ["a_key_of_tomorrow", 3],
  ])("%s: %j", async (key, value) => {
    const adapter = changed(`${key}-${String(value)}`.replaceAll(/\W/gu, "-"), (config) => {
      config[key] = value;
    });
    const refusal = load(adapter);
    await expect(refusal).rejects.toMatchObject({ code: "ADAPTER", hint: expect.stringMatching(/\w/u) });
    // Another rank shows as a contradiction of the tensors.
    await expect(refusal).rejects.toThrow(value === 5 ? "rank 5" : `\`${key}\``);
  });

  it("a target that matches nothing, a file that is not there, another model", async () => {
    const unmatched = changed("unmatched", (config) => {
      config.target_modules = ["q_proj", "v_proj", "down_proj", "gate_proj"];
    });
    await expect(load(unmatched)).rejects.toThrow("`gate_proj`");
    await expect(load(base)).rejects.toThrow("adapter_config.json");
    await expect(load(join(folder, "nowhere"))).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
    const damaged = changed("damaged", () => undefined);
    writeFileSync(join(damaged, "adapter_config.json"), "{");
    await expect(load(damaged)).rejects.toMatchObject({ code: "ADAPTER" });
    const other = fileURLToPath(new URL("../fixtures/golden/qwen2/", import.meta.url));
    await expect(Engine.load(other, { ...SMALL, adapter: join(fixtures, "plain") })).rejects.toMatchObject({
      code: "ADAPTER",
    });
  });

  it("beside a `lora` that is another, or for random weights", async () => {
    const adapter = join(fixtures, "plain");
    await using same = await load(adapter, {
      lora: { rank: 4, alpha: 6, targets: ["down_proj", "v_proj", "q_proj"] },
    });
    expect(same.tensors().some(({ name }) => name.includes("lora_A"))).toBe(true);
    await expect(load(adapter, { lora: { rank: 4, alpha: 8 } })).rejects.toThrow("alpha 6");
    await expect(tinyEngine({ adapter })).rejects.toMatchObject({ code: "BAD_ARGUMENT" });
  });
});
