/**
 * What must not change a result, bit for bit on the CPU backend: the split into micro-batches, threads, recomputation,
 * and - for everything but gradients, which are sums over the copies then - the flattening of the forest.
 */
import { describe, expect, it } from "vitest";
import { loadAddon } from "../../src/engine/addon.js";
import type { EngineOptions } from "../../src/engine/engine-options.js";
import type { NativeForest, NativeLossResult, NativeLossRows } from "../../src/engine/native.js";
import {
  bytesOf,
  concatenate,
  type Golden,
  lossRows,
  readAll,
  readGolden,
  relativeError,
  type Tensors,
  withGolden,
} from "./golden.js";

interface Outcome {
  readonly result: NativeLossResult;
  readonly gradients: Tensors;
}

async function accumulate(
  golden: Golden,
  options: EngineOptions,
  forest: NativeForest = golden.forest,
  rows: NativeLossRows = golden.rows,
): Promise<Outcome> {
  return withGolden(golden, options, async (engine) => {
    const result = await engine.accumulate(forest, rows).done;
    return { result, gradients: await readAll(engine, "gradient") };
  });
}

function expectSame(a: Outcome, b: Outcome): void {
  expect(a.result).toEqual(b.result);
  expect(bytesOf(a.gradients)).toEqual(bytesOf(b.gradients));
}

/** Every path from a root to a leaf as a tree of its own; each loss row goes to the first path that has its token. */
function flatten(forest: NativeForest, rows: NativeLossRows): { forest: NativeForest; rows: NativeLossRows } {
  const starts: number[] = [];
  let total = 0;
  for (const length of forest.lengths) {
    starts.push(total);
    total += length;
  }
  const parents = [...forest.parents];
  const pathOf = (i: number): number[] => (i < 0 ? [] : [...pathOf(parents[i] as number), i]);
  const tokens: number[] = [];
  const lengths: number[] = [];
  const newIndex = new Map<number, number>();
  for (let leaf = 0; leaf < parents.length; leaf++) {
    if (parents.includes(leaf)) continue;
    const before = tokens.length;
    for (const segment of pathOf(leaf))
      for (let j = 0; j < (forest.lengths[segment] as number); j++) {
        const old = (starts[segment] as number) + j;
        if (!newIndex.has(old)) newIndex.set(old, tokens.length);
        tokens.push(forest.tokens[old] as number);
      }
    lengths.push(tokens.length - before);
  }
  return {
    forest: {
      tokens: Int32Array.from(tokens),
      parents: new Int32Array(lengths.length).fill(-1),
      lengths: Int32Array.from(lengths),
    },
    rows: { ...rows, rows: rows.rows.map((row) => newIndex.get(row) as number) },
  };
}

const MODELS = ["llama-tied", "qwen2", "qwen3"];
const DTYPES = ["fp32", "bf16"] as const;
const SETS = loadAddon().instructionSets() as NonNullable<EngineOptions["instructionSet"]>[];

describe.each(SETS)("cpu %s", (instructionSet) => {
  describe.each(DTYPES)("%s", (dtype) => {
    const options = { device: "cpu", instructionSet, dtype } as const;

    it.each(MODELS)("micro-batches, threads and recomputation change no bit: %s", async (model) => {
      const golden = await readGolden(model);
      const whole = await accumulate(golden, { ...options, threads: 1, maxBatchTokens: 512 });
      // 28 tokens is the largest tree with its padding: every tree is a micro-batch of its own.
      expectSame(await accumulate(golden, { ...options, threads: 2, maxBatchTokens: 28 }), whole);
      expectSame(await accumulate(golden, { ...options, threads: 3, maxBatchTokens: 56 }), whole);
      expectSame(await accumulate(golden, { ...options, recompute: true, maxBatchTokens: 512 }), whole);
    });

    it.each(MODELS)("the forest gives the log-probs of its flattened paths, bit for bit: %s", async (model) => {
      const golden = await readGolden(model);
      const flat = flatten(golden.forest, golden.rows);
      const forest = await accumulate(golden, options);
      const copies = await accumulate(golden, { ...options, maxBatchTokens: 512 }, flat.forest, flat.rows);
      expect(copies.result).toEqual(forest.result);
      // Gradients of a shared token are one sum here and a sum of copies there. In fp32 only its order differs; in
      // bf16 the terms are rounded before they are added, so the difference is that of two bf16 computations.
      const error = relativeError(concatenate(forest.gradients), concatenate(copies.gradients));
      expect(error).toBeLessThanOrEqual(dtype === "fp32" ? 1e-5 : 2 * golden.json.bf16.gradients);
    });

    it("accumulating in two calls is accumulating in one", async () => {
      const golden = await readGolden("qwen2");
      const { forest, rows } = golden;
      const once = await accumulate(golden, options);
      const twice = await withGolden(golden, options, async (engine) => {
        // The first two trees (48 tokens, 6 segments), then the third.
        const cut = { token: 48, segment: 6 };
        const part = (tree: boolean): [NativeForest, NativeLossRows] => {
          const keep = [...rows.rows.keys()].filter((i) => (rows.rows[i] as number) < cut.token === tree);
          const pick = <T extends Float32Array | Int32Array>(values: T): T =>
            values.filter((_, i) => keep.includes(i)) as T;
          const picked = Object.fromEntries(
            Object.entries(rows).map(([key, v]) => [key, typeof v === "object" ? pick(v) : v]),
          ) as unknown as NativeLossRows;
          if (tree)
            return [
              {
                tokens: forest.tokens.slice(0, cut.token),
                parents: forest.parents.slice(0, cut.segment),
                lengths: forest.lengths.slice(0, cut.segment),
              },
              picked,
            ];
          return [
            {
              tokens: forest.tokens.slice(cut.token),
              parents: forest.parents.slice(cut.segment).map((p) => (p < 0 ? -1 : p - cut.segment)),
              lengths: forest.lengths.slice(cut.segment),
            },
            { ...picked, rows: picked.rows.map((row) => row - cut.token) },
          ];
        };
        await engine.accumulate(...part(true)).done;
        await engine.accumulate(...part(false)).done;
        return readAll(engine, "gradient");
      });
      expect(bytesOf(twice)).toEqual(bytesOf(once.gradients));
    });

    it("at learning rate 0 nothing changes and every ratio is 1", async () => {
      const golden = await readGolden("qwen3");
      await withGolden(golden, options, async (engine) => {
        const { logprob } = await engine.score(golden.forest, golden.rows, true).done;
        const rows = { ...golden.rows, oldLogprob: logprob, refLogprob: logprob };
        const before = bytesOf(await readAll(engine, "master"));
        const first = await engine.accumulate(golden.forest, rows).done;
        await engine.step({
          learningRate: 0,
          beta1: 0.9,
          beta2: 0.95,
          epsilon: 1e-8,
          weightDecay: 0.1,
          maxGradNorm: 1,
          seed: 0n,
        });
        expect(bytesOf(await readAll(engine, "master"))).toEqual(before);
        expect((await engine.score(golden.forest, rows, true).done).logprob).toEqual(logprob);
        for (const values of [first.ratio]) expect(values.every((x) => x === 1)).toBe(true);
        expect(first.kl.every((x) => x === 0)).toBe(true);
        expect(first.clipped.every((x) => x === 0)).toBe(true);
      });
    });
  });
});

it("uses no more memory than planned, and not much less", async () => {
  const golden = await readGolden("qwen3");
  for (const options of [
    { training: true },
    { training: true, recompute: true, dtype: "bf16" as const },
    { training: true, lora: { rank: 2, alpha: 4, targets: ["q_proj" as const] } },
    { training: false, maxBatchTokens: 512 },
  ]) {
    await withGolden(golden, { ...options, device: "reference" }, async (engine) => {
      if (options.training) await engine.accumulate(golden.forest, golden.rows).done;
      await engine.score(golden.forest, lossRows([0], [1]), true).done;
      const { bytesPeak } = engine.stats();
      expect(bytesPeak).toBeLessThanOrEqual(engine.plan.total);
      // The reference backend takes no scratch memory: apart from the head's logits everything is held all the time.
      expect(bytesPeak).toBeGreaterThanOrEqual(engine.plan.total - engine.plan.head);
    });
  }
});
