import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Engine } from "../../src/engine/engine.js";
import type { Completion } from "../../src/engine/policy.js";
import { bits, flat, TINY, tinyEngine, tokens } from "./tiny.js";

/** Philox4x32-10 (Salmon et al. 2011), written apart from the engine's. */
function philox(counter: readonly number[], key: readonly number[]): number[] {
  const multiply = (a: number, b: number): [number, number] => {
    const product = BigInt(a) * BigInt(b);
    return [Number(product >> 32n), Number(product & 0xffffffffn)];
  };
  let [c0, c1, c2, c3] = counter as [number, number, number, number];
  let [k0, k1] = key as [number, number];
  for (let round = 0; round < 10; round++) {
    const [high0, low0] = multiply(0xd2511f53, c0);
    const [high1, low1] = multiply(0xcd9e8d57, c2);
    [c0, c1, c2, c3] = [(high1 ^ c1 ^ k0) >>> 0, low1, (high0 ^ c3 ^ k1) >>> 0, low0];
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return [c0, c1, c2, c3];
}

/** The engine's number for the token at `position` of stream `stream`. */
function uniform(seed: bigint, stream: bigint, position: number): number {
  const low = (x: bigint): number => Number(x & 0xffffffffn);
  const [high, rest] = philox([position, 0, low(stream), low(stream >> 32n)], [low(seed), low(seed >> 32n)]) as [
    number,
    number,
  ];
  return Number(((BigInt(high) << 32n) | BigInt(rest)) >> 11n) * 2 ** -53;
}

describe("the random numbers", () => {
  it("are those of the authors' known vectors", () => {
    const hex = (words: number[]): string => words.map((word) => word.toString(16).padStart(8, "0")).join(" ");
    const ones = 0xffffffff;
    expect(hex(philox([0, 0, 0, 0], [0, 0]))).toBe("6627e8d5 e169c58d bc57ac4c 9b00dbd8");
    expect(hex(philox([ones, ones, ones, ones], [ones, ones]))).toBe("408f276d 41c83b0e a20bc7c6 6d5451fd");
    expect(hex(philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]))).toBe(
      "d16cfe09 94fdcceb 5001e420 24126ea1",
    );
  });
});

describe("sampling", () => {
  let engine: Engine;
  const prompt = tokens(21, 1);
  beforeAll(async () => {
    engine = await tinyEngine();
  });
  afterAll(async () => {
    await engine.dispose();
  });

  /** Log-probs of the whole vocabulary after `prefix`, by scoring every token. */
  async function distribution(prefix: Int32Array): Promise<Float32Array> {
    const targets = Int32Array.from({ length: TINY.vocab_size }, (_, token) => token);
    const rows = new Int32Array(TINY.vocab_size).fill(prefix.length - 1);
    const forest = { segments: [{ parent: null, tokens: prefix }] };
    return (await engine.score(forest, { rows, targets })).logprob;
  }

  it("draws by inverse CDF with the number of (seed, stream + index, position)", async () => {
    const seed = 0x1234_5678_9abc_def0n;
    const stream = 5_000_000_000n;
    const completions = await engine.generate({ prompt, count: 3, maxNewTokens: 8, seed, stream, stopTokens: [] });
    for (const [index, { tokens: drawn }] of completions.entries()) {
      for (let i = 0; i < drawn.length; i++) {
        const prefix = Int32Array.from([...prompt, ...drawn.slice(0, i)]);
        const u = uniform(seed, stream + BigInt(index), prefix.length);
        const probabilities = Array.from(await distribution(prefix), Math.exp);
        const total = probabilities.reduce((a, b) => a + b);
        let below = 0;
        const token = probabilities.findIndex((p) => {
          below += p / total;
          return u < below;
        });
        // The test's sums are not the engine's: numbers within rounding of a boundary prove nothing.
        const edge = Math.min(Math.abs(below - u), Math.abs(below - (probabilities[token] ?? 0) / total - u));
        if (edge > 1e-5) expect(drawn[i]).toBe(token);
      }
    }
  });

  it("takes the likeliest token when greedy, whatever the seed", async () => {
    const request = { prompt, maxNewTokens: 12, temperature: 0, stopTokens: [] };
    const [a] = (await engine.generate({ ...request, seed: 1 })) as [Completion];
    const [b] = (await engine.generate({ ...request, seed: 2 })) as [Completion];
    expect([...a.tokens]).toEqual([...b.tokens]);
    for (let i = 0; i < a.tokens.length; i++) {
      const logprobs = await distribution(Int32Array.from([...prompt, ...a.tokens.slice(0, i)]));
      expect(a.tokens[i]).toBe(logprobs.indexOf(Math.max(...logprobs)));
      expect(a.samplingLogprobs[i]).toBe(0);
    }
  });

  it("reports untruncated log-prob and entropy, sampling log-prob and kept mass", async () => {
    const [sample] = (await engine.generate({
      prompt,
      maxNewTokens: 6,
      temperature: 0.7,
      topK: 5,
      seed: 3,
      stopTokens: [],
    })) as [Completion];
    for (let i = 0; i < sample.tokens.length; i++) {
      const token = sample.tokens[i] as number;
      const logprobs = await distribution(Int32Array.from([...prompt, ...sample.tokens.slice(0, i)]));
      expect(sample.logprobs[i]).toBe(logprobs[token]);
      expect(sample.entropy[i]).toBeCloseTo(-logprobs.reduce((sum, x) => sum + Math.exp(x) * x, 0), 4);
      const scaled = Array.from(logprobs, (x, id) => ({ id, p: Math.exp(x / 0.7) }));
      const all = scaled.reduce((sum, { p }) => sum + p, 0);
      const kept = scaled.sort((a, b) => b.p - a.p || a.id - b.id).slice(0, 5);
      const mass = kept.reduce((sum, { p }) => sum + p, 0);
      expect(kept.map(({ id }) => id)).toContain(token);
      expect(sample.keptMass[i]).toBeCloseTo(mass / all, 4);
      expect(sample.samplingLogprobs[i]).toBeCloseTo(Math.log((kept.find(({ id }) => id === token)?.p ?? 0) / mass), 4);
    }
  });

  it("keeps only what top-p and min-p allow", async () => {
    for (const truncation of [{ topP: 0.5 }, { minP: 0.3 }]) {
      const samples = await engine.generate({ prompt, count: 8, maxNewTokens: 1, seed: 4, ...truncation });
      const probabilities = Array.from(await distribution(prompt), Math.exp);
      const order = probabilities.map((p, id) => ({ p, id })).sort((a, b) => b.p - a.p || a.id - b.id);
      const allowed = new Set<number>();
      let mass = 0;
      for (const { p, id } of order) {
        if ("topP" in truncation ? mass >= truncation.topP : p < truncation.minP * (order[0]?.p ?? 0)) break;
        allowed.add(id);
        mass += p;
      }
      for (const { tokens: drawn } of samples) expect(allowed).toContain(drawn[0]);
    }
  });

  it("does not depend on neighbors, on the cache or on chunked prefill, bit for bit", async () => {
    const request = { prompt, count: 2, maxNewTokens: 10, seed: 9, stopTokens: [] };
    const alone = await engine.generate(request);
    const crowd = [...Array(6).keys()].map((i) =>
      engine.generate({ prompt: tokens(11 + 5 * i, i), maxNewTokens: 4 + 3 * i, seed: i, stopTokens: [] }),
    );
    const [crowded] = await Promise.all([engine.generate(request), ...crowd]);
    const chunked = await tinyEngine({ maxBatchTokens: 8, maxSequences: 2 });
    const inChunks = await chunked.generate(request);
    await chunked.dispose();
    for (const other of [crowded, inChunks])
      for (const [i, completion] of alone.entries()) {
        expect([...(other?.[i]?.tokens ?? [])]).toEqual([...completion.tokens]);
        expect(bits(other?.[i]?.logprobs ?? new Float32Array())).toEqual(bits(completion.logprobs));
      }
  });

  it("gives completion i of a group what a request of stream + i gives", async () => {
    const group = await engine.generate({ prompt, count: 4, maxNewTokens: 6, seed: 5, stream: 10 });
    const [third] = await engine.generate({ prompt, maxNewTokens: 6, seed: 5, stream: 12 });
    expect([...(third?.tokens ?? [])]).toEqual([...(group[2]?.tokens ?? [])]);
  });
});

describe("the end of a completion", () => {
  it("is a stop token, which is part of it", async () => {
    await using engine = await tinyEngine();
    const prompt = tokens(9, 2);
    const free = { prompt, maxNewTokens: 12, temperature: 0, seed: 0 };
    const [all] = (await engine.generate({ ...free, stopTokens: [] })) as [Completion];
    expect(all.finishReason).toBe("length");
    expect(all.tokens).toHaveLength(12);
    const stop = all.tokens[4] as number;
    const first = all.tokens.indexOf(stop);
    const [cut] = (await engine.generate({ ...free, stopTokens: [stop] })) as [Completion];
    expect(cut.finishReason).toBe("stop");
    expect([...cut.tokens]).toEqual([...all.tokens.slice(0, first + 1)]);
  });

  it("is a stop string, however it is spread over tokens", async () => {
    // Token id t stands for the two letters of its number in base 26.
    const letters = (id: number): string => String.fromCharCode(97 + Math.floor(id / 26), 97 + (id % 26));
    const bytes = Buffer.from([...Array(TINY.vocab_size).keys()].map(letters).join(""));
    const offsets = Uint32Array.from({ length: TINY.vocab_size + 1 }, (_, i) => 2 * i);
    await using engine = await tinyEngine({ tokenBytes: { bytes, offsets } });
    const request = { prompt: tokens(9, 3), maxNewTokens: 16, temperature: 0.9, seed: 0, stopTokens: [] };
    const [all] = (await engine.generate(request)) as [Completion];
    const text = [...all.tokens].map(letters).join("");
    // From the middle of one token to the middle of the next but one.
    const stop = text.slice(7, 10);
    const end = Math.ceil((text.indexOf(stop) + stop.length) / 2);
    const [cut] = (await engine.generate({ ...request, stopStrings: ["##never", stop] })) as [Completion];
    expect(cut.finishReason).toBe("stop");
    expect([...cut.tokens]).toEqual([...all.tokens.slice(0, end)]);
  });

  it("is the context's limit", async () => {
    await using engine = await tinyEngine();
    const prompt = tokens(TINY.max_position_embeddings - 3, 4);
    const [completion] = (await engine.generate({ prompt, maxNewTokens: 10, seed: 0, stopTokens: [] })) as [Completion];
    expect(completion.finishReason).toBe("length");
    expect(completion.tokens).toHaveLength(3);
  });
});

describe("choices", () => {
  it("constrain completions without touching the reported log-prob", async () => {
    await using engine = await tinyEngine();
    const prompt = tokens(13, 5);
    const choices = [[7, 8, 9], [7, 8], [20], [21, 7]];
    const samples = await engine.generate({ prompt, count: 24, maxNewTokens: 4, seed: 1, choices });
    const seen = new Set<string>();
    for (const sample of samples) {
      expect(sample.finishReason).toBe("stop");
      expect(sample.tokens.at(-1)).toBe(TINY.eos_token_id);
      const body = [...sample.tokens.slice(0, -1)];
      expect(choices).toContainEqual(body);
      seen.add(body.join());
      const { forest, rows } = flat(Int32Array.from([...prompt, ...sample.tokens]), prompt.length);
      expect(bits((await engine.score(forest, rows)).logprob)).toEqual(bits(sample.logprobs));
    }
    expect(seen.size).toBeGreaterThan(1);
  });

  it("that cannot be completed are refused", async () => {
    await using engine = await tinyEngine();
    const request = { prompt: [2], seed: 0, maxNewTokens: 3 };
    await expect(engine.generate({ ...request, choices: [[4, 5, 6]] })).rejects.toMatchObject({ code: "BAD_ARGUMENT" });
    await expect(engine.generate({ ...request, choices: [[4, 1]] })).rejects.toMatchObject({ code: "BAD_ARGUMENT" });
    await expect(engine.generate({ ...request, choices: [[4]], stopTokens: [] })).rejects.toMatchObject({
      code: "BAD_ARGUMENT",
    });
  });
});
