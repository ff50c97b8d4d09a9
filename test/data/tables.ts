/**
 * The tables of docs/metrics.md and docs/data-files.md, made from the code. After a change there:
 *
 *     npx vitest run test/data/docs.test.ts -u
 */
import { z } from "zod";
import { recordKinds } from "../../src/data/records.js";
import { type MetricName, metricNames, metricTable, timingNames } from "../../src/data/records-metrics.js";

export function metricsTables(): string {
  const section = (title: string, names: readonly MetricName[]): string[] => [
    `## ${title}`,
    "",
    "| name | unit | meaning |",
    "| --- | --- | --- |",
    ...names.map((name) => `| \`${name}\` | ${metricTable[name].unit} | ${escaped(metricTable[name].meaning)} |`),
    "",
  ];
  return [...section("metrics.jsonl", metricNames), ...section("timing.jsonl", timingNames)].join("\n");
}

export function recordTables(): string {
  return Object.values(recordKinds)
    .flatMap(({ format, version, header, record }) => [
      `## ${format}, version ${version}`,
      "",
      "Header, besides the common keys:",
      "",
      ...table(header, ["format", "version", "created_by", "config_hash"]),
      "",
      "Record:",
      "",
      ...table(record, []),
      "",
    ])
    .join("\n");
}

interface JsonSchema {
  readonly type?: string | readonly string[];
  readonly description?: string;
  readonly const?: unknown;
  readonly enum?: readonly unknown[];
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly items?: JsonSchema;
  readonly anyOf?: readonly JsonSchema[];
}

function table(schema: z.ZodType, without: readonly string[]): string[] {
  const root = z.toJSONSchema(schema) as JsonSchema;
  const rows = Object.entries(root.properties ?? {})
    .filter(([key]) => !without.includes(key))
    .flatMap(([key, value]) => rowsOf(key, value));
  return ["| key | type | meaning |", "| --- | --- | --- |", ...rows];
}

function rowsOf(path: string, schema: JsonSchema): string[] {
  const options = schema.anyOf ?? [schema];
  const own = `| \`${path}\` | ${escaped(options.map(typeOf).join(" or "))} | ${escaped(schema.description ?? "")} |`;
  const inner = options.flatMap((option) => {
    const object = option.type === "array" ? option.items : option;
    const mark = option.type === "array" ? "[]" : "";
    return Object.entries(object?.properties ?? {}).flatMap(([key, value]) => rowsOf(`${path}${mark}.${key}`, value));
  });
  return [own, ...inner];
}

function typeOf(schema: JsonSchema): string {
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum !== undefined) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if (schema.type === "array")
    return `list of ${(schema.items?.anyOf ?? [schema.items ?? {}]).map(typeOf).join(" or ")}`;
  return typeof schema.type === "object" ? schema.type.join(" or ") : (schema.type ?? "any");
}

function escaped(text: string): string {
  return text.replaceAll("|", "\\|").replaceAll("<", "\\<");
}
