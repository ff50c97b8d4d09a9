/** Invariants 1, 2, 5 and the engine's part of 3 (docs/engine.md): bit for bit on the CPU backend. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Engine } from "../../src/engine/engine.js";
import type { Completion, LossRows, TokenForest } from "../../src/engine/policy.js";
import { bits, flat, rescored, tinyEngine, tokens } from "./tiny.js";

const concat = (...parts: readonly Int32Array[]): Int32Array => Int32Array.from(parts.flatMap((part) => [...part]));

describe.each(["fp32", "bf16"] as const)("one forward for sampling and scoring, %s", (dtype) => {
  it("gives the sampled log-probs in a group, chunk by chunk, and after prefix reuse", async () => {
    await using engine = await tinyEngine({ dtype, maxSequences: 4 });
    // More completions than slots: later ones start from a prompt that is cached already.
    const prompt = tokens(37, 1);
    const group = await engine.generate({ prompt, count: 7, maxNewTokens: 9, seed: 1, stopTokens: [] });
    for (const completion of group)
      expect(bits(completion.logprobs)).toEqual(bits(await rescored(engine, prompt, completion)));
    // A second turn goes on from the first one's keys, which end in the middle of a page.
    const before = engine.stats();
    const second = concat(prompt, (group[2] as Completion).tokens, tokens(6, 2));
    const [turn] = (await engine.generate({ prompt: second, maxNewTokens: 9, seed: 2, stopTokens: [] })) as [
      Completion,
    ];
    expect(engine.stats().reusedTokens - before.reusedTokens).toBe(prompt.length + 8);
    expect(bits(turn.logprobs)).toEqual(bits(await rescored(engine, second, turn)));
    // A prompt that leaves the cached path in the middle of a run.
    const aside = concat(prompt.slice(0, 22), tokens(11, 3));
    const [other] = (await engine.generate({ prompt: aside, maxNewTokens: 9, seed: 3, stopTokens: [] })) as [
      Completion,
    ];
    expect(bits(other.logprobs)).toEqual(bits(await rescored(engine, aside, other)));

    await using chunked = await tinyEngine({ dtype, maxBatchTokens: 8, maxSequences: 4 });
    const inChunks = await chunked.generate({ prompt, count: 7, maxNewTokens: 9, seed: 1, stopTokens: [] });
    for (const [i, completion] of inChunks.entries())
      expect(bits(completion.logprobs)).toEqual(bits((group[i] as Completion).logprobs));
  });

  it("has ratio exactly 1, KL 0 and unchanged weights at learning rate 0", async () => {
    await using engine = await tinyEngine({ dtype, training: true });
    const prompt = tokens(20, 4);
    const group = await engine.generate({ prompt, count: 4, maxNewTokens: 8, seed: 4, stopTokens: [] });
    const before = await weights(engine);
    for (let step = 0; step < 2; step++) {
      const { forest, rows } = grpoBatch(prompt, group);
      const result = await engine.accumulate(forest, rows);
      expect([...result.ratio]).toEqual(group.flatMap((c) => Array.from(c.tokens, () => 1)));
      expect([...result.kl].every((x) => x === 0)).toBe(true);
      const { gradNorm } = await engine.step({ learningRate: 0 });
      expect(gradNorm).toBeGreaterThan(0);
    }
    expect(await weights(engine)).toEqual(before);
    const again = await engine.generate({ prompt, count: 4, maxNewTokens: 8, seed: 4, stopTokens: [] });
    expect(again.map((c) => bits(c.logprobs))).toEqual(group.map((c) => bits(c.logprobs)));
    expect(again[0]?.weightVersion).toBe(2);
  });

  it("scores a forest as the same sequences one by one", async () => {
    await using engine = await tinyEngine({ dtype });
    const { forest, sequences, rowsOf } = tree();
    const all = sequences.flatMap((_, i) => rowsOf(i));
    const rows = { rows: Int32Array.from(all, (x) => x.row), targets: Int32Array.from(all, (x) => x.target) };
    const shared = (await engine.score(forest, rows)).logprob;
    let at = 0;
    for (const sequence of sequences) {
      const single = flat(sequence);
      const alone = (await engine.score(single.forest, single.rows)).logprob;
      expect(bits(shared.slice(at, at + alone.length))).toEqual(bits(alone));
      at += alone.length;
    }
  });

  it("computes the same on one, two and three threads", async () => {
    const runs = [];
    for (const threads of [1, 2, 3]) {
      await using engine = await tinyEngine({ dtype, threads, training: true });
      const prompt = tokens(40, 6);
      const group = await engine.generate({ prompt, count: 5, maxNewTokens: 10, seed: 6, stopTokens: [] });
      const { forest, rows } = grpoBatch(prompt, group);
      await engine.accumulate(forest, rows);
      const gradients = await values(engine, "gradient");
      await engine.step({ learningRate: 1e-2, weightDecay: 0.1 });
      runs.push({ logprobs: group.map((c) => bits(c.logprobs)), gradients, weights: await weights(engine) });
    }
    expect(runs[1]).toEqual(runs[0]);
    expect(runs[2]).toEqual(runs[0]);
  });

  it("sums the same gradients however the batch is cut", async () => {
    const trees = [tokens(31, 7), tokens(17, 8), tokens(24, 9), tokens(9, 10)];
    const forest: TokenForest = { segments: trees.map((ids) => ({ parent: null, tokens: ids })) };
    const starts = trees.map((_, i) => trees.slice(0, i).reduce((sum, ids) => sum + ids.length, 0));
    const rows: LossRows = {
      rows: concat(
        ...trees.map((ids, i) => Int32Array.from({ length: ids.length - 1 }, (_, j) => (starts[i] ?? 0) + j)),
      ),
      targets: concat(...trees.map((ids) => ids.slice(1))),
      ceWeight: new Float32Array(77).fill(1 / 77),
      entropyWeight: new Float32Array(77).fill(0.01),
    };
    const gradientsOf = async (maxBatchTokens: number, calls: (engine: Engine) => Promise<unknown>) => {
      await using engine = await tinyEngine({ dtype, maxBatchTokens, training: true });
      await calls(engine);
      return await values(engine, "gradient");
    };
    const whole = await gradientsOf(256, (engine) => engine.accumulate(forest, rows));
    const split = await gradientsOf(32, (engine) => engine.accumulate(forest, rows));
    const apart = await gradientsOf(256, async (engine) => {
      for (const ids of trees) {
        const single = flat(ids);
        const fill = (value: number): Float32Array => new Float32Array(ids.length - 1).fill(value);
        await engine.accumulate(single.forest, { ...single.rows, ceWeight: fill(1 / 77), entropyWeight: fill(0.01) });
      }
    });
    expect(split).toEqual(whole);
    expect(apart).toEqual(whole);
  });
});

describe("training state", () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "act-state-"));
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  const lora = { rank: 2, alpha: 4 };
  it.each([
    { name: "fp32", options: { dtype: "fp32" } },
    { name: "bf16", options: { dtype: "bf16" } },
    { name: "adapters", options: { dtype: "bf16", lora } },
  ] as const)("resumes bit for bit: $name", async ({ name, options }) => {
    const prompt = tokens(18, 11);
    const train = async (engine: Engine, from: number, to: number): Promise<number[]> => {
      const norms = [];
      for (let step = from; step < to; step++) {
        const group = await engine.generate({ prompt, count: 3, maxNewTokens: 6, seed: step, stopTokens: [] });
        const { forest, rows } = grpoBatch(prompt, group);
        await engine.accumulate(forest, rows);
        norms.push((await engine.step({ learningRate: 5e-3, weightDecay: 0.01 })).gradNorm);
      }
      return norms;
    };
    await using straight = await tinyEngine({ ...options, training: true });
    await train(straight, 0, 3);
    await straight.saveState(join(folder, name));
    const expected = await train(straight, 3, 6);

    await using resumed = await tinyEngine({ ...options, training: true });
    await resumed.loadState(join(folder, name));
    expect(resumed.optimizerStep).toBe(3);
    expect(resumed.stats().weightVersion).toBe(3);
    expect(await train(resumed, 3, 6)).toEqual(expected);
    expect(await weights(resumed)).toEqual(await weights(straight));
    expect(await values(resumed, "moment2")).toEqual(await values(straight, "moment2"));
  });
});

describe("the memory plan", () => {
  it.each([
    { training: false },
    { training: true },
    { training: true, recompute: true },
    { training: true, lora: { rank: 4, alpha: 8 } },
  ])("is never exceeded: %o", async (options) => {
    await using engine = await tinyEngine({ ...options, maxBatchTokens: 64 });
    const prompt = tokens(40, 12);
    const group = await engine.generate({ prompt, count: 8, maxNewTokens: 10, seed: 1, stopTokens: [] });
    if (options.training) {
      const { forest, rows } = grpoBatch(prompt, group.slice(0, 2));
      await engine.accumulate(forest, rows);
      await engine.step({ learningRate: 1e-3 });
    }
    const { bytesPeak } = engine.stats();
    expect(bytesPeak).toBeLessThanOrEqual(engine.plan.total);
    // A plan that promises far more than is used would be none. Scratch and logits are bounds of what operations take.
    const { total, scratch, head } = engine.plan;
    expect(bytesPeak).toBeGreaterThan(0.95 * (total - scratch - head));
  });

  it("is refused above the limit, naming what to lower", async () => {
    const { plan } = await tinyEngine().then(async (engine) => {
      await engine.dispose();
      return engine;
    });
    await expect(tinyEngine({ memoryLimit: plan.total - 1 })).rejects.toMatchObject({
      code: "MEMORY_PLAN",
      message: expect.stringMatching(/cacheTokens|maxBatchTokens|dtype/u),
    });
    const engine = await tinyEngine({ memoryLimit: plan.total });
    await engine.dispose();
    // Left out it is the machine's memory.
    await expect(tinyEngine({ cacheTokens: 2 ** 31 - 16 })).rejects.toMatchObject({ code: "MEMORY_PLAN" });
  });
});

/** A tree of five segments, the sequences of its leaves, and the rows that judge sequence i's tokens after the first. */
function tree() {
  const parents = [null, 0, 0, 1, 1];
  const segments = parents.map((parent, i) => ({ parent, tokens: tokens(5 + 6 * i, 20 + i) }));
  const starts = segments.map((_, i) => segments.slice(0, i).reduce((sum, s) => sum + s.tokens.length, 0));
  const pathOf = (leaf: number): number[] => {
    const parent = parents[leaf] ?? null;
    return [...(parent === null ? [] : pathOf(parent)), leaf];
  };
  const paths = [2, 3, 4].map((leaf) =>
    pathOf(leaf).flatMap((i) =>
      Array.from(segments[i]?.tokens ?? [], (token, j) => ({ token, row: (starts[i] ?? 0) + j })),
    ),
  );
  return {
    forest: { segments } satisfies TokenForest,
    sequences: paths.map((path) => Int32Array.from(path, ({ token }) => token)),
    rowsOf: (i: number) =>
      (paths[i] ?? []).slice(1).map(({ token }, j) => ({ row: paths[i]?.[j]?.row ?? 0, target: token })),
  };
}

/** A group as a forest of one prompt with its completions, with the streams of a policy-gradient step. */
function grpoBatch(prompt: Int32Array, group: readonly Completion[]): { forest: TokenForest; rows: LossRows } {
  const segments = [{ parent: null, tokens: prompt } as { parent: number | null; tokens: Int32Array }];
  const rows: number[] = [];
  let start = prompt.length;
  for (const { tokens: ids } of group) {
    segments.push({ parent: 0, tokens: ids });
    ids.forEach((_, i) => {
      rows.push(i === 0 ? prompt.length - 1 : start + i - 1);
    });
    start += ids.length;
  }
  const old = Float32Array.from(group.flatMap((c) => [...c.logprobs]));
  const each = (value: (i: number) => number): Float32Array => Float32Array.from(rows, (_, i) => value(i));
  return {
    forest: { segments },
    rows: {
      rows: Int32Array.from(rows),
      targets: Int32Array.from(group.flatMap((c) => [...c.tokens])),
      oldLogprob: old,
      refLogprob: old,
      advantage: each((i) => (i % 3) - 1),
      policyWeight: each(() => 1 / rows.length),
      klWeight: each(() => 0.01),
      clipLow: each(() => 0.2),
      clipHigh: each(() => 0.28),
    },
  };
}

async function values(engine: Engine, kind: "gradient" | "moment2"): Promise<Record<string, number[]>> {
  const result: Record<string, number[]> = {};
  for (const { name, trainable } of engine.tensors())
    if (trainable) result[name] = bits((await engine.readTensor(name, kind)) as Float32Array);
  return result;
}

async function weights(engine: Engine): Promise<Record<string, number[]>> {
  const result: Record<string, number[]> = {};
  for (const { name } of engine.tensors()) {
    const read = await engine.readTensor(name);
    result[name] = read instanceof Float32Array ? bits(read) : [...read];
  }
  return result;
}
