/** Environments in TypeScript and decoding go on side by side: the engine's thread never waits for JavaScript. */
import { expect, it } from "vitest";
import { Engine } from "../../src/engine/engine.js";
import type { Policy } from "../../src/engine/policy.js";
import type { EnvironmentProvider } from "../../src/environments/environment.js";
import { episodeForm } from "../../src/rollouts/form.js";
import { streamOf } from "../../src/rollouts/random.js";
import { rollout } from "../../src/rollouts/rollout.js";
import { tinyModelFolder } from "../stages/tiny-model.js";
import { countingProvider, testDialogue } from "./scripted.js";

const LONG = 1500;

/**
 * Holds the JavaScript thread, on which no promise and no callback runs meanwhile, until the engine has decoded more.
 * False: it did not within 20 s though a sequence was running; null: none was.
 */
function decodesMeanwhile(engine: Engine): boolean | null {
  const before = engine.stats();
  if (before.activeSequences === 0) return null;
  const lock = new Int32Array(new SharedArrayBuffer(4));
  for (const end = performance.now() + 20_000; performance.now() < end; ) {
    Atomics.wait(lock, 0, 0, 5);
    const now = engine.stats();
    if (now.decodedTokens > before.decodedTokens + 2) return true;
    if (now.activeSequences === 0) return null;
  }
  return false;
}

it("decodes one episode while another's environment holds the JavaScript thread", { timeout: 120_000 }, async () => {
  await using engine = await Engine.load(await tinyModelFolder(), { threads: 1, maxSequences: 4, cacheTokens: 8192 });
  const dialogue = await testDialogue();
  const wait = await dialogue.chat.tokenizer.encode("<action>wait</action>");
  const seen: (boolean | null)[] = [];
  const counting = countingProvider();
  const provider: EnvironmentProvider = {
    ...counting,
    create: async () => {
      const environment = await counting.create();
      const step: typeof environment.step = (action, options) => {
        seen.push(decodesMeanwhile(engine));
        return environment.step(action, options);
      };
      return { ...environment, step };
    },
  };
  // The first episode thinks long and names no action; the second says "wait" again and again.
  const policy: Policy = {
    contextLength: engine.contextLength,
    vocabSize: engine.vocabSize,
    eosTokens: engine.eosTokens,
    generate: (request, options) =>
      engine.generate(
        request.stream === streamOf(0)
          ? { ...request, maxNewTokens: LONG, stopTokens: [] }
          : { ...request, choices: [[...wait]] },
        options,
      ),
    score: (...call) => engine.score(...call),
    accumulate: (...call) => engine.accumulate(...call),
    step: (options) => engine.step(options),
    zeroGradients: () => engine.zeroGradients(),
    stats: () => engine.stats(),
  };
  const requests = [0, 1].map((index) => ({ index, taskId: "6" }));
  const episodes = await rollout(requests, {
    policy,
    provider,
    form: episodeForm("per-step", dialogue),
    sampling: { maxNewTokens: 64, stopTokens: dialogue.stopTokens },
    seed: 7n,
    stepLimit: 8,
    timeLimit: null,
    environmentTimeLimit: null,
    admissible: false,
    malformedLimit: 1,
    concurrency: 2,
    retries: 0,
  });
  expect(episodes[0]?.steps[0]?.completion.tokens).toHaveLength(LONG);
  expect(episodes[1]?.steps.map((step) => step.action)).toEqual(Array(8).fill("wait"));
  expect(seen).toHaveLength(8);
  expect(seen.filter((decoded) => decoded === true).length).toBeGreaterThan(0);
  expect(seen).not.toContain(false);
});
