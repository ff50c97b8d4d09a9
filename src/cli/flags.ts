/**
 * Flags from schemas: every scalar key of a stage's options is a flag, everything else goes through `--set`.
 */
import type { Command } from "commander";
import { parse } from "yaml";
import { z } from "zod";
import { ActError } from "../errors.js";
import { defaultOf, unwrap } from "../schema-issues.js";
import { setAt } from "../stages/options.js";

/** `groupSize` -> `group-size` */
export function flagName(key: string): string {
  return key.replace(/[A-Z]/gu, (letter) => `-${letter.toLowerCase()}`);
}

/** Adds a flag for each scalar key. Keys in `skip` are left out. */
export function addSchemaFlags(command: Command, schema: z.ZodObject, skip: readonly string[] = []): void {
  for (const [key, value] of Object.entries(schema.shape)) {
    if (skip.includes(key) || !isScalar(value as z.ZodType)) continue;
    command.option(`--${flagName(key)} <value>`, describeKey(value as z.ZodType), scalar);
  }
}

/** Values of the schema's flags among a command's options. */
export function schemaValues(
  schema: z.ZodObject,
  options: Readonly<Record<string, unknown>>,
  skip: readonly string[] = [],
): Record<string, unknown> {
  const given = Object.entries(options).filter(
    ([key, value]) => key in schema.shape && !skip.includes(key) && value !== undefined,
  );
  return Object.fromEntries(given);
}

/** Description with the default, for help and documentation. */
export function describeKey(schema: z.ZodType): string {
  const text = descriptionOf(schema);
  const fallback = defaultOf(schema);
  const inner = unwrap(schema);
  const choices = inner instanceof z.ZodEnum ? ` (${inner.options.join(", ")})` : "";
  return `${text}${choices}${fallback === undefined ? "" : ` [${JSON.stringify(fallback)}]`}`;
}

/** The description, wherever in the chain of wrappers it was given. */
export function descriptionOf(schema: z.ZodType): string {
  let at: z.ZodType = schema;
  for (;;) {
    if (at.description !== undefined) return at.description;
    if (
      at instanceof z.ZodOptional ||
      at instanceof z.ZodNullable ||
      at instanceof z.ZodDefault ||
      at instanceof z.ZodPrefault
    )
      at = at.unwrap() as z.ZodType;
    else return "";
  }
}

function isScalar(schema: z.ZodType): boolean {
  const inner = unwrap(schema);
  return (
    inner instanceof z.ZodString ||
    inner instanceof z.ZodNumber ||
    inner instanceof z.ZodBoolean ||
    inner instanceof z.ZodEnum
  );
}

/** A value as YAML reads it: numbers, true, false, null, texts. */
export function scalar(text: string): unknown {
  try {
    return parse(text) as unknown;
  } catch {
    return text;
  }
}

/** `a.b=value` for commander's repeated options. */
export function collectAssignments(text: string, before: readonly Assignment[] = []): Assignment[] {
  const at = text.indexOf("=");
  if (at < 1)
    throw new ActError("CLI_BAD_FLAG", `Expected key=value, got ${JSON.stringify(text)}.`, {
      hint: "For example --set sampling.temperature=0.7",
    });
  return [...before, { path: text.slice(0, at).split("."), value: scalar(text.slice(at + 1)) }];
}

export interface Assignment {
  readonly path: readonly string[];
  readonly value: unknown;
}

/** Sets dotted paths in a plain object. Throws ActError `CONFIG_BAD_VALUE`. */
export function assignAll(target: Record<string, unknown>, assignments: readonly Assignment[]): void {
  for (const { path, value } of assignments) setAt(target, path, value, "options");
}
