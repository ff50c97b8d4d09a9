/** The compact optimizer state on the CPU: what one step computes, what is saved, what it takes, what is refused. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Engine } from "../../src/engine/engine.js";
import { flat, tinyEngine, tokens } from "./tiny.js";

const COMPACT = { dtype: "bf16", training: true, optimizerState: "compact" } as const;
const FULL = { dtype: "bf16", training: true } as const;
const NAME = "model.layers.0.mlp.down_proj.weight"; // 32 x 48: six blocks of 256
const BLOCK = 256;
const STEP = { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0, maxGradNorm: 1e9 };

async function train(engine: Engine, steps: number, learningRate: number): Promise<number> {
  const { forest, rows } = flat(tokens(24, 3));
  const ceWeight = new Float32Array(rows.rows.length).fill(1 / rows.rows.length);
  let loss = 0;
  for (let i = 0; i < steps; i++) {
    loss = (await engine.accumulate(forest, { ...rows, ceWeight })).loss;
    await engine.step({ ...STEP, learningRate });
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
    const { forest, rows } = flat(tokens(24, 3));
    const ceWeight = new Float32Array(rows.rows.length).fill(1 / rows.rows.length);
    for (const engine of [compact, full]) await engine.accumulate(forest, { ...rows, ceWeight });
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

  it("learns, and goes on from a saved state bit for bit, on any number of threads", async () => {
    await using whole = await tinyEngine(COMPACT);
    await using first = await tinyEngine(COMPACT);
    await using second = await tinyEngine({ ...COMPACT, threads: 3 }, 2);
    const start = await train(whole, 1, 1e-2);
    const end = await train(whole, 7, 1e-2);
    expect(end).toBeLessThan(0.7 * start);
    await train(first, 5, 1e-2);
    await first.saveState(folder);
    await second.loadState(folder);
    expect(await everything(second)).toEqual(await everything(first));
    await train(second, 3, 1e-2);
    expect(await everything(second)).toEqual(await everything(whole));
    const { plan } = whole;
    expect(whole.stats().bytesPeak).toBeLessThanOrEqual(plan.total);
    await using full = await tinyEngine(FULL);
    const other = full.plan;
    // Matrices: 2 bytes and 2 x 4 / 256 instead of 8; norm weights keep fp32 moments. Masters are gone.
    expect(plan.optimizer).toBeLessThan(other.optimizer / 3.5);
    expect(plan.weights).toBeLessThan(other.weights);
    await expect(full.loadState(folder)).rejects.toMatchObject({
      code: "STATE",
      message: expect.stringContaining("Use optimizerState compact."),
    });
  });

  it("is refused for fp32 weights", async () => {
    await expect(tinyEngine({ ...COMPACT, dtype: "fp32" })).rejects.toMatchObject({
      code: "BAD_ARGUMENT",
      message: expect.stringContaining("choose dtype bf16, or optimizerState full"),
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
