/**
 * Options of environments and of their servers, checked where they come in.
 */
import type { z } from "zod";
import { schemaIssue } from "../schema-issues.js";
import { EnvironmentError } from "./environment.js";

/** A list of tasks that a panel can be: results are told apart by task. */
export function eachOnce<T extends z.ZodArray>(list: T): T {
  return list.refine((tasks) => new Set(tasks).size === tasks.length, "expected a list of tasks, each of them once");
}

/**
 * Checks options and fills in defaults.
 *
 * @param where What takes them, e.g. `Household`.
 * @throws EnvironmentError `ENVIRONMENT_BAD_OPTIONS`, naming the key, what was expected and what came.
 */
export function parseEnvironmentOptions<T>(schema: z.ZodType<T>, options: unknown, where: string): T {
  const { success, data, error } = schema.safeParse(options);
  if (success) return data;
  const { message, hint } = schemaIssue(schema, options, error, "options");
  throw new EnvironmentError("ENVIRONMENT_BAD_OPTIONS", `${where}: ${message}`, { hint, cause: error });
}
