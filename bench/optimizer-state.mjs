// What the compact optimizer state costs in learning: the bundled model, and one of its shape with random weights, learn
// the text of LICENSE in fp32, in bf16 with full state and in bf16 with compact state; the same sequences in every run.
//
//   npm run build && node bench/optimizer-state.mjs [--steps N] [--seeds N] [--threads N]
//
// A step is 8 sequences of 128 tokens out of the first four fifths of the text. `last ten` is the mean training loss of
// the last ten steps, `held out` the loss of the last fifth of the text after them, both in nats a token; the seeds are
// those of stochastic rounding; processor time is that of the whole run.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { deriveSeed, Engine, permutation, Tokenizer } from "../dist/index.js";

const { values } = parseArgs({
  options: {
    steps: { type: "string", default: "60" },
    seeds: { type: "string", default: "3" },
    threads: { type: "string", default: "2" },
  },
});
const steps = Number(values.steps);
const length = 128;
const batch = 8;

const path = (name) => fileURLToPath(new URL(`../${name}`, import.meta.url));
const folder = path("models/household-tiny");
const tokenizer = await Tokenizer.load(folder);
const text = await tokenizer.encode(readFileSync(path("LICENSE"), "utf8"));
const cut = Math.floor(text.length * 0.8);

/** Sequences as a forest, every token after a sequence's first a loss row of weight 1 / rows. */
function batchOf(sequences) {
  const rows = [];
  const targets = [];
  let first = 0;
  for (const tokens of sequences) {
    for (let i = 0; i + 1 < tokens.length; i++) {
      rows.push(first + i);
      targets.push(tokens[i + 1]);
    }
    first += tokens.length;
  }
  const ceWeight = new Float32Array(rows.length).fill(1 / rows.length);
  return {
    forest: { segments: sequences.map((tokens) => ({ parent: null, tokens })) },
    rows: { rows: Int32Array.from(rows), targets: Int32Array.from(targets), ceWeight },
  };
}

const starts = permutation(deriveSeed(0, "optimizer-state"), cut - length);
const at = (i) => text.subarray(starts[i % starts.length], starts[i % starts.length] + length);
const heldOut = [];
for (let first = cut; first + length <= text.length; first += length)
  heldOut.push(text.subarray(first, first + length));

async function run(start, learningRate, options, seed) {
  const began = process.cpuUsage();
  const settings = { ...options, training: true, threads: Number(values.threads), maxBatchTokens: 1024 };
  const engine =
    start === "bundled"
      ? await Engine.load(folder, settings)
      : await Engine.create(JSON.parse(readFileSync(`${folder}/config.json`, "utf8")), 1, settings);
  const losses = [];
  for (let step = 0; step < steps; step++) {
    const { forest, rows } = batchOf(Array.from({ length: batch }, (_, i) => at(step * batch + i)));
    losses.push((await engine.accumulate(forest, rows)).loss);
    await engine.step({ learningRate, seed });
  }
  const { forest, rows } = batchOf(heldOut);
  const { logprob } = await engine.score(forest, rows);
  const { user, system } = process.cpuUsage(began);
  await engine.dispose();
  const last = losses.slice(-10);
  return {
    first: losses[0],
    last: last.reduce((a, b) => a + b, 0) / last.length,
    heldOut: -logprob.reduce((a, b) => a + b, 0) / logprob.length,
    seconds: (user + system) / 1e6,
    optimizer: engine.plan.optimizer,
  };
}

console.log(`${text.length} tokens, ${steps} steps of ${batch} x ${length}; losses in nats a token`);
console.log("start    state    seed  first   last ten  held out  against fp32: last ten  held out   CPU s  moments MB");
for (const [start, learningRate] of [
  ["bundled", 3e-4],
  ["random", 1e-3],
]) {
  const seeds = Array.from({ length: Number(values.seeds) }, (_, seed) => seed);
  const runs = [
    ["fp32", { dtype: "fp32" }, 0],
    ["bf16", { dtype: "bf16" }, 0],
    ...seeds.map((seed) => ["compact", { dtype: "bf16", optimizerState: "compact" }, seed]),
  ];
  let reference;
  for (const [state, options, seed] of runs) {
    const result = await run(start, learningRate, options, seed);
    reference ??= result;
    const signed = (x) => `${x < 0 ? "-" : "+"}${Math.abs(x).toFixed(4)}`;
    console.log(
      `${start.padEnd(8)} ${state.padEnd(8)} ${String(seed).padEnd(5)} ${result.first.toFixed(4)}  ${result.last.toFixed(4)}    ` +
        `${result.heldOut.toFixed(4)}    ${signed(result.last - reference.last).padEnd(22)}  ` +
        `${signed(result.heldOut - reference.heldOut)}  ${result.seconds.toFixed(1).padStart(6)}  ${(result.optimizer / 1e6).toFixed(1)}`,
    );
  }
}
