/** Speculative decoding: guesses change how many steps a completion takes, and nothing else. */
import { describe, expect, it } from "vitest";
import type { Engine } from "../../src/engine/engine.js";
import type { Completion, GenerateRequest } from "../../src/engine/policy.js";
import { bits, rescored, tinyEngine, tokens } from "./tiny.js";

const prompt = Int32Array.from([...tokens(9, 1), ...tokens(9, 1), ...tokens(9, 1)]);

/** Requests that meet every way in which a completion goes on or ends. */
const REQUESTS: Record<string, Omit<GenerateRequest, "prompt">> = {
  greedy: { maxNewTokens: 60, temperature: 0, seed: 0, stopTokens: [] },
  "at a low temperature": { maxNewTokens: 60, temperature: 0.3, seed: 7, stopTokens: [] },
  "at temperature 1, in a group": { maxNewTokens: 40, seed: 3, count: 5, stopTokens: [] },
  truncated: { maxNewTokens: 40, temperature: 0.7, topK: 7, topP: 0.9, minP: 0.02, seed: 5, stopTokens: [] },
  "until a stop token": { maxNewTokens: 60, seed: 11, count: 6, stopTokens: [3, 9, 17, 25, 31, 44] },
  "until a stop string": { maxNewTokens: 60, temperature: 0.5, seed: 2, count: 6, stopStrings: ["ab", "c"] },
  "for one token": { maxNewTokens: 1, seed: 1, stopTokens: [] },
  "for two tokens": { maxNewTokens: 2, seed: 1, count: 3, stopTokens: [] },
  "up to the end of the context": { maxNewTokens: 1000, temperature: 0, seed: 0, stopTokens: [] },
  "among choices": {
    maxNewTokens: 9,
    seed: 4,
    choices: [
      [4, 5, 6, 7, 8],
      [4, 5, 9],
    ],
    stopTokens: [1],
  },
};

/** One letter for each token. */
const tokenBytes = {
  bytes: Uint8Array.from({ length: 53 }, (_, i) => 97 + (i % 26)),
  offsets: Uint32Array.from({ length: 54 }, (_, i) => i),
};

function engineWith(draftTokens: number, dtype: "fp32" | "bf16" = "fp32"): Promise<Engine> {
  return tinyEngine({ draftTokens, dtype, tokenBytes });
}

/** A completion down to its bits. */
function exact(completion: Completion): unknown {
  const { logprobs, samplingLogprobs, keptMass, entropy, ...rest } = completion;
  return { ...rest, streams: [logprobs, samplingLogprobs, keptMass, entropy].map(bits) };
}

describe.each(["fp32", "bf16"] as const)("guesses, %s", (dtype) => {
  it.each(Object.keys(REQUESTS))("leave a completion as it is: %s", async (name) => {
    const request = { prompt, ...REQUESTS[name] } as GenerateRequest;
    await using plain = await engineWith(0, dtype);
    const expected = (await plain.generate(request)).map(exact);
    for (const draftTokens of [1, 4, 64]) {
      await using guessing = await engineWith(draftTokens, dtype);
      // The third time the table knows the answer.
      for (let i = 0; i < 3; i++) expect((await guessing.generate(request)).map(exact)).toEqual(expected);
    }
  });

  it("leave sampled and scored log-probs the same bits", async () => {
    await using engine = await engineWith(4, dtype);
    const request = { prompt, maxNewTokens: 60, temperature: 0.3, seed: 7, stopTokens: [] };
    for (let i = 0; i < 3; i++) {
      const [completion] = (await engine.generate(request)) as [Completion];
      expect(bits(completion.logprobs)).toEqual(bits(await rescored(engine, prompt, completion)));
    }
    expect(engine.stats().acceptedDrafts).toBeGreaterThan(0);
  });
});

describe("what was seen before", () => {
  it("is decoded in a few steps", async () => {
    await using engine = await engineWith(8);
    const request = { prompt, maxNewTokens: 61, temperature: 0, seed: 0, stopTokens: [] };
    for (let i = 0; i < 2; i++) await engine.generate(request);
    const before = engine.stats();
    await engine.generate(request);
    const after = engine.stats();
    // Of the 60 tokens after the first a step can give 9 at most, and at least 6 of these when the table knows the text.
    const steps = after.decodedTokens - before.decodedTokens - (after.acceptedDrafts - before.acceptedDrafts);
    expect(after.decodedTokens - before.decodedTokens).toBe(60);
    expect(steps).toBeGreaterThanOrEqual(Math.ceil(60 / 9));
    expect(steps).toBeLessThanOrEqual(10);
  });

  it("in a prompt is guessed in a completion", async () => {
    await using engine = await engineWith(4);
    const first = await engine.generate({ prompt, maxNewTokens: 30, temperature: 0, seed: 0, stopTokens: [] });
    const answer = [...prompt, ...(first[0] as Completion).tokens];
    const repeated = Int32Array.from([...answer, ...answer]);
    await using fresh = await engineWith(4);
    await fresh.generate({ prompt: repeated, maxNewTokens: 1, seed: 0, stopTokens: [] });
    await fresh.generate({ prompt, maxNewTokens: 30, temperature: 0, seed: 0, stopTokens: [] });
    expect(fresh.stats().acceptedDrafts).toBeGreaterThan(15);
  });

  it("does not grow memory: the plan holds", async () => {
    await using engine = await tinyEngine({ draftTokens: 64, maxSequences: 8, maxBatchTokens: 16 });
    await Promise.all(
      [...Array(8).keys()].map((i) =>
        engine.generate({ prompt: tokens(5, i), maxNewTokens: 100, temperature: 0, seed: 0, stopTokens: [] }),
      ),
    );
    expect(engine.stats().bytesPeak).toBeLessThanOrEqual(engine.plan.total);
  });
});

it.each([-1, 65, 1.5])("draftTokens %f is refused", async (draftTokens) => {
  await expect(tinyEngine({ draftTokens })).rejects.toMatchObject({ code: "BAD_ARGUMENT", message: /draftTokens/u });
});
