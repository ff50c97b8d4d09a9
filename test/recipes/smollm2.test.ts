/**
 * The recipe on a real instruct model and real states, shortened: the tags hold after imitation, pairs come out, the
 * judge stage steps, and held-out judgments are made in both orders.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { summarySchema } from "../../src/evaluation/summary.js";

const root = fileURLToPath(new URL("../../", import.meta.url));
const unpack = join(root, "../shared/models/unpack.mjs");
const episodes = join(root, "../shared/envs/scienceworld/gold_episodes.jsonl");
const present = existsSync(unpack) && existsSync(episodes);
if (!present) console.log("skipped: ../shared/models or ../shared/envs/scienceworld is not there");

const folder = mkdtempSync(join(tmpdir(), "act-smollm2-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe.skipIf(!present)("examples/scienceworld-smollm2.yaml, shortened", { timeout: 1_800_000 }, () => {
  it("judges held-out tasks in both orders, before and after the judge stage", () => {
    const model = join(folder, "smollm2");
    expect(spawnSync(process.execPath, [unpack, model]).status).toBe(0);
    const changes = {
      "models.smollm2.path": model,
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
    const result = spawnSync(
      process.execPath,
      [
        join(root, "dist/cli/main.js"),
        ...["run", join(root, "examples/scienceworld-smollm2.yaml"), "--run", run],
        ...Object.entries(changes).flatMap(([path, value]) => ["--set", `${path}=${value}`]),
      ],
      { encoding: "utf8" },
    );
    expect(result.stderr).not.toContain("error");
    expect(result.status).toBe(0);
    const summary = summarySchema.parse(JSON.parse(readFileSync(join(run, "summary.json"), "utf8")));
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
      expect(step["rollout/samples"]).toBe(8);
      if (step["optimizer/grad_norm"] === null) continue;
      // Sampled and scored by one and the same forward pass.
      expect(step["policy/max_abs_logprob_gap"]).toBe(0);
      expect(step["policy/ratio_mean"]).toBe(1);
    }
  });
});
