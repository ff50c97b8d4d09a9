/**
 * One command for each kind of stage: a recipe of a single stage, run in a folder of its own.
 */
import { join } from "node:path";
import type { Command } from "commander";
import { z } from "zod";
import { environmentNames } from "../../environments/registry.js";
import { ActError } from "../../errors.js";
import { checkRecipe } from "../../recipes/check.js";
import { parseRecipe } from "../../recipes/recipe.js";
import { type StageKind, type StageKindName, stageKinds } from "../../recipes/stage-kinds.js";
import { RunFolder } from "../../runs/run-folder.js";
import { engineSettingsSchema } from "../../stages/models.js";
import { type Assignment, addSchemaFlags, assignAll, collectAssignments, scalar, schemaValues } from "../flags.js";
import type { RegisterCommand } from "../main.js";
import { carryOn } from "../run-recipe.js";

type Options = Readonly<Record<string, unknown>>;

/** The command of a kind of stage; `reinforce` has the flags of both its forms. */
export function registerStage(name: string): RegisterCommand {
  const kinds = (Object.keys(stageKinds) as StageKindName[]).filter((kind) => stageKinds[kind].name === name);
  const shape = Object.assign({}, ...kinds.map((kind) => stageKinds[kind].options.shape)) as z.ZodRawShape;
  const schema = z.strictObject(shape);
  const inputs = new Set(kinds.flatMap((kind) => stageKinds[kind].inputs));
  return (program, { signal }, exit) => {
    const command = program
      .command(name)
      .description(`Runs the stage \`${name}\` in a folder of its own; see docs/recipes.md for every key.`)
      .requiredOption("--out <dir>", "run folder; results are in <dir>/stages/<stage>")
      .option("--overwrite", "remove an earlier run in that folder")
      .option("--set <key=value>", "any other key, e.g. sampling.temperature=0.7; may be repeated", collectAssignments);
    addInputFlags(command, inputs);
    addSchemaFlags(command, schema, ["form", "panels"]);
    if ("form" in shape) command.option("--form <form>", "states or episodes [states]");
    if ("panels" in shape)
      command.option(
        "--panel <name>",
        "panel, or name=panel; may be repeated",
        (text: string, before: string[] = []) => [...before, text],
      );
    if (inputs.has("model")) addSchemaFlags(command, engineSettingsSchema);
    command.action(async (options: Options) => {
      const recipe = parseRecipe(recipeOf(name, kinds, options), `options of ${name}`, process.cwd());
      await checkRecipe(recipe);
      await using run = await RunFolder.create(String(options.out), recipe.name, recipe, options.overwrite === true);
      const { code, finished } = await carryOn(recipe, run, signal);
      const made = finished.at(-1);
      const output = made?.file.output ?? null;
      const path = made === undefined ? null : output === null ? made.folder : join(made.folder, output.path);
      process.stdout.write(`${JSON.stringify({ output: path, result: made?.file.result ?? null })}\n`);
      exit(code);
    });
  };
}

function addInputFlags(command: Command, inputs: ReadonlySet<string>): void {
  if (inputs.has("model"))
    command
      .requiredOption("--model <dir>", "model folder")
      .option("--adapter <dir>", "folder of PEFT adapters of that model to begin with");
  if (inputs.has("reference")) command.option("--reference <dir>", "model the KL term holds on to [the model itself]");
  // Which of these a form of `reinforce` needs is checked with the recipe.
  if (inputs.has("expert")) command.option("--expert <file>", "file of expert decisions");
  if (inputs.has("pairs")) command.option("--pairs <file>", "file of pairs");
  if (inputs.has("environment"))
    command
      .option("--environment <name>", `environment: ${environmentNames.join(", ")}`)
      .option("--env <key=value>", "option of the environment; may be repeated", collectAssignments);
}

/** The command's options as the recipe they stand for. */
function recipeOf(name: string, kinds: readonly StageKindName[], options: Options): unknown {
  const form = options.form === undefined ? undefined : String(options.form);
  const kind = kinds.find((k) => k.endsWith(`-${form ?? "states"}`)) ?? kinds[0];
  if (kind === undefined) throw new ActError("CLI_UNKNOWN_COMMAND", `There is no command \`${name}\`.`);
  const { inputs, options: schema, hasModel }: StageKind = stageKinds[kind];
  const has = (input: (typeof inputs)[number]): boolean => inputs.includes(input) && options[input] !== undefined;
  const environmentOptions: Record<string, unknown> = {};
  assignAll(environmentOptions, (options.env ?? []) as Assignment[]);
  const stage: Record<string, unknown> = {
    stage: name,
    ...(form === undefined ? {} : { form }),
    ...schemaValues(schema, options, ["form", "panels"]),
    ...(options.panel !== undefined && "panels" in schema.shape ? { panels: panelsOf(options.panel) } : {}),
  };
  for (const input of ["model", "reference", "expert", "pairs", "environment"] as const)
    if (has(input)) stage[input] = `the-${input}`;
  const models: Record<string, { path: string; adapter?: string }> = {};
  for (const input of ["model", "reference"] as const)
    if (has(input)) models[`the-${input}`] = { path: String(options[input]) };
  if (models["the-model"] !== undefined && options.adapter !== undefined)
    models["the-model"].adapter = String(options.adapter);
  const files: Record<string, { path: string; kind: string }> = {};
  for (const input of ["expert", "pairs"] as const)
    if (has(input)) files[`the-${input}`] = { path: String(options[input]), kind: input };
  const recipe: Record<string, unknown> = {
    name,
    seeds: [typeof options.seed === "number" ? options.seed : 0],
    models,
    files,
    environments: has("environment")
      ? { "the-environment": { name: String(options.environment), ...environmentOptions } }
      : {},
    engine: hasModel ? schemaValues(engineSettingsSchema, options) : {},
    stages: { [name]: stage },
  };
  for (const assignment of (options.set ?? []) as Assignment[]) {
    const [first = "", ...rest] = assignment.path;
    // `engine.` and `prompt.` are the recipe's own keys; everything else is the stage's.
    const target = first === "engine" || first === "prompt" ? assignment.path : ["stages", name, first, ...rest];
    assignAll(recipe, [{ path: target, value: assignment.value }]);
  }
  return recipe;
}

/** `["test-in", "out=test-out"]` -> `{"test-in": "test-in", "out": "test-out"}` */
function panelsOf(given: unknown): Record<string, string> {
  const texts = Array.isArray(given) ? given.map(String) : [String(scalar(String(given)))];
  const panels = texts.map((text) => {
    const at = text.indexOf("=");
    return at === -1 ? [text, text] : [text.slice(0, at), text.slice(at + 1)];
  });
  const names = panels.map(([name]) => name);
  const double = names.find((name, i) => names.indexOf(name) !== i);
  if (double !== undefined)
    throw new ActError("CLI_BAD_FLAG", `--panel names two panels ${JSON.stringify(double)}.`, {
      hint: "Give each a name of its own, e.g. --panel in=test-in --panel out=test-out.",
    });
  return Object.fromEntries(panels);
}
