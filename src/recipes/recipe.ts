/**
 * Recipes: models, environments, a graph of named stages, and what to make of the results.
 */
import { readFile } from "node:fs/promises";
import { dirname, isAbsolute, resolve } from "node:path";
import { z } from "zod";
import { withFileErrors } from "../data/files.js";
import { ActError } from "../errors.js";
import { promptSchema } from "../rollouts/dialogue.js";
import { choiceHint } from "../schema-issues.js";
import { engineSettingsSchema } from "../stages/models.js";
import { parseOptions, setAt } from "../stages/options.js";
import { parseStage, type StageKindName, type StageSpec, stageKinds } from "./stage-kinds.js";

const nameSchema = z.string().regex(/^[A-Za-z][\w-]*$/u, "a letter, then letters, digits, - and _");

export const recipeSchema = z.strictObject({
  name: nameSchema.describe("name of the recipe, shown in results"),
  seeds: z
    .array(z.number().int().min(0))
    .min(1)
    .refine((seeds) => new Set(seeds).size === seeds.length, "seeds that all differ")
    .default([0])
    .describe("every stage that draws runs once for each"),
  models: z
    .record(
      nameSchema,
      z.strictObject({
        path: z.string().min(1).describe("model folder, relative to the recipe"),
        adapter: z.string().min(1).optional().describe("folder of PEFT adapters to begin with, relative to the recipe"),
      }),
    )
    .default({})
    .describe("model folders by name"),
  environments: z
    .record(nameSchema, z.looseObject({ name: z.string().describe("name of the environment; its options beside it") }))
    .default({})
    .describe("environments by name"),
  files: z
    .record(
      nameSchema,
      z.strictObject({
        path: z.string().min(1).describe("record file, relative to the recipe"),
        kind: z.enum(["expert", "pairs"]).describe("what it holds"),
      }),
    )
    .default({})
    .describe("record files made elsewhere, by name; stages may refer to them"),
  engine: z.record(z.string(), z.unknown()).default({}).describe("engine settings of every stage"),
  prompt: z.record(z.string(), z.unknown()).default({}).describe("prompts of every stage"),
  stages: z.record(nameSchema, z.unknown()).describe("stages by name; they run in the order their inputs demand"),
  summary: z
    .strictObject({
      policies: z.record(nameSchema, z.string()).default({}).describe("name in the results -> an `evaluate` stage"),
      judge: z.record(nameSchema, z.string()).default({}).describe("name in the results -> an `assess` stage"),
      comparisons: z
        .array(z.strictObject({ left: z.string().describe("a policy"), right: z.string().describe("a policy") }))
        .default([])
        .describe("pairs of policies compared task by task"),
    })
    .prefault({})
    .describe("what summary.json and the report show"),
});

/** A checked recipe; paths are absolute, stages are in running order. */
export interface Recipe {
  readonly name: string;
  readonly seeds: readonly number[];
  readonly models: Readonly<Record<string, { readonly path: string; readonly adapter?: string | undefined }>>;
  readonly environments: Readonly<
    Record<string, { readonly name: string; readonly options: Readonly<Record<string, unknown>> }>
  >;
  readonly files: Readonly<Record<string, { readonly path: string; readonly kind: "expert" | "pairs" }>>;
  readonly engine: Readonly<Record<string, unknown>>;
  readonly prompt: Readonly<Record<string, unknown>>;
  /** In running order. */
  readonly stages: readonly NamedStage[];
  readonly summary: z.infer<typeof recipeSchema>["summary"];
}

export interface NamedStage extends StageSpec {
  readonly name: string;
}

/** A change from outside, e.g. from the command line: a dotted path and a value. */
export interface RecipeOverride {
  readonly path: readonly string[];
  readonly value: unknown;
}

/** Reads a recipe file. Throws ActError `FILE_*`, `CONFIG_*`. */
export async function readRecipe(file: string, overrides: readonly RecipeOverride[] = []): Promise<Recipe> {
  const text = await withFileErrors("reading", file, () => readFile(file, "utf8"));
  // Loaded here: importing this package does not need it.
  const { parseDocument } = await import("yaml");
  const document = parseDocument(text, { prettyErrors: true, merge: true });
  const [fault] = document.errors;
  if (fault !== undefined)
    throw new ActError("CONFIG_BAD_YAML", `${file}: ${fault.message}`, { hint: "The file is not valid YAML." });
  const value: unknown = document.toJS();
  for (const { path, value: inner } of overrides) setAt(value, path, inner, file);
  return parseRecipe(value, file, dirname(resolve(file)));
}

/**
 * Checks a recipe.
 *
 * @param where Names it in errors.
 * @param folder Relative paths start here.
 */
export function parseRecipe(value: unknown, where: string, folder: string): Recipe {
  const recipe = parseOptions(recipeSchema, value, where);
  const absolute = (path: string): string => (isAbsolute(path) ? path : resolve(folder, path));
  const stages = Object.entries(recipe.stages).map(([name, stage]) => {
    const spec = parseStage(stage, `${where}, stages.${name}`);
    const options = spec.kind === "import" ? withAbsolute(spec.options, ["file", "taskIds"], absolute) : spec.options;
    // Merged settings are checked here, so that a mistake shows before hours of work.
    parseOptions(engineSettingsSchema, { ...recipe.engine, ...spec.engine }, `${where}, engine of stages.${name}`);
    parseOptions(promptSchema, { ...recipe.prompt, ...spec.prompt }, `${where}, prompt of stages.${name}`);
    return { ...spec, options, name };
  });
  const models = Object.fromEntries(
    Object.entries(recipe.models).map(([name, { path, adapter }]) => [
      name,
      { path: absolute(path), ...(adapter === undefined ? {} : { adapter: absolute(adapter) }) },
    ]),
  );
  const environments = Object.fromEntries(
    Object.entries(recipe.environments).map(([key, { name, ...options }]) => [key, { name, options }]),
  );
  const files = Object.fromEntries(
    Object.entries(recipe.files).map(([name, file]) => [name, { ...file, path: absolute(file.path) }]),
  );
  const { name, seeds, engine, prompt, summary } = recipe;
  const checked = { name, seeds, models, environments, files, engine, prompt, summary, stages };
  checkReferences(checked, where);
  return { ...checked, stages: runningOrder(stages, where) };
}

function withAbsolute(
  options: Readonly<Record<string, unknown>>,
  keys: readonly string[],
  absolute: (path: string) => string,
): Record<string, unknown> {
  const changed = keys.filter((key) => options[key] !== undefined).map((key) => [key, absolute(String(options[key]))]);
  return { ...options, ...Object.fromEntries(changed) };
}

/** What a stage writes. */
export const stageOutputs: Readonly<
  Record<StageSpec["kind"], "expert" | "pairs" | "model" | "episodes" | "judgments">
> = {
  collect: "expert",
  import: "expert",
  select: "expert",
  pair: "pairs",
  judge: "model",
  imitate: "model",
  "reinforce-states": "model",
  "reinforce-episodes": "model",
  evaluate: "episodes",
  assess: "judgments",
};

/** Every reference names something of the right kind. */
function checkReferences(recipe: Recipe, where: string): void {
  const producing = (output: string): string[] => [
    ...recipe.stages.filter((s) => stageOutputs[s.kind] === output).map((s) => s.name),
    ...Object.keys(recipe.files).filter((name) => recipe.files[name]?.kind === output),
  ];
  const models = [...Object.keys(recipe.models), ...producing("model")];
  const known: Readonly<Record<string, readonly string[]>> = {
    model: models,
    reference: models,
    environment: Object.keys(recipe.environments),
    expert: producing("expert"),
    pairs: producing("pairs"),
  };
  const names = [...Object.keys(recipe.models), ...Object.keys(recipe.files), ...recipe.stages.map((s) => s.name)];
  const double = names.find((name, i) => names.indexOf(name) !== i);
  if (double !== undefined)
    throw new ActError("CONFIG_BAD_VALUE", `${where}: \`${double}\` names two things among models, files and stages.`, {
      hint: "Rename one of them.",
    });
  for (const stage of recipe.stages)
    for (const [input, name] of Object.entries(stage.inputs))
      mustBeOneOf(name, known[input] ?? [], `${where}, stages.${stage.name}.${input}`);
  for (const [name, stage] of Object.entries(recipe.summary.policies))
    mustBeOneOf(stage, producing("episodes"), `${where}, summary.policies.${name}`);
  for (const [name, stage] of Object.entries(recipe.summary.judge))
    mustBeOneOf(stage, producing("judgments"), `${where}, summary.judge.${name}`);
  const policies = Object.keys(recipe.summary.policies);
  for (const { left, right } of recipe.summary.comparisons)
    for (const policy of [left, right]) mustBeOneOf(policy, policies, `${where}, summary.comparisons`);
  if (recipe.seeds.length > 1) checkPaired(recipe, where);
}

/** Policies are compared seed by seed: both have to be evaluated for every seed, or both once. */
function checkPaired({ stages, summary }: Recipe, where: string): void {
  const perSeed = (policy: string): boolean =>
    stages.some((stage) => stage.name === summary.policies[policy] && isPerSeed(stage, stages));
  const uneven = summary.comparisons.find(({ left, right }) => perSeed(left) !== perSeed(right));
  if (uneven === undefined) return;
  const [once, other] = perSeed(uneven.left) ? [uneven.right, uneven.left] : [uneven.left, uneven.right];
  throw new ActError(
    "CONFIG_BAD_VALUE",
    `${where}, summary.comparisons: \`${once}\` is evaluated once, under a \`seed\` of its own, \`${other}\` for every seed.`,
    { hint: `Take \`seed\` out of stages.${summary.policies[once]}, or compare it with another policy.` },
  );
}

function mustBeOneOf(name: string, known: readonly string[], where: string): void {
  if (known.includes(name)) return;
  throw new ActError("CONFIG_BAD_REFERENCE", `${where}: there is no \`${name}\` here.`, {
    hint: choiceHint(name, known, "Known"),
  });
}

/** Stages so that each comes after those it needs; otherwise in the order written. */
function runningOrder(stages: readonly NamedStage[], where: string): NamedStage[] {
  const ordered: NamedStage[] = [];
  const visiting = new Set<string>();
  const visit = (stage: NamedStage): void => {
    if (ordered.includes(stage)) return;
    if (visiting.has(stage.name))
      throw new ActError("CONFIG_BAD_REFERENCE", `${where}: stage \`${stage.name}\` needs its own result.`, {
        hint: `Stages that need each other: ${[...visiting].join(", ")}.`,
      });
    visiting.add(stage.name);
    for (const needed of neededStages(stage, stages)) visit(needed);
    visiting.delete(stage.name);
    ordered.push(stage);
  };
  for (const stage of stages) visit(stage);
  return ordered;
}

/** The stages a stage needs the results of. */
export function neededStages(stage: StageSpec, stages: readonly NamedStage[]): NamedStage[] {
  const names = Object.entries(stage.inputs).filter(([input]) => input !== "environment");
  return names.flatMap(([, name]) => stages.filter((s) => s.name === name));
}

/**
 * Whether a stage runs once for every seed: it draws itself, by no `seed` of its own, or needs one that does. Another
 * would come out the same every time, and count as so many independent results.
 */
export function isPerSeed(stage: NamedStage, stages: readonly NamedStage[]): boolean {
  const draws = stageKinds[stage.kind].perSeed && stage.options.seed === undefined;
  return draws || neededStages(stage, stages).some((needed) => isPerSeed(needed, stages));
}

const settings = z.record(z.string(), z.unknown());

const resolvedSchema = z.strictObject({
  name: z.string(),
  seeds: z.array(z.number().int()).min(1),
  models: z.record(z.string(), z.strictObject({ path: z.string(), adapter: z.string().optional() })),
  environments: z.record(z.string(), z.strictObject({ name: z.string(), options: settings })),
  files: z.record(z.string(), z.strictObject({ path: z.string(), kind: z.enum(["expert", "pairs"]) })),
  engine: settings,
  prompt: settings,
  stages: z.array(
    z.strictObject({
      name: z.string(),
      kind: z.enum(Object.keys(stageKinds) as [StageKindName, ...StageKindName[]]),
      inputs: z.record(z.string(), z.string()),
      options: settings,
      prompt: settings,
      engine: settings,
    }),
  ),
  summary: recipeSchema.shape.summary,
});

/** A recipe as a run folder keeps it (`config.json`). Throws ActError `RUN_DAMAGED`. */
export function parseResolvedRecipe(value: unknown, where: string): Recipe {
  const result = resolvedSchema.safeParse(value);
  if (result.success) return result.data;
  throw new ActError("RUN_DAMAGED", `The configuration of ${where} is damaged: ${result.error.issues[0]?.message}.`, {
    hint: "Give the recipe again: `act-trainer resume RUN --recipe FILE`.",
    cause: result.error,
  });
}
