/**
 * What a recipe needs, looked at before its first stage runs: everything that can be known without loading weights,
 * starting a simulator or asking a server.
 */
import { access } from "node:fs/promises";
import { withFileErrors } from "../data/files.js";
import { openRecords } from "../data/records-file.js";
import { Engine } from "../engine/engine.js";
import { EnvironmentError } from "../environments/environment.js";
import { environmentPanelNames } from "../environments/registry.js";
import { ActError } from "../errors.js";
import type { ObjectiveSettings } from "../objectives/objective.js";
import { resolveObjective } from "../objectives/registry.js";
import { choiceHint } from "../schema-issues.js";
import { engineOptions } from "../stages/models.js";
import { Tokenizer } from "../tokens/tokenizer.js";
import { type NamedStage, type Recipe, stageOutputs } from "./recipe.js";
import { FILE_OPTIONS, type ResolvedStage, resolveStage } from "./resolve.js";

/**
 * Checks the models, files and environments that stages name, and of every stage its objective, its panels and the memory
 * plan of its engine, which needs the engine's device.
 *
 * @throws ActError, its message beginning with the stage and key; the codes are those with which the stage would fail.
 */
export async function checkRecipe(recipe: Recipe): Promise<void> {
  const used = new Set(recipe.stages.flatMap(({ inputs }) => Object.values(inputs)));
  for (const [name, { path, adapter }] of Object.entries(recipe.models).filter(([name]) => used.has(name)))
    await inPlace(`models.${name}`, async () => {
      await Engine.plan(path, { memoryLimit: 0, ...(adapter === undefined ? {} : { adapter }) });
      await Tokenizer.load(path);
    });
  for (const [name, { path, kind }] of Object.entries(recipe.files).filter(([name]) => used.has(name)))
    await inPlace(`files.${name}`, async () => {
      // Reading one record, and no more, closes the file.
      for await (const _ of (await openRecords(path, kind)).records) break;
    });
  const panels = new Map<string, readonly string[]>();
  for (const [key, { name, options }] of Object.entries(recipe.environments))
    if (used.has(key))
      panels.set(key, await inPlace(`environments.${key}`, () => environmentPanelNames(name, options)));
  for (const stage of recipe.stages) {
    const where = `stages.${stage.name}`;
    const resolved = resolveStage(stage, recipe, recipe.seeds[0] ?? 0);
    const { objective } = resolved.options;
    if (objective !== undefined)
      await inPlace(`${where}.objective`, async () => resolveObjective(objective as ObjectiveSettings));
    for (const key of FILE_OPTIONS) {
      const path = resolved.options[key];
      if (typeof path === "string")
        await inPlace(`${where}.${key}`, () => withFileErrors("reading", path, () => access(path)));
    }
    checkPanels(resolved, panels.get(stage.inputs.environment ?? "") ?? [], where);
    if (resolved.engine !== null) await inPlace(`${where}.engine`, () => checkEngine(stage, resolved, recipe));
  }
}

/** Runs a check; what it throws begins with the place in the recipe. */
async function inPlace<T>(where: string, check: () => Promise<T>): Promise<T> {
  try {
    return await check();
  } catch (cause) {
    if (!(cause instanceof ActError)) throw cause;
    const { code, problem, hint } = cause;
    throw new ActError(code, `${where}: ${problem}`, { hint, cause });
  }
}

function checkPanels({ options, environment }: ResolvedStage, known: readonly string[], where: string): void {
  const played: [string, unknown][] = Object.entries(options.panels ?? {}).map(([name, id]) => [`panels.${name}`, id]);
  if (options.panel !== undefined) played.push(["panel", options.panel]);
  for (const [key, panel] of played)
    if (!known.includes(String(panel)))
      throw new EnvironmentError(
        "ENVIRONMENT_UNKNOWN_PANEL",
        `${where}.${key}: ${environment?.name} has no panel ${JSON.stringify(panel)}.`,
        { hint: choiceHint(String(panel), known, "Panels") },
      );
}

/** Plans the stage's engine: settings that contradict each other, a device that is missing, too little memory. */
async function checkEngine(stage: NamedStage, { engine }: ResolvedStage, recipe: Recipe): Promise<void> {
  const { path, adapter, dtype } = originOf(stage, recipe);
  await Engine.plan(path, {
    ...(dtype === undefined ? {} : { dtype }),
    ...(engine === null ? {} : engineOptions(engine)),
    ...(adapter === undefined ? {} : { adapter }),
    training: stageOutputs[stage.kind] === "model",
  });
}

/**
 * The model folder a stage's model is, or comes to be made from: training changes no shape, merges adapters, and leaves
 * the dtype it computed with.
 */
function originOf(
  stage: NamedStage,
  recipe: Recipe,
): { readonly path: string; readonly adapter?: string | undefined; readonly dtype?: "fp32" | "bf16" | undefined } {
  const name = stage.inputs.model ?? "";
  const given = recipe.models[name];
  if (given !== undefined) return given;
  const maker = recipe.stages.find((made) => made.name === name);
  if (maker === undefined) throw new TypeError(`A stage without a model has no engine: ${stage.name}.`);
  const { path, dtype } = originOf(maker, recipe);
  return { path, dtype: resolveStage(maker, recipe, 0).engine?.dtype ?? dtype };
}
