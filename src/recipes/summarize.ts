/**
 * The figures of a finished run: `summary.json`.
 */
import { join } from "node:path";
import { z } from "zod";
import { writeFileAtomic } from "../data/files.js";
import type { EpisodeRecord, RecordHeader } from "../data/records.js";
import { readRecords } from "../data/records-file.js";
import { comparePolicies } from "../evaluation/compare.js";
import { poolJudgments } from "../evaluation/judgment.js";
import { panelResult } from "../evaluation/panel.js";
import {
  type ComparisonResult,
  type JudgmentResult,
  judgmentResultSchema,
  type PanelResult,
  panelResultSchema,
  SUMMARY_FORMAT,
  type Summary,
} from "../evaluation/summary.js";
import { deriveSeed } from "../rollouts/random.js";
import { machineDescription, packageCommit, packageVersion } from "../runs/machine.js";
import type { RunFolder } from "../runs/run-folder.js";
import { JUDGMENTS_FILE } from "../stages/assess.js";
import { episodesFile } from "../stages/evaluate.js";
import type { Recipe } from "./recipe.js";
import type { FinishedStage } from "./runner.js";

export const SUMMARY_FILE = "summary.json";

const panelsSchema = z.record(z.string(), panelResultSchema);
const assessedSchema = judgmentResultSchema.extend({ promptTooLong: z.number() });

/** One policy's episodes on one panel, seed by seed. */
interface PanelEpisodes {
  readonly header: RecordHeader<"episodes">;
  readonly bySeed: readonly (readonly EpisodeRecord[])[];
  readonly results: readonly PanelResult[];
}

/** Computes the summary of a run and writes it. */
export async function summarize(recipe: Recipe, run: RunFolder, finished: readonly FinishedStage[]): Promise<Summary> {
  const episodes = await readPolicies(recipe, finished);
  const policies: Record<string, Record<string, PanelResult>> = {};
  const bySeed: Record<string, Record<string, number[]>> = {};
  for (const [policy, panels] of Object.entries(episodes))
    for (const [panel, { header, bySeed: seeds, results }] of Object.entries(panels)) {
      const seconds = results.reduce((sum, r) => sum + r.seconds, 0);
      policies[policy] = { ...policies[policy], [panel]: panelResult(header, seeds.flat(), seconds) };
      if (seeds.length > 1) bySeed[policy] = { ...bySeed[policy], [panel]: results.map((r) => r.rate) };
    }
  const judge: Record<string, JudgmentResult> = {};
  for (const [name, stage] of Object.entries(recipe.summary.judge)) {
    const runs = finished.filter((f) => f.name === stage);
    const results = runs.map((f) => assessedSchema.parse(f.file.result));
    const files = await Promise.all(runs.map((f) => readRecords(join(f.folder, JUDGMENTS_FILE), "judgments")));
    judge[name] = poolJudgments(
      results.map(({ promptTooLong: _, ...result }) => result),
      files.flatMap((file) => file.records),
    );
  }
  const summary: Summary = {
    format: SUMMARY_FORMAT,
    name: recipe.name,
    policies,
    judge,
    comparisons: compareAll(recipe, episodes),
    by_seed: bySeed,
    seeds: [...recipe.seeds],
    seconds: run.seconds,
    commit: await packageCommit(),
    machine: machineDescription(),
    version: await packageVersion(),
  };
  await writeFileAtomic(join(run.path, SUMMARY_FILE), `${JSON.stringify(summary, null, 2)}\n`);
  return summary;
}

async function readPolicies(
  recipe: Recipe,
  finished: readonly FinishedStage[],
): Promise<Record<string, Record<string, PanelEpisodes>>> {
  const policies: Record<string, Record<string, PanelEpisodes>> = {};
  for (const [policy, stage] of Object.entries(recipe.summary.policies)) {
    const runs = finished
      .filter((f) => f.name === stage)
      .map((f) => ({ ...f, panels: panelsSchema.parse(f.file.result) }));
    const panels: Record<string, PanelEpisodes> = {};
    for (const panel of Object.keys(runs[0]?.panels ?? {})) {
      const files = await Promise.all(runs.map((r) => readRecords(join(r.folder, episodesFile(panel)), "episodes")));
      const [first] = files;
      if (first === undefined) continue;
      const results = runs.map((r) => r.panels[panel]).filter((r) => r !== undefined);
      panels[panel] = { header: first.header, bySeed: files.map((f) => f.records), results };
    }
    policies[policy] = panels;
  }
  return policies;
}

function compareAll(
  recipe: Recipe,
  episodes: Readonly<Record<string, Readonly<Record<string, PanelEpisodes>>>>,
): ComparisonResult[] {
  return recipe.summary.comparisons.flatMap(({ left, right }) =>
    Object.keys(episodes[left] ?? {}).flatMap((panel) => {
      const one = episodes[left]?.[panel];
      const other = episodes[right]?.[panel];
      if (one === undefined || other === undefined) return [];
      return [comparePolicies({ left, right, panel }, one.bySeed, other.bySeed, deriveSeed(0, "comparison"))];
    }),
  );
}
