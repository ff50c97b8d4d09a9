/** Engines made and dropped must give their memory back. Run in a process of its own, so that nothing else counts. */
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { describe, expect, it } from "vitest";

const run = promisify(execFile);
const addon =
  process.env.ACT_ADDON_PATH ?? fileURLToPath(new URL("../../build/native/Release/act_addon.node", import.meta.url));

/** What both programs begin with. */
const PROLOGUE = `
const addon = require(${JSON.stringify(addon)});
const options = {
  model: {
    vocabSize: 1000, hiddenSize: 64, layers: 2, heads: 4, kvHeads: 2, headDim: 16, intermediateSize: 128,
    maxPositions: 512, normEps: 1e-6, tiedEmbeddings: true, qkvBias: false, qkNorm: true,
    invFreq: Float32Array.from({ length: 8 }, (_, i) => 10000 ** (-i / 8)), ropeFactor: 1,
  },
  dtype: "fp32", device: "cpu", instructionSet: "auto", threads: 2, batchInvariant: false, training: true,
  recompute: false, lora: null, optimizerState: "full", offloadOptimizer: false, maxSequences: 4, draftTokens: 0, cacheTokens: 2048,
  maxBatchTokens: 128, memoryLimit: 0, hostMemory: 0, tokenBytes: null,
};
const request = {
  prompt: Int32Array.from({ length: 20 }, (_, i) => i), count: 4, maxNewTokens: 4, temperature: 1, topK: 0, topP: 1,
  minP: 0, seed: 1n, stream: 0n, stopTokens: new Int32Array(0), stopStrings: [], choices: null, adapters: true,
};`;

/** Prints resident memory in MB after each tenth of 200 rounds of `body`, which has `engine` and `request`. */
const program = (body: string): string => `${PROLOGUE}
(async () => {
  for (let round = 0; round <= 200; round++) {
    const engine = await addon.createEngine(options);
    await engine.initialize(1n, 0.02);
    ${body}
    if (round % 20 === 0) {
      for (let i = 0; i < 3; i++) { global.gc(); await new Promise((r) => setTimeout(r, 5)); }
      console.log(Math.round(process.memoryUsage.rss() / 1e4) / 100);
    }
  }
})();`;

async function residentMegabytes(body: string): Promise<number[]> {
  const { stdout } = await run(process.execPath, ["--expose-gc", "-e", program(body)], { timeout: 120_000 });
  return stdout.trim().split("\n").map(Number);
}

/** One engine's plan is about 5 MB: 160 of them kept would be 800 MB. */
const ALLOWED_GROWTH_MB = 25;

describe.skipIf(!existsSync(addon))("memory", () => {
  it.each([
    ["disposed of after use", "await engine.generate(request, () => {}).done; await engine.dispose();"],
    [
      "disposed of while sampling",
      "engine.generate({ ...request, maxNewTokens: 400 }, () => {}); await engine.dispose();",
    ],
    ["left to the garbage collector", "await engine.generate(request, () => {}).done;"],
  ])(
    "of 200 engines is given back: %s",
    async (_, body) => {
      const resident = await residentMegabytes(body);
      expect(resident).toHaveLength(11);
      // The first 40 rounds fill the allocators' own caches.
      expect((resident.at(-1) ?? 0) - (resident[2] ?? 0)).toBeLessThan(ALLOWED_GROWTH_MB);
    },
    120_000,
  );

  it("counts for V8, which collects dropped engines though they take next to none of its own", async () => {
    // No call of gc(): the bytes the engines tell V8 of are what makes it collect. `process.memoryUsage().external` does
    // not show them (Node 20 gives the bytes of array buffers there); without them all 60 engines stay.
    const { stdout } = await run(
      process.execPath,
      [
        "-e",
        `${PROLOGUE}
(async () => {
  let alive = 0, most = 0;
  const registry = new FinalizationRegistry(() => alive--);
  for (let round = 0; round < 60; round++) {
    registry.register(await addon.createEngine({ ...options, cacheTokens: 65536 }), null);
    most = Math.max(most, ++alive);
    await new Promise((r) => setTimeout(r, 2));
  }
  console.log(most);
})();`,
      ],
      { timeout: 120_000 },
    );
    expect(Number(stdout)).toBeLessThan(30);
  }, 120_000);
});
