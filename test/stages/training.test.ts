/** Training stages on a tiny model and the real engine: resume, learning rate 0, thresholds. */
import { cpSync } from "node:fs";
import { mkdtemp, readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { metricsRecordSchema, timingRecordSchema } from "../../src/data/records-metrics.js";
import { promptSchema } from "../../src/rollouts/dialogue.js";
import { hashPath } from "../../src/runs/hash.js";
import { collect, collectSchema } from "../../src/stages/collect.js";
import { imitate, imitateSchema } from "../../src/stages/imitate.js";
import { judge, judgeSchema } from "../../src/stages/judge.js";
import { engineSettingsSchema, type LoadedAgent, loadAgent } from "../../src/stages/models.js";
import { pair, pairSchema } from "../../src/stages/pair.js";
import { reinforceEpisodes, reinforceEpisodesSchema } from "../../src/stages/reinforce-episodes.js";
import { reinforceStates, reinforceStatesSchema } from "../../src/stages/reinforce-states.js";
import type { StageContext } from "../../src/stages/stage.js";
import type { TrainingResult } from "../../src/stages/training-loop.js";
import { countingProvider, ScriptedPolicy } from "../rollouts/scripted.js";
import { tinyModelFolder } from "./tiny-model.js";

let model: string;
let expert: string;
let pairs: string;

const folder = (): Promise<string> => mkdtemp(join(tmpdir(), "act-training-"));
const context = (path: string): StageContext => ({ folder: path, configHash: "c".repeat(64) });
const sizes = { threads: 1, cacheTokens: 4096, maxBatchTokens: 1024 };
const fp32 = engineSettingsSchema.parse({ ...sizes, dtype: "fp32" });
const compact = engineSettingsSchema.parse({ ...sizes, dtype: "bf16", optimizerState: "compact" });

function agent(training = true, engine = fp32): Promise<LoadedAgent> {
  const prompt = promptSchema.parse({ template: "compact", reasoning: false });
  return loadAgent(model, engine, prompt, { training });
}

const lines = async (file: string): Promise<Record<string, unknown>[]> =>
  (await readFile(file, "utf8"))
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Record<string, unknown>);

beforeAll(async () => {
  model = await tinyModelFolder();
  expert = (await collect(countingProvider(), collectSchema.parse({ panel: "all" }), context(await folder()))).file;
  await using sampler = await agent(false);
  const scripted = new ScriptedPolicy(sampler.dialogue, () => "<action>wait</action>");
  const drawn = { policy: scripted, dialogue: sampler.dialogue };
  pairs = (await pair(drawn, sampler.identity, expert, pairSchema.parse({}), context(await folder()))).file;
  // Imitation first: a random model names no action, and equal rewards teach nothing.
  await using warm = await agent();
  const options = imitateSchema.parse({ steps: 40, batch: 8, optimizer: { learningRate: 0.02 } });
  const { model: trained } = await imitate(warm, expert, options, context(await folder()));
  model = trained;
}, 120_000);

type Stage = (agent: LoadedAgent, context: StageContext) => Promise<TrainingResult>;
const short = { steps: 4, batch: 4, checkpoint: { every: 2 }, sampling: { maxNewTokens: 12 }, seed: 3 };
const quick = { learningRate: 0.005 };

const stages: Readonly<Record<string, Stage>> = {
  imitate: (a, c) =>
    imitate(
      a,
      expert,
      imitateSchema.parse({ steps: 4, batch: 4, checkpoint: { every: 2 }, seed: 3, optimizer: quick }),
      c,
    ),
  judge: (a, c) =>
    judge(
      a,
      pairs,
      judgeSchema.parse({ ...short, groupSize: 4, orders: "both", objective: { name: "dapo" }, optimizer: quick }),
      c,
      null,
    ),
  "reinforce at states": (a, c) =>
    reinforceStates(
      a,
      expert,
      reinforceStatesSchema.parse({ ...short, objective: { name: "rloo" }, optimizer: quick }),
      c,
      null,
    ),
  "reinforce in episodes": (a, c) =>
    reinforceEpisodes(
      a,
      countingProvider(),
      reinforceEpisodesSchema.parse({
        ...short,
        form: "episodes",
        panel: "all",
        groupSize: 3,
        batch: 2,
        objective: { name: "rloo" },
        optimizer: quick,
        horizon: [
          { fromStep: 0, stepLimit: 2 },
          { fromStep: 2, stepLimit: 4 },
        ],
      }),
      c,
      null,
    ),
  "reinforce in transcripts": (a, c) =>
    reinforceEpisodes(
      a,
      countingProvider(),
      reinforceEpisodesSchema.parse({
        ...short,
        form: "episodes",
        shown: "transcript",
        panel: "all",
        groupSize: 3,
        batch: 2,
        stepLimit: 3,
        objective: { name: "rloo" },
        optimizer: quick,
      }),
      c,
      null,
    ),
};

const cases: [string, Stage, typeof fp32][] = [
  ...Object.entries(stages).map(([name, stage]): [string, Stage, typeof fp32] => [name, stage, fp32]),
  ...["imitate", "judge"].map((name): [string, Stage, typeof fp32] => [
    `${name}, compact optimizer state`,
    stages[name] as Stage,
    compact,
  ]),
];

describe.each(cases)("%s", (_, stage, engine) => {
  it("goes on to the same bytes from wherever it was stopped", async () => {
    const whole = await folder();
    {
      await using a = await agent(true, engine);
      await stage(a, context(whole));
    }
    const stopped = await folder();
    const killed = await folder();
    {
      // Stopped by a signal after step 3: keeps a checkpoint of that step.
      await using a = await agent(true, engine);
      const controller = new AbortController();
      const stopping: StageContext = {
        ...context(stopped),
        signal: controller.signal,
        onProgress: (done) => {
          if (done === 3) controller.abort(new Error("stopped"));
        },
      };
      await expect(stage(a, stopping)).rejects.toThrow("stopped");
    }
    {
      // Killed after step 3, as the disk shows it: the checkpoint of step 2, and journals that are ahead of it.
      await using a = await agent(true, engine);
      const source = await folder();
      await stage(a, {
        ...context(source),
        onProgress: (done) => {
          if (done === 3) cpSync(source, killed, { recursive: true });
        },
      });
    }
    for (const half of [stopped, killed]) {
      await using a = await agent(true, engine);
      const { resumedFrom } = await stage(a, context(half));
      expect(resumedFrom).toBe(half === stopped ? 3 : 2);
      for (const name of ["metrics.jsonl", "samples.jsonl", "model"])
        expect(await hashPath(join(half, name)), name).toBe(await hashPath(join(whole, name)));
    }
  });

  it("writes documented figures only, one line a step", async () => {
    const path = await folder();
    await using a = await agent(true, engine);
    await stage(a, context(path));
    const metrics = await lines(join(path, "metrics.jsonl"));
    expect(metrics.map((line) => line.step)).toEqual([1, 2, 3, 4]);
    for (const line of metrics) metricsRecordSchema.parse(line);
    for (const line of await lines(join(path, "timing.jsonl"))) timingRecordSchema.parse(line);
  });
});

describe("learning rate 0", () => {
  const objective = { name: "grpo", kl: { coefficient: 0.1 } };
  const still = { ...short, groupSize: 4, objective, optimizer: { learningRate: 0 } };

  it("samples and scores alike to the last bit, stays at distance 0 from its reference, and changes nothing", async () => {
    const path = await folder();
    await using a = await agent();
    await using frozen = await agent(false);
    const reference = { policy: frozen.policy, adapters: true };
    const { model: after } = await judge(a, pairs, judgeSchema.parse(still), context(path), reference);
    for (const line of await lines(join(path, "metrics.jsonl"))) {
      expect(line["batch/rows"]).toBeGreaterThan(0);
      expect(line["policy/ratio_mean"]).toBe(1);
      expect(line["policy/max_abs_logprob_gap"]).toBe(0);
      expect(line["policy/kl"]).toBe(0);
    }
    expect(await hashPath(join(after, "model.safetensors"))).toBe(await hashPath(join(model, "model.safetensors")));
  });
});

describe("judge", () => {
  it("asks pairs in balanced orders that turn round each epoch", async () => {
    const path = await folder();
    await using a = await agent();
    const options = judgeSchema.parse({ ...short, steps: 12, batch: 7, groupSize: 2, logSamples: 7, probeEvery: 0 });
    await judge(a, pairs, options, context(path), { policy: a.policy, adapters: true });
    const samples = await lines(join(path, "samples.jsonl"));
    const asked = samples.map((s) => [String(s.pair_id), Boolean(s.expert_first)] as const);
    // 84 questions are four passes over 21 pairs.
    const seen = new Map<string, boolean[]>();
    for (const [id, first] of asked) seen.set(id, [...(seen.get(id) ?? []), first]);
    expect(seen.size).toBe(21);
    for (const orders of seen.values()) expect(orders).toEqual([orders[0], !orders[0], orders[0], !orders[0]]);
  });

  it("measures swap consistency where both orders are asked, and by the probe", async () => {
    const path = await folder();
    await using a = await agent();
    const options = judgeSchema.parse({
      ...short,
      steps: 2,
      groupSize: 2,
      orders: "both",
      objective: { name: "rloo" },
    });
    await judge(a, pairs, options, context(path), null);
    for (const line of await lines(join(path, "metrics.jsonl"))) {
      expect(line["judge/swap_consistency"]).toBeGreaterThanOrEqual(0);
      expect(line["judge/probe_swap_consistency"]).toBeGreaterThanOrEqual(0);
      expect(line["groups/count"]).toBe(8);
    }
  });

  it("stops itself when a share stays above its limit, and keeps what it has", async () => {
    const path = await folder();
    await using a = await agent();
    const options = judgeSchema.parse({
      ...short,
      steps: 10,
      groupSize: 2,
      sampling: { maxNewTokens: 1 },
      objective: { name: "rloo" },
      abort: { truncated: 0.5, patience: 2 },
    });
    const running = judge(a, pairs, options, context(path), null);
    await expect(running).rejects.toMatchObject({ code: "TRAINING_ABORTED" });
    expect(await lines(join(path, "metrics.jsonl"))).toHaveLength(2);
    const patient = judgeSchema.parse({ ...options, steps: 3, abort: {} });
    await using b = await agent();
    expect(await judge(b, pairs, patient, context(path), null)).toMatchObject({ resumedFrom: 2 });
  });

  it("does not train on cut answers that were to be dropped", async () => {
    const path = await folder();
    await using a = await agent();
    const objective = { name: "rloo", truncation: "drop" };
    const options = judgeSchema.parse({ ...short, steps: 1, groupSize: 2, sampling: { maxNewTokens: 1 }, objective });
    await judge(a, pairs, options, context(path), null);
    const [line] = await lines(join(path, "metrics.jsonl"));
    expect(line).toMatchObject({
      "rollout/truncated_share": 1,
      "rollout/dropped_share": 1,
      "groups/undersized_share": 1,
      "batch/rows": 0,
      "optimizer/grad_norm": null,
    });
  });
});
