/**
 * Our side of `npm run bench`: builds a randomly initialized model of the shape, warms up, prints {"ready":true}, and
 * does one timed repetition for every line read, through the public API only. See run.mjs.
 */
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { Engine, groupOfCompletions, policyBatch, resolveObjective } from "../dist/index.js";

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    shape: { type: "string" },
    dtype: { type: "string" },
    threads: { type: "string", default: "2" },
    "instruction-set": { type: "string", default: "auto" },
  },
});
const workload = positionals[0];
const shape = JSON.parse(readFileSync(new URL("shapes.json", import.meta.url), "utf8"))[flags.shape];
const config = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  hidden_act: "silu",
  ...shape,
  max_position_embeddings: 4096,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  tie_word_embeddings: true,
  bos_token_id: 0,
  eos_token_id: 0,
};

/** Uniform token ids from a linear congruential generator: the same data every run. */
function randomTokens(count) {
  const out = new Int32Array(count);
  let state = 12345;
  for (let i = 0; i < count; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    out[i] = 1 + ((state >>> 8) % (shape.vocab_size - 1));
  }
  return out;
}

/** Rows that judge every next token of 8 sequences of 256. */
function sequences() {
  const tokens = randomTokens(8 * 256);
  const segments = Array.from({ length: 8 }, (_, i) => ({
    parent: null,
    tokens: tokens.subarray(i * 256, (i + 1) * 256),
  }));
  const rows = new Int32Array(8 * 255);
  const targets = new Int32Array(8 * 255);
  for (let s = 0, r = 0; s < 8; s++)
    for (let i = 0; i < 255; i++, r++) {
      rows[r] = s * 256 + i;
      targets[r] = tokens[s * 256 + i + 1];
    }
  return { forest: { segments }, rows, targets };
}

const makeWorkload = {
  logprobs(engine) {
    const { forest, rows, targets } = sequences();
    return () => engine.score(forest, { rows, targets });
  },
  train(engine) {
    const { forest, rows, targets } = sequences();
    const ceWeight = new Float32Array(rows.length).fill(1 / rows.length);
    return async () => {
      await engine.accumulate(forest, { rows, targets, ceWeight });
      await engine.step({ learningRate: 1e-4, maxGradNorm: 0 });
    };
  },
  sample32(engine) {
    const tokens = randomTokens(32 * 32);
    let turn = 0;
    return async () => {
      turn++; // another seed and other prompts each time, so that nothing is reused between repetitions
      const prompts = Array.from({ length: 32 }, (_, i) =>
        tokens.subarray(i * 32, (i + 1) * 32).map((t) => 1 + ((t + turn * 7919) % (shape.vocab_size - 1))),
      );
      const done = await Promise.all(
        prompts.map((prompt, i) =>
          engine.generate({ prompt, maxNewTokens: 64, stopTokens: [], seed: turn, stream: i }),
        ),
      );
      if (done.some(([c]) => c.tokens.length !== 64)) throw new Error("a completion is not 64 tokens long");
    };
  },
  grpo(engine) {
    const objective = resolveObjective({ name: "grpo", kl: { coefficient: 0 } });
    // The peer's prompts are 55 to 62 tokens long.
    const tokens = randomTokens(4 * 60);
    let turn = 0;
    return async () => {
      turn++;
      const prompts = Array.from({ length: 4 }, (_, i) =>
        tokens.subarray(i * 60, (i + 1) * 60).map((t) => 1 + ((t + turn * 7919) % (shape.vocab_size - 1))),
      );
      const groups = await Promise.all(
        prompts.map(async (prompt, i) => {
          const request = { prompt, count: 8, maxNewTokens: 64, stopTokens: [], seed: turn, stream: BigInt(i) << 10n };
          const sampled = await engine.generate(request);
          // Every completion is cut at 64 tokens, on both sides; the peer trains on them as they are.
          const completions = sampled.map((c) => ({ ...c, finishReason: "stop" }));
          // A group of equal rewards would not be trained on here, but is by the peer: these differ.
          const outcomes = completions.map((c) => ({ reward: c.tokens[0] / shape.vocab_size, malformed: false }));
          return groupOfCompletions(prompt, completions, outcomes);
        }),
      );
      const batch = policyBatch(groups, objective);
      await engine.accumulate(batch.forest, batch.rows);
      await engine.step({ learningRate: 1e-6 });
    };
  },
};

/** Peak resident bytes of this process. */
const peakResident = () => process.resourceUsage().maxRSS * 1024;

const training = workload === "train" || workload === "grpo";
const engine = await Engine.create(config, 0, {
  dtype: flags.dtype,
  threads: Number(flags.threads),
  instructionSet: flags["instruction-set"],
  training,
  maxSequences: 32,
  cacheTokens: 32 * 128,
  maxBatchTokens: workload === "grpo" ? 640 : 2048, // a group is 60 + 8 x 64 tokens
});
const run = makeWorkload[workload](engine);
await run();
console.log(JSON.stringify({ ready: true, device: engine.device, plan: engine.plan }));
for await (const _ of createInterface({ input: process.stdin })) {
  const begun = performance.now();
  await run();
  console.log(JSON.stringify({ seconds: (performance.now() - begun) / 1000 }));
}
console.log(JSON.stringify({ peak_rss_bytes: peakResident(), engine_peak_bytes: engine.stats().bytesPeak }));
await engine.dispose();
