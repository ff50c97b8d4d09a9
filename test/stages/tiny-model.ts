/** A model folder for tests of stages: random weights, and the small byte-level tokenizer of the token fixtures. */
import { copyFileSync, mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Engine } from "../../src/engine/engine.js";

const TOKENIZER = new URL("../fixtures/tokens/byte-level/", import.meta.url).pathname;

/** Writes a model folder and returns its path. */
export async function tinyModelFolder(seed = 1): Promise<string> {
  const folder = join(mkdtempSync(join(tmpdir(), "act-model-")), "tiny");
  const tokenizer = JSON.parse(readFileSync(join(TOKENIZER, "tokenizer.json"), "utf8")) as {
    model: { vocab: Record<string, number> };
    added_tokens: { id: number }[];
  };
  const ids = [...Object.values(tokenizer.model.vocab), ...tokenizer.added_tokens.map((t) => t.id)];
  const eos = JSON.parse(readFileSync(join(TOKENIZER, "generation_config.json"), "utf8")) as { eos_token_id: number };
  const config = {
    architectures: ["Qwen3ForCausalLM"],
    model_type: "qwen3",
    vocab_size: Math.max(...ids) + 1,
    hidden_size: 32,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 8,
    intermediate_size: 64,
    max_position_embeddings: 4096,
    rms_norm_eps: 1e-6,
    rope_theta: 10000,
    tie_word_embeddings: true,
    initializer_range: 0.1,
    torch_dtype: "float32",
    ...eos,
  };
  await using engine = await Engine.create(config, seed, {
    threads: 1,
    maxSequences: 1,
    cacheTokens: 64,
    maxBatchTokens: 64,
  });
  await engine.saveModel(folder);
  for (const name of ["tokenizer.json", "tokenizer_config.json", "generation_config.json"])
    copyFileSync(join(TOKENIZER, name), join(folder, name));
  return folder;
}
