/** The key-value cache under a crowd: whatever is shared, evicted, cut off or cancelled changes no bit of a result. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Engine } from "../../src/engine/engine.js";
import type { Completion, GenerateRequest } from "../../src/engine/policy.js";
import { bits, rescored, tinyEngine, tokens } from "./tiny.js";

/** A small generator of its own, so that a failure repeats. */
function generator(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

describe("the cache", () => {
  // The engine then verifies every count of the cache after every step, and ends with INTERNAL where one is wrong.
  beforeAll(() => {
    process.env.ACT_CHECK_CACHE = "1";
  });
  afterAll(() => {
    delete process.env.ACT_CHECK_CACHE;
  });

  /** Conversations that grow from a few common beginnings, side by side, some of them cancelled. */
  async function crowd(engine: Engine, seed: number, check: (prompt: Int32Array, c: Completion) => Promise<void>) {
    const random = generator(seed);
    const beginnings = [tokens(19, 1), tokens(19, 1).slice(0, 11), tokens(33, 2), tokens(1, 3)];
    const conversations = [...Array(10).keys()].map(async () => {
      let prompt = beginnings[random(beginnings.length)] as Int32Array;
      for (let turn = 0; turn < 4; turn++) {
        const request: GenerateRequest = {
          prompt,
          count: 1 + random(4),
          maxNewTokens: 1 + random(12),
          seed: random(1000),
          stopTokens: [random(53), random(53)],
          adapters: random(3) > 0,
        };
        const cancelled = random(4) === 0;
        const controller = new AbortController();
        const running = engine.generate(request, { signal: controller.signal });
        if (cancelled) setTimeout(() => controller.abort(), random(4));
        const group = await running.catch(() => null);
        if (group === null) continue;
        const chosen = group[random(group.length)] as Completion;
        if (request.adapters) await check(prompt, chosen);
        prompt = Int32Array.from([...prompt, ...chosen.tokens, ...tokens(random(9), random(50))]);
        if (prompt.length > 120) break;
      }
    });
    await Promise.all(conversations);
  }

  it.each([
    // Pages for a single conversation, and pages for all.
    { cacheTokens: 192, maxBatchTokens: 16 },
    { cacheTokens: 400, maxBatchTokens: 8 },
    { cacheTokens: 4096, maxBatchTokens: 128 },
    // Guesses that are taken back again and again, over pages of which there are few.
    { cacheTokens: 192, maxBatchTokens: 16, draftTokens: 3 },
    { cacheTokens: 4096, maxBatchTokens: 128, draftTokens: 20 },
  ])("keeps its counts and every log-prob: %o", async (sizes) => {
    await using engine = await tinyEngine({ ...sizes, maxSequences: 6 });
    await using scorer = await tinyEngine();
    for (let seed = 1; seed <= 8; seed++)
      await crowd(engine, seed, async (prompt, completion) => {
        expect(bits(completion.logprobs)).toEqual(bits(await rescored(scorer, prompt, completion)));
      });
    expect(engine.stats().activeSequences).toBe(0);
    expect(engine.stats().cachedTokens).toBeLessThanOrEqual(sizes.cacheTokens);
    expect(engine.stats().reusedTokens).toBeGreaterThan(0);
  });

  it("computes a prompt that many requests bring at once only once", async () => {
    await using engine = await tinyEngine({ cacheTokens: 2048, maxBatchTokens: 16, maxSequences: 8 });
    const common = tokens(70, 4);
    const requests = [...Array(8).keys()].map((i) => Int32Array.from([...common, ...tokens(5, 10 + i)]));
    await Promise.all(requests.map((prompt) => engine.generate({ prompt, maxNewTokens: 2, seed: 0, stopTokens: [] })));
    expect(engine.stats().prefillTokens).toBe(70 + 8 * 5);
  });

  it("is dropped when the weights change", async () => {
    await using engine = await tinyEngine({ training: true });
    const prompt = tokens(40, 5);
    await engine.generate({ prompt, maxNewTokens: 3, seed: 0 });
    expect(engine.stats().cachedTokens).toBeGreaterThanOrEqual(40);
    await engine.step({ learningRate: 1e-3 });
    expect(engine.stats().cachedTokens).toBe(0);
    const before = engine.stats().reusedTokens;
    await engine.generate({ prompt, maxNewTokens: 3, seed: 0 });
    expect(engine.stats().reusedTokens).toBe(before);
  });

  it("gives way to newcomers, least recently used first", async () => {
    await using engine = await tinyEngine({ cacheTokens: 160, maxBatchTokens: 64 });
    const [a, b, c] = [tokens(60, 6), tokens(60, 7), tokens(60, 8)];
    const visit = async (prompt: Int32Array): Promise<number> => {
      const before = engine.stats().reusedTokens;
      await engine.generate({ prompt, maxNewTokens: 1, seed: 0, stopTokens: [] });
      return engine.stats().reusedTokens - before;
    };
    expect(await visit(a)).toBe(0);
    expect(await visit(b)).toBe(0);
    expect(await visit(a)).toBe(59);
    expect(await visit(c)).toBe(0); // takes pages from the end of b, which was used before a
    expect(await visit(a)).toBe(59);
    const partly = await visit(b);
    expect(partly).toBeGreaterThan(0); // pages go one by one: the beginning of b stayed
    expect(partly).toBeLessThan(59);
  });
});
