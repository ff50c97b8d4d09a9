/** What callers can get wrong: every call answers with a typed error and the engine goes on. */

import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Engine } from "../../src/engine/engine.js";
import type { EngineOptions } from "../../src/engine/engine-options.js";
import type { AdamWOptions, GenerateRequest, LossRows, TokenForest } from "../../src/engine/policy.js";
import { flat, tinyEngine, tokens } from "./tiny.js";

describe("bad input", () => {
  let engine: Engine;
  beforeAll(async () => {
    engine = await tinyEngine({ cacheTokens: 64, training: true });
  });
  afterAll(() => engine.dispose());

  const request = { prompt: [2, 3], maxNewTokens: 4, seed: 0 };
  const cases: [string, object, string][] = [
    ["an empty prompt", { prompt: [] }, "BAD_ARGUMENT"],
    ["a prompt as long as the context", { prompt: tokens(160, 1) }, "PROMPT_TOO_LONG"],
    ["an id beyond the vocabulary", { prompt: [2, 53] }, "TOKEN_OUT_OF_RANGE"],
    ["a negative id", { prompt: [-1] }, "TOKEN_OUT_OF_RANGE"],
    ["a stop token beyond the vocabulary", { stopTokens: [99] }, "TOKEN_OUT_OF_RANGE"],
    ["an id that would wrap to another", { prompt: [2, 2 ** 32 + 3] }, "BAD_ARGUMENT"],
    ["a stop token that would wrap", { stopTokens: [2 ** 32 + 3] }, "BAD_ARGUMENT"],
    ["a choice that would wrap", { choices: [[2 ** 32 + 3]] }, "BAD_ARGUMENT"],
    ["a temperature whose inverse is infinite in fp32", { temperature: 1e-40 }, "BAD_ARGUMENT"],
    ["a temperature that is infinite in fp32", { temperature: 1e39 }, "BAD_ARGUMENT"],
    ["top-p that is 0 in fp32", { topP: 1e-300 }, "BAD_ARGUMENT"],
    ["no new tokens", { maxNewTokens: 0 }, "BAD_ARGUMENT"],
    ["a count of 0", { count: 0 }, "BAD_ARGUMENT"],
    ["a negative temperature", { temperature: -1 }, "BAD_ARGUMENT"],
    ["a temperature that is no number", { temperature: Number.NaN }, "BAD_ARGUMENT"],
    ["top-p 0", { topP: 0 }, "BAD_ARGUMENT"],
    ["a negative seed", { seed: -1 }, "BAD_ARGUMENT"],
    ["an unknown key", { top_k: 4 }, "BAD_ARGUMENT"],
    ["an empty stop string", { stopStrings: [""] }, "BAD_ARGUMENT"],
    ["stop strings without token bytes", { stopStrings: ["x"] }, "BAD_ARGUMENT"],
    ["what can never fit the cache", { prompt: tokens(40, 1), maxNewTokens: 60 }, "CACHE_TOO_SMALL"],
  ];
  it.each(cases)("in generate is refused: %s", async (_, change, code) => {
    await expect(engine.generate({ ...request, ...change } as GenerateRequest)).rejects.toMatchObject({
      name: "EngineError",
      code,
    });
  });

  it("names cacheTokens when the cache is too small", async () => {
    const tooLong = engine.generate({ ...request, prompt: tokens(40, 1), maxNewTokens: 60 });
    await expect(tooLong).rejects.toThrow(/needs a key-value cache of 128 tokens, but `cacheTokens` is 64.*Raise/u);
  });

  it.each([
    ["no forest", undefined],
    ["a segment that is none", { segments: [null] }],
    ["a segment without tokens", { segments: [{ parent: null }] }],
    ["a plain array of tokens", { segments: [{ parent: null, tokens: [2, 2 ** 32 + 3] }] }],
    ["a parent that would wrap to another", { segments: [{ parent: 2 ** 32, tokens: tokens(6, 1) }] }],
    ["a parent between two", { segments: [{ parent: 0.5, tokens: tokens(6, 1) }] }],
    ["a misspelled parent", { segments: [{ parnet: 0, tokens: tokens(6, 1) }] }],
  ])("in a forest is refused: %s", async (_, forest) => {
    const rows = { rows: Int32Array.of(0), targets: Int32Array.of(3) };
    for (const call of [engine.score(forest as TokenForest, rows), engine.accumulate(forest as TokenForest, rows)])
      await expect(call).rejects.toMatchObject({ name: "EngineError", code: "BAD_ARGUMENT" });
  });

  it.each([
    ["no learning rate", {}],
    ["a learning rate that is infinite in fp32", { learningRate: 1e39 }],
    ["a beta that is 1 in fp32", { learningRate: 1e-3, beta2: 1 - 1e-12 }],
    ["an epsilon that is 0 in fp32", { learningRate: 1e-3, epsilon: 1e-50 }],
    ["an unknown key", { learningRate: 1e-3, lr: 1e-3 }],
  ])("in step is refused: %s", async (_, options) => {
    await expect(engine.step(options as AdamWOptions)).rejects.toMatchObject({ code: "BAD_ARGUMENT" });
  });

  it("in saves is refused before anything is written", async () => {
    const bad = { name: "EngineError", code: "BAD_ARGUMENT" };
    // An empty path would be the folder this process runs in.
    for (const dir of ["", 5 as unknown as string]) {
      await expect(engine.saveModel(dir)).rejects.toMatchObject(bad);
      await expect(engine.saveState(dir)).rejects.toMatchObject(bad);
      await expect(engine.saveAdapters(dir)).rejects.toMatchObject(bad);
    }
    for (const settings of [{ dtype: "int8" }, { dtpye: "fp32" }, { companionsFrom: "" }])
      await expect(engine.saveModel("nowhere", settings as object)).rejects.toMatchObject(bad);
    await expect(engine.saveState("nowhere", { dtype: "fp32" } as object)).rejects.toMatchObject(bad);
  });

  const golden = fileURLToPath(new URL("../fixtures/golden/qwen3/", import.meta.url));
  const { forest, rows } = flat(tokens(6, 1));
  /** Every call that takes options of the call itself, with one key of these or in place of all of them. */
  const cancellable: [string, (settings: object) => Promise<unknown>][] = [
    ["load", (settings) => Engine.load(golden, { threads: 1 }, settings)],
    ["generate", (settings) => engine.generate(request, settings)],
    ["score", (settings) => engine.score(forest, rows, settings)],
    ["accumulate", (settings) => engine.accumulate(forest, rows, settings)],
    ["step", (settings) => engine.step(settings as AdamWOptions)],
    ["saveModel", (settings) => engine.saveModel("nowhere", settings)],
    ["saveAdapters", (settings) => engine.saveAdapters("nowhere", settings)],
    ["saveState", (settings) => engine.saveState("nowhere", settings)],
    ["loadState", (settings) => engine.loadState("nowhere", settings)],
  ];
  it.each(cancellable)("as a signal, or in place of all settings, is refused by %s", async (_, call) => {
    const refused = { name: "EngineError", code: "BAD_ARGUMENT" };
    for (const signal of [new AbortController(), 5, "x", {}, null])
      await expect(call({ signal })).rejects.toMatchObject({
        ...refused,
        message: expect.stringContaining("`signal`"),
      });
    await expect(call(null as unknown as object)).rejects.toMatchObject(refused);
  });

  it("in load is refused: a progress that is no function, options that are none", async () => {
    const refused = { name: "EngineError", code: "BAD_ARGUMENT" };
    await expect(Engine.load(golden, {}, { onProgress: 5 } as object)).rejects.toMatchObject({
      ...refused,
      message: expect.stringContaining("Expected a function for `onProgress`, got 5."),
    });
    for (const options of [null, 5] as unknown as EngineOptions[]) {
      await expect(Engine.load(golden, options)).rejects.toMatchObject(refused);
      await expect(Engine.plan(golden, options)).rejects.toMatchObject(refused);
    }
    await expect(engine.loadState(undefined as unknown as string)).rejects.toMatchObject(refused);
  });

  it("in sizes is refused: passes of more rows than can be planned for", async () => {
    const most = 2 ** 31 - 1;
    for (const sizes of [{ maxSequences: most }, { maxSequences: 2 ** 20, draftTokens: 64 }, { maxBatchTokens: most }])
      await expect(Engine.plan(golden, { memoryLimit: 0, ...sizes })).rejects.toMatchObject({
        code: "BAD_ARGUMENT",
        message: expect.stringContaining(Object.keys(sizes)[0] as string),
      });
  });

  it("leaves out of the loss what has the weight 0, infinite or not", async () => {
    const row = { rows: Int32Array.of(0), targets: Int32Array.of(3) };
    const far = { oldLogprob: Float32Array.of(-1e30) };
    for (const streams of [
      { ...far, advantage: Float32Array.of(0), policyWeight: Float32Array.of(1) },
      { ...far, advantage: Float32Array.of(1), policyWeight: Float32Array.of(0) },
      { refLogprob: Float32Array.of(1e30), klWeight: Float32Array.of(0) },
    ]) {
      const { loss, terms } = await engine.accumulate(forest, { ...row, ...streams });
      expect(Math.abs(loss)).toBe(0);
      for (const term of Object.values(terms)) expect(Math.abs(term)).toBe(0);
      expect(await engine.step({ learningRate: 0 })).toMatchObject({ gradNorm: 0 });
    }
  });

  it("that only the native side can tell comes with advice apart from the problem", async () => {
    const error = await engine.generate({ ...request, prompt: tokens(160, 1) }).catch((cause: unknown) => cause);
    expect(error).toMatchObject({ code: "PROMPT_TOO_LONG", hint: "Shorten the prompt." });
    expect((error as Error).message).toMatch(/one new token\. Shorten the prompt\.$/u);
  });

  it.each([-1, 1.5, "1", 2n ** 64n])("in a seed is refused: %s", async (seed) => {
    await expect(tinyEngine({}, seed as number)).rejects.toMatchObject({ code: "BAD_ARGUMENT" });
  });

  it.each([
    [{ maxNewTokens: 0 }, "Expected an integer >= 1 for `maxNewTokens`, got 0. Give an integer >= 1."],
    [{ maxNewtokens: 1 }, "Unknown key `maxNewtokens` of `request`. Did you mean `maxNewTokens`?"],
    [{ stopStrings: [1] }, "Expected a text that is not empty for `stopStrings.0`, got 1."],
    [{ temperature: 1e-40 }, "Expected 0 or a number from 1e-38 for `temperature`, got 1e-40."],
    [{ seed: -1 }, "Expected a safe integer >= 0, or a bigint below 2^64 for `seed`, got -1."],
  ])("says what was expected of %j, and what to do", async (wrong, text) => {
    const request = { prompt: [2], maxNewTokens: 1, seed: 0, ...wrong } as GenerateRequest;
    await expect(engine.generate(request)).rejects.toMatchObject({
      message: expect.stringContaining(text),
      hint: expect.stringMatching(/./u),
    });
  });

  it.each([
    ["a parent that comes later", { parents: [1, null] }, {}, "BAD_ARGUMENT"],
    ["a row beyond the tokens", {}, { rows: Int32Array.of(40) }, "BAD_ARGUMENT"],
    ["a target beyond the vocabulary", {}, { targets: Int32Array.of(53) }, "TOKEN_OUT_OF_RANGE"],
    ["an unknown stream", {}, { klWeigth: new Float32Array(1) }, "BAD_ARGUMENT"],
    ["a stream of doubles", {}, { ceWeight: new Float64Array(1) }, "BAD_ARGUMENT"],
    ["plain arrays", {}, { rows: [0], targets: [3] }, "BAD_ARGUMENT"],
    ["a temperature whose inverse is infinite", {}, { temperature: 1e-40 }, "BAD_ARGUMENT"],
    ["a stream of another length", {}, { ceWeight: new Float32Array(3) }, "BAD_ARGUMENT"],
    ["a weight that is no number", {}, { ceWeight: Float32Array.of(Number.NaN) }, "BAD_ARGUMENT"],
    ["a temperature of 0", {}, { temperature: 0 }, "BAD_ARGUMENT"],
  ])("in score and accumulate is refused: %s", async (_, forestChange, rowsChange, code) => {
    const parents = (forestChange as { parents?: (number | null)[] }).parents ?? [null, 0];
    const forest = { segments: parents.map((parent) => ({ parent, tokens: tokens(6, 1) })) };
    const rows: object = { rows: Int32Array.of(0), targets: Int32Array.of(3), ...rowsChange };
    for (const call of [engine.score(forest, rows as LossRows), engine.accumulate(forest, rows as LossRows)])
      await expect(call).rejects.toMatchObject({ name: "EngineError", code });
  });

  it("in options is refused, unknown keys included", async () => {
    for (const options of [{ treads: 2 }, { threads: 0 }, { dtype: "int8" }, { lora: { rank: 4 } }, { device: "tpu" }])
      await expect(tinyEngine(options as object)).rejects.toMatchObject({ code: "BAD_ARGUMENT" });
    await expect(tinyEngine({ lora: { rank: 2, alpha: 2, targets: [] } })).rejects.toMatchObject({
      code: "BAD_ARGUMENT",
    });
  });

  it("in accumulate without training is refused", async () => {
    await using sampler = await tinyEngine();
    const { forest, rows } = flat(tokens(5, 1));
    await expect(sampler.accumulate(forest, rows)).rejects.toMatchObject({ code: "BAD_ARGUMENT" });
    await expect(sampler.step({ learningRate: 1 })).rejects.toMatchObject({ code: "BAD_ARGUMENT" });
    await expect(sampler.saveState("nowhere")).rejects.toMatchObject({ code: "BAD_ARGUMENT" });
  });
});
