/**
 * Options checked at the edge: unknown keys are errors that name the nearest valid key.
 */
import type { z } from "zod";
import { ActError } from "../errors.js";
import { schemaIssue } from "../schema-issues.js";

const CODES = {
  "unknown-key": "CONFIG_UNKNOWN_KEY",
  "missing-key": "CONFIG_MISSING_KEY",
  "bad-value": "CONFIG_BAD_VALUE",
} as const;

/**
 * Checks a value against a schema and fills in defaults.
 *
 * @param where Names the value in errors, e.g. `recipe.yaml, stages.act`.
 * @throws ActError `CONFIG_UNKNOWN_KEY`, `CONFIG_MISSING_KEY` or `CONFIG_BAD_VALUE`, for the first fault.
 */
export function parseOptions<T>(schema: z.ZodType<T>, value: unknown, where: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const { kind, message, hint } = schemaIssue(schema, value, result.error);
  throw new ActError(CODES[kind], `${where}: ${message}`, { hint, cause: result.error });
}

/**
 * Sets a value at a path of keys; objects on the way are made.
 *
 * @throws ActError `CONFIG_BAD_VALUE` where something on the way has no keys, or a key is not one of its own.
 */
export function setAt(root: unknown, path: readonly string[], value: unknown, where: string): void {
  let at = root;
  for (const [i, key] of path.entries()) {
    const inherited = at !== null && typeof at === "object" && key in at && !Object.hasOwn(at, key);
    if (at === null || typeof at !== "object" || inherited)
      throw new ActError(
        "CONFIG_BAD_VALUE",
        `${where}: \`${path.slice(0, i).join(".")}\` has no key \`${key}\` to set.`,
        {
          hint: "Give the names of keys, with dots between them.",
        },
      );
    const object = at as Record<string, unknown>;
    if (i === path.length - 1) object[key] = value;
    else object[key] ??= {};
    at = object[key];
  }
}
