/**
 * `import`: recorded episodes of others as expert decisions.
 */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { withFileErrors } from "../data/files.js";
import { writeRecords } from "../data/records-file.js";
import type { Trajectory } from "../data/trajectory.js";
import { EXPERT_FILE, expertRecordsOf, historyLength, noData } from "./collect.js";
import { importFormats, readEpisodes } from "./import-formats.js";
import type { StageContext } from "./stage.js";

/** Keys of the stage `import`. */
export const importSchema = z.strictObject({
  file: z.string().min(1).describe("file of recorded episodes"),
  format: z.enum(importFormats).default("trajectory").describe("shape of the file"),
  history: historyLength,
  successOnly: z.boolean().default(true).describe("leave out episodes that are known to have failed"),
});
/** Options of {@link importExperts}. */
export type ImportOptions = z.infer<typeof importSchema>;

/** What {@link importExperts} wrote. */
export interface ImportResult {
  readonly file: string;
  readonly episodes: number;
  /** Episodes left out because they failed. */
  readonly failed: number;
  readonly states: number;
}

/**
 * Turns the episodes of a file into `expert.jsonl`.
 *
 * @throws ActError `STAGE_NO_DATA` when nothing is left; those of reading the file.
 */
export async function importExperts(options: ImportOptions, context: StageContext): Promise<ImportResult> {
  await withFileErrors("making", context.folder, () => mkdir(context.folder, { recursive: true }));
  const trajectories: Trajectory[] = [];
  for await (const trajectory of readEpisodes(options.file, options.format)) trajectories.push(trajectory);
  const kept = trajectories.filter((t) => !(options.successOnly && t.success === false));
  const [first] = kept;
  if (first === undefined) throw noData(`${options.file} holds no episode to learn from`);
  const other = kept.find((t) => t.environment !== first.environment);
  if (other !== undefined)
    throw noData(`${options.file} mixes episodes of ${first.environment} and ${other.environment}`);
  const file = join(context.folder, EXPERT_FILE);
  const version = kept.every((t) => t.environment_version === first.environment_version)
    ? first.environment_version
    : null;
  const header = {
    environment: { name: first.environment, version },
    panel: null,
    source: first.source,
    config_hash: context.configHash,
  };
  const states = await writeRecords(
    file,
    "expert",
    header,
    kept.flatMap((t) => expertRecordsOf(t, options.history)),
  );
  return { file, episodes: kept.length, failed: trajectories.length - kept.length, states };
}
