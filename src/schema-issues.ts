/**
 * What is wrong with a value that a schema refuses, in the one wording of option errors: expected X for `key`, got Y,
 * and the next thing to try.
 */
import { z } from "zod";
import { describe } from "./errors.js";

/** The first fault of a value. */
export interface SchemaIssue {
  readonly kind: "unknown-key" | "missing-key" | "bad-value";
  readonly message: string;
  /** Never empty. */
  readonly hint: string;
}

/**
 * The fault to tell of those a schema found.
 *
 * @param error What `schema.safeParse(value)` came back with.
 * @param root Name of the value itself, where it has one.
 */
export function schemaIssue(schema: z.ZodType, value: unknown, error: z.ZodError, root?: string): SchemaIssue {
  // A misspelt key is also a missing one: the spelling is what to tell.
  const issues = error.issues.map(deepest);
  const issue = issues.find((i) => i.code === "unrecognized_keys") ?? (issues[0] as z.core.$ZodIssue);
  const path = issue.path.map(String);
  if (issue.code === "unrecognized_keys") {
    const [key = ""] = issue.keys;
    const of = path.length === 0 && root !== undefined ? ` of \`${root}\`` : "";
    const message = `Unknown key \`${[...path, key].join(".")}\`${of}.`;
    return { kind: "unknown-key", message, hint: choiceHint(key, keysAt(schema, path), "Valid keys") };
  }
  const at = schemasAt(schema, path);
  const wanted = customText(issue) ?? [...new Set(at.map((s) => expected(s, issue)))].join(" or ");
  const key = path.length === 0 ? root : path.join(".");
  const got = issue.code === "invalid_key" ? path.at(-1) : valueAt(value, path);
  if (got === undefined && path.length > 0)
    return { kind: "missing-key", message: `\`${key}\` is required.`, hint: `Give ${wanted}.` };
  const message = `Expected ${wanted}${key === undefined ? "" : ` for \`${key}\``}, got ${describe(got)}.`;
  const near = typeof got === "string" ? nearest(got, at.flatMap(choicesOf)) : null;
  return {
    kind: "bad-value",
    message,
    hint: near === null ? `Give ${wanted}${leftOut(at[0])}.` : `Did you mean \`${near}\`?`,
  };
}

/** `Did you mean ...?`, or all there are. @param list What they are called. */
export function choiceHint(word: string, choices: readonly string[], list: string): string {
  const near = nearest(word, choices);
  if (near !== null) return `Did you mean \`${near}\`?`;
  return choices.length === 0 ? "There is none." : `${list}: ${choices.join(", ")}.`;
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

/** What the schema's author says is expected, where he does; zod's own sentences begin otherwise. */
function customText(issue: z.core.$ZodIssue): string | null {
  const message = issue.code === "invalid_key" ? (issue.issues[0]?.message ?? "") : issue.message;
  return /^(?:Invalid|Too (?:big|small)|$)/u.test(message) ? null : message.replace(/^expected /iu, "");
}

/** `an integer >= 1`, `true or false`, `one of a, b or null` */
function expected(schema: z.ZodType, issue: z.core.$ZodIssue): string {
  const inner = unwrap(schema);
  const text = expectedInner(inner, issue);
  return inner !== schema && schema.safeParse(null).success ? `${text} or null` : text;
}

function expectedInner(inner: z.ZodType, issue: z.core.$ZodIssue): string {
  if (inner instanceof z.ZodUnion)
    return [...new Set(inner.options.map((option) => expected(option as z.ZodType, issue)))].join(" or ");
  if (inner instanceof z.ZodEnum) return `one of ${inner.options.join(", ")}`;
  if (inner instanceof z.ZodLiteral) return [...inner.values].map((value) => describe(value)).join(" or ");
  if (inner instanceof z.ZodNumber) return expectedNumber(inner, issue);
  if (inner instanceof z.ZodString) return inner.minLength === null ? "a text" : "a text that is not empty";
  if (inner instanceof z.ZodURL) return "an address (URL)";
  if (inner instanceof z.ZodBoolean) return "true or false";
  if (inner instanceof z.ZodArray) return issue.code === "too_small" ? "a list that is not empty" : "a list";
  if (inner instanceof z.ZodObject || inner instanceof z.ZodRecord) return "an object";
  return "another value";
}

function expectedNumber(schema: z.ZodNumber, issue: z.core.$ZodIssue): string {
  const checks = (schema.def.checks ?? []).map((check) => check._zod.def as Partial<z.core.$ZodCheckLessThanDef>);
  const low = checks.find(({ check }) => String(check) === "greater_than");
  const high = checks.find(({ check }) => check === "less_than");
  const kind = schema.isInt ? "an integer" : "a number";
  // The bounds of the type itself are said where they are what was crossed.
  const maximum = high?.value ?? (issue.code === "too_big" ? issue.maximum : undefined);
  if (low?.inclusive === true && maximum !== undefined && high?.inclusive !== false)
    return `${kind} from ${low.value} to ${maximum}`;
  const bounds = [
    ...(low === undefined ? [] : [`${low.inclusive === true ? ">=" : ">"} ${low.value}`]),
    ...(maximum === undefined ? [] : [`${high?.inclusive === false ? "<" : "<="} ${maximum}`]),
  ];
  return [kind, bounds.join(" and ")].filter((part) => part !== "").join(" ");
}

/** What comes of leaving a key out. */
function leftOut(schema: z.ZodType | undefined): string {
  if (schema === undefined) return "";
  const fallback = defaultOf(schema);
  if (fallback !== undefined) return `, or leave it out for the default, ${JSON.stringify(fallback)}`;
  return schema.safeParse(undefined).success ? ", or leave it out" : "";
}

function choicesOf(schema: z.ZodType): string[] {
  const inner = unwrap(schema);
  if (inner instanceof z.ZodUnion) return inner.options.flatMap((option) => choicesOf(option as z.ZodType));
  return inner instanceof z.ZodEnum ? inner.options.map(String) : [];
}

function valueAt(value: unknown, path: readonly string[]): unknown {
  return path.reduce<unknown>((at, key) => (at === null || at === undefined ? undefined : Object(at)[key]), value);
}

/** Keys that the schema takes at a path. Empty where it names none. */
export function keysAt(schema: z.ZodType, path: readonly string[]): string[] {
  return [...new Set(schemasAt(schema, path).flatMap(keysOf))];
}

function keysOf(schema: z.ZodType): string[] {
  const inner = unwrap(schema);
  if (inner instanceof z.ZodUnion) return inner.options.flatMap((option) => keysOf(option as z.ZodType));
  return inner instanceof z.ZodObject ? Object.keys(inner.shape) : [];
}

/** Schemas of the value at a path: one for every alternative that has it. */
function schemasAt(schema: z.ZodType, path: readonly string[]): z.ZodType[] {
  const [key, ...rest] = path;
  if (key === undefined) return [schema];
  const inner = unwrap(schema);
  if (inner instanceof z.ZodUnion) return inner.options.flatMap((option) => schemasAt(option as z.ZodType, path));
  if (inner instanceof z.ZodObject)
    return Object.hasOwn(inner.shape, key) ? schemasAt(inner.shape[key] as z.ZodType, rest) : [];
  if (inner instanceof z.ZodArray) return schemasAt(inner.element as z.ZodType, rest);
  if (inner instanceof z.ZodRecord) return schemasAt(inner.valueType as z.ZodType, rest);
  return [];
}

/** The default, or undefined where there is none. */
export function defaultOf(schema: z.ZodType): unknown {
  let at: z.ZodType = schema;
  for (;;) {
    if (at instanceof z.ZodDefault || at instanceof z.ZodPrefault) return at.def.defaultValue;
    if (at instanceof z.ZodOptional || at instanceof z.ZodNullable) at = at.unwrap() as z.ZodType;
    else return undefined;
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
