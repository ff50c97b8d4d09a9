/** Tiny random models for the engine's tests. */
import { Engine } from "../../src/engine/engine.js";
import type { EngineOptions } from "../../src/engine/engine-options.js";
import type { Completion, LossRows, TokenForest } from "../../src/engine/policy.js";

/** Grouped-query attention, QK-norm, an odd number of vocabulary entries. Weights large enough for peaked outputs. */
export const TINY = {
  architectures: ["Qwen3ForCausalLM"],
  model_type: "qwen3",
  vocab_size: 53,
  hidden_size: 32,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 8,
  intermediate_size: 48,
  max_position_embeddings: 160,
  rms_norm_eps: 1e-6,
  rope_theta: 10000,
  tie_word_embeddings: true,
  initializer_range: 0.25,
  eos_token_id: 1,
  torch_dtype: "float32",
} as const;

export function tinyEngine(options: EngineOptions = {}, seed = 1, config: object = TINY): Promise<Engine> {
  const base = { threads: 1, maxSequences: 8, cacheTokens: 1024, maxBatchTokens: 256 };
  return Engine.create(config as Record<string, unknown>, seed, { ...base, ...options });
}

/** `length` token ids that depend on `seed`; never the end-of-sequence id. */
export function tokens(length: number, seed: number): Int32Array {
  let state = seed * 2654435761 + 12345;
  return Int32Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return 2 + ((state >>> 8) % (TINY.vocab_size - 2));
  });
}

/** One sequence as a flat forest, with rows for every token after the first `from`. */
export function flat(ids: Int32Array, from = 1): { forest: TokenForest; rows: LossRows } {
  const rows = Int32Array.from({ length: ids.length - from }, (_, i) => from - 1 + i);
  return { forest: { segments: [{ parent: null, tokens: ids }] }, rows: { rows, targets: ids.slice(from) } };
}

/** Log-probs of a completion's tokens by scoring prompt and completion as one sequence. */
export async function rescored(engine: Engine, prompt: Int32Array, completion: Completion): Promise<Float32Array> {
  const ids = Int32Array.from([...prompt, ...completion.tokens]);
  const { forest, rows } = flat(ids, prompt.length);
  return (await engine.score(forest, rows)).logprob;
}

/** The bits of fp32 values, for comparisons that forgive nothing (also not -0 for 0, nor NaN). */
export function bits(values: Float32Array): number[] {
  return [...new Uint32Array(values.buffer, values.byteOffset, values.length)];
}
