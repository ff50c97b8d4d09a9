/** Bad forests, bad loss rows, diverged numbers, plans that do not fit: each a typed error, and the engine goes on. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { NativeEngine, NativeForest, NativeLossRows } from "../../src/engine/native.js";
import { bytesOf, type Golden, lossRows, openGolden, readAll, readGolden, withGolden } from "./golden.js";

const STEP = { learningRate: 1e-3, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0, maxGradNorm: 1, seed: 0n };

let golden: Golden;
let engine: NativeEngine;
beforeAll(async () => {
  golden = await readGolden("qwen2"); // vocabulary 90, context 256
  engine = await openGolden(golden, { maxBatchTokens: 32 });
});
afterAll(() => engine.dispose());

const forestOf = (tokens: number[], parents: number[], lengths: number[]): NativeForest => ({
  tokens: Int32Array.from(tokens),
  parents: Int32Array.from(parents),
  lengths: Int32Array.from(lengths),
});
const sequence = (length: number): NativeForest => forestOf(new Array(length).fill(1), [-1], [length]);
const one = (change: Partial<NativeLossRows> = {}): NativeLossRows => ({ ...lossRows([0], [1]), ...change });
const weighted = (weight: number): NativeLossRows => one({ ceWeight: Float32Array.of(weight) });

describe("a forest or loss rows that make no sense", () => {
  it.each<[string, () => [NativeForest, NativeLossRows], string, string]>([
    ["a parent after its child", () => [forestOf([1, 2], [1, -1], [1, 1]), one()], "BAD_ARGUMENT", "segment 0"],
    ["a parent below -1", () => [forestOf([1], [-2], [1]), one()], "BAD_ARGUMENT", "segment 0"],
    ["an empty segment", () => [forestOf([1], [-1, 0], [1, 0]), one()], "BAD_ARGUMENT", "segment 1"],
    ["a negative length", () => [forestOf([1], [-1, 0], [2, -1]), one()], "BAD_ARGUMENT", "segment 1"],
    ["lengths that do not add up", () => [forestOf([1, 2], [-1], [1]), one()], "BAD_ARGUMENT", "add up to 1"],
    ["parents without lengths", () => [forestOf([1], [-1, 0], [1]), one()], "BAD_ARGUMENT", "lengths"],
    ["a token beyond the vocabulary", () => [forestOf([90], [-1], [1]), one()], "TOKEN_OUT_OF_RANGE", "Token 0 is 90"],
    ["a negative token", () => [forestOf([3, -1], [-1], [2]), one()], "TOKEN_OUT_OF_RANGE", "Token 1"],
    ["a target beyond the vocabulary", () => [sequence(2), lossRows([0], [90])], "TOKEN_OUT_OF_RANGE", "row 0"],
    ["a row beyond the tokens", () => [sequence(2), lossRows([0, 2], [1, 1])], "BAD_ARGUMENT", "row 1"],
    ["rows without targets", () => [sequence(2), lossRows([0, 1], [1])], "BAD_ARGUMENT", "target"],
    [
      "a stream of another length",
      () => {
        return [sequence(2), one({ klWeight: Float32Array.of(1, 2) })];
      },
      "BAD_ARGUMENT",
      "klWeight",
    ],
    ["a weight that is NaN", () => [sequence(2), weighted(Number.NaN)], "BAD_ARGUMENT", "ceWeight"],
    [
      "an infinite advantage",
      () => {
        return [sequence(2), one({ advantage: Float32Array.of(Infinity) })];
      },
      "BAD_ARGUMENT",
      "advantage",
    ],
    ["a negative clip", () => [sequence(2), one({ clipLow: Float32Array.of(-0.1) })], "BAD_ARGUMENT", "clipLow"],
    [
      "a path longer than the context",
      () => {
        return [forestOf(new Array(257).fill(1), [-1, 0], [200, 57]), one()];
      },
      "SEQUENCE_TOO_LONG",
      "256",
    ],
    ["a tree larger than a micro-batch", () => [sequence(33), one()], "BATCH_TOO_LARGE", "maxBatchTokens"],
    [
      "more loss rows of a tree than a micro-batch",
      () => {
        return [sequence(2), lossRows(new Array(33).fill(0), new Array(33).fill(1))];
      },
      "BATCH_TOO_LARGE",
      "33 loss rows",
    ],
  ])("refuses %s, with the gradients as they were", async (_name, make, code, message) => {
    await engine.zeroGradients();
    await engine.accumulate(sequence(4), weighted(1)).done;
    const before = bytesOf(await readAll(engine, "gradient"));
    const [forest, rows] = make();
    for (const call of [engine.accumulate(forest, rows), engine.score(forest, rows, true)])
      await expect(call.done).rejects.toMatchObject({ code, message: expect.stringContaining(message) });
    expect(bytesOf(await readAll(engine, "gradient"))).toEqual(before);
  });

  it("takes the largest tree and the longest path there is room for", async () => {
    expect((await engine.score(sequence(32), one(), true).done).logprob).toHaveLength(1);
    await withGolden(golden, { maxBatchTokens: 256 }, async (large) => {
      expect((await large.score(sequence(256), lossRows([255], [1]), true).done).logprob[0]).toBeLessThan(0);
    });
  });

  it("takes nothing at all as nothing", async () => {
    const empty = await engine.accumulate(forestOf([], [], []), lossRows([], [])).done;
    expect(empty.loss).toBe(0);
    expect(empty.logprob).toHaveLength(0);
    // Trees without a loss row are not computed: this one would not fit.
    const rows = lossRows([33], [1]);
    const { logprob } = await engine.score(forestOf(new Array(37).fill(1), [-1, -1], [33, 4]), rows, true).done;
    expect(logprob).toEqual((await engine.score(sequence(4), lossRows([0], [1]), true).done).logprob);
  });

  it("reads absent streams as what ops.h says: no clip, ratio 1, KL 0", async () => {
    const rows = one({ policyWeight: Float32Array.of(2), advantage: Float32Array.of(3), klWeight: Float32Array.of(1) });
    const result = await engine.score(sequence(2), rows, true).done;
    expect(result.policy).toBe(-6);
    expect([...result.ratio, ...result.kl, ...result.clipped]).toEqual([1, 0, 0]);
    const unclipped = { ...rows, oldLogprob: Float32Array.of((result.logprob[0] as number) - 3) };
    const far = await engine.accumulate(sequence(2), unclipped).done;
    expect(far.policy / -6).toBeCloseTo(Math.exp(3), 4);
    expect(far.clipped[0]).toBe(0);
    const infinite = Float32Array.of(Infinity);
    const explicit = { ...unclipped, clipLow: infinite, clipHigh: infinite };
    expect(await engine.accumulate(sequence(2), explicit).done).toEqual(far);
  });
});

describe("numbers that diverge", () => {
  it("a step refuses gradients that are not finite and changes nothing", async () => {
    await engine.zeroGradients();
    // Each term is finite in fp32; their products with activations are not.
    await engine.accumulate(sequence(4), weighted(3e38)).done;
    const before = bytesOf(await readAll(engine, "master"));
    const counter = engine.optimizerStep;
    await expect(engine.step(STEP)).rejects.toMatchObject({
      code: "NUMERICS",
      message: expect.stringMatching(/gradient of `[a-z_.0-9]+`/u),
    });
    expect(bytesOf(await readAll(engine, "master"))).toEqual(before);
    expect(engine.optimizerStep).toBe(counter);
    await engine.zeroGradients();
    await engine.accumulate(sequence(4), weighted(1)).done;
    expect((await engine.step(STEP)).step).toBe(counter + 1);
  });

  it("weights that overflow are found in the log-probs, and the gradients are zero after", async () => {
    await withGolden(golden, {}, async (broken) => {
      const name = "model.norm.weight";
      const norm = (await broken.readTensor(name, "master")) as Float32Array;
      await broken.accumulate(sequence(4), weighted(1)).done;
      await broken.writeTensor(
        name,
        "master",
        norm.map(() => 3e38),
      );
      await expect(broken.score(sequence(4), one(), true).done).rejects.toMatchObject({ code: "NUMERICS" });
      await expect(broken.accumulate(sequence(4), weighted(1)).done).rejects.toMatchObject({ code: "NUMERICS" });
      for (const gradient of (await readAll(broken, "gradient")).values())
        expect(gradient.every((x) => x === 0)).toBe(true);
      await broken.writeTensor(name, "master", norm);
      expect((await broken.score(sequence(4), one(), true).done).logprob[0]).toBeLessThan(0);
    });
  });

  it("logits that overflow end the request they are of, and no other", async () => {
    // Untied: the head's rows are nothing else's.
    await withGolden(await readGolden("qwen3"), {}, async (model) => {
      const width = 32;
      const vocabulary = 72;
      const [one, other] = [Int32Array.of(3, 4, 5), Int32Array.of(6, 7, 8)];
      // All logits are 0 but that of token 1: the final hidden state's first component, 1024 times its normed value.
      const norm = new Float32Array(width);
      norm[0] = 1024;
      await model.writeTensor("model.norm.weight", "master", norm);
      const head = new Float32Array(vocabulary * width);
      const weightOfToken1 = async (value: number): Promise<void> => {
        head[width] = value;
        await model.writeTensor("lm_head.weight", "master", head);
      };
      const component = async (prompt: Int32Array): Promise<number> => {
        const forest = forestOf([...prompt], [-1], [3]);
        const p = Math.exp((await model.score(forest, lossRows([2], [1]), true).done).logprob[0] as number);
        return Math.log(((vocabulary - 1) * p) / (1 - p));
      };
      await weightOfToken1(1 / 1024);
      const [a, b] = [await component(one), await component(other)];
      expect(Math.max(a, b)).toBeGreaterThan(0);
      const [fine, broken] = a < b ? [one, other] : [other, one];
      // Of fp32's range, the one hidden state takes it beyond, the other does not.
      await weightOfToken1(3.4e38 / 1024 / (Math.max(0, Math.min(a, b)) / 2 + Math.max(a, b) / 2));
      const sample = async (prompt: Int32Array): Promise<string> => {
        const request = { prompt, count: 2, maxNewTokens: 1, temperature: 1, topK: 0, topP: 1, minP: 0 };
        const rest = { seed: 1n, stream: 0n, stopTokens: new Int32Array(), stopStrings: [], choices: null };
        const tokens: number[] = [];
        const { done } = model.generate({ ...request, ...rest, adapters: true }, (_, c) => tokens.push(...c.tokens));
        return done.then(
          () => tokens.join(),
          (error) => `${error.code} ${error.message}`,
        );
      };
      const alone = await sample(fine);
      const [failed, beside] = await Promise.all([sample(broken), sample(fine)]);
      expect(failed).toMatch(/^NUMERICS .*position 3/u);
      expect(beside).toBe(alone);
      expect(await sample(fine)).toBe(alone);
    });
  });

  it("values that are not finite are not taken", async () => {
    const name = "model.norm.weight";
    const before = await engine.readTensor(name, "master");
    for (const value of [Number.NaN, Infinity]) {
      const values = new Float32Array(32).fill(1);
      values[5] = value;
      const message = expect.stringContaining(`Value 5 of tensor \`${name}\``);
      await expect(engine.writeTensor(name, "master", values)).rejects.toMatchObject({ code: "NUMERICS", message });
    }
    expect(await engine.readTensor(name, "master")).toEqual(before);
  });
});

describe("a plan over the limit", () => {
  it.each<[string, object, RegExp]>([
    ["cacheTokens", { cacheTokens: 1_000_000 }, /cache: lower cacheTokens/u],
    ["maxBatchTokens", { training: false, maxBatchTokens: 100_000 }, /activations: lower maxBatchTokens/u],
    ["recompute", { maxBatchTokens: 100_000 }, /activations: switch recompute on/u],
    ["maxSequences", { training: false, maxSequences: 100_000 }, /maxSequences/u],
    ["lora", { maxBatchTokens: 2, cacheTokens: 1 }, /optimizer: train adapters/u],
    ["dtype", { training: false, maxBatchTokens: 2, cacheTokens: 1 }, /weights: choose dtype bf16/u],
  ])("names %s where that is what takes the memory", async (_name, options, message) => {
    // The reference backend has no scratch memory of its own to drown the rest in.
    const open = openGolden(golden, { device: "reference", memoryLimit: 50_000, ...options });
    await expect(open).rejects.toMatchObject({ code: "MEMORY_PLAN", message: expect.stringMatching(message) });
  });
});

it("adapter targets that match nothing are refused by name", async () => {
  const targets = ["q_proj", "query"] as unknown as ["q_proj"];
  const { loadAddon } = await import("../../src/engine/addon.js");
  const { nativeEngineOptions } = await import("../../src/engine/engine-options.js");
  // Past the schema of the options, which would refuse the name first.
  const options = nativeEngineOptions({ training: true, threads: 1 }, golden.folder.config.native, "fp32");
  const lora = { rank: 2, alpha: 4, targets, seed: 0 };
  await expect(loadAddon().createEngine({ ...options, lora })).rejects.toMatchObject({
    code: "BAD_ARGUMENT",
    message: expect.stringMatching(/`query`.*q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj/u),
  });
});
