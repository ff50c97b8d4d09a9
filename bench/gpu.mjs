#!/usr/bin/env node
/**
 * `npm run gpu-check [-- --build FOLDER] [--out FILE]`
 *
 * Everything that needs a GPU, in one command and without a network; a CUDA toolkit, CMake, a C++ compiler and Node are
 * enough. Builds the CUDA backend and its tests for the card at hand, runs every operation's and every engine test on it,
 * times operations and whole steps - by cuBLASLt, where that is found, and by our own kernels - and writes a table and
 * bench/results/gpu-DATE.json. Where node_modules is there, also PyTorch's golden values for every family of models, in
 * both modes of products, and a short demo through the command line; where a Python
 * with torch for CUDA is (ACT_BENCH_PYTHON, python3), the peers of bench/peers/gpu_peer.py on the same card in the same
 * run. It takes at most eight minutes: timings that do not fit in are left out. What is left out is said.
 *
 * Exit status 0: all passed; 1: something failed; 3: no GPU, nothing was built.
 * `--rehearse` goes through the same motions on the emulated device with a toy (for the tests; its times mean nothing).
 */
import { execFileSync, spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const { values: flags } = parseArgs({
  options: {
    build: { type: "string" },
    out: { type: "string" },
    rehearse: { type: "boolean", default: false },
  },
});
const rehearse = flags.rehearse;
const build = resolve(root, flags.build ?? (rehearse ? "build/kernels" : "build/gpu"));
const device = rehearse ? "emulated" : "cuda";

/** What the whole may take. Tests and the demo run to their end; timings and peers get what they leave. */
const BUDGET_S = 8 * 60;
const PEERS_S = 90;
const begun = performance.now();
const secondsLeft = () => BUDGET_S - (performance.now() - begun) / 1000;

const seconds = {};
const leftOut = [];

/** Runs a step with its output shown; ends the check when it fails. */
function step(title, command, args, options = {}) {
  const started = Date.now();
  console.log(`== ${title}`);
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: "inherit", ...options });
  if (status !== 0) {
    console.error(error ? `${title}: ${error.message}` : `${title}: exit status ${status}`);
    process.exit(status === 3 ? 3 : 1);
  }
  seconds[title] = (Date.now() - started) / 1000;
}

/**
 * @param {string} what Named in `leftOut` where the time was over before the program was.
 * @returns {Record<string, any>[]} what a program prints, one JSON line each; undefined when it fails
 */
function jsonLines(what, command, args, limit) {
  const { status, stdout, error } = spawnSync(command, args, {
    cwd: root,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "inherit"],
    maxBuffer: 1 << 26,
    timeout: Math.ceil(Math.max(1, limit) * 1000),
  });
  const cut = error?.code === "ETIMEDOUT";
  if (cut) leftOut.push(`${what}: from some point on, as ${BUDGET_S / 60} minutes were over`);
  else if (status !== 0) return undefined;
  const lines = stdout.slice(0, stdout.lastIndexOf("\n") + 1).split("\n");
  return lines.filter((line) => line.startsWith("{")).map((line) => JSON.parse(line));
}

/** What the driver says of the first card; undefined where nvidia-smi is missing or fails. */
function smi(field) {
  const { status, stdout } = spawnSync("nvidia-smi", [`--query-gpu=${field}`, "--format=csv,noheader"], {
    encoding: "utf8",
  });
  return status === 0 ? stdout.trim().split("\n")[0] : undefined;
}

function nvcc() {
  const names = [process.env.CUDA_HOME, process.env.CUDA_PATH, "/usr/local/cuda"].filter(Boolean);
  const paths = ["nvcc", ...names.map((folder) => join(folder, "bin", "nvcc"))];
  return paths.find((path) => spawnSync(path, ["--version"]).status === 0);
}

const compiler = rehearse ? undefined : nvcc();
if (!rehearse) {
  if (!existsSync("/proc/driver/nvidia/version") && smi("name") === undefined) {
    console.error(
      "gpu-check needs an NVIDIA GPU, and this machine shows none (no driver: /proc/driver/nvidia/version is missing and " +
        "nvidia-smi does not answer). Without a GPU, `npm run test:kernels` tests the same code under an emulator.",
    );
    process.exit(3);
  }
  if (compiler === undefined) {
    console.error(
      "gpu-check needs nvcc: install a CUDA toolkit (12.4 or newer), put nvcc in PATH or set CUDA_HOME to its folder.",
    );
    process.exit(1);
  }
}

const capability = rehearse ? undefined : smi("compute_cap")?.replace(".", "");
const architecture = capability === "90" ? "90a-real" : capability && `${capability}-real`;
step("configure", "cmake", [
  ...["-S", ".", "-B", build, "-DACT_TESTS=ON", rehearse ? "-DACT_CUDA_EMULATED=ON" : "-DACT_CUDA=ON"],
  ...(architecture ? [`-DACT_CUDA_ARCHITECTURES=${architecture}`] : []),
]);
step("build", "cmake", [
  ...["--build", build, "--parallel", String(os.cpus().length), "--target", "act_cuda_test"],
  ...(rehearse ? ["act_cuda_emulated", "act_emulated_cublaslt"] : ["act_cuda"]),
]);
const program = join(build, "Release", "act_cuda_test");
step("tests on the device", program, ["--device", device, ...(rehearse ? ["ties go to the lower id"] : [])]);

if (rehearse) leftOut.push("golden values, demo: a rehearsal");
else if (!existsSync(join(root, "node_modules", "cmake-js")))
  leftOut.push("golden values, demo: node_modules is missing (npm ci)");
else {
  step("build of the package", "npm", ["run", "build"]);
  copyFileSync(join(build, "Release", "act_cuda.so"), join(root, "build", "native", "Release", "act_cuda.so"));
  if (existsSync(join(root, "node_modules", "vitest")))
    step("PyTorch's golden values", "npx", ["vitest", "run", "test/engine/golden.test.ts"], {
      env: { ...process.env, ACT_TEST_DEVICE: "cuda" },
    });
  else leftOut.push("golden values: vitest is missing (npm ci)");
  const stages = [
    "experts.tasks=20",
    "heldout.tasks=4",
    "critic.steps=3",
    ...["play_initial", "play_imitated", "play_act"].map((name) => `${name}.tasks=8`),
  ];
  const run = join(build, "demo");
  rmSync(run, { recursive: true, force: true });
  step("demo", process.execPath, [
    ...["dist/cli/main.js", "run", "examples/demo.yaml", "--run", run, "--set", "engine.device=cuda"],
    ...stages.flatMap((key) => ["--set", `stages.${key}`]),
  ]);
}

const started = Date.now();
console.log("== timings");
const timings = jsonLines(
  "timings",
  program,
  ["--device", device, rehearse ? "--small" : "--speed"],
  secondsLeft() - PEERS_S,
);
if (timings === undefined || timings.length === 0) {
  console.error("the timings failed");
  process.exit(1);
}
seconds.timings = (Date.now() - started) / 1000;
const described = timings.find((row) => row.device !== undefined)?.device ?? "emulated GPU";
const rows = timings.filter((row) => row.name !== undefined);

const python = process.env.ACT_BENCH_PYTHON ?? "python3";
const needed = rehearse ? "import torch" : "import torch; assert torch.cuda.is_available()";
const hasTorch = spawnSync(python, ["-c", needed], { stdio: "ignore" }).status === 0;
if (!hasTorch) leftOut.push(`peers: ${python} has no torch${rehearse ? "" : " with CUDA"}`);
const peer = [join(root, "bench", "peers", "gpu_peer.py"), ...(rehearse ? ["--small"] : [])];
const peerRows = hasTorch ? jsonLines("peers", python, peer, secondsLeft()) : [];
if (peerRows === undefined) leftOut.push("peers: gpu_peer.py failed, see above");
const peers = new Map((peerRows ?? []).map((row) => [row.name, row]));

// The card's own rate: the fastest product of 4,096 rows that anyone got out of it, cuBLASLt, our kernels or torch.
const products = rows.filter((row) => (rehearse ? /^linear.*M=64/u : /^linear.*M=4096/u).test(row.name));
const rates = products
  .flatMap(({ name, flops, seconds }) => [
    { name, flopsPerSecond: flops / seconds },
    { name: `${name}, PyTorch`, flopsPerSecond: flops / (peers.get(name)?.seconds ?? Number.POSITIVE_INFINITY) },
  ])
  .sort((a, b) => b.flopsPerSecond - a.flopsPerSecond);
const rate = rates[0];
/** The card's own memory rate: the fastest of the operations that only stream through memory. */
const memoryRate = Math.max(
  ...rows.filter((row) => /^(rms_norm|swiglu|adamw)/u.test(row.name)).map((r) => r.gbytes_per_s),
);
const round = (value, digits) => (Number.isFinite(value) && value > 0 ? Number(value.toFixed(digits)) : "");
console.table(
  rows.map((row) => ({
    work: row.name,
    ms: round(row.seconds * 1e3, 3),
    "tokens/s": round(row.tokens_per_s, 0),
    "TFLOP/s": round(row.tflops, 1),
    "of the product rate": row.tokens > 0 && rate ? round(row.flops / row.seconds / rate.flopsPerSecond, 3) : "",
    "GB/s": round(row.gbytes_per_s, 0),
    "of the memory rate": round(row.gbytes_per_s / memoryRate, 2),
    "peak / plan": round(row.peak_bytes / row.planned_bytes, 3),
    "PyTorch's time / ours": round((peers.get(row.name)?.seconds ?? Number.NaN) / row.seconds, 2),
  })),
);
if (memoryRate > 0) console.log(`memory rate: ${memoryRate.toPrecision(4)} GB/s`);
if (rate) console.log(`product rate: ${(rate.flopsPerSecond * 1e-12).toPrecision(4)} TFLOP/s (${rate.name})`);
/** Time of our own work in the batch-invariant mode against the same work in the default one, by name. */
const invariant = Object.fromEntries(
  rows.flatMap(({ name, seconds }) => {
    const other = rows.find((row) => [`${name}, batch-invariant`, `${name}, own kernels`].includes(row.name));
    return other ? [[name, other.seconds / seconds]] : [];
  }),
);
if (Object.keys(invariant).length === 0) leftOut.push("both modes: cuBLASLt was not found, see the device");
const flat = rows.find((row) => row.name.startsWith("group step") && row.name.endsWith(", flattened"))?.seconds;
const tree = rows.find((row) => row.name.startsWith("group step") && !row.name.endsWith(", flattened"))?.seconds;
if (flat !== undefined && tree !== undefined) console.log(`group step, flattened / tree: ${(flat / tree).toFixed(2)}`);
for (const line of leftOut) console.log(`left out: ${line}`);

const date = new Date().toISOString();
const results = {
  date,
  rehearsal: rehearse || undefined,
  device: described,
  driver: smi("driver_version"),
  nvcc: compiler && execFileSync(compiler, ["--version"], { encoding: "utf8" }).match(/release [\d.]+/u)?.[0],
  node: process.version,
  seconds,
  leftOut,
  productRate: rate,
  memoryRate,
  invariantRatio: invariant,
  groupStepRatio: flat !== undefined && tree !== undefined ? flat / tree : undefined,
  work: rows.map((row) => ({ ...row, peer: peers.get(row.name) })),
};
const path = resolve(root, flags.out ?? join("bench", "results", `gpu-${date.slice(0, 10)}.json`));
mkdirSync(dirname(path), { recursive: true });
writeFileSync(path, `${JSON.stringify(results, null, 2)}\n`);
console.log(`written to ${path}`);
