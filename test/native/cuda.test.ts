/**
 * The CUDA backend without a GPU: every kernel and the whole engine under the emulator, the sentences about what is
 * missing, and, where nvcc is, that it compiles every kernel without a warning or a spilled register.
 */
import { execFile, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { EngineOptions } from "../../src/engine/engine-options.js";
import { Engine } from "../../src/index.js";
import { describeGolden } from "../engine/golden-suite.js";
import { tinyModelFolder } from "../stages/tiny-model.js";

const run = promisify(execFile);
const options = { maxBuffer: 1 << 26 };
const main = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));
const built = (name: string): string => fileURLToPath(new URL(`../../build/kernels/Release/${name}`, import.meta.url));
const emulated = built("act_cuda_emulated.so");

/** The shared objects are loaded with dlopen, and the tests find themselves through /proc. */
const linux = process.platform === "linux";
if (!linux) console.warn("skipped: the CUDA backend and its emulator need Linux");

describe.runIf(linux)("under the emulator", () => {
  let report: string;
  beforeAll(async () => {
    report = (await run("npm", ["run", "test:kernels"], options)).stdout;
  }, 1_200_000);

  test("kernels agree with the reference, the engine with the CPU, and seeded faults are noticed", () => {
    expect(report).toMatch(/[1-9]\d\d passed, 0 failed/u);
    expect(report).toMatch(/\d+ CUDA sources keep the rules/u);
  });

  const cli = (args: readonly string[], environment: Record<string, string>, input = "") =>
    spawnSync(process.execPath, [main, ...args], {
      input,
      encoding: "utf8",
      env: { ...process.env, ...environment },
    });

  test("doctor says what is missing for a GPU, in one sentence", () => {
    const gpu = (environment: Record<string, string>) => {
      const { status, stdout } = cli(["doctor", "--json"], environment);
      expect(status).toBe(0); // a GPU is never required
      const checks: { name: string; ok: boolean; text: string }[] = JSON.parse(stdout).checks;
      return checks.find((check) => check.name === "GPU");
    };
    expect(gpu({ ACT_CUDA_LIBRARY: "/nowhere/act_cuda.so" })).toMatchObject({
      ok: false,
      text: expect.stringContaining("npm run build:cuda"),
    });
    expect(gpu({ ACT_CUDA_LIBRARY: main })).toMatchObject({
      ok: false,
      text: expect.stringContaining("does not load"),
    });
    const missing = (what: string) => gpu({ ACT_CUDA_LIBRARY: emulated, ACT_EMULATED_MISSING: what });
    expect(missing("driver")).toMatchObject({ ok: false, text: expect.stringMatching(/no NVIDIA driver.*CUDA 13/u) });
    expect(missing("newer-driver")).toMatchObject({
      ok: false,
      text: expect.stringMatching(/too old: it serves CUDA 11\.4/u),
    });
    expect(missing("device")).toMatchObject({ ok: false, text: expect.stringContaining("shows no GPU") });
    expect(missing("newer-device")).toMatchObject({ ok: false, text: expect.stringContaining("capability 8.0") });
    expect(missing("")).toMatchObject({ ok: true, text: expect.stringContaining("emulated GPU") });
  });

  test("plans by what the device has, and optimizer state in host memory apart", async () => {
    const model = await tinyModelFolder();
    const plan = (bytes: string, ...flags: string[]) =>
      cli(["plan", "--model", model, "--training", "--dtype", "bf16", "--device", "emulated", ...flags], {
        ACT_CUDA_EMULATED_LIBRARY: emulated,
        ...(bytes === "" ? {} : { ACT_EMULATED_BYTES: bytes }),
      });
    const resident = JSON.parse(plan("", "--json").stdout).bytes;
    const { stdout } = plan("", "--offload-optimizer", "true", "--json");
    const offloaded = JSON.parse(stdout).bytes;
    const moved = resident.total - offloaded.total;
    expect(resident).toMatchObject({ host: 0 });
    expect(offloaded).toMatchObject({ host: moved, optimizer: 0 });
    expect(moved).toBeGreaterThan(resident.optimizer); // masters too
    expect(plan("", "--offload-optimizer", "true").stdout).toMatch(
      /on the device, sampling .*\non the device, stepping .*\noptimizer state in pinned host memory /u,
    );
    const between = String((resident.total + offloaded.total) / 2);
    expect(plan(between, "--offload-optimizer", "true").status).toBe(0);
    const refused = plan(between);
    expect(refused.status).not.toBe(0);
    expect(refused.stderr).toMatch(/MEMORY_PLAN.*The device has .* MB free/u);
  });

  test("doctor says what multiplies, and what to install where it is not cuBLASLt", () => {
    const words = (environment: Record<string, string>): string => {
      const { stdout } = cli(["doctor", "--json"], { ACT_CUDA_LIBRARY: emulated, ...environment });
      const checks: { name: string; text: string }[] = JSON.parse(stdout).checks;
      return checks.find((check) => check.name === "GPU")?.text ?? "";
    };
    const cublaslt = { ACT_EMULATED_CUBLASLT: built("act_emulated_cublaslt.so") };
    expect(words(cublaslt)).toMatch(/products by cuBLASLt 13\.1\.1/u);
    expect(words({})).toMatch(/products by own kernels\. cuBLASLt was not found: install .*nvidia-cublas/u);
    expect(words({ ...cublaslt, ACT_EMULATED_CUBLASLT_FAULT: "old" })).toMatch(
      /own kernels\. .*11\.11\.3.* is too old/u,
    );
  });

  test("an engine says in which mode it computes", async () => {
    process.env.ACT_CUDA_EMULATED_LIBRARY = emulated;
    const folder = await tinyModelFolder();
    const words = async (options: EngineOptions): Promise<string> => {
      await using engine = await Engine.load(folder, { memoryLimit: 0, cacheTokens: 64, maxSequences: 1, ...options });
      return engine.device;
    };
    expect(await words({ device: "emulated" })).toContain("products by own kernels");
    expect(await words({ device: "emulated", batchInvariant: true })).toMatch(/batch-invariant$/u);
    expect(await words({ device: "cpu" })).toMatch(/batch-invariant$/u);
    await expect(words({ batchInvariant: "yes" as never })).rejects.toThrow(/`batchInvariant`/u);
  });

  test("guesses leave what a batch-invariant device samples as it is", async () => {
    process.env.ACT_CUDA_EMULATED_LIBRARY = emulated;
    const folder = await tinyModelFolder();
    const sampled = async (draftTokens: number) => {
      const options = {
        cacheTokens: 256,
        maxSequences: 2,
        memoryLimit: 0,
        device: "emulated",
        batchInvariant: true,
      } as const;
      await using engine = await Engine.load(folder, { ...options, draftTokens });
      const request = {
        prompt: Int32Array.of(5, 9, 5, 9, 5, 9),
        count: 2,
        maxNewTokens: 12,
        temperature: 0.2,
        seed: 1,
      };
      // The third time the table knows the answer.
      for (let i = 0; i < 2; i++) await engine.generate({ ...request, stopTokens: [] });
      const completions = await engine.generate({ ...request, stopTokens: [] });
      return { completions, accepted: engine.stats().acceptedDrafts };
    };
    const plain = await sampled(0);
    const guessed = await sampled(3);
    expect(guessed.completions).toEqual(plain.completions);
    expect(plain.accepted).toBe(0);
    expect(guessed.accepted).toBeGreaterThan(6);
  });

  test("--device emulated scores as the CPU does, and --device cuda without a GPU is an error", async () => {
    const model = await tinyModelFolder();
    const line = `${JSON.stringify({ ids: [5, 9, 2, 40, 7, 3, 8, 1] })}\n`;
    const score = (device: string, library = emulated, environment: Record<string, string> = {}) =>
      cli(
        ["score", "--model", model, "--dtype", "fp32", "--device", device],
        { ACT_CUDA_EMULATED_LIBRARY: emulated, ACT_CUDA_LIBRARY: library, ...environment },
        line,
      );
    const logprobs = (device: string, environment: Record<string, string> = {}): number[] => {
      const { status, stdout, stderr } = score(device, emulated, environment);
      expect(stderr).not.toContain("Error");
      expect(status).toBe(0);
      return JSON.parse(stdout).logprobs;
    };
    const cpu = logprobs("cpu");
    for (const library of ["", built("act_emulated_cublaslt.so")]) {
      const gpu = logprobs("emulated", { ACT_EMULATED_CUBLASLT: library });
      expect(gpu).toHaveLength(7);
      // Two layers of sums of at most 64 terms, each rounded once in fp32, around values of at most 10.
      const errors = gpu.map((value, i) => Math.abs(value - (cpu[i] ?? Number.NaN)));
      expect(Math.max(...errors)).toBeLessThan(512 * 2 ** -24 * 10);
    }
    const none = score("cuda", "/nowhere/act_cuda.so");
    expect(none.status).not.toBe(0);
    expect(none.stderr).toContain("DEVICE_UNAVAILABLE");
  });

  describe("PyTorch's golden values", () => {
    const variables = {
      ACT_CUDA_EMULATED_LIBRARY: emulated,
      ACT_EMULATED_CUBLASLT: built("act_emulated_cublaslt.so"),
    };
    beforeAll(() => void Object.assign(process.env, variables));
    afterAll(() => {
      for (const name of Object.keys(variables)) delete process.env[name];
    });
    describeGolden("batch-invariant", { device: "emulated", batchInvariant: true });
    describeGolden("products by cuBLASLt", { device: "emulated" });
  });
});

const hasNvcc = spawnSync("nvcc", ["--version"]).status === 0 || existsSync("/usr/local/cuda/bin/nvcc");
if (linux && !hasNvcc) console.warn("skipped: nvcc is not on this machine, so the kernels are not compiled for a GPU");

test.runIf(linux && hasNvcc)(
  "nvcc compiles every kernel without a warning or a spill",
  { timeout: 1_200_000 },
  async () => {
    const cuda = ["-DACT_CUDA=ON", "-DACT_CUDA_ARCHITECTURES=90a-real"];
    await run("cmake", ["-S", ".", "-B", "build/cuda-sm90", ...cuda], options);
    await run("cmake", ["--build", "build/cuda-sm90", "--target", "act_cuda"], options);
    const library = fileURLToPath(new URL("../../build/cuda-sm90/Release/act_cuda.so", import.meta.url));
    expect(existsSync(library)).toBe(true);
  },
);
