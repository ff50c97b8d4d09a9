/**
 * Which of a list of tasks a stage works on.
 */
import { z } from "zod";
import { noData } from "./stage.js";

/** Keys of every stage that works on some of the tasks of a panel or file. */
export const taskRangeShape = {
  offset: z.number().int().min(0).default(0).describe("tasks skipped"),
  tasks: z.number().int().min(1).nullable().default(null).describe("tasks taken; null: all that are left"),
};

/**
 * The tasks of a range, in their order.
 *
 * @param source Where the tasks are from, for the message.
 * @throws ActError `STAGE_NO_DATA` when the range holds none.
 */
export function tasksInRange(
  all: readonly string[],
  { offset, tasks }: { readonly offset: number; readonly tasks: number | null },
  source: string,
): string[] {
  const chosen = all.slice(offset, tasks === null ? undefined : offset + tasks);
  if (chosen.length === 0) throw noData(`${source} has ${all.length} tasks, none from ${offset} on`);
  return chosen;
}
