/**
 * Recorded episodes of other projects, and our own, as trajectories.
 *
 * Nothing is lost silently: a record that cannot be used is counted with the reason; a file of which no record has a
 * known shape is an error.
 */
import { basename } from "node:path";
import { z } from "zod";
import { goldEpisodeSchema } from "../../environments/scienceworld/replay.js";
import { formatTaskId } from "../../environments/scienceworld/tasks.js";
import { ActError } from "../../errors.js";
import { TRAJECTORY_FORMAT, type Trajectory, trajectorySchema } from "../trajectory.js";
import { NotUsable, readConversation } from "./conversation.js";
import { readRecords, type SourceRecord } from "./documents.js";
import {
  conversationEpisode,
  type EpisodeContext,
  reactPromptEpisode,
  reactWebShopEpisode,
  reactWebShopSchema,
} from "./episodes.js";
import { type TrajectoryFormat, trajectoryFormats } from "./formats.js";

export interface ImportOptions {
  readonly format?: TrajectoryFormat;
  /** Environment of all records; recognized from each where it is not given. */
  readonly environment?: string;
  /** Written into `source`; the file's name by default. */
  readonly source?: string;
  /** Item ids of the data set to task ids of the environment; see {@link readTaskIds}. */
  readonly taskIds?: ReadonlyMap<string, string>;
  readonly signal?: AbortSignal;
  /** Filled while records are read. */
  readonly report?: ImportReport;
}

/** What became of the records of a file. */
export interface ImportReport {
  records: number;
  imported: number;
  skipped: { readonly where: string; readonly reason: string }[];
}

/** A report to hand in. */
export function emptyImportReport(): ImportReport {
  return { records: 0, imported: 0, skipped: [] };
}

/**
 * The episodes of a file, in its order.
 *
 * @throws ActError `FILE_*`, `DATA_*` for files that cannot be read; `DATA_BAD_RECORD` for a record of another shape than
 *   the named one, and at the end when not one record could be used.
 */
export async function* readTrajectories(path: string, options: ImportOptions = {}): AsyncGenerator<Trajectory> {
  const report = options.report ?? emptyImportReport();
  const ids = new Set<string>();
  for await (const record of readRecords(path, options.signal)) {
    report.records++;
    const context: EpisodeContext = {
      environment: options.environment ?? null,
      source: options.source ?? basename(path),
      taskIds: options.taskIds ?? new Map(),
      fallbackId: record.name ?? `${basename(path)}-${report.records}`,
    };
    let trajectory: Trajectory;
    try {
      trajectory = convert(record, options.format ?? "auto", context);
    } catch (error) {
      if (!(error instanceof NotUsable)) throw error;
      report.skipped.push({ where: record.where, reason: error.message });
      continue;
    }
    report.imported++;
    yield { ...trajectory, id: uniqueId(trajectory.id, ids) };
  }
  const [first] = report.skipped;
  if (report.imported === 0 && first !== undefined)
    throw new ActError("DATA_BAD_RECORD", `${path}: not one of ${report.records} records can be used.`, {
      hint: `The first, ${first.where}: ${first.reason}.`,
    });
}

/** Data sets repeat ids (one game, several episodes); in a file of ours the later ones are `<id>#2`, `<id>#3`, ... */
function uniqueId(id: string, taken: Set<string>): string {
  let unique = id;
  for (let times = 2; taken.has(unique); times++) unique = `${id}#${times}`;
  taken.add(unique);
  return unique;
}

function convert(record: SourceRecord, format: TrajectoryFormat, context: EpisodeContext): Trajectory {
  const { value } = record;
  const own = (): Trajectory => parse(trajectorySchema, record, "a trajectory");
  switch (format === "auto" ? shapeOf(value) : format) {
    case "trajectory":
      return own();
    case "react-prompts":
      if (typeof value !== "string") throw notOf(record, "a text");
      return reactPromptEpisode(value, context);
    case "react-webshop":
      return reactWebShopEpisode(parse(reactWebShopSchema, record, "a ReAct episode of WebShop"), context);
    case "scienceworld-gold":
      return goldEpisode(parse(goldEpisodeSchema, record, "a recorded gold episode"), context);
    default:
      return conversationEpisode(readConversation(value), context);
  }
}

/** Tells the shapes apart by what only they have. */
function shapeOf(value: unknown): Exclude<TrajectoryFormat, "auto"> {
  if (typeof value === "string") return "react-prompts";
  if (typeof value !== "object" || value === null) return "conversations";
  if ("format" in value && value.format === TRAJECTORY_FORMAT) return "trajectory";
  if ("first_observation" in value && "simplification" in value) return "scienceworld-gold";
  if ("turns" in value && "goal_index" in value) return "react-webshop";
  return "conversations";
}

/** A gold path as recorded for replays: a score of 1 is the goal. */
function goldEpisode(episode: z.output<typeof goldEpisodeSchema>, context: EpisodeContext): Trajectory {
  const taskId = formatTaskId(episode.task, episode.variation, episode.simplification);
  return {
    format: TRAJECTORY_FORMAT,
    id: taskId,
    environment: "scienceworld",
    environment_version: null,
    task_id: taskId,
    category: episode.task,
    task: episode.task_description,
    steps: episode.steps.map((step, i) => ({
      observation: episode.steps[i - 1]?.observation ?? episode.first_observation,
      thought: null,
      action: step.action,
      admissible: null,
    })),
    final_observation: episode.steps.at(-1)?.observation ?? null,
    success: episode.completed && episode.final_score >= 1,
    score: Math.min(1, episode.final_score),
    source: context.source,
  };
}

function parse<T>(schema: z.ZodType<T>, record: SourceRecord, what: string): T {
  const result = schema.safeParse(record.value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  throw notOf(record, what, `${issue?.path.join(".")}: ${issue?.message}`);
}

function notOf(record: SourceRecord, what: string, why = "it has another shape"): ActError {
  return new ActError("DATA_BAD_RECORD", `${record.where}: not ${what}: ${why}.`, {
    hint: `Formats: ${trajectoryFormats.join(", ")}.`,
  });
}

const mappingSchema = z.array(z.object({ item_id: z.int(), task_type: z.string(), task_id: z.string() }));

/**
 * AgentGym's list of ALFWorld items (`mappings_*.json`): `alfworld_<item_id>` to `<task folder>/<trial>`.
 *
 * @throws ActError `FILE_*`, `DATA_*`.
 */
export async function readTaskIds(path: string): Promise<Map<string, string>> {
  const items: unknown[] = [];
  for await (const { value } of readRecords(path)) items.push(value);
  const result = mappingSchema.safeParse(items);
  if (!result.success)
    throw new ActError("DATA_BAD_RECORD", `${path}: not a list of items with item_id, task_type and task_id.`, {
      hint: "Give AgentGym's list of ALFWorld items, `mappings_train.json` or `mappings_test.json`.",
      cause: result.error,
    });
  return new Map(result.data.map((item) => [`alfworld_${item.item_id}`, `${item.task_type}/${item.task_id}`]));
}
