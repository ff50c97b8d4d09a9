#!/usr/bin/env node
/**
 * Makes the bundled model again from nothing: `node models/recipe/make.mjs OUT_DIR [--steps N] [--practice N] [--threads N] [--from DIR]`.
 *
 * Two phases: `steps` steps on a clumsy agent, then `practice` steps on one that does more as the expert would, with a
 * fresh optimizer. `--from` takes up the first phase's model from a folder and does the second only; `--practice 0` ends
 * after the first.
 *
 * Tokenizer, initial weights, corpus and order of batches depend on the seed alone, and the engine's fp32 sums do not
 * depend on the number of threads: the same processor family writes the same bytes (models/household-tiny/README.md).
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Engine } from "../../dist/engine/engine.js";
import { ForestBuilder } from "../../dist/engine/forest-builder.js";
import { ChatTemplate } from "../../dist/tokens/chat-template.js";
import { Tokenizer } from "../../dist/tokens/tokenizer.js";
import { trainTokenizer } from "./bpe.mjs";
import { episodeSamples } from "./corpus.mjs";

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    steps: { type: "string", default: "2500" },
    practice: { type: "string", default: "700" },
    from: { type: "string" },
    threads: { type: "string", default: "2" },
  },
});
const out = positionals[0];
if (out === undefined) {
  console.error("usage: node models/recipe/make.mjs OUT_DIR [--steps N] [--practice N] [--threads N] [--from DIR]");
  process.exit(2);
}

const SEED = 1;
const EPISODES_PER_STEP = 4;
const PEAK_LEARNING_RATE = { clumsy: 3e-3, practiced: 2e-3 };
const WARMUP_STEPS = { clumsy: 60, practiced: 20 };
const CONTEXT = 2048;
const TEXT_WEIGHT = 1;
/** Seeds of the phases' episodes. */
const SEEDS = { clumsy: "train", practiced: "practice" };

const special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
const added = ["<think>", "</think>", "<action>", "</action>"];

/** Holds everything but the weights until the model is saved. */
const draft = mkdtempSync(join(tmpdir(), "act-model-"));

function writeJson(name, value) {
  writeFileSync(join(draft, name), `${JSON.stringify(value, null, 2)}\n`);
}

/** Writes everything but the weights; returns the content of config.json. */
function writeFolder() {
  const texts = [];
  for (let i = 0; i < 400; i++)
    for (const { prompt, reply } of episodeSamples(`tokenizer/${i}`)) texts.push(prompt + reply);
  const tokenizer = trainTokenizer([...texts, "user\n", "assistant\n", "system\n"], {
    vocabSize: 1024,
    special,
    added,
  });
  writeJson("tokenizer.json", tokenizer);
  const id = Object.fromEntries(tokenizer.added_tokens.map((t) => [t.content, t.id]));
  writeJson("tokenizer_config.json", {
    tokenizer_class: "PreTrainedTokenizerFast",
    eos_token: "<|im_end|>",
    pad_token: "<|endoftext|>",
    bos_token: null,
    add_bos_token: false,
    clean_up_tokenization_spaces: false,
    model_max_length: CONTEXT,
    chat_template:
      "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
  });
  writeJson("generation_config.json", {
    eos_token_id: id["<|im_end|>"],
    pad_token_id: id["<|endoftext|>"],
    do_sample: true,
  });
  const vocabSize = 8 * Math.ceil((Object.keys(tokenizer.model.vocab).length + tokenizer.added_tokens.length) / 8);
  const config = {
    architectures: ["Qwen3ForCausalLM"],
    model_type: "qwen3",
    vocab_size: vocabSize,
    hidden_size: 192,
    num_hidden_layers: 5,
    num_attention_heads: 6,
    num_key_value_heads: 2,
    head_dim: 32,
    intermediate_size: 512,
    hidden_act: "silu",
    max_position_embeddings: CONTEXT,
    rms_norm_eps: 1e-6,
    rope_theta: 10000,
    rope_scaling: null,
    attention_bias: false,
    attention_dropout: 0,
    tie_word_embeddings: true,
    use_sliding_window: false,
    sliding_window: null,
    initializer_range: 0.02,
    torch_dtype: "float32",
    eos_token_id: id["<|im_end|>"],
    pad_token_id: id["<|endoftext|>"],
    bos_token_id: null,
  };
  writeJson("config.json", config);
  return config;
}

/**
 * Some episodes as a forest. The loss is the mean cross-entropy of the replies, plus that of the episodes' own texts at
 * `TEXT_WEIGHT`: predicting observations is what teaches so small a model to copy names.
 */
async function makeBatch(step, agent, tokenizer, template) {
  const builder = new ForestBuilder({ maxTreeTokens: CONTEXT });
  const replies = [];
  const texts = [];
  for (let e = 0; e < EPISODES_PER_STEP; e++) {
    let longest = null;
    for (const sample of episodeSamples(`${SEEDS[agent]}/${step * EPISODES_PER_STEP + e}`, agent)) {
      const prompt = await template.encode([{ role: "user", content: sample.prompt }]);
      const reply = await tokenizer.encode(`${sample.reply}<|im_end|>`);
      const tokens = Int32Array.from([...prompt, ...reply]);
      // Longer than the context: the episode wandered; what it would teach is taught elsewhere.
      if (tokens.length > CONTEXT) continue;
      const handle = builder.add(tokens.subarray(0, -1));
      replies.push({ handle, tokens, start: prompt.length, end: tokens.length });
      if (longest === null || prompt.length > longest.end) longest = { handle, tokens, start: 1, end: prompt.length };
    }
    if (longest !== null) texts.push(longest);
  }
  const built = builder.build();
  const count = (spans) => spans.reduce((n, { start, end }) => n + end - start, 0);
  const weights = { replies: 1 / count(replies), texts: TEXT_WEIGHT / count(texts) };
  const rows = new Int32Array(count(replies) + count(texts));
  const targets = new Int32Array(rows.length);
  const ceWeight = new Float32Array(rows.length);
  let at = 0;
  for (const [spans, weight] of [
    [replies, weights.replies],
    [texts, weights.texts],
  ])
    for (const { handle, tokens, start, end } of spans) {
      rows.set(built.indices(handle, start - 1, end - 1), at);
      targets.set(tokens.subarray(start, end), at);
      ceWeight.fill(weight, at, at + end - start);
      at += end - start;
    }
  return { built, replyTokens: count(replies), rows: { rows, targets, ceWeight } };
}

/** Mean cross-entropy of the replies alone, nats a token. */
function replyLoss({ replyTokens }, logprob) {
  let sum = 0;
  for (let i = 0; i < replyTokens; i++) sum -= logprob[i];
  return sum / replyTokens;
}

/** Warm-up, then cosine down to 5 % of the peak. */
function learningRate(step, steps, agent) {
  const [peak, warmup] = [PEAK_LEARNING_RATE[agent], WARMUP_STEPS[agent]];
  if (step < warmup) return (peak * (step + 1)) / warmup;
  return peak * (0.05 + 0.95 * 0.5 * (1 + Math.cos((Math.PI * (step - warmup)) / (steps - warmup))));
}

/** Trains on the episodes of an agent. */
async function train(engine, agent, steps, tokenizer, template) {
  const begun = performance.now();
  let seen = 0;
  let next = makeBatch(0, agent, tokenizer, template);
  for (let step = 0; step < steps; step++) {
    const batch = await next;
    const { built, rows } = batch;
    next = makeBatch(step + 1, agent, tokenizer, template); // prepared while the engine works
    const { logprob } = await engine.accumulate(built.forest, rows);
    const { gradNorm } = await engine.step({
      learningRate: learningRate(step, steps, agent),
      beta1: 0.9,
      beta2: 0.95,
      weightDecay: 0.1,
      maxGradNorm: 1,
    });
    seen += built.tokens;
    if (step % 20 === 0 || step === steps - 1) {
      const seconds = (performance.now() - begun) / 1000;
      console.log(
        `${agent} ${step}  reply loss ${replyLoss(batch, logprob).toFixed(4)}  gradient ${gradNorm.toFixed(2)}  ${batch.replyTokens} reply tokens, ${built.tokens} of ${built.flatTokens} tokens computed  ${Math.round(seen / seconds)} tokens/s  ${seconds.toFixed(0)} s`,
      );
    }
  }
  await next;
}

const config = writeFolder();
const tokenizer = await Tokenizer.load(draft);
const template = await ChatTemplate.load(tokenizer);
const options = {
  dtype: "fp32",
  training: true,
  threads: Number(flags.threads),
  maxBatchTokens: CONTEXT,
  maxSequences: 1,
  cacheTokens: CONTEXT,
};
let first = flags.from;
if (first === undefined) {
  first = join(draft, "first");
  const engine = await Engine.create(config, SEED, options);
  console.log(`${engine.device}; ${engine.vocabSize} tokens`);
  await train(engine, "clumsy", Number(flags.steps), tokenizer, template);
  await engine.saveModel(first, { companionsFrom: draft });
  await engine.dispose();
}
const engine = await Engine.load(first, options);
await train(engine, "practiced", Number(flags.practice), tokenizer, template);
await engine.saveModel(out, { companionsFrom: draft });
await engine.dispose();
rmSync(draft, { recursive: true });
