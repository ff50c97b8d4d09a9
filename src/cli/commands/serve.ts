/**
 * `serve`: a model behind an OpenAI-compatible endpoint and, with `--train`, trained on the episodes played through it.
 */
import { existsSync } from "node:fs";
import { join, relative } from "node:path";
import { ActError } from "../../errors.js";
import { resolveObjective } from "../../objectives/registry.js";
import { type PromptSettings, promptSchema } from "../../rollouts/dialogue.js";
import { hashValue } from "../../runs/hash.js";
import { RUN_FILE, RunFolder, readStatus } from "../../runs/run-folder.js";
import { beginStage, finishStage } from "../../runs/stage-folder.js";
import { servedEpisodesSchema } from "../../serving/served-episodes.js";
import { type ModelServer, type ServeOptions, serve, serveSchema } from "../../serving/server.js";
import { type ReinforceServedOptions, reinforceServed, reinforceServedSchema } from "../../serving/train-served.js";
import { type EngineSettings, engineSettingsSchema, type LoadedAgent, loadAgent } from "../../stages/models.js";
import { parseOptions } from "../../stages/options.js";
import type { Reference } from "../../stages/policy-step.js";
import { EXIT, errorText } from "../exit.js";
import { type Assignment, addSchemaFlags, assignAll, collectAssignments, schemaValues } from "../flags.js";
import type { RegisterCommand } from "../main.js";
import { Progress } from "../progress.js";
import { addEngineFlags } from "./lines.js";

/** Where OpenAI's own server stand-ins listen by default. */
const DEFAULT_PORT = 8000;
const STAGE = join("stages", "serve");

interface ServeFlags extends Record<string, unknown> {
  readonly model: string;
  readonly adapter?: string;
  readonly train?: string;
  readonly overwrite?: true;
  readonly debug?: true;
  readonly set?: readonly Assignment[];
}

/** What a command line asks for. */
interface Resolved {
  readonly engine: EngineSettings;
  readonly prompt: PromptSettings;
  readonly server: ServeOptions;
  /** Null where nothing is trained. */
  readonly training: ReinforceServedOptions | null;
}

export const registerServe: RegisterCommand = (program, { signal }, exit) => {
  const command = program
    .command("serve")
    .description("Serves a model over HTTP as the OpenAI API does; see docs/serving.md.")
    .requiredOption("--model <dir>", "model folder")
    .option("--train <dir>", "train on the episodes played through the endpoint; run folder, made or gone on with")
    .option("--overwrite", "remove an earlier run in that folder")
    .option(
      "--set <key=value>",
      "any other key of training, e.g. optimizer.learningRate=1e-5, or engine.<key>; may be repeated",
      collectAssignments,
    );
  addSchemaFlags(command, serveSchema);
  addSchemaFlags(command, servedEpisodesSchema);
  addSchemaFlags(command, reinforceServedSchema);
  addEngineFlags(command).action(async (flags: ServeFlags) => {
    const resolved = resolve(flags);
    const { engine, prompt, training } = resolved;
    await using agent = await loadAgent(flags.model, engine, prompt, {
      training: training !== null,
      adapter: flags.adapter,
      signal,
    });
    const onError = (error: unknown): void => {
      process.stderr.write(`${errorText(error, flags.debug ?? false)}\n`);
    };
    if (training === null) {
      await using server = await serve(agent.policy, agent.dialogue.chat, resolved.server, { onError });
      announce(server, resolved.server);
      await aborted(signal);
      exit(EXIT.ok);
      return;
    }
    const path = String(flags.train);
    const config = { command: "serve", model: agent.identity, ...resolved };
    await using run = await openRun(path, config, flags.overwrite ?? false);
    await using reference = await referenceOf(flags, agent, resolved, signal);
    await using server = await serve(agent.policy, agent.dialogue.chat, resolved.server, { onError });
    announce(server, resolved.server);
    const folder = join(run.path, STAGE);
    process.stdout.write(`${JSON.stringify(await train(agent, server, training, run, reference, signal))}\n`);
    process.stderr.write(`model  ${join(relative(process.cwd(), folder), "model")}\n`);
    exit(EXIT.ok);
  });
};

function resolve(flags: ServeFlags): Resolved {
  const values: Record<string, unknown> = schemaValues(reinforceServedSchema, flags);
  const engine: Record<string, unknown> = schemaValues(engineSettingsSchema, flags);
  for (const { path, value } of flags.set ?? []) {
    const [first = "", ...rest] = path;
    if (first === "engine") assignAll(engine, [{ path: rest, value }]);
    else assignAll(values, [{ path, value }]);
  }
  if (flags.train === undefined && Object.keys(values).length > 0)
    throw new ActError("CLI_BAD_FLAG", `\`${Object.keys(values)[0]}\` is a setting of training.`, {
      hint: "Give a run folder with --train.",
    });
  const server = {
    port: DEFAULT_PORT,
    ...(process.env.ACT_API_KEY === undefined ? {} : { apiKey: process.env.ACT_API_KEY }),
    ...schemaValues(serveSchema, flags),
    episodes: schemaValues(servedEpisodesSchema, flags),
  };
  return {
    engine: parseOptions(engineSettingsSchema, engine, "options of the engine"),
    prompt: promptSchema.parse({}),
    server: parseOptions(serveSchema, server, "options of serve"),
    training: flags.train === undefined ? null : parseOptions(reinforceServedSchema, values, "options of training"),
  };
}

/** One line that a script can wait for. */
function announce(server: ModelServer, options: ServeOptions): void {
  process.stdout.write(`${JSON.stringify({ url: `${server.url}/v1`, model: options.modelName })}\n`);
}

/** A new run, or one of the same model and settings to go on with. Where it listens does not matter. */
async function openRun(path: string, config: Resolved, overwrite: boolean): Promise<RunFolder> {
  const { host: _, port: __, apiKey: ___, ...server } = config.server;
  const kept = { ...config, server };
  if (overwrite || !existsSync(join(path, RUN_FILE))) return RunFolder.create(path, "serve", kept, overwrite);
  if ((await readStatus(path)).status === "complete")
    throw new ActError("RUN_EXISTS", `${path} holds a run that is complete.`, {
      hint: "Choose another folder, or start again with --overwrite.",
    });
  const run = await RunFolder.open(path);
  try {
    if (hashValue(await run.readConfig()) === hashValue(kept)) return run;
    throw new ActError("RUN_EXISTS", `${path} holds a run with other settings or of another model.`, {
      hint: "Choose another folder, or start again with --overwrite.",
    });
  } catch (cause) {
    await run.close();
    throw cause;
  }
}

/** The frozen policy of the objective's KL term; disposing of it frees what was loaded for it. */
async function referenceOf(
  { model, adapter }: ServeFlags,
  agent: LoadedAgent,
  { training, engine, prompt }: Resolved,
  signal: AbortSignal,
): Promise<{ readonly reference: Reference | null } & AsyncDisposable> {
  const nothing = async (): Promise<void> => undefined;
  if (training === null || resolveObjective(training.objective).kl.coefficient === 0)
    return { reference: null, [Symbol.asyncDispose]: nothing };
  if (engine.lora !== null && adapter === undefined)
    return { reference: { policy: agent.policy, adapters: false }, [Symbol.asyncDispose]: nothing };
  const frozen = await loadAgent(model, { ...engine, lora: null }, prompt, { training: false, adapter, signal });
  return {
    reference: { policy: frozen.policy, adapters: true },
    [Symbol.asyncDispose]: () => frozen.policy.dispose(),
  };
}

async function train(
  agent: LoadedAgent,
  server: ModelServer,
  options: ReinforceServedOptions,
  run: RunFolder,
  { reference }: { readonly reference: Reference | null },
  signal: AbortSignal,
): Promise<{ readonly output: string; readonly result: unknown }> {
  const folder = join(run.path, STAGE);
  const key = hashValue(await run.readConfig());
  const began = performance.now();
  const progress = new Progress();
  await beginStage(folder, { key, kind: "serve", seed: null, config: options });
  progress.start("serve", options.steps);
  const onProgress = (done: number, _: number, detail: string): void => progress.update(done, detail);
  try {
    const context = { folder, configHash: key, signal, onProgress };
    const { model } = await reinforceServed(agent, server, options, context, reference);
    const result = server.episodes.counts;
    await finishStage(folder, result, relative(folder, model), (performance.now() - began) / 1000);
    await run.update("complete");
    return { output: model, result };
  } catch (cause) {
    const code = cause instanceof ActError ? cause.code : "INTERNAL";
    const message = cause instanceof Error ? cause.message : String(cause);
    // The run's own error is the one to report, also when its status cannot be written.
    await run.update(signal.aborted ? "interrupted" : "failed", { code, message }).catch(() => undefined);
    if (signal.aborted) progress.line("Go on with the same command.");
    throw cause;
  } finally {
    progress.end();
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}
