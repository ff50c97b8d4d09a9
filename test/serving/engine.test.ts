/** The endpoint over a real engine: a tiny random model. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { loadAddon } from "../../src/engine/addon.js";
import { Engine } from "../../src/engine/engine.js";
import { Dialogue, promptSchema } from "../../src/rollouts/dialogue.js";
import { type ModelServer, serve } from "../../src/serving/server.js";
import { reinforceServed, reinforceServedSchema } from "../../src/serving/train-served.js";
import { ChatTemplate } from "../../src/tokens/chat-template.js";
import { Tokenizer } from "../../src/tokens/tokenizer.js";
import { TINY } from "../engine/tiny.js";
import { chat, get, post, streamed, TOKENIZER } from "./scripted-policy.js";

function addonFault(): string | null {
  try {
    loadAddon();
    return null;
  } catch (cause) {
    return String(cause);
  }
}
const mean = (list: readonly number[]): number => list.reduce((a, b) => a + b, 0) / list.length;
const patience = { timeout: 20_000 };
const fault = addonFault();
if (fault !== null) console.warn(`Tests of the endpoint over an engine are skipped: ${fault}`);

describe.skipIf(fault !== null)("the endpoint over an engine", () => {
  const folder = mkdtempSync(join(tmpdir(), "act-serve-"));
  let engine: Engine;
  let template: ChatTemplate;
  let server: ModelServer;
  beforeAll(async () => {
    const tokenizer = await Tokenizer.load(TOKENIZER);
    template = await ChatTemplate.load(tokenizer);
    const config = { ...TINY, vocab_size: tokenizer.vocabSize, max_position_embeddings: 512, eos_token_id: 2 };
    engine = await Engine.create(config, 1, {
      threads: 1,
      training: true,
      maxSequences: 16,
      cacheTokens: 8192,
      maxBatchTokens: 2048,
    });
    server = await serve(engine, template, { sliceTokens: 5, episodes: { groupSize: 4 } });
  });
  afterAll(async () => {
    await server?.close();
    await engine?.dispose();
    rmSync(folder, { recursive: true, force: true });
  });
  const messages = [{ role: "user", content: "where is the mug?" }];

  it("streams the tokens and log-probs that one call gives, bit for bit, and many at once", async () => {
    const requests = [1, 2, 3, 4].map((seed) => ({
      messages,
      seed,
      max_tokens: 23,
      logprobs: true,
      return_token_ids: true,
      temperature: seed === 4 ? 0.7 : 1,
    }));
    const whole = await Promise.all(requests.map((request) => post(server, "/v1/chat/completions", request)));
    const pieces = await Promise.all(
      requests.map((request) => streamed(server, "/v1/chat/completions", { ...request, stream: true })),
    );
    for (const [i, { body }] of whole.entries()) {
      const [choice] = body.choices;
      const got = pieces[i]?.pieces.slice(1).map((piece) => piece.choices[0]) ?? [];
      expect(got.length).toBeGreaterThan(1);
      expect(got.flatMap((c) => c.token_ids)).toEqual(choice.token_ids);
      expect(got.flatMap((c) => c.logprobs.content)).toEqual(choice.logprobs.content);
      expect(got.map((c) => c.delta.content ?? "").join("")).toBe(choice.message.content);
      expect(got.at(-1).finish_reason).toBe(choice.finish_reason);
    }
    expect(new Set(whole.map(({ body }) => body.choices[0].message.content)).size).toBe(4);
  });

  it("ends the sampling of a client that goes", async () => {
    const controller = new AbortController();
    const pending = fetch(`${server.url}/v1/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ messages, max_tokens: 400, n: 64 }),
      signal: controller.signal,
    });
    await expect.poll(() => engine.stats().activeSequences, { interval: 1, ...patience }).toBeGreaterThan(0);
    controller.abort();
    await expect(pending).rejects.toThrow();
    await expect.poll(() => engine.stats().activeSequences, patience).toBe(0);
  });

  it("trains the model on what an agent played, each token under the log-prob it was sampled with", async () => {
    const steps = 12;
    const options = reinforceServedSchema.parse({
      steps,
      batch: 2,
      objective: { name: "rloo", kl: { coefficient: 0 } },
      optimizer: { learningRate: 0.01, schedule: { kind: "constant", warmup: 0 } },
    });
    const agent = {
      policy: engine,
      dialogue: new Dialogue(template, promptSchema.parse({})),
      maxTreeTokens: engine.maxBatchTokens,
    };
    const training = reinforceServed(agent, server, options, { folder: join(folder, "run"), configHash: "x" }, null);
    training.catch(() => undefined);
    const firstVersion = engine.stats().weightVersion;

    // Rewards tokens with even ids, in two turns, the second one continuing the first token by token.
    const play = async (id: string, group: string): Promise<{ id: string; reward: number }> => {
      const headers = { "x-act-episode": id, "x-act-group": group };
      const limits = { stop: ["e", "a", "o", " "], max_tokens: 200, return_token_ids: true };
      const first = await chat(server, [{ role: "user", content: group }], limits, headers);
      const { token_ids } = first.body.choices[0];
      const prompt = [...first.body.prompt_token_ids, ...token_ids, 2, 1, 5, 9];
      const second = await post(server, "/v1/completions", { prompt, ...limits }, headers);
      expect(second.body.act.continued).toBe(true);
      const sampled: number[] = [...token_ids, ...second.body.choices[0].token_ids];
      const reward = sampled.filter((token) => token % 2 === 0).length / sampled.length;
      return { id, reward };
    };
    const rewards: number[] = [];
    for (let step = 0; step < steps; step++) {
      await expect
        .poll(async () => (await get(server, "/v1/act/status")).body.weight_version, { interval: 5, ...patience })
        .toBe(firstVersion + step);
      const group = (g: number): ReturnType<typeof play>[] =>
        Array.from({ length: 4 }, (_, i) => play(`${step}/${g}/${i}`, `task ${step % 2}/${g}`));
      const played = await Promise.all([...group(0), ...group(1)]);
      // Posted in one order, so that the sums of the gradient are the same whenever the test runs.
      for (const { id, reward } of played) {
        const { status } = await post(server, "/v1/act/rewards", { episode_id: id, reward });
        expect(status).toBe(200);
      }
      rewards.push(mean(played.map(({ reward }) => reward)));
    }
    const result = await training;

    const metrics = readFileSync(join(folder, "run", "metrics.jsonl"), "utf8")
      .trim()
      .split("\n");
    expect(metrics).toHaveLength(steps);
    for (const line of metrics.map((text) => JSON.parse(text))) {
      expect(line["policy/max_abs_logprob_gap"]).toBe(0);
      expect(line["policy/ratio_mean"]).toBe(1);
      expect(line).toMatchObject({ "served/staleness_mean": 0, "rollout/samples": 8 });
      expect(line["batch/forest_tokens"]).toBeLessThan(line["batch/flat_tokens"]);
    }
    console.info(`mean reward by step: ${rewards.map((r) => r.toFixed(2)).join(", ")}`);
    expect(mean(rewards.slice(-3))).toBeGreaterThan((rewards[0] ?? 1) + 0.2);
    // The trained model can be loaded.
    await using trained = await Engine.load(result.model, { threads: 1, cacheTokens: 512 });
    expect(trained.vocabSize).toBe(engine.vocabSize);
  }, 120_000);
});
