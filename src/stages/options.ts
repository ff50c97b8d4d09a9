/**
 * Options checked at the edge: unknown keys are errors that name the nearest valid key.
 */
import { z } from "zod";
import { ActError, describe } from "../errors.js";

/**
 * Checks a value against a schema and fills in defaults.
 *
 * @param where Names the value in errors, e.g. `recipe.yaml, stages.act`.
 * @throws ActError `CONFIG_UNKNOWN_KEY`, `CONFIG_MISSING_KEY` or `CONFIG_BAD_VALUE`, for the first fault.
 */
export function parseOptions<T>(schema: z.ZodType<T>, value: unknown, where: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  throw optionError(schema, value, where, result.error);
}

function optionError(schema: z.ZodType, value: unknown, where: string, error: z.ZodError): ActError {
  // A misspelt key is also a missing one: the spelling is what to tell.
  const issues = error.issues.map(deepest);
  const issue = issues.find((i) => i.code === "unrecognized_keys") ?? (issues[0] as z.core.$ZodIssue);
  const path = issue.path.map(String);
  const at = path.length === 0 ? where : `${where}, ${path.join(".")}`;
  if (issue.code === "unrecognized_keys") {
    const valid = keysAt(schema, path);
    const key = issue.keys[0] ?? "";
    const near = nearest(key, valid);
    return new ActError("CONFIG_UNKNOWN_KEY", `${at}: unknown key \`${key}\`.`, {
      hint: near === null ? `Valid keys: ${valid.join(", ")}.` : `Did you mean \`${near}\`?`,
      cause: error,
    });
  }
  const got = valueAt(value, path);
  if (got === undefined) {
    return new ActError("CONFIG_MISSING_KEY", `${at}: this key is required.`, {
      hint: `${issue.message}.`,
      cause: error,
    });
  }
  return new ActError("CONFIG_BAD_VALUE", `${at}: got ${describe(got)}. ${issue.message}.`, { cause: error });
}

/** Of a union's complaints: an unknown key, else the one of the alternative that came furthest. */
function deepest(issue: z.core.$ZodIssue): z.core.$ZodIssue {
  if (issue.code !== "invalid_union") return issue;
  const inner = issue.errors
    .flat()
    .map((i) => ({ ...deepest(i), path: [...issue.path, ...deepest(i).path] }) as z.core.$ZodIssue);
  const unknown = inner.find((i) => i.code === "unrecognized_keys");
  return unknown ?? inner.reduce((best, i) => (i.path.length > best.path.length ? i : best), issue as z.core.$ZodIssue);
}

function valueAt(value: unknown, path: readonly string[]): unknown {
  let at: unknown = value;
  for (const key of path) {
    if (at === null || typeof at !== "object") return undefined;
    at = (at as Record<string, unknown>)[key];
  }
  return at;
}

/** Keys that the schema takes at a path. Empty where it names none. */
export function keysAt(schema: z.ZodType, path: readonly string[]): string[] {
  const inner = unwrap(schema);
  if (inner instanceof z.ZodUnion)
    return [...new Set(inner.options.flatMap((option) => keysAt(option as z.ZodType, path)))];
  const [key, ...rest] = path;
  if (key === undefined) return inner instanceof z.ZodObject ? Object.keys(inner.shape) : [];
  if (inner instanceof z.ZodObject) {
    const next = inner.shape[key] as z.ZodType | undefined;
    return next === undefined ? [] : keysAt(next, rest);
  }
  if (inner instanceof z.ZodArray) return keysAt(inner.element as z.ZodType, rest);
  if (inner instanceof z.ZodRecord) return keysAt(inner.valueType as z.ZodType, rest);
  return [];
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

/** The schema below optional, default, nullable and the like. */
export function unwrap(schema: z.ZodType): z.ZodType {
  let at = schema;
  for (;;) {
    if (at instanceof z.ZodOptional || at instanceof z.ZodNullable || at instanceof z.ZodReadonly)
      at = at.unwrap() as z.ZodType;
    else if (at instanceof z.ZodDefault || at instanceof z.ZodPrefault) at = at.unwrap() as z.ZodType;
    else if (at instanceof z.ZodPipe) at = at.in as z.ZodType;
    else return at;
  }
}

/** The candidate nearest to a word, or null when none is near (more than half of its letters differ). */
export function nearest(word: string, candidates: readonly string[]): string | null {
  let best: string | null = null;
  let least = Math.ceil(Math.max(word.length, 2) / 2) + 1;
  for (const candidate of candidates) {
    const distance = editDistance(word.toLowerCase(), candidate.toLowerCase());
    if (distance < least) {
      least = distance;
      best = candidate;
    }
  }
  return best;
}

/** Levenshtein's distance. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const swap = (row[j - 1] as number) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min((row[j] as number) + 1, (next[j - 1] as number) + 1, swap));
    }
    row = next;
  }
  return row[b.length] as number;
}
