/**
 * An engine against PyTorch and transformers (test/fixtures/golden/make.py).
 *
 * Bars: fp32 logits 1e-5, gradients 1e-4; bf16 at most twice the error PyTorch's own bf16 has
 * against its fp32. All errors are relative, |ours - theirs| / |theirs|.
 */
import { describe, expect, it } from "vitest";
import type { EngineOptions } from "../../src/engine/engine-options.js";
import {
  centered,
  centeredLogits,
  concatenate,
  type Golden,
  MODELS,
  readAll,
  readGolden,
  relativeError,
  type Tensors,
  withGolden,
} from "./golden.js";

const LOGITS = 1e-5;
const GRADIENTS = 1e-4;

function expected(golden: Golden, prefix: string): Tensors {
  return new Map(
    [...golden.tensors].filter(([name]) => name.startsWith(prefix)).map(([name, t]) => [name.slice(prefix.length), t]),
  );
}

/** The largest error of any tensor, with its name in the failure message. */
function expectEach(ours: Tensors, theirs: Tensors, bar: number): void {
  expect([...ours.keys()].sort()).toEqual([...theirs.keys()].sort());
  const failures = [...theirs]
    .map(([name, values]) => [name, relativeError(ours.get(name) ?? [], values)] as const)
    .filter(([, error]) => !(error <= bar));
  expect(failures).toEqual([]);
}

/** The tests, for an engine with these options. */
export function describeGolden(name: string, backend: EngineOptions): void {
  describe(name, () => goldenTests(backend));
}

function goldenTests(backend: EngineOptions): void {
  describe.each(MODELS)("%s", (model) => {
    it("gives the logits, the loss and the gradients of PyTorch in fp32", async () => {
      const golden = await readGolden(model);
      const vocabulary = golden.folder.config.native.vocabSize;
      await withGolden(golden, { ...backend, maxBatchTokens: 512 }, async (engine) => {
        const logits = await centeredLogits(engine, golden);
        expect(relativeError(logits, centered(golden.tensors.get("logits")!, vocabulary))).toBeLessThanOrEqual(LOGITS);

        const result = await engine.accumulate(golden.forest, golden.rows).done;
        for (const [name, values] of Object.entries(golden.json.values))
          expect(relativeError(result[name as "logprob"], values), name).toBeLessThanOrEqual(LOGITS);
        const { ce, policy, klTerm, entropyTerm } = result;
        const { terms } = golden.json;
        expect(relativeError([ce, policy, klTerm, entropyTerm], Object.values(terms))).toBeLessThanOrEqual(LOGITS);
        expect(result.loss).toBeCloseTo(terms.ce + terms.policy + terms.kl + terms.entropy, 5);
        expectEach(await readAll(engine, "gradient"), expected(golden, "gradient."), GRADIENTS);
      });
    });

    it("stays within twice PyTorch's error in bf16", async () => {
      const golden = await readGolden(model);
      const vocabulary = golden.folder.config.native.vocabSize;
      await withGolden(golden, { ...backend, dtype: "bf16", maxBatchTokens: 512 }, async (engine) => {
        const { bf16, values } = golden.json;
        const logits = await centeredLogits(engine, golden);
        const theirs = centered(golden.tensors.get("logits")!, vocabulary);
        expect(relativeError(logits, theirs)).toBeLessThanOrEqual(2 * bf16.logits);
        const { logprob } = await engine.accumulate(golden.forest, golden.rows).done;
        expect(relativeError(logprob, values.logprob)).toBeLessThanOrEqual(2 * bf16.logprob);
        const gradients = concatenate(await readAll(engine, "gradient"));
        const error = relativeError(gradients, concatenate(expected(golden, "gradient.")));
        expect(error).toBeLessThanOrEqual(2 * bf16.gradients);
      });
    });
  });

  it.each(["llama-tied", "qwen2", "qwen3"])("takes the AdamW steps of PyTorch: %s", async (model) => {
    const golden = await readGolden(model);
    const { step } = golden.json;
    await withGolden(golden, backend, async (engine) => {
      const before = await readAll(engine, "master");
      for (let i = 0; i < step!.count; i++) {
        await engine.accumulate(golden.forest, golden.rows).done;
        const { gradNorm, step: counter } = await engine.step({ ...step!.options, seed: 0n });
        expect(relativeError([gradNorm], [step!.gradNorms[i]!])).toBeLessThanOrEqual(GRADIENTS);
        expect(counter).toBe(i + 1);
      }
      // What changed is compared, not the weights: an update is small beside them.
      const after = await readAll(engine, "master");
      const change = (to: Tensors) =>
        new Map([...before].map(([name, from]) => [name, to.get(name)!.map((x, i) => x - from[i]!)]));
      expectEach(change(after), change(expected(golden, "step.")), GRADIENTS);
      // and the gradients are gone
      for (const [name, gradient] of await readAll(engine, "gradient"))
        expect(
          gradient.every((x) => x === 0),
          name,
        ).toBe(true);
    });
  });

  it("computes with adapters as PyTorch does, and without them as the base model", async () => {
    const golden = await readGolden("qwen2");
    const vocabulary = golden.folder.config.native.vocabSize;
    const { rank, alpha, targets } = golden.json.lora!;
    const options = { ...backend, maxBatchTokens: 512, lora: { rank, alpha, targets, seed: 1 } };
    await withGolden(golden, options, async (engine) => {
      const base = await engine.score(golden.forest, golden.rows, false).done;
      // B begins at zero.
      expect((await engine.score(golden.forest, golden.rows, true).done).logprob).toEqual(base.logprob);
      for (const [name, values] of expected(golden, "lora.")) await engine.writeTensor(name, "weight", values);
      const logits = await centeredLogits(engine, golden);
      const theirs = centered(golden.tensors.get("lora_logits")!, vocabulary);
      expect(relativeError(logits, theirs)).toBeLessThanOrEqual(LOGITS);
      expect((await engine.score(golden.forest, golden.rows, false).done).logprob).toEqual(base.logprob);

      await engine.accumulate(golden.forest, golden.rows).done;
      expectEach(await readAll(engine, "gradient"), expected(golden, "lora_gradient."), GRADIENTS);
      const weight = await engine.readTensor("model.embed_tokens.weight", "weight");
      await engine.step({ ...GENTLE, learningRate: 0.1 });
      expect(await engine.readTensor("model.embed_tokens.weight", "weight")).toEqual(weight);
    });
  });
}

const GENTLE = { learningRate: 1e-3, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0, maxGradNorm: 1, seed: 0n };
