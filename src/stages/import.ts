/**
 * `import`: recorded episodes of others as expert decisions.
 */
import { join } from "node:path";
import { z } from "zod";
import { makeFolder } from "../data/files.js";
import { writeRecords } from "../data/records-file.js";
import { trajectoryFormats } from "../data/trajectories/formats.js";
import type { TrajectoryReplayReport } from "../data/trajectories/replay.js";
import type { Trajectory } from "../data/trajectory.js";
import type { EnvironmentProvider } from "../environments/environment.js";
import { EXPERT_FILE, expertRecordsOf, historyLength } from "./collect.js";
import { noData, type StageContext } from "./stage.js";

/** Keys of the stage `import`. */
export const importSchema = z.strictObject({
  file: z.string().min(1).describe("file of recorded episodes"),
  format: z.enum(trajectoryFormats).default("auto").describe("shape of the file"),
  world: z.string().min(1).optional().describe("environment of all episodes; default: recognized from each"),
  taskIds: z.string().min(1).optional().describe("AgentGym's list of ALFWorld items, to find their task ids"),
  history: historyLength,
  successOnly: z.boolean().default(true).describe("leave out episodes that are known to have failed"),
  keep: z
    .enum(["all", "exact"])
    .default("all")
    .describe("with `environment`: keep all episodes, or those that replay exactly"),
  concurrency: z.number().int().min(1).default(4).describe("episodes replayed side by side"),
});
/** Options of {@link importExperts}. */
export type ImportOptions = z.infer<typeof importSchema>;

/** What {@link importExperts} wrote. */
export interface ImportResult {
  readonly file: string;
  /** Records of the source, and those of them that could not be used. */
  readonly records: number;
  readonly skipped: number;
  /** The first few reasons of skipped records. */
  readonly reasons: readonly string[];
  /** Episodes left out because they failed. */
  readonly failed: number;
  /** Episodes written, and their decisions. */
  readonly episodes: number;
  readonly states: number;
  /** How episodes came out when they were played again; null where no environment was given. */
  readonly replay: Omit<TrajectoryReplayReport, "mismatches" | "failed"> | null;
}

/** Reasons of skipped records that a result shows. */
const REASONS = 5;

/**
 * Turns the episodes of a file into `expert.jsonl`.
 *
 * @param provider Plays the episodes again and reports how many come out as recorded; null does not.
 * @throws ActError `STAGE_NO_DATA` when nothing is left; those of reading the file; EnvironmentError.
 */
export async function importExperts(
  options: ImportOptions,
  context: StageContext,
  provider: EnvironmentProvider | null = null,
): Promise<ImportResult> {
  // Loaded when used: with the simulators' clients behind them they would slow every import of the package.
  const { emptyImportReport, readTaskIds, readTrajectories } = await import("../data/trajectories/import.js");
  const { replayTrajectories } = await import("../data/trajectories/replay.js");
  await makeFolder(context.folder);
  const signal = context.signal === undefined ? {} : { signal: context.signal };
  const report = emptyImportReport();
  const trajectories: Trajectory[] = [];
  const reading = readTrajectories(options.file, {
    ...signal,
    format: options.format,
    report,
    ...(options.world === undefined ? {} : { environment: options.world }),
    ...(options.taskIds === undefined ? {} : { taskIds: await readTaskIds(options.taskIds) }),
  });
  for await (const trajectory of reading) trajectories.push(trajectory);
  let kept = trajectories.filter((t) => !(options.successOnly && t.success === false));
  const failed = trajectories.length - kept.length;
  const replayed =
    provider === null
      ? null
      : await replayTrajectories(kept, provider, {
          ...signal,
          concurrency: options.concurrency,
          onProgress: (done) => context.onProgress?.(done, trajectories.length - failed, "replayed"),
        });
  if (replayed !== null && options.keep === "exact") {
    const inexact = new Set([...replayed.mismatches.map((m) => m.episode), ...replayed.failed.map((f) => f.id)]);
    kept = kept.filter((t) => !inexact.has(t.id));
  }
  const [first] = kept;
  if (first === undefined) throw noData(`no episode of ${options.file} is left to learn from`);
  const other = kept.find((t) => t.environment !== first.environment);
  if (other !== undefined)
    throw noData(`${options.file} mixes episodes of ${first.environment} and ${other.environment}`);
  const sameVersion = kept.every((t) => t.environment_version === first.environment_version);
  const file = join(context.folder, EXPERT_FILE);
  const header = {
    environment: { name: first.environment, version: sameVersion ? first.environment_version : null },
    panel: null,
    source: first.source,
    config_hash: context.configHash,
  };
  const records = kept.flatMap((t) => expertRecordsOf(t, options.history));
  const states = await writeRecords(file, "expert", header, records);
  return {
    file,
    records: report.records,
    skipped: report.skipped.length,
    reasons: report.skipped.slice(0, REASONS).map((s) => `${s.where}: ${s.reason}`),
    failed,
    episodes: kept.length,
    states,
    replay: replayed === null ? null : withoutDetails(replayed),
  };
}

function withoutDetails({ mismatches: _, failed: __, ...counts }: TrajectoryReplayReport): ImportResult["replay"] {
  return counts;
}
