/**
 * `select`: some of the tasks of an expert file, e.g. to hold others out.
 */
import { join } from "node:path";
import { z } from "zod";
import { makeFolder } from "../data/files.js";
import { readRecords, writeRecords } from "../data/records-file.js";
import { deriveSeed, permutation } from "../rollouts/random.js";
import { EXPERT_FILE } from "./collect.js";
import type { StageContext } from "./stage.js";
import { taskRangeShape, tasksInRange } from "./task-range.js";

/** Keys of the stage `select`. */
export const selectSchema = z.strictObject({
  order: z
    .enum(["file", "shuffled"])
    .default("file")
    .describe("tasks in the order of the file, or in one fixed shuffled order"),
  ...taskRangeShape,
});
/** Options of {@link select}. */
export type SelectOptions = z.infer<typeof selectSchema>;

/** What {@link select} wrote. */
export interface SelectResult {
  readonly file: string;
  readonly tasks: number;
  readonly states: number;
}

/** The shuffled order is one and the same for every selection from a file, so that slices never overlap. */
const SHUFFLE_SEED = deriveSeed(0, "select");

/**
 * Writes the chosen tasks of an expert file to another.
 *
 * @throws ActError `STAGE_NO_DATA` when no task is left; those of reading the file.
 */
export async function select(expertFile: string, options: SelectOptions, context: StageContext): Promise<SelectResult> {
  await makeFolder(context.folder);
  const { header, records } = await readRecords(expertFile, "expert");
  const inFile = [...new Set(records.map((r) => r.task_id))];
  const tasks =
    options.order === "file" ? inFile : [...permutation(SHUFFLE_SEED, inFile.length)].map((i) => inFile[i] as string);
  const chosen = new Set(tasksInRange(tasks, options, expertFile));
  const file = join(context.folder, EXPERT_FILE);
  const { environment, panel, source } = header;
  const states = await writeRecords(
    file,
    "expert",
    { environment, panel, source, config_hash: context.configHash },
    records.filter((r) => chosen.has(r.task_id)),
  );
  return { file, tasks: chosen.size, states };
}
