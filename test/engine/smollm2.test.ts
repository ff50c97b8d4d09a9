/** A real model against transformers: greedy completions token for token, log-probs within 1e-4 (issue 3, section 5). */
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Engine } from "../../src/engine/engine.js";
import { flat } from "./tiny.js";

const models = new URL("../../../shared/models/", import.meta.url).pathname;
const present = existsSync(join(models, "unpack.mjs"));
if (!present) console.log("Skipped: ../shared/models is not here, and with it SmolLM2-135M-Instruct.");

interface Case {
  readonly prompt: number[];
  readonly greedy: number[];
  /** Of prompt and completion after the first token, fp32 weights. */
  readonly logprobs: number[];
  /** Mean |error| of PyTorch's own bf16 against those. */
  readonly bf16_mean_error: number;
}

describe.skipIf(!present)("SmolLM2-135M-Instruct", () => {
  let folder: string;
  let cases: Case[];
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "act-smollm2-"));
    await promisify(execFile)(process.execPath, [join(models, "unpack.mjs"), folder]);
    const fixture = new URL("../fixtures/engine/smollm2.json", import.meta.url);
    ({ cases } = JSON.parse(await readFile(fixture, "utf8")));
  }, 120_000);
  afterAll(() => rm(folder, { recursive: true, force: true }));

  it("gives the greedy tokens of transformers in fp32, sampling what it scores", async () => {
    await using engine = await Engine.load(folder, { dtype: "fp32", cacheTokens: 1024, maxBatchTokens: 256 });
    for (const { prompt, greedy } of cases) {
      const [completion] = await engine.generate({ prompt, maxNewTokens: 64, temperature: 0, seed: 0 });
      expect([...(completion?.tokens ?? [])]).toEqual(greedy);
      expect(completion?.finishReason).toBe("stop");
      const { forest, rows } = flat(Int32Array.from([...prompt, ...greedy]), prompt.length);
      expect([...(await engine.score(forest, rows)).logprob]).toEqual([...(completion?.logprobs ?? [])]);
    }
  }, 120_000);

  it("gives the log-probs of transformers in fp32", async () => {
    await using engine = await Engine.load(folder, { dtype: "fp32", cacheTokens: 1024, maxBatchTokens: 256 });
    for (const { prompt, greedy, logprobs } of cases) {
      const { forest, rows } = flat(Int32Array.from([...prompt, ...greedy]));
      const scored = (await engine.score(forest, rows)).logprob;
      expect(Math.max(...scored.map((x, i) => Math.abs(x - (logprobs[i] as number))))).toBeLessThan(1e-4);
    }
  }, 120_000);

  it("stays near them in the folder's own bf16, sampling what it scores", async () => {
    await using engine = await Engine.load(folder, { cacheTokens: 2048, maxBatchTokens: 256, maxSequences: 8 });
    expect(engine.dtype).toBe("bf16");
    for (const { prompt, greedy, logprobs, bf16_mean_error } of cases) {
      const { forest, rows } = flat(Int32Array.from([...prompt, ...greedy]));
      const scored = (await engine.score(forest, rows)).logprob;
      const errors = scored.map((x, i) => Math.abs(x - (logprobs[i] as number)));
      expect(errors.reduce((a, b) => a + b) / errors.length).toBeLessThan(2 * bf16_mean_error);
    }

    const { prompt } = cases[2] as Case;
    const group = await engine.generate({ prompt, count: 4, maxNewTokens: 12, seed: 1 });
    for (const completion of group) {
      const whole = flat(Int32Array.from([...prompt, ...completion.tokens]), prompt.length);
      expect([...(await engine.score(whole.forest, whole.rows)).logprob]).toEqual([...completion.logprobs]);
    }
  }, 120_000);
});
