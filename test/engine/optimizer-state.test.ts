/** The compact optimizer state on the CPU: what one step computes, what is saved, what it takes, what is refused. */
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Engine } from "../../src/engine/engine.js";
import type { LossRows, TokenForest } from "../../src/engine/policy.js";
import { tinyEngine, tokens } from "./tiny.js";

const COMPACT = { dtype: "bf16", training: true, optimizerState: "compact" } as const;
const FULL = { dtype: "bf16", training: true } as const;
const NAME = "model.layers.0.mlp.down_proj.weight"; // 32 x 48: six blocks of 256
const BLOCK = 256;
const STEP = { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0, maxGradNorm: 1e9 };

/** Two sequences of 24 tokens, every token after the first a loss row. */
function pair(): { forest: TokenForest; rows: LossRows } {
  const segments = [tokens(24, 3), tokens(24, 4)].map((ids) => ({ parent: null, tokens: ids }));
  const rows = Int32Array.from({ length: 46 }, (_, i) => (i < 23 ? i : i + 1));
  const targets = Int32Array.from(rows, (row) => (row < 24 ? segments[0] : segments[1])?.tokens[(row % 24) + 1] ?? -1);
  return { forest: { segments }, rows: { rows, targets, ceWeight: new Float32Array(46).fill(1 / 46) } };
}

/** Steps on two sequences; the loss before the last one. */
async function train(engine: Engine, steps: number, learningRate: number, seed = 0): Promise<number> {
  const { forest, rows } = pair();
  let loss = 0;
  for (let i = 0; i < steps; i++) {
    loss = (await engine.accumulate(forest, rows)).loss;
    await engine.step({ ...STEP, learningRate, seed });
  }
  return loss;
}

const values = async (engine: Engine, kind: "master" | "gradient" | "moment1" | "moment2"): Promise<Float32Array> =>
  Float32Array.from(await engine.readTensor(NAME, kind));

async function everything(engine: Engine): Promise<Float32Array[]> {
  const all: Float32Array[] = [];
  for (const kind of ["master", "moment1", "moment2"] as const) all.push(await values(engine, kind));
  return all;
}

/** Distance of neighboring bf16 values around x. */
const ulp = (x: number): number => 2 ** (Math.floor(Math.log2(Math.abs(x))) - 7);

describe("one compact step", () => {
  const rate = 1e-5; // much less than half a bf16 step of most weights
  let before: Float32Array;
  let after: Float32Array;
  let moved: Float32Array; // by the full optimizer, from the same gradient
  let gradient: Float32Array;
  let moment1: Float32Array;
  let moment2: Float32Array;
  beforeAll(async () => {
    await using compact = await tinyEngine(COMPACT);
    await using full = await tinyEngine(FULL);
    before = await values(compact, "master");
    const { forest, rows } = pair();
    for (const engine of [compact, full]) await engine.accumulate(forest, rows);
    gradient = await values(compact, "gradient");
    expect(await values(full, "gradient")).toEqual(gradient); // the forward pass sees the same bf16 weights
    const start = await values(full, "master");
    for (const engine of [compact, full]) await engine.step({ ...STEP, learningRate: rate });
    moved = (await values(full, "master")).map((x, i) => x - (start[i] ?? Number.NaN));
    after = await values(compact, "master");
    moment1 = await values(compact, "moment1");
    moment2 = await values(compact, "moment2");
  });

  it("rounds each weight to a neighbor of what AdamW gives", () => {
    for (const [i, x] of after.entries()) {
      const want = (before[i] ?? 0) + (moved[i] ?? 0);
      // The full masters' own rounding: half a step in the last place of a weight, below 2.
      expect(Math.abs(x - want)).toBeLessThanOrEqual(ulp(2 * want) + 2 ** -23);
    }
  });

  it("moves as many weights as the sizes of the changes ask for, where rounding to nearest moves next to none", () => {
    let expected = 0;
    let variance = 0;
    let changed = 0;
    for (const [i, x] of before.entries()) {
      const chance = Math.min(1, Math.abs(moved[i] ?? 0) / ulp(x));
      expected += chance;
      variance += chance * (1 - chance);
      if (after[i] !== x) changed++;
    }
    expect(expected).toBeGreaterThan(10);
    expect(Math.abs(changed - expected)).toBeLessThan(5 * Math.sqrt(variance) + 0.1 * expected);
  });

  it("keeps moments within one step of their codes", () => {
    for (let first = 0; first < gradient.length; first += BLOCK) {
      const g = gradient.subarray(first, first + BLOCK);
      const most = g.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
      for (const [i, x] of g.entries()) {
        // 3 and 4 bits of mantissa; the least codes are 2^-17 and 2^-18 of the largest value. fp32 roundings beside.
        const m = 0.1 * x;
        const bound1 = Math.max(Math.abs(m) / 8, 0.1 * most * 2 ** -17);
        expect(Math.abs((moment1[first + i] ?? Number.NaN) - m)).toBeLessThanOrEqual(bound1 * (1 + 1e-5));
        const root = Math.sqrt(0.05) * Math.abs(x);
        const bound2 = Math.max(root / 16, Math.sqrt(0.05) * most * 2 ** -18);
        const got = Math.sqrt(moment2[first + i] ?? Number.NaN);
        expect(Math.abs(got - root)).toBeLessThanOrEqual(bound2 * (1 + 1e-5));
        if (x !== 0) expect(got).toBeGreaterThan(0);
      }
    }
  });
});

describe("the compact optimizer state", () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "act-compact-"));
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  /** All of a state's values, as the bytes of its file. */
  async function saved(engine: Engine, name: string): Promise<Buffer> {
    await engine.saveState(join(folder, name));
    return readFile(join(folder, name, "state.safetensors"));
  }

  it("learns, and goes on from a saved state bit for bit, on any number of threads and in any micro-batches", async () => {
    await using whole = await tinyEngine(COMPACT);
    await using first = await tinyEngine({ ...COMPACT, maxBatchTokens: 24 });
    await using second = await tinyEngine({ ...COMPACT, threads: 3 }, 2);
    const start = await train(whole, 1, 1e-2);
    const held = whole.stats().bytesAllocated;
    const end = await train(whole, 9, 1e-2);
    expect(end).toBeLessThan(0.7 * start);
    expect(whole.stats().bytesAllocated).toBe(held); // constant over steps
    await train(first, 5, 1e-2);
    const middle = await saved(first, "middle");
    await second.loadState(join(folder, "middle"));
    expect((await saved(second, "loaded")).equals(middle)).toBe(true);
    await train(second, 5, 1e-2);
    expect((await saved(second, "second")).equals(await saved(whole, "whole"))).toBe(true);
  });

  it("holds matrices in 2 bytes and their moments in 2 + 2 x 4 / 256, as planned", async () => {
    await using compact = await tinyEngine(COMPACT);
    await using full = await tinyEngine(FULL);
    await train(compact, 1, 1e-2);
    const sizes = compact
      .tensors()
      .map(({ shape }) => ({ size: shape.reduce((a, b) => a * b, 1), matrix: shape.length === 2 }));
    const moments = ({ size, matrix }: { size: number; matrix: boolean }): number =>
      matrix ? 2 * size + 8 * Math.ceil(size / BLOCK) : 8 * size;
    expect(compact.plan.optimizer).toBe(sizes.reduce((sum, tensor) => sum + moments(tensor), 0));
    expect(full.plan.optimizer).toBe(sizes.reduce((sum, { size }) => sum + 8 * size, 0));
    // The CPU keeps a trainable matrix as fp32 master, a frozen one as bf16, beside the packed one.
    const matrices = sizes.reduce((sum, { size, matrix }) => sum + (matrix ? size : 0), 0);
    expect(full.plan.weights - compact.plan.weights).toBe(2 * matrices);
    expect(compact.stats().bytesPeak).toBeLessThanOrEqual(compact.plan.total);
  });

  it("rounds by the seed of the step, and by nothing else", async () => {
    const trainedWith = async (seed: number): Promise<Float32Array[]> => {
      await using engine = await tinyEngine(COMPACT);
      await train(engine, 2, 1e-3, seed);
      return await everything(engine);
    };
    const one = await trainedWith(1);
    expect(await trainedWith(1)).toEqual(one);
    expect(await trainedWith(2)).not.toEqual(one);
  });

  it("changes nothing at learning rate 0", async () => {
    await using engine = await tinyEngine(COMPACT);
    const before = await values(engine, "master");
    await train(engine, 3, 0);
    expect(await values(engine, "master")).toEqual(before);
  });

  it("trains adapters too, and leaves the frozen weights alone", async () => {
    const lora = { rank: 4, alpha: 8 };
    await using engine = await tinyEngine({ ...COMPACT, lora });
    const before = await engine.readTensor(NAME);
    const start = await train(engine, 1, 1e-2);
    expect(await train(engine, 15, 1e-2)).toBeLessThan(0.9 * start);
    expect(await engine.readTensor(NAME)).toEqual(before);
  });

  it("is not loaded into an engine of full state, nor a full state into a compact one", async () => {
    await using compact = await tinyEngine(COMPACT);
    await using full = await tinyEngine(FULL);
    for (const [from, to] of [
      [compact, full],
      [full, compact],
    ] as const) {
      const name = from === compact ? "compact" : "full";
      const before = await everything(to);
      await train(from, 1, 1e-2);
      await from.saveState(join(folder, name));
      await expect(to.loadState(join(folder, name))).rejects.toMatchObject({
        code: "STATE",
        message: expect.stringContaining(`its optimizer state is ${name}`),
        hint: expect.stringContaining(`Use optimizerState ${name}`),
      });
      expect(await everything(to)).toEqual(before);
    }
  });

  it("is refused for fp32 weights, and other names of it at all", async () => {
    await expect(tinyEngine({ ...COMPACT, dtype: "fp32" })).rejects.toMatchObject({
      code: "BAD_ARGUMENT",
      message: expect.stringContaining("choose dtype bf16, or optimizerState full"),
    });
    // @ts-expect-error: what JavaScript callers may write
    await expect(tinyEngine({ ...COMPACT, optimizerState: "tiny" })).rejects.toMatchObject({
      code: "BAD_ARGUMENT",
      message: expect.stringContaining("optimizerState"),
    });
  });

  it.each(["cpu", "reference"] as const)("moves nowhere on %s, which computes in host memory", async (device) => {
    for (const options of [FULL, COMPACT]) {
      await expect(tinyEngine({ ...options, device, offloadOptimizer: true })).rejects.toMatchObject({
        code: "BAD_ARGUMENT",
        message: expect.stringContaining("leave offloadOptimizer off, it is for a GPU"),
      });
    }
  });
});
