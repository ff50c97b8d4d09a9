/**
 * The kinds of stages a recipe may name: their keys, and which keys refer to other stages.
 */
import { z } from "zod";
import { ActError } from "../errors.js";
import { choiceHint } from "../schema-issues.js";
import { assessSchema } from "../stages/assess.js";
import { collectSchema } from "../stages/collect.js";
import { evaluateSchema } from "../stages/evaluate.js";
import { imitateSchema } from "../stages/imitate.js";
import { importSchema } from "../stages/import.js";
import { judgeSchema } from "../stages/judge.js";
import { parseOptions } from "../stages/options.js";
import { pairSchema } from "../stages/pair.js";
import { reinforceEpisodesSchema } from "../stages/reinforce-episodes.js";
import { reinforceStatesSchema } from "../stages/reinforce-states.js";
import { selectSchema } from "../stages/select.js";

/** Keys that refer to something else in the recipe. */
const inputSchemas = {
  model: z.string().describe("a model of `models`, or a stage that trains one"),
  reference: z
    .string()
    .describe("model the KL term holds on to; default: the stage's own model as it was at the start"),
  environment: z.string().describe("an environment of `environments`"),
  expert: z.string().describe("a stage that writes expert decisions"),
  pairs: z.string().describe("a stage that writes pairs"),
} as const;
export type InputName = keyof typeof inputSchemas;

/** Overrides of the recipe's own `prompt` and `engine`; checked once they are merged. */
const overrideShape = {
  prompt: z.record(z.string(), z.unknown()).optional().describe("keys of `prompt` that differ in this stage"),
  engine: z.record(z.string(), z.unknown()).optional().describe("keys of `engine` that differ in this stage"),
};

/** A kind of stage. */
export interface StageKind {
  /** As recipes write it in `stage`. */
  readonly name: string;
  readonly inputs: readonly InputName[];
  readonly options: z.ZodObject;
  /** Everything a recipe may write. */
  readonly schema: z.ZodObject;
  /** Whether it has a model, and with it `prompt` and `engine`. */
  readonly hasModel: boolean;
  /** Run once for every seed of the recipe, or once for all. */
  readonly perSeed: boolean;
}

function kind(
  name: string,
  inputs: readonly InputName[],
  options: z.ZodObject,
  optional: readonly InputName[] = [],
): StageKind {
  const hasModel = inputs.includes("model");
  const inputShape = Object.fromEntries(
    inputs.map((input) => [input, optional.includes(input) ? inputSchemas[input].optional() : inputSchemas[input]]),
  );
  const seed = "seed" in options.shape;
  const schema = z.strictObject({
    stage: z.literal(name).describe("kind of the stage"),
    ...inputShape,
    ...options.shape,
    ...(seed ? { seed: z.number().int().min(0).optional().describe("random seed; default: the run's") } : {}),
    ...(hasModel ? overrideShape : {}),
  });
  return { name, inputs, options, schema, hasModel, perSeed: seed };
}

/** Every kind; `reinforce` has two forms. */
export const stageKinds = {
  collect: kind("collect", ["environment"], collectSchema),
  import: kind("import", ["environment"], importSchema, ["environment"]),
  select: kind("select", ["expert"], selectSchema),
  pair: kind("pair", ["model", "expert"], pairSchema),
  judge: kind("judge", ["model", "pairs", "reference"], judgeSchema, ["reference"]),
  imitate: kind("imitate", ["model", "expert"], imitateSchema),
  "reinforce-states": kind("reinforce", ["model", "expert", "reference"], reinforceStatesSchema, ["reference"]),
  "reinforce-episodes": kind("reinforce", ["model", "environment", "reference"], reinforceEpisodesSchema, [
    "reference",
  ]),
  evaluate: kind("evaluate", ["model", "environment"], evaluateSchema),
  assess: kind("assess", ["model", "pairs"], assessSchema),
} as const satisfies Record<string, StageKind>;

export type StageKindName = keyof typeof stageKinds;

/** Names that `stage` may have. */
export const stageNames: readonly string[] = [...new Set(Object.values(stageKinds).map((k) => k.name))];

/** A stage of a recipe, its keys checked and sorted by purpose. */
export interface StageSpec {
  readonly kind: StageKindName;
  readonly inputs: Readonly<Partial<Record<InputName, string>>>;
  /** As written; the kind's own schema fills in defaults once the seed is known. */
  readonly options: Readonly<Record<string, unknown>>;
  readonly prompt: Readonly<Record<string, unknown>>;
  readonly engine: Readonly<Record<string, unknown>>;
}

/**
 * Checks one stage of a recipe.
 *
 * @param where Names it in errors, e.g. `recipe.yaml, stages.act`.
 * @throws ActError `CONFIG_*`.
 */
export function parseStage(value: unknown, where: string): StageSpec {
  const written: Readonly<Record<string, unknown>> =
    value !== null && typeof value === "object" ? (value as Record<string, unknown>) : {};
  const kind = kindOf(written, where);
  const { inputs, options, schema } = stageKinds[kind];
  parseOptions<unknown>(schema, value, where);
  const pick = (keys: readonly string[]): Record<string, unknown> =>
    Object.fromEntries(keys.filter((key) => written[key] !== undefined).map((key) => [key, written[key]]));
  return {
    kind,
    inputs: pick(inputs) as StageSpec["inputs"],
    options: pick(Object.keys(options.shape)),
    prompt: (written.prompt ?? {}) as Record<string, unknown>,
    engine: (written.engine ?? {}) as Record<string, unknown>,
  };
}

/** Which schema of `reinforce` checks the rest. */
const formSchema = z.looseObject({ form: z.enum(["states", "episodes"]).default("states") });

function kindOf(written: Readonly<Record<string, unknown>>, where: string): StageKindName {
  const { stage } = written;
  if (stage === "reinforce") return `reinforce-${parseOptions(formSchema, written, where).form}`;
  const found = (Object.keys(stageKinds) as StageKindName[]).find((k) => stageKinds[k].name === stage);
  if (found !== undefined) return found;
  if (stage === undefined)
    throw new ActError("CONFIG_MISSING_KEY", `${where}: \`stage\` is required.`, {
      hint: `Kinds: ${stageNames.join(", ")}.`,
    });
  throw new ActError("CONFIG_BAD_VALUE", `${where}: there is no kind of stage ${JSON.stringify(stage)}.`, {
    hint: choiceHint(String(stage), stageNames, "Kinds"),
  });
}
