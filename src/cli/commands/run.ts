/**
 * `run`, `resume` and `status`.
 */
import { join } from "node:path";
import type { Command } from "commander";
import { ActError } from "../../errors.js";
import { checkRecipe } from "../../recipes/check.js";
import { readStatus } from "../../runs/run-folder.js";
import { engineSettingsSchema } from "../../stages/models.js";
import { EXIT } from "../exit.js";
import { type Assignment, collectAssignments, describeKey, scalar } from "../flags.js";
import type { RegisterCommand } from "../main.js";
import { resumeRun, startRun } from "../run-recipe.js";

interface RecipeFlags {
  readonly set?: readonly Assignment[];
  readonly dtype?: unknown;
  readonly threads?: unknown;
  readonly seed?: unknown;
}

/** `--set`, and the keys that other commands have as flags. */
function addRecipeFlags(command: Command): Command {
  const { dtype, threads } = engineSettingsSchema.shape;
  return command
    .option(
      "--set <key=value>",
      "change a key of the recipe, e.g. stages.act.steps=10; may be repeated",
      collectAssignments,
    )
    .option("--dtype <value>", `engine.dtype: ${describeKey(dtype)}`, scalar)
    .option("--threads <value>", `engine.threads: ${describeKey(threads)}`, scalar)
    .option("--seed <value>", "seeds: run once, with this seed", scalar);
}

function changesOf({ set = [], dtype, threads, seed }: RecipeFlags): Assignment[] {
  return [
    ...set,
    ...(dtype === undefined ? [] : [{ path: ["engine", "dtype"], value: dtype }]),
    ...(threads === undefined ? [] : [{ path: ["engine", "threads"], value: threads }]),
    ...(seed === undefined ? [] : [{ path: ["seeds"], value: [seed] }]),
  ];
}

export const registerRun: RegisterCommand = (program, { signal }, exit) => {
  const command = program
    .command("run <recipe>")
    .description("Runs a recipe; see docs/recipes.md.")
    .option("--run <dir>", "run folder; default: runs/<name of the recipe>")
    .option("--overwrite", "remove an earlier run in that folder")
    .option("--check", "only check the recipe and print it in full");
  addRecipeFlags(command).action(
    async (recipe: string, options: RecipeFlags & { run?: string; overwrite?: true; check?: true }) => {
      const { readRecipe } = await import("../../recipes/recipe.js");
      const parsed = await readRecipe(recipe, changesOf(options));
      if (options.check) {
        await checkRecipe(parsed);
        process.stdout.write(`${JSON.stringify(parsed, null, 2)}\n`);
        return;
      }
      const folder = options.run ?? join("runs", parsed.name);
      exit(await startRun(parsed, folder, options.overwrite ?? false, signal));
    },
  );
};

export const registerResume: RegisterCommand = (program, { signal }, exit) => {
  const command = program
    .command("resume <run>")
    .description("Goes on with a run: finished stages are kept, a half-done one is taken up at its last checkpoint.")
    .option("--recipe <file>", "use this recipe from now on; stages it changes, and those that need them, run again");
  addRecipeFlags(command).action(async (run: string, options: RecipeFlags & { recipe?: string }) => {
    const { readRecipe } = await import("../../recipes/recipe.js");
    const changes = changesOf(options);
    if (options.recipe === undefined && changes.length > 0)
      throw new ActError("CLI_BAD_FLAG", "`--set` and its short forms change a recipe, and none is given.", {
        hint: "Add --recipe FILE.",
      });
    const recipe = options.recipe === undefined ? null : await readRecipe(options.recipe, changes);
    exit(await resumeRun(run, recipe, signal));
  });
};

export const registerStatus: RegisterCommand = (program, _context, exit) => {
  program
    .command("status <run>")
    .description("Prints run.json: whether a run is running, interrupted, failed or complete.")
    .action(async (run: string) => {
      process.stdout.write(`${JSON.stringify(await readStatus(run))}\n`);
      exit(EXIT.ok);
    });
};
