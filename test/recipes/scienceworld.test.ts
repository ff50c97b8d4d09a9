/**
 * The main job on the real simulator, shortened: demonstrations are collected, the critic and then the policy are trained,
 * and four policies play held-out tasks. What is learned in so few steps is not the point; that every stage takes what
 * the one before it wrote, is.
 */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { readRecords } from "../../src/data/records-file.js";
import { liveJar } from "../environments/scienceworld/live.js";
import { runRecipe, smollm2Present, unpackSmollm2 } from "./shortened.js";

const present = smollm2Present && liveJar !== null;

const folder = mkdtempSync(join(tmpdir(), "act-scienceworld-"));
// Seven models are in it, and the disk may be busy.
afterAll(() => rmSync(folder, { recursive: true, force: true }), 120_000);

const TASKS = 2;
const STEP_LIMIT = 4;

describe.skipIf(!present)("examples/scienceworld-live.yaml, shortened", { timeout: 3_600_000 }, () => {
  it("collects, pairs, judges, imitates, reinforces and evaluates", async () => {
    const changes = {
      "models.smollm2.path": unpackSmollm2(folder),
      "environments.scienceworld.stepLimit": STEP_LIMIT,
      "stages.expert.tasks": 4,
      "stages.heldout.tasks": 2,
      "stages.some.tasks": 3,
      "stages.format.batch": 4,
      "stages.format.steps": 5,
      "stages.format.optimizer.learningRate": 1e-4,
      "stages.pairs.states": 6,
      "stages.heldout_pairs.states": 4,
      "stages.act.steps": 1,
      "stages.act.batch": 2,
      "stages.act.groupSize": 4,
      ...{ "stages.imitated.states": 8, "stages.imitated.batch": 8 },
      ...{ "stages.act_imitated.states": 8, "stages.act_imitated.batch": 8 },
      "stages.act_reinforced.steps": 1,
      "stages.act_reinforced.batch": 2,
      "stages.act_reinforced.groupSize": 4,
      ...Object.fromEntries(
        ["initial", "imitated", "act_imitated", "act_reinforced"].map((p) => [`stages.play_${p}.tasks`, TASKS]),
      ),
    };
    const run = join(folder, "run");
    const summary = runRecipe("scienceworld-live.yaml", run, changes, { SCIENCEWORLD_JAR: liveJar ?? "" });

    // What was learned from, what was asked about and what was played are of three splits, named by their panels.
    const stage = (name: string, file: string): string => join(run, "stages", name, file);
    const expert = await readRecords(stage("expert", "expert.jsonl"), "expert");
    const heldout = await readRecords(stage("heldout", "expert.jsonl"), "expert");
    const played = await readRecords(stage("play_act_reinforced", "episodes.short_test.jsonl"), "episodes");
    expect([expert, heldout, played].map(({ header }) => header.panel?.id)).toEqual([
      "scienceworld/short-train@1",
      "scienceworld/short-dev@1",
      "scienceworld/short-test@1",
    ]);
    const tasks = [expert.records, heldout.records, played.records].map((r) => new Set(r.map((x) => x.task_id)));
    expect(new Set(tasks.flatMap((t) => [...t])).size).toBe(tasks.reduce((sum, t) => sum + t.size, 0));

    for (const name of ["act", "act_reinforced"]) {
      const [line = ""] = readFileSync(stage(name, "metrics.jsonl"), "utf8").split("\n");
      const step = JSON.parse(line) as Record<string, number | null>;
      expect(step["rollout/samples"]).toBe(8);
      // Sampled and scored by one and the same forward pass; null where all groups were equal and nothing was trained.
      if (step["optimizer/grad_norm"] !== null) expect(step["policy/max_abs_logprob_gap"]).toBe(0);
    }

    expect(Object.keys(summary.policies)).toEqual(["initial", "imitated", "act-imitated", "act-imitated-reinforced"]);
    for (const [policy, { short_test: panel }] of Object.entries(summary.policies)) {
      expect(panel, policy).toMatchObject({
        episodes: TASKS,
        environment_failed: 0,
        panel: "scienceworld/short-test@1",
      });
      expect(panel?.environment_version, policy).toBe(expert.header.environment.version);
      // The model as it is seldom keeps the format; three replies without an action in a row end an episode.
      expect(panel?.steps, policy).toBeGreaterThanOrEqual(1);
      expect(panel?.steps, policy).toBeLessThanOrEqual(STEP_LIMIT);
    }
    expect(summary.policies.imitated?.short_test?.malformed).toBeLessThan(
      summary.policies.initial?.short_test?.malformed ?? 0,
    );
    for (const when of ["before", "after"]) expect(summary.judge[when]?.pairs).toBeGreaterThan(0);
    expect(summary.comparisons.map(({ pairs }) => pairs)).toEqual([TASKS, TASKS]);
  });
});
