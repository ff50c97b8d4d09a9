#!/usr/bin/env node
/**
 * `npm run bench -- --help`
 *
 * Our engine against PyTorch, transformers and TRL on the same machine: both sides run as processes of their own that
 * do one repetition when told to, in turn (ours, peer, ours, ...), and the medians are compared. Random weights, random
 * token data. The peers need a Python with torch, transformers, trl and datasets: `ACT_BENCH_PYTHON` names it.
 */
import { spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import os from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

/** What keeps PyTorch and its libraries to an instruction set. */
const peerLimits = {
  auto: {},
  avx2: { ATEN_CPU_CAPABILITY: "avx2", ONEDNN_MAX_CPU_ISA: "AVX2", MKL_ENABLE_INSTRUCTIONS: "AVX2" },
  avx512: { ATEN_CPU_CAPABILITY: "avx512", ONEDNN_MAX_CPU_ISA: "AVX512_CORE", MKL_ENABLE_INSTRUCTIONS: "AVX512" },
  avx512vnni: {
    ATEN_CPU_CAPABILITY: "avx512",
    ONEDNN_MAX_CPU_ISA: "AVX512_CORE_VNNI",
    MKL_ENABLE_INSTRUCTIONS: "AVX512",
  },
  avx512bf16: { ONEDNN_MAX_CPU_ISA: "AVX512_CORE_BF16" },
};
const here = dirname(fileURLToPath(import.meta.url));
const flags = readFlags();
const python = process.env.ACT_BENCH_PYTHON ?? "python3";
const runs = Number(flags.runs);

/** Tokens one repetition processes; null for rows that are not tokens a second. */
const workloads = [
  { name: "logprobs/135m-fp32", workload: "logprobs", shape: "135m", dtype: "fp32", tokens: 8 * 256, bar: 1.2 },
  { name: "logprobs/135m-bf16", workload: "logprobs", shape: "135m", dtype: "bf16", tokens: 8 * 256, bar: 1.2 },
  { name: "train/135m-fp32", workload: "train", shape: "135m", dtype: "fp32", tokens: 8 * 256, bar: 1.3 },
  { name: "train/135m-bf16", workload: "train", shape: "135m", dtype: "bf16", tokens: 8 * 256, bar: 1.3 },
  { name: "sample32/135m-bf16", workload: "sample32", shape: "135m", dtype: "bf16", tokens: 32 * 64, bar: 4 },
  { name: "sample32/tiny-fp32", workload: "sample32", shape: "tiny", dtype: "fp32", tokens: 32 * 64, bar: 3 },
  { name: "grpo/135m-bf16", workload: "grpo", shape: "135m", dtype: "bf16", tokens: 32 * 64, bar: 2.5 },
  { name: "grpo/tiny-fp32", workload: "grpo", shape: "tiny", dtype: "fp32", tokens: 32 * 64, bar: 3 },
];
/** Bytes the GRPO step may peak at (resident, whole process). */
const memoryBar = 3.5e9;
const importBarMs = 150;

function readFlags() {
  const usage =
    "npm run bench -- [--json FILE] [--only NAME,...] [--runs N] [--threads N]\n  [--instruction-set NAME   of both sides: avx2, avx512, avx512vnni or avx512bf16]\n  [--peer-dtype fp32|bf16   of bf16 rows where the processor has no bf16 dot product, instead of trying both]";
  const options = {
    json: { type: "string" },
    only: { type: "string" },
    runs: { type: "string", default: "5" },
    threads: { type: "string", default: "2" },
    "instruction-set": { type: "string", default: "auto" },
    "peer-dtype": { type: "string" },
    help: { type: "boolean", short: "h" },
  };
  try {
    const { values } = parseArgs({ options });
    if (!["fp32", "bf16", undefined].includes(values["peer-dtype"]))
      throw new Error(`--peer-dtype is fp32 or bf16, not ${values["peer-dtype"]}`);
    if (!(values["instruction-set"] in peerLimits))
      throw new Error(`--instruction-set is ${Object.keys(peerLimits).join(", ")}, not ${values["instruction-set"]}`);
    if (!values.help) return values;
    console.log(`Usage: ${usage}`);
    process.exit(0);
  } catch (error) {
    console.error(`${error.message}\nUsage: ${usage}`);
    process.exit(2);
  }
}

/** A process that answers one JSON line for every line it is sent. */
class Runner {
  constructor(command, args, variables = {}) {
    this.child = spawn(command, args, { stdio: ["pipe", "pipe", "pipe"], env: { ...process.env, ...variables } });
    this.errors = "";
    this.child.stderr.on("data", (chunk) => {
      this.errors = (this.errors + chunk).slice(-4000);
    });
    this.lines = createInterface({ input: this.child.stdout })[Symbol.asyncIterator]();
    this.child.on("error", (error) => {
      this.errors += error.message;
    });
  }
  async next() {
    const { value, done } = await this.lines.next();
    if (done) throw new Error(`${this.child.spawnargs.join(" ")} ended early:\n${this.errors}`);
    return JSON.parse(value);
  }
  async once() {
    this.child.stdin.write("run\n");
    return (await this.next()).seconds;
  }
  /** Ends the process; its last line carries the peak of its resident memory. */
  async end() {
    this.child.stdin.end();
    return this.next();
  }
}

const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];
const ourRunner = (w) =>
  new Runner(process.execPath, [
    join(here, "ours.mjs"),
    w.workload,
    "--shape",
    w.shape,
    "--dtype",
    w.dtype,
    "--threads",
    flags.threads,
    "--instruction-set",
    flags["instruction-set"],
  ]);
const peerRunner = (w, dtype = w.dtype) =>
  new Runner(
    python,
    [join(here, "peers", "peer.py"), w.workload, "--shape", w.shape, "--dtype", dtype, "--threads", flags.threads],
    peerLimits[flags["instruction-set"]],
  );

/** Seconds of the peer's start with its warm-up, and of one repetition; null where the start takes longer than `limit`. */
async function tryPeer(w, dtype, limit = Number.POSITIVE_INFINITY) {
  const begun = performance.now();
  const peer = peerRunner(w, dtype);
  const timer = Number.isFinite(limit) ? setTimeout(() => peer.child.kill(), limit * 1000) : undefined;
  try {
    await peer.next();
  } catch (error) {
    if (peer.child.killed) return null;
    throw error;
  } finally {
    clearTimeout(timer);
  }
  const start = (performance.now() - begun) / 1000;
  const once = await peer.once();
  await peer.end();
  return { start, once };
}

/**
 * Without a bf16 dot product PyTorch's bf16 is emulated: then bf16 rows are held against its better dtype. A dtype that has
 * not warmed up in three times the whole start of the other is the worse one; on some processors it takes many minutes.
 */
async function peerDtype(w, hasBf16) {
  if (w.dtype !== "bf16" || hasBf16) return w.dtype;
  if (flags["peer-dtype"]) return flags["peer-dtype"];
  const fp32 = await tryPeer(w, "fp32");
  const bf16 = await tryPeer(w, "bf16", 3 * fp32.start);
  return bf16 && bf16.once < fp32.once ? "bf16" : "fp32";
}

async function measure(w, hasBf16, rows) {
  const dtype = await peerDtype(w, hasBf16);
  const ours = ourRunner(w);
  const { device } = await ours.next();
  const peer = peerRunner(w, dtype);
  const versions = await peer.next();
  const times = { ours: [], peer: [] };
  for (let i = 0; i < runs; i++) {
    times.ours.push(await ours.once());
    times.peer.push(await peer.once());
  }
  const memory = { ours: (await ours.end()).peak_rss_bytes, peer: (await peer.end()).peak_rss_bytes };
  const rate = (t) => w.tokens / median(t);
  const limit = flags["instruction-set"] === "auto" ? "" : ` --instruction-set ${flags["instruction-set"]}`;
  const command = `npm run bench -- --only ${w.name}${limit}`;
  const { torch, transformers, trl } = versions;
  rows.push({
    name: w.name,
    ours: rate(times.ours),
    peer: rate(times.peer),
    ratio: rate(times.ours) / rate(times.peer),
    unit: "tokens/s",
    bar: w.bar,
    command,
    device,
    peer_dtype: dtype,
    peer_versions: { torch, transformers, ...(trl && { trl }) },
    seconds: times,
  });
  if (w.name === "grpo/135m-bf16")
    rows.push({
      name: "grpo-memory/135m-bf16",
      ours: memory.ours,
      peer: memory.peer,
      ratio: memory.peer / memory.ours,
      unit: "bytes",
      bar: memoryBar,
      command,
    });
}

/** Milliseconds of `import("act-trainer")` in a fresh process, module resolution included. */
async function measureImport(rows) {
  const entry = new URL("../dist/index.js", import.meta.url).href;
  const script = `const t = performance.now(); await import(${JSON.stringify(entry)}); console.log(JSON.stringify({ ms: performance.now() - t }))`;
  const times = [];
  for (let i = 0; i < runs; i++)
    times.push((await new Runner(process.execPath, ["--input-type=module", "-e", script]).next()).ms);
  rows.push({
    name: "import",
    ours: median(times),
    peer: null,
    ratio: null,
    unit: "ms",
    bar: importBarMs,
    command: "npm run bench -- --only import",
  });
}

function cpuFlags() {
  try {
    const line = readFileSync("/proc/cpuinfo", "utf8").match(/^flags\s*:(.*)$/m)?.[1] ?? "";
    return line.split(" ").filter((f) => ["fma", "avx2", "avx512f", "avx512_bf16", "amx_bf16"].includes(f));
  } catch {
    return [];
  }
}

const features = cpuFlags();
const hasBf16 = features.includes("avx512_bf16") && ["auto", "avx512bf16"].includes(flags["instruction-set"]);
const only = flags.only?.split(",");
const names = [...workloads.map((w) => w.name), "grpo-memory/135m-bf16", "import"];
const unknown = only?.filter((name) => !names.includes(name)) ?? [];
if (unknown.length > 0) {
  console.error(`Unknown: ${unknown.join(", ")}. There are: ${names.join(", ")}.`);
  process.exit(2);
}
const machine = {
  model: os.cpus()[0]?.model.trim(),
  processors: os.cpus().length,
  features,
  threads: Number(flags.threads),
  node: process.version,
  date: new Date().toISOString(),
};
const rows = [];
/** Prints the rows from `first` on and rewrites the JSON, so that a run cut short keeps what it measured. */
const report = (first) => {
  rows.slice(first).forEach(show);
  if (flags.json)
    writeFileSync(
      flags.json,
      `${JSON.stringify(
        rows.map((r) => ({ ...r, machine })),
        null,
        2,
      )}\n`,
    );
};
console.log(
  `${os.cpus()[0]?.model.trim()}, ${os.cpus().length} processors (${features.join(" ")}), ${flags.threads} threads, medians of ${runs} alternating runs`,
);
const met = (r) => (r.unit === "tokens/s" ? r.ratio >= r.bar : r.ours <= r.bar);
const show = (r) =>
  console.log(
    `${r.name.padEnd(24)} ours ${r.ours.toPrecision(4).padStart(10)}  peer ${(r.peer?.toPrecision(4) ?? "-").padStart(10)} ${r.unit.padEnd(9)} ratio ${(r.ratio?.toFixed(2) ?? "-").padStart(6)}  bar ${r.bar}  ${met(r) ? "holds" : "falls short"}`,
  );
for (const w of workloads) {
  if (only && !only.includes(w.name) && !(w.name === "grpo/135m-bf16" && only.includes("grpo-memory/135m-bf16")))
    continue;
  const before = rows.length;
  await measure(w, hasBf16, rows);
  report(before);
}
if (!only || only.includes("import")) {
  await measureImport(rows);
  report(rows.length - 1);
}
