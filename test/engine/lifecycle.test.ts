/** Disposal, cancellation, errors, several engines: the host always survives. Its own end: process-end.test.ts. */
import { getEventListeners } from "node:events";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Engine } from "../../src/engine/engine.js";
import type { GenerateRequest, LossRows, TokenForest } from "../../src/engine/policy.js";
import { flat, TINY, tinyEngine, tokens } from "./tiny.js";

/** Large enough that calls are still under way when the test acts: hundreds of milliseconds on any processor. */
const SLOW = { ...TINY, hidden_size: 64, intermediate_size: 256, num_hidden_layers: 6, max_position_embeddings: 4096 };
const slowEngine = (options = {}): Promise<Engine> =>
  tinyEngine({ cacheTokens: 16384, maxBatchTokens: 64, training: true, ...options }, 1, SLOW);

const LONG: GenerateRequest = { prompt: tokens(50, 1), count: 8, maxNewTokens: 1500, seed: 1, stopTokens: [] };

/** Many trees, hence many micro-batches. */
function longBatch(trees = 400): { forest: TokenForest; rows: LossRows } {
  const ids = tokens(60, 2);
  const rows = 59 * trees;
  return {
    forest: { segments: Array.from({ length: trees }, () => ({ parent: null, tokens: ids })) },
    rows: {
      rows: Int32Array.from({ length: rows }, (_, i) => 60 * Math.floor(i / 59) + (i % 59)),
      targets: Int32Array.from({ length: rows }, (_, i) => ids[(i % 59) + 1] as number),
      ceWeight: new Float32Array(rows).fill(1 / rows),
    },
  };
}

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** Until `count` sequences are being sampled. */
async function sampling(engine: Engine, count = 1): Promise<void> {
  while (engine.stats().activeSequences < count) await sleep(1);
}

describe("dispose", () => {
  it("during generation gives what was sampled, as aborted", async () => {
    const engine = await slowEngine();
    const running = engine.generate({ ...LONG, count: 12 }); // some not yet started
    await sampling(engine, 8);
    await sleep(20);
    await engine.dispose();
    const completions = await running;
    expect(completions).toHaveLength(12);
    for (const { finishReason, tokens: ids, logprobs } of completions) {
      expect(finishReason).toBe("aborted");
      expect(ids.length).toBeLessThan(1500);
      expect(logprobs).toHaveLength(ids.length);
    }
    expect(completions[0]?.tokens.length).toBeGreaterThan(0);
    expect(completions[11]?.tokens).toHaveLength(0);
  });

  it("during every other call rejects it as aborted", async () => {
    const { forest, rows } = longBatch();
    const calls: ((engine: Engine) => Promise<unknown>)[] = [
      (engine) => engine.score(forest, rows),
      (engine) => engine.accumulate(forest, rows),
      // Waiting behind another call.
      async (engine) => {
        const first = engine.score(forest, rows).catch(() => undefined);
        await Promise.all([engine.zeroGradients(), first]);
      },
    ];
    for (const call of calls) {
      const engine = await slowEngine();
      const outcome = call(engine).then(
        () => "done",
        (error: { code: string }) => error.code,
      );
      await sleep(20);
      await engine.dispose();
      // A call that went on to the batch's end would be done.
      expect(await outcome).toBe("ABORTED");
    }
  });

  it("may be called twice, also at once; every other call then throws DISPOSED", async () => {
    const engine = await tinyEngine({ training: true });
    await Promise.all([engine.dispose(), engine.dispose()]);
    await engine.dispose();
    const { forest, rows } = flat(tokens(5, 1));
    const disposed = { code: "DISPOSED", name: "EngineError" };
    await expect(engine.generate({ prompt: [2], maxNewTokens: 1, seed: 0 })).rejects.toMatchObject(disposed);
    await expect(engine.score(forest, rows)).rejects.toMatchObject(disposed);
    await expect(engine.accumulate(forest, rows)).rejects.toMatchObject(disposed);
    await expect(engine.step({ learningRate: 0 })).rejects.toMatchObject(disposed);
    await expect(engine.zeroGradients()).rejects.toMatchObject(disposed);
    await expect(engine.readTensor("model.norm.weight")).rejects.toMatchObject(disposed);
    await expect(engine.saveModel("nowhere")).rejects.toMatchObject(disposed);
    await expect(engine.saveState("nowhere")).rejects.toMatchObject(disposed);
    await expect(engine.loadState("nowhere")).rejects.toMatchObject(disposed);
    expect(() => engine.stats()).toThrow(expect.objectContaining(disposed));
    expect(() => engine.optimizerStep).toThrow(expect.objectContaining(disposed));
  });

  it("happens by itself at the end of a scope", async () => {
    let kept: Engine;
    {
      await using engine = await tinyEngine();
      kept = engine;
    }
    expect(() => kept.stats()).toThrow(expect.objectContaining({ code: "DISPOSED" }));
  });
});

describe("an abort signal", () => {
  let engine: Engine;
  let folder: string;
  beforeAll(async () => {
    engine = await slowEngine();
    folder = await mkdtemp(join(tmpdir(), "act-abort-"));
  });
  afterAll(async () => {
    await engine.dispose();
    await rm(folder, { recursive: true, force: true });
  });

  const { forest, rows } = longBatch();
  const calls: Record<string, (signal: AbortSignal) => Promise<unknown>> = {
    generate: (signal) => engine.generate(LONG, { signal }),
    score: (signal) => engine.score(forest, rows, { signal }),
    accumulate: (signal) => engine.accumulate(forest, rows, { signal }),
    saveModel: (signal) => engine.saveModel(join(folder, "model"), { signal }),
    saveState: (signal) => engine.saveState(join(folder, "state"), { signal }),
  };
  const reason = new Error("the caller changed its mind");

  it.each(Object.keys(calls))("that is aborted already ends %s at once", async (name) => {
    await expect(calls[name]?.(AbortSignal.abort(reason))).rejects.toBe(reason);
    expect(await readdir(folder)).not.toContain("model");
  });

  it.each(["generate", "score", "accumulate"])("ends %s in the middle and leaves no listener", async (name) => {
    const controller = new AbortController();
    const running = calls[name]?.(controller.signal);
    const outcome = expect(running).rejects.toBe(reason);
    await sleep(20);
    expect(getEventListeners(controller.signal, "abort").length).toBe(1);
    controller.abort(reason);
    await outcome;
    expect(getEventListeners(controller.signal, "abort").length).toBe(0);
    // The engine goes on, with nothing left behind.
    const next = await engine.generate({ prompt: tokens(9, 3), maxNewTokens: 3, seed: 0, stopTokens: [] });
    expect(next[0]?.tokens).toHaveLength(3);
    expect(engine.stats().activeSequences).toBe(0);
  });

  it("ends a call that is still waiting for its turn", async () => {
    const first = new AbortController();
    const second = new AbortController();
    const running = engine.score(forest, rows, { signal: first.signal });
    const waiting = engine.accumulate(forest, rows, { signal: second.signal });
    const outcomes = [expect(running).rejects.toBe("first"), expect(waiting).rejects.toBe("second")];
    second.abort("second");
    await outcomes[1];
    first.abort("first");
    await Promise.all(outcomes);
  });

  it("leaves zero gradients behind an accumulation, and complete ones behind a finished one", async () => {
    const small = longBatch(1);
    await engine.accumulate(small.forest, small.rows);
    const controller = new AbortController();
    const running = engine.accumulate(forest, rows, { signal: controller.signal });
    setTimeout(() => controller.abort(reason), 20);
    await expect(running).rejects.toBe(reason);
    expect((await engine.step({ learningRate: 0 })).gradNorm).toBe(0);

    const late = new AbortController();
    await engine.accumulate(small.forest, small.rows, { signal: late.signal });
    late.abort(reason);
    expect((await engine.step({ learningRate: 0 })).gradNorm).toBeGreaterThan(0);
  });

  it("frees the sequences of a request without touching others", async () => {
    const request = { prompt: tokens(30, 4), count: 2, maxNewTokens: 40, seed: 7, stopTokens: [] };
    const expected = await engine.generate(request);
    const controller = new AbortController();
    const doomed = engine.generate(LONG, { signal: controller.signal });
    const outcome = expect(doomed).rejects.toBe(reason);
    await sampling(engine);
    const other = engine.generate(request);
    setTimeout(() => controller.abort(reason), 10);
    await outcome;
    expect((await other).map(({ tokens: ids }) => [...ids])).toEqual(expected.map(({ tokens: ids }) => [...ids]));
  });
});

describe("weights", () => {
  it("do not change under running sequences: step and loadState are refused with BUSY", async () => {
    await using engine = await slowEngine();
    const controller = new AbortController();
    const running = engine.generate(LONG, { signal: controller.signal });
    const outcome = expect(running).rejects.toThrow();
    await expect(engine.step({ learningRate: 1e-3 })).rejects.toMatchObject({ code: "BUSY" });
    controller.abort();
    await outcome;
    await engine.step({ learningRate: 1e-3 });
  });

  it("are those of the step before for a request made after it", async () => {
    await using engine = await slowEngine();
    const { forest, rows } = longBatch(40);
    const request = { prompt: tokens(20, 5), maxNewTokens: 4, seed: 0, stopTokens: [] };
    // Nothing is awaited in between: the order of the calls decides.
    const training = engine.accumulate(forest, rows);
    const during = engine.generate({ ...request });
    const [, early] = await Promise.all([training, during]);
    const [, late] = await Promise.all([engine.step({ learningRate: 0.05 }), engine.generate(request)]);
    expect(early[0]?.weightVersion).toBe(0);
    expect(late[0]?.weightVersion).toBe(1);
    expect(late[0]?.logprobs).not.toEqual(early[0]?.logprobs);
  });

  it("are those of the calls before, whatever is awaited", async () => {
    const folder = await mkdtemp(join(tmpdir(), "act-order-"));
    const state = (name: string): string => join(folder, name);
    const { forest, rows } = flat(tokens(20, 3));
    const weighted = { ...rows, ceWeight: new Float32Array(rows.rows.length).fill(1 / rows.rows.length) };
    const request = { prompt: tokens(20, 5), maxNewTokens: 4, seed: 0, stopTokens: [] };
    const calls: ((engine: Engine, prefix: string) => Promise<unknown>)[] = [
      (e, p) => e.saveState(state(`${p}0`)),
      (e) => e.accumulate(forest, weighted),
      (e) => e.step({ learningRate: 0.01 }),
      (e) => e.accumulate(forest, weighted),
      (e, p) => e.saveState(state(`${p}1`)),
      (e) => e.step({ learningRate: 0.02 }),
      (e) => e.score(forest, rows),
      (e, p) => e.saveState(state(`${p}2`)),
      (e) => e.accumulate(forest, weighted),
      (e) => e.zeroGradients(),
      (e) => e.step({ learningRate: 0.01 }),
      (e) => e.generate(request),
    ];
    const taken: ((engine: Engine, prefix: string) => Promise<unknown>)[] = [
      (e, p) => e.loadState(state(`${p}1`)),
      (e) => e.generate(request),
      (e, p) => e.saveState(state(`${p}3`)),
      (e) => e.readTensor("model.norm.weight"),
    ];
    try {
      const results: unknown[][] = [];
      for (const awaited of [true, false]) {
        await using engine = await tinyEngine({ training: true });
        const all: unknown[] = [];
        for (const part of [calls, taken]) {
          const pending: Promise<unknown>[] = [];
          for (const call of part) {
            const promise = call(engine, `${awaited}`);
            pending.push(promise);
            if (awaited) await promise;
          }
          all.push(...(await Promise.all(pending)));
        }
        for (const file of ["state.json", "state.safetensors"])
          for (const i of [0, 1, 2, 3]) all.push(await readFile(join(state(`${awaited}${i}`), file)));
        results.push(all);
      }
      expect(results[1]).toEqual(results[0]);
      const [zero, one, two, three] = (results[0] ?? []).slice(-4) as Buffer[];
      expect(one?.equals(three as Buffer)).toBe(true);
      for (const other of [zero, two]) expect(one?.equals(other as Buffer)).toBe(false);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });

  it("waited for by a call do not hold up its abort, nor the engine's end", async () => {
    const folder = await mkdtemp(join(tmpdir(), "act-waiting-"));
    try {
      const engine = await tinyEngine({ training: true });
      const controller = new AbortController();
      // The step waits for the save, everything else for the step.
      const save = engine.saveState(join(folder, "state")).catch((error: unknown) => error);
      const step = engine.step({ learningRate: 0.01 }).catch((error: unknown) => error);
      const request = { prompt: tokens(20, 5), maxNewTokens: 4, seed: 0, stopTokens: [] };
      const first = engine.generate(request, { signal: controller.signal });
      const other = engine.generate(request).catch((error: unknown) => error);
      controller.abort(new Error("enough"));
      await expect(first).rejects.toThrow("enough");
      expect(getEventListeners(controller.signal, "abort")).toEqual([]);
      await engine.dispose();
      expect(await step).toMatchObject({ code: "ABORTED" });
      expect(await other).toMatchObject({ code: "ABORTED" });
      expect(await save).toMatchObject({ name: "EngineError" });
      await expect(engine.generate(request)).rejects.toMatchObject({ code: "DISPOSED" });
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });

  it("are sampled from side by side with training", async () => {
    await using engine = await slowEngine();
    const { forest, rows } = longBatch();
    let trained = false;
    const training = engine.accumulate(forest, rows).then(() => {
      trained = true;
    });
    await engine.generate({ prompt: tokens(20, 6), maxNewTokens: 5, seed: 0, stopTokens: [] });
    expect(trained).toBe(false);
    await training;
  });
});

describe("the cache", () => {
  it("lets requests wait for pages and never fails one midway", async () => {
    // Room for about two of these at a time, though eight slots are free.
    await using engine = await tinyEngine({ cacheTokens: 160 });
    const requests = [...Array(10).keys()].map((i) => ({
      prompt: tokens(30 + i, i),
      count: 1 + (i % 3),
      maxNewTokens: 25,
      seed: i,
      stopTokens: [],
    }));
    const together = await Promise.all(requests.map((request) => engine.generate(request)));
    await using roomy = await tinyEngine({ cacheTokens: 4096 });
    for (const [i, request] of requests.entries()) {
      const alone = await roomy.generate(request);
      expect(together[i]?.map(({ tokens: ids }) => [...ids])).toEqual(alone.map(({ tokens: ids }) => [...ids]));
    }
  });
});

describe("the event loop", () => {
  it("keeps turning while the engine trains and samples", async () => {
    await using engine = await slowEngine();
    const { forest, rows } = longBatch(200);
    const work = Promise.all([
      engine.accumulate(forest, rows),
      engine.generate({ ...LONG, maxNewTokens: 60 }),
      engine.score(forest, rows),
    ]);
    let done = false;
    void work.then(() => {
      done = true;
    });
    const gaps: number[] = [];
    const start = performance.now();
    let last = start;
    while (!done) {
      await sleep(1);
      gaps.push(performance.now() - last);
      last = performance.now();
    }
    await work;
    gaps.sort((a, b) => a - b);
    // A blocked loop would show gaps as long as the calls; a busy machine delays timers, and the calls with them.
    expect(gaps.length).toBeGreaterThan(20);
    expect(gaps[Math.floor(0.9 * gaps.length)]).toBeLessThan((last - start) / 10);
  });
});

describe("several engines", () => {
  it("work side by side without touching each other", async () => {
    const request = { prompt: tokens(12, 1), count: 3, maxNewTokens: 12, seed: 3, stopTokens: [] };
    const expected = [];
    for (const seed of [1, 2, 3]) {
      await using engine = await tinyEngine({}, seed);
      expected.push((await engine.generate(request)).map(({ tokens: ids }) => [...ids]));
    }
    const engines = await Promise.all([1, 2, 3].map((seed) => tinyEngine({}, seed)));
    const got = await Promise.all(engines.map((engine) => engine.generate(request)));
    await Promise.all(engines.map((engine) => engine.dispose()));
    expect(got.map((group) => group.map(({ tokens: ids }) => [...ids]))).toEqual(expected);
    expect(expected[0]).not.toEqual(expected[1]);
  });
});
