/** The end of a process or worker thread with engines at work: no crash, no hang. The rest: lifecycle.test.ts. */
import { execFile } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { Worker } from "node:worker_threads";
import { describe, expect, it } from "vitest";
import { tinyEngine, tokens } from "./tiny.js";

/** A program that uses the addon as addon.ts does, without the TypeScript around it. */
const PROGRAM = `
const addon = require(process.env.ACT_TEST_ADDON);
const options = JSON.parse(process.env.ACT_TEST_OPTIONS);
options.model.invFreq = Float32Array.from(options.model.invFreq);
const request = {
  prompt: Int32Array.from({ length: 40 }, (_, i) => 2 + i), count: 8, maxNewTokens: 4000, temperature: 1, topK: 0,
  topP: 1, minP: 0, seed: 1n, stream: 0n, stopTokens: new Int32Array(0), stopStrings: [], choices: null, adapters: true,
};
async function start() {
  const engine = await addon.createEngine(options);
  await engine.initialize(1n, 0.2);
  return engine;
}
`;

describe("the end of the environment", () => {
  const environment = (): Record<string, string> => ({
    ...(process.env as Record<string, string>),
    ACT_TEST_ADDON:
      process.env.ACT_ADDON_PATH ?? new URL("../../build/native/Release/act_addon.node", import.meta.url).pathname,
    ACT_TEST_OPTIONS: JSON.stringify({
      model: {
        vocabSize: 53,
        hiddenSize: 64,
        layers: 4,
        heads: 4,
        kvHeads: 2,
        headDim: 8,
        intermediateSize: 128,
        maxPositions: 8192,
        normEps: 1e-6,
        tiedEmbeddings: true,
        qkvBias: false,
        qkNorm: true,
        invFreq: [1, 0.1, 0.01, 0.001],
        ropeFactor: 1,
      },
      dtype: "fp32",
      device: "cpu",
      instructionSet: "auto",
      threads: 2,
      batchInvariant: false,
      training: true,
      recompute: false,
      optimizerState: "full",
      offloadOptimizer: false,
      lora: null,
      maxSequences: 8,
      draftTokens: 0,
      cacheTokens: 40000,
      maxBatchTokens: 64,
      memoryLimit: 0,
      hostMemory: 0,
      tokenBytes: null,
    }),
  });
  const run = promisify(execFile);

  it.each([
    [
      "process.exit while sampling",
      `start().then((e) => { e.generate(request, () => {}); setTimeout(() => process.exit(7), 30); });`,
      7,
    ],
    [
      "an uncaught error while sampling",
      `start().then((e) => { e.generate(request, () => {}); setTimeout(() => { throw new Error("x"); }, 30); });`,
      1,
    ],
    ["an engine nobody disposed of", `start();`, 0],
    [
      "an engine collected as garbage",
      `start().then(() => new Promise((r) => setTimeout(r, 5))).then(() => { global.gc(); setTimeout(() => global.gc(), 10); });`,
      0,
    ],
    [
      "dispose that nobody awaits",
      `start().then((e) => { e.generate(request, () => {}).done.then(() => console.log("answered")); e.dispose(); });`,
      0,
    ],
  ])("is survived: %s", async (_, body, code) => {
    const outcome = await run(process.execPath, ["--expose-gc", "-e", PROGRAM + body], {
      env: environment(),
      timeout: 30_000,
    }).then(
      ({ stdout }) => ({ code: 0, stdout, signal: null }),
      (error: { code: number; stdout: string; signal: string | null }) => error,
    );
    expect(outcome.signal).toBeNull();
    expect(outcome.code).toBe(code);
    if (body.includes("answered")) expect(outcome.stdout).toContain("answered");
  });

  it("stops the engines of a worker that is terminated while they work", async () => {
    for (let round = 0; round < 3; round++) {
      const body = `start().then((e) => { e.generate(request, () => {}); require("node:worker_threads").parentPort.postMessage("running"); });`;
      const worker = new Worker(PROGRAM + body, { eval: true, env: environment() });
      await new Promise((resolve, reject) => worker.once("message", resolve).once("error", reject));
      await sleep(10 * round);
      await worker.terminate();
    }
  });

  it("lets workers sample at once, each with its own engine, while the main thread has one too", async () => {
    const body = `
      start().then(async (e) => {
        const tokens = [];
        await e.generate({ ...request, count: 2, maxNewTokens: 10 }, (i, c) => { tokens[i] = [...c.tokens]; }).done;
        await e.dispose();
        require("node:worker_threads").parentPort.postMessage(tokens);
      });`;
    await using engine = await tinyEngine();
    const own = engine.generate({ prompt: tokens(12, 1), maxNewTokens: 12, seed: 3, stopTokens: [] });
    const results = await Promise.all(
      [0, 1, 2].map(
        () =>
          new Promise((resolve, reject) => {
            new Worker(PROGRAM + body, { eval: true, env: environment() })
              .once("message", resolve)
              .once("error", reject);
          }),
      ),
    );
    expect(results[1]).toEqual(results[0]);
    expect(results[2]).toEqual(results[0]);
    expect((await own)[0]?.tokens).toHaveLength(12);
  });
});
