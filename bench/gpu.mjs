#!/usr/bin/env node
/**
 * `npm run gpu-check [-- --build FOLDER] [--peer]`
 *
 * Everything that needs a GPU, in one command and without a network: builds the CUDA backend and its tests with CMake
 * and nvcc, runs every operation's and every engine test on the device, times single operations, and writes a table and
 * bench/results/gpu-DATE.json. `--peer` also times PyTorch (gpu_peer.py with the Python of ACT_BENCH_PYTHON) on the same
 * card in the same run and gives ratios. Exit status 1 when anything fails; 3 when there is no GPU.
 */
import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import os from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const { values: flags } = parseArgs({
  options: {
    build: { type: "string", default: join(root, "build", "gpu") },
    peer: { type: "boolean", default: false },
  },
});

/** Runs a step with its output shown; ends the check when it fails. */
function step(title, command, args) {
  const started = Date.now();
  console.log(`== ${title}`);
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: "inherit" });
  if (error) throw error;
  if (status !== 0) {
    console.error(`${title}: exit status ${status}`);
    process.exit(status === 3 ? 3 : 1);
  }
  return (Date.now() - started) / 1000;
}

function jsonLines(command, args) {
  const text = execFileSync(command, args, { cwd: root, encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] });
  return text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
}

/** What the driver says; undefined where nvidia-smi is missing. */
function smi(fields) {
  const { status, stdout } = spawnSync("nvidia-smi", [`--query-gpu=${fields}`, "--format=csv,noheader"], {
    encoding: "utf8",
  });
  return status === 0 ? stdout.trim().split("\n")[0] : undefined;
}

const seconds = {
  configure: step("configure", "cmake", ["-S", ".", "-B", flags.build, "-DACT_TESTS=ON", "-DACT_CUDA=ON"]),
  build: step("build", "cmake", [
    "--build",
    flags.build,
    "--parallel",
    String(os.cpus().length),
    "--target",
    "act_cuda",
    "act_cuda_test",
  ]),
};
const program = join(flags.build, "Release", "act_cuda_test");
seconds.tests = step("tests on the device", program, ["--device", "cuda"]);

const [device, ...operations] = jsonLines(program, ["--speed"]);
const peer = flags.peer
  ? new Map(
      jsonLines(process.env.ACT_BENCH_PYTHON ?? "python3", [join(root, "bench", "peers", "gpu_peer.py")]).map((row) => [
        row.name,
        row,
      ]),
    )
  : new Map();

const table = operations.map((row) => ({
  operation: row.name,
  microseconds: Number((row.seconds * 1e6).toFixed(1)),
  "TFLOP/s": row.flops > 0 ? Number(row.tflops.toFixed(1)) : "",
  "GB/s": Number(row.gbytes_per_s.toFixed(0)),
  "PyTorch / ours": peer.has(row.name) ? Number((peer.get(row.name).seconds / row.seconds).toFixed(2)) : "",
}));
console.table(table);

const date = new Date().toISOString();
const results = {
  date,
  device: device.device,
  driver: smi("driver_version"),
  nvcc: execFileSync("nvcc", ["--version"], { encoding: "utf8" }).match(/release [\d.]+/)?.[0],
  node: process.version,
  seconds,
  operations: operations.map((row) => ({ ...row, peer_seconds: peer.get(row.name)?.seconds })),
};
mkdirSync(join(root, "bench", "results"), { recursive: true });
const path = join(root, "bench", "results", `gpu-${date.slice(0, 10)}.json`);
writeFileSync(path, `${JSON.stringify(results, null, 2)}\n`);
console.log(`written to ${path}`);
