import { mkdir, mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import type { JudgmentRecord, PairRecord } from "../../src/data/records.js";
import { writeRecords } from "../../src/data/records-file.js";
import { judgmentResult } from "../../src/evaluation/judgment.js";
import type { Recipe } from "../../src/recipes/recipe.js";
import { summarize } from "../../src/recipes/summarize.js";
import { RunFolder } from "../../src/runs/run-folder.js";
import { beginStage, finishStage } from "../../src/runs/stage-folder.js";
import { JUDGMENTS_FILE } from "../../src/stages/assess.js";

const folder = await mkdtemp(join(tmpdir(), "act-summary-"));
afterAll(() => rm(folder, { recursive: true, force: true }));

const hash = "0".repeat(64);
const pair: PairRecord = {
  ...{ id: "a", task_id: "t", category: null, expert_action: "look", thought: null, alternative: "wait" },
  ...{ alternative_admissible: true, expert_first: true, draws: 1 },
  state: { task: "", observation: "", history: [], step: 0, admissible: null },
};
const header = {
  ...{ config_hash: hash, pairs_hash: hash, model: { id: "tiny", weight_hash: hash } },
  prompt: { id: "compact", version: 1 },
  sampling: { temperature: 0, top_k: 0, top_p: 1, min_p: 0, max_new_tokens: 8, seed: 0 },
};

/** Picks of one seed on the pair, when the expert's action is shown first and when it is second. */
type Picks = readonly [JudgmentRecord["picked"], JudgmentRecord["picked"]];

it("takes the position bias of a judge from the picks of all seeds", async () => {
  await using run = await RunFolder.create(join(folder, "run"), "demo", {}, false);
  const seeds: Picks[] = [
    ["malformed", "malformed"], // no pick: no opinion, not an unbiased one
    ["expert", "malformed"], // 1 of 1 on the first
    ["alternative", "expert"], // 0 of 2
  ];
  const finished = await Promise.all(
    seeds.map(async (picks, seed) => {
      const stage = join(run.path, "stages", `judged.seed-${seed}`);
      await mkdir(stage, { recursive: true });
      await beginStage(stage, { key: "k", kind: "assess", seed, config: {} });
      const judgments = picks.map((picked, order) => ({
        ...{ pair_id: "a", expert_first: order === 0, picked, malformed_reason: null },
        ...{ truncated: false, tokens: 1, reply: "" },
      }));
      await writeRecords(join(stage, JUDGMENTS_FILE), "judgments", header, judgments);
      const result = { ...judgmentResult([pair], judgments, 1), promptTooLong: 0 };
      return { name: "judged", seed, folder: stage, file: await finishStage(stage, result, JUDGMENTS_FILE, 1) };
    }),
  );
  const recipe: Recipe = {
    ...{ name: "demo", seeds: [0, 1, 2], models: {}, environments: {}, files: {}, engine: {}, prompt: {}, stages: [] },
    summary: { policies: {}, judge: { after: "judged" }, comparisons: [] },
  };
  const { judge } = await summarize(recipe, run, finished);
  expect(judge.after).toMatchObject({ pairs: 3, accuracy: 2 / 6 });
  expect(judge.after?.first_share).toBeCloseTo(1 / 3, 12);
  expect(JSON.parse(await readFile(join(run.path, "summary.json"), "utf8")).judge).toEqual(judge);
});
