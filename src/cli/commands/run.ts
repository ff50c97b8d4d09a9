/**
 * `run`, `resume` and `status`.
 */
import { join } from "node:path";
import { ActError } from "../../errors.js";
import { readStatus } from "../../runs/run-folder.js";
import { EXIT } from "../exit.js";
import { type Assignment, collectAssignments } from "../flags.js";
import type { RegisterCommand } from "../main.js";
import { resumeRun, startRun } from "../run-recipe.js";

export const registerRun: RegisterCommand = (program, { signal }, exit) => {
  program
    .command("run <recipe>")
    .description("Runs a recipe; see docs/recipes.md.")
    .option("--run <dir>", "run folder; default: runs/<name of the recipe>")
    .option("--overwrite", "remove an earlier run in that folder")
    .option(
      "--set <key=value>",
      "change a key of the recipe, e.g. stages.act.steps=10; may be repeated",
      collectAssignments,
    )
    .option("--check", "only check the recipe and print it in full")
    .action(async (recipe: string, options: { run?: string; overwrite?: true; set?: Assignment[]; check?: true }) => {
      const { readRecipe } = await import("../../recipes/recipe.js");
      const parsed = await readRecipe(recipe, options.set ?? []);
      if (options.check) {
        process.stdout.write(`${JSON.stringify(parsed, null, 2)}\n`);
        return;
      }
      const folder = options.run ?? join("runs", parsed.name);
      exit(await startRun(parsed, folder, options.overwrite ?? false, signal));
    });
};

export const registerResume: RegisterCommand = (program, { signal }, exit) => {
  program
    .command("resume <run>")
    .description("Goes on with a run: finished stages are kept, a half-done one is taken up at its last checkpoint.")
    .option("--recipe <file>", "use this recipe from now on; stages it changes, and those that need them, run again")
    .option("--set <key=value>", "change a key of that recipe; may be repeated", collectAssignments)
    .action(async (run: string, options: { recipe?: string; set?: Assignment[] }) => {
      const { readRecipe } = await import("../../recipes/recipe.js");
      if (options.recipe === undefined && options.set !== undefined)
        throw new ActError("CLI_BAD_FLAG", "`--set` changes a recipe, and none is given.", {
          hint: "Add --recipe FILE.",
        });
      const recipe = options.recipe === undefined ? null : await readRecipe(options.recipe, options.set ?? []);
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
