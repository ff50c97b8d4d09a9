/**
 * `plan`: the memory a model would need, without loading it.
 */
import { Engine } from "../../engine/engine.js";
import { engineOptions, engineSettingsSchema } from "../../stages/models.js";
import { parseOptions } from "../../stages/options.js";
import { EXIT } from "../exit.js";
import { type Assignment, assignAll, collectAssignments, schemaValues } from "../flags.js";
import type { RegisterCommand } from "../main.js";
import { addEngineFlags, addUnusedSeed } from "./lines.js";

export const registerPlan: RegisterCommand = (program, _context, exit) => {
  const command = program
    .command("plan")
    .description("Prints the memory that an engine would take, by purpose. Allocates nothing.")
    .requiredOption("--model <dir>", "model folder")
    .option("--training", "with gradients and optimizer state")
    .option("--json", "print JSON")
    .option("--set <key=value>", "any other key of `engine`, e.g. lora.rank=16; may be repeated", collectAssignments);
  addUnusedSeed(addEngineFlags(command)).action(async (options: Record<string, unknown>) => {
    const values = schemaValues(engineSettingsSchema, options);
    assignAll(values, (options.set ?? []) as Assignment[]);
    const settings = parseOptions(engineSettingsSchema, values, "options");
    const plan = await Engine.plan(String(options.model), {
      ...engineOptions(settings),
      training: options.training === true,
      ...(options.adapter === undefined ? {} : { adapter: String(options.adapter) }),
    });
    process.stdout.write(`${options.json === true ? JSON.stringify(plan) : plan.text}\n`);
    exit(EXIT.ok);
  });
};
