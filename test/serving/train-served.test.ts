import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { Dialogue, promptSchema } from "../../src/rollouts/dialogue.js";
import { reinforceServed, reinforceServedSchema } from "../../src/serving/train-served.js";
import type { TrainableAgent } from "../../src/stages/trainable.js";
import { chat, post, type Served, serveScript } from "./scripted-policy.js";

const folder = mkdtempSync(join(tmpdir(), "act-served-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function agentOf({ policy, chat }: Served): TrainableAgent {
  return { policy, dialogue: new Dialogue(chat, promptSchema.parse({})), maxTreeTokens: null };
}
function options(extra: object): ReturnType<typeof reinforceServedSchema.parse> {
  return reinforceServedSchema.parse({
    optimizer: { learningRate: 1e-3 },
    objective: { name: "grpo", kl: { coefficient: 0 } },
    ...extra,
  });
}
// biome-ignore lint/suspicious/noExplicitAny: lines of journals
const lines = (file: string): any[] =>
  readFileSync(file, "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));

/** Plays a two-turn episode and posts its reward. */
async function play(served: Served, id: string, group: string, reward: number): Promise<void> {
  const messages = [{ role: "user", content: group }];
  for (const next of ["well", "end"]) {
    const { body } = await chat(served.server, messages, {}, { "x-act-episode": id, "x-act-group": group });
    messages.push({ role: "assistant", content: body.choices[0].message.content }, { role: "user", content: next });
  }
  const outcome = reward > 0 ? "success" : "failure";
  await post(served.server, "/v1/act/rewards", { episode_id: id, reward, outcome });
}

describe("training on served episodes", () => {
  it("takes groups as they come, updates between completions, never beside one", async () => {
    const served = await serveScript((_, { seed }) => `go to ${seed}`, { episodes: { groupSize: 2 } });
    const { server, policy } = served;
    policy.delay = 10;
    const context = { folder: join(folder, "run"), configHash: "x" };
    let over = false;
    const training = reinforceServed(agentOf(served), server, options({ steps: 3, batch: 2 }), context, null);
    const agents = Array.from({ length: 4 }, async (_, worker) => {
      for (let i = 0; !over; i++) await play(served, `${worker}/${i}`, `task ${i}/${worker % 2}`, worker < 2 ? 1 : 0);
    });
    const result = await training;
    over = true;
    await Promise.all(agents);
    await server.close();
    expect(served.errors).toEqual([]);
    expect(result).toMatchObject({ resumedFrom: 0 });
    expect(policy.weightVersion).toBe(3);
    expect(policy.batches).toHaveLength(3);
    for (const { rows } of policy.batches) {
      // Groups of two with rewards 1 and 0: advantages of both signs, of one size.
      const advantages = [...new Set(rows.advantage)].sort((a, b) => a - b);
      expect(advantages).toHaveLength(2);
      expect(advantages[0]).toBeCloseTo(-(advantages[1] ?? 0), 6);
      expect([...(rows.policyWeight ?? [])].reduce((sum, w) => sum + w, 0)).toBeCloseTo(1, 5);
    }
    const metrics = lines(join(folder, "run", "metrics.jsonl"));
    expect(metrics.map(({ step }) => step)).toEqual([1, 2, 3]);
    for (const line of metrics)
      expect(line).toMatchObject({
        "reward/mean": 0.5,
        "rollout/success_share": 0.5,
        "rollout/samples": 4,
        "rollout/steps_mean": 2,
        "groups/count": 2,
        "groups/zero_variance_share": 0,
        "served/stale_share": 0,
        "served/expired_share": 0,
        "served/separate_turns_share": 0,
      });
    const timing = lines(join(folder, "run", "timing.jsonl"));
    expect(timing.every((line) => line["served/pause_seconds"] > 0)).toBe(true);
    const [sample] = lines(join(folder, "run", "samples.jsonl"));
    expect(sample).toMatchObject({ turns: [2, 2] });
    expect([...sample.rewards].sort()).toEqual([0, 1]);
  });

  it("leaves out episodes that are too old, and says so", async () => {
    const served = await serveScript("go", { episodes: { groupSize: 3 } });
    const { server, policy } = served;
    await play(served, "old", "a", 0);
    policy.weightVersion = 3;
    await play(served, "a1", "a", 1);
    await play(served, "a2", "a", 0);
    for (const i of [1, 2, 3]) await play(served, `b${i}`, "b", i);
    // Two of this group are too old: one alone cannot be compared.
    policy.weightVersion = 0;
    for (const i of [1, 2]) await play(served, `c${i}`, "c", i);
    policy.weightVersion = 3;
    await play(served, "c3", "c", 3);
    for (const i of [1, 2, 3]) await play(served, `d${i}`, "d", 3);
    const context = { folder: join(folder, "stale"), configHash: "x" };
    await reinforceServed(agentOf(served), server, options({ steps: 1, batch: 3, maxStaleness: 2 }), context, null);
    await server.close();
    const [line] = lines(join(folder, "stale", "metrics.jsonl"));
    // Used: a1, a2, b1, b2, b3, d1, d2, d3.
    expect(line).toMatchObject({
      "groups/count": 4,
      "groups/zero_variance_share": 1 / 3,
      "rollout/samples": 12,
      "served/stale_share": 4 / 12,
      "served/staleness_mean": 0,
      "reward/mean": (1 + 0 + 1 + 2 + 3 + 3 + 3 + 3) / 8,
    });
  });

  it("waits for no reward that was promised to nobody: it ends with its signal, keeping whole steps", async () => {
    const served = await serveScript("go", { episodes: { groupSize: 2 } });
    const controller = new AbortController();
    const context = { folder: join(folder, "stopped"), configHash: "x", signal: controller.signal };
    const training = reinforceServed(agentOf(served), served.server, options({ steps: 5, batch: 1 }), context, null);
    await play(served, "a", "g", 1);
    await play(served, "b", "g", 0);
    await expect.poll(() => served.policy.weightVersion, { timeout: 20_000 }).toBe(1);
    await play(served, "c", "g", 1);
    controller.abort(new Error("enough"));
    await expect(training).rejects.toThrow("enough");
    await served.server.close();
    expect(lines(join(folder, "stopped", "metrics.jsonl"))).toHaveLength(1);
  });

  it("replaces groups without a difference where the objective asks for it", async () => {
    const served = await serveScript("go", { episodes: { groupSize: 2 } });
    for (const [id, group, reward] of [
      ["a", "same", 1],
      ["b", "same", 1],
      ["c", "differs", 0],
      ["d", "differs", 1],
    ] as const)
      await play(served, id, group, reward);
    const context = { folder: join(folder, "dynamic"), configHash: "x" };
    const objective = { name: "grpo", kl: { coefficient: 0 }, dynamicSampling: true };
    await reinforceServed(agentOf(served), served.server, options({ steps: 1, batch: 1, objective }), context, null);
    await served.server.close();
    const [line] = lines(join(folder, "dynamic", "metrics.jsonl"));
    expect(line).toMatchObject({ "groups/count": 2, "groups/sampling_attempts": 2, "rollout/samples": 4 });
    expect(served.policy.batches).toHaveLength(1);
  });
});
