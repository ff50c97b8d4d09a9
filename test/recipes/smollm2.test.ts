/**
 * The recipe on a real instruct model and real states, shortened: the tags hold after imitation, pairs come out, the
 * judge stage steps, and held-out judgments are made in both orders.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { runRecipe, smollm2Present, unpackSmollm2 } from "./shortened.js";

const episodes = fileURLToPath(new URL("../../../shared/envs/scienceworld/gold_episodes.jsonl", import.meta.url));
const present = smollm2Present && existsSync(episodes);
if (!existsSync(episodes)) console.log("skipped: ../shared/envs/scienceworld is not there");

const folder = mkdtempSync(join(tmpdir(), "act-smollm2-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe.skipIf(!present)("examples/scienceworld-smollm2.yaml, shortened", { timeout: 1_800_000 }, () => {
  it("judges held-out tasks in both orders, before and after the judge stage", () => {
    const changes = {
      "models.smollm2.path": unpackSmollm2(folder),
      "stages.recorded.file": episodes,
      "stages.training.tasks": 12,
      "stages.heldout.tasks": 4,
      "stages.format.steps": 6,
      "stages.format.batch": 8,
      "stages.format.optimizer.learningRate": 1e-4,
      "stages.pairs.states": 16,
      "stages.heldout_pairs.states": 8,
      "stages.act.steps": 2,
      "stages.act.batch": 2,
      "stages.act.groupSize": 4,
    };
    const run = join(folder, "run");
    const summary = runRecipe("scienceworld-smollm2.yaml", run, changes);
    for (const when of ["before", "after"]) {
      const judged = summary.judge[when];
      expect(judged?.pairs).toBeGreaterThan(0);
      // The tag format begins to hold after a few steps of imitation; before, no reply has it.
      expect(judged?.malformed).toBeLessThan(0.8);
    }
    const metrics = readFileSync(join(run, "stages/act/metrics.jsonl"), "utf8").trim().split("\n");
    expect(metrics).toHaveLength(2);
    for (const line of metrics) {
      const step = JSON.parse(line) as Record<string, number | null>;
      // Two groups of four, and more where groups that agree are replaced.
      expect(step["rollout/samples"]).toBeGreaterThanOrEqual(8);
      expect(Number(step["rollout/samples"]) % 4).toBe(0);
      if (step["optimizer/grad_norm"] === null) continue;
      // Sampled and scored by one and the same forward pass.
      expect(step["policy/max_abs_logprob_gap"]).toBe(0);
      expect(step["policy/ratio_mean"]).toBe(1);
    }
  });
});
