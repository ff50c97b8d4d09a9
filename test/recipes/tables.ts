/**
 * The tables of docs/recipes.md, made from the schemas. After a change there:
 *
 *     npx vitest run test/recipes/docs.test.ts -u
 */
import { z } from "zod";
import { descriptionOf } from "../../src/cli/flags.js";
import { recipeSchema } from "../../src/recipes/recipe.js";
import { stageKinds } from "../../src/recipes/stage-kinds.js";
import { promptSchema } from "../../src/rollouts/dialogue.js";
import { defaultOf, unwrap } from "../../src/schema-issues.js";
import { engineSettingsSchema } from "../../src/stages/models.js";

export function recipeTables(): string {
  const stages = Object.entries(stageKinds).flatMap(([kind, { name, schema, options }]) => {
    const form = kind.startsWith("reinforce-") ? `, \`form: ${kind.slice("reinforce-".length)}\`` : "";
    // The seed's own description tells more than that of the options.
    const shape = { ...schema.shape, ...("seed" in options.shape ? { seed: schema.shape.seed } : {}) };
    return section(`### \`${name}\`${form}`, z.strictObject(shape), ["stage", "form"]);
  });
  return [
    "## Keys",
    "",
    ...section("### The recipe", recipeSchema),
    ...section("### `engine`", engineSettingsSchema),
    ...section("### `prompt`", promptSchema),
    "## Stages",
    "",
    ...stages,
  ].join("\n");
}

function section(title: string, schema: z.ZodObject, without: readonly string[] = []): string[] {
  const rows = Object.entries(schema.shape)
    .filter(([key]) => !without.includes(key))
    .flatMap(([key, value]) => rowsOf(key, value as z.ZodType));
  return [title, "", "| key | value | default | meaning |", "| --- | --- | --- | --- |", ...rows, ""];
}

/** A key and, where it is an object, the keys in it. */
function rowsOf(path: string, schema: z.ZodType): string[] {
  const inner = unwrap(schema);
  const fallback = defaultOf(schema);
  const optional = schema instanceof z.ZodOptional;
  const shown =
    fallback === undefined
      ? optional
        ? ""
        : "*required*"
      : inner instanceof z.ZodObject && JSON.stringify(fallback) === "{}"
        ? ""
        : `\`${JSON.stringify(fallback)}\``;
  const own = `| \`${path}\` | ${escaped(typeOf(schema))} | ${escaped(shown)} | ${escaped(descriptionOf(schema))} |`;
  const nested =
    inner instanceof z.ZodObject
      ? entries(inner, path)
      : inner instanceof z.ZodArray && unwrap(inner.element as z.ZodType) instanceof z.ZodObject
        ? entries(unwrap(inner.element as z.ZodType) as z.ZodObject, `${path}[]`)
        : inner instanceof z.ZodRecord && unwrap(inner.valueType as z.ZodType) instanceof z.ZodObject
          ? entries(unwrap(inner.valueType as z.ZodType) as z.ZodObject, `${path}.<name>`)
          : [];
  return [own, ...nested];
}

function entries(schema: z.ZodObject, path: string): string[] {
  return Object.entries(schema.shape).flatMap(([key, value]) => rowsOf(`${path}.${key}`, value as z.ZodType));
}

function typeOf(schema: z.ZodType): string {
  const inner = unwrap(schema);
  const nullable = schema.safeParse(null).success ? " or null" : "";
  return `${baseType(inner)}${nullable}`;
}

function baseType(inner: z.ZodType): string {
  if (inner instanceof z.ZodEnum) return inner.options.map((option) => `\`${String(option)}\``).join(", ");
  if (inner instanceof z.ZodLiteral) return [...inner.values].map((value) => `\`${String(value)}\``).join(", ");
  if (inner instanceof z.ZodNumber) return inner.isInt ? "integer" : "number";
  if (inner instanceof z.ZodString) return "text";
  if (inner instanceof z.ZodBoolean) return "true, false";
  if (inner instanceof z.ZodArray) return "list";
  return "keys";
}

function escaped(text: string): string {
  return text.replaceAll("|", "\\|");
}
