/**
 * Runs a recipe in a run folder: stage after stage, each skipped when it is finished under the same key.
 */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { ActError } from "../errors.js";
import { hashPath, hashValue } from "../runs/hash.js";
import type { RunFolder } from "../runs/run-folder.js";
import { beginStage, finishedStage, finishStage, pauseStage, type StageFile } from "../runs/stage-folder.js";
import { CHECKPOINTS_FOLDER } from "../stages/training-loop.js";
import { type ExecutionEnvironment, executeStage } from "./execute.js";
import { isPerSeed, type NamedStage, type Recipe } from "./recipe.js";
import { FILE_OPTIONS, resolveStage, type StageInput, type StageInputs, stageKeyParts } from "./resolve.js";

/** How a run is watched. */
export interface RunEvents {
  readonly onStage?: (event: StageEvent) => void;
  /** How many of `total` items or steps of the present stage are done. */
  readonly onProgress?: (done: number, total: number, detail: string) => void;
  /** Something worth a line, e.g. a memory plan. */
  readonly onNote?: (text: string) => void;
}

/** A stage was skipped, began or ended. */
export interface StageEvent {
  readonly name: string;
  /** Null: runs once for all seeds. */
  readonly seed: number | null;
  readonly state: "skipped" | "started" | "finished";
  readonly result: unknown;
  /** Seconds of the stage over all sessions; 0 when it starts. */
  readonly seconds: number;
}

/** A stage that is finished. */
export interface FinishedStage {
  readonly name: string;
  readonly seed: number | null;
  readonly folder: string;
  readonly file: StageFile;
}

/**
 * Runs every stage of a recipe for every seed.
 *
 * @returns All finished stages in running order.
 * @throws What the stage throws, after its state has been kept; the signal's reason.
 */
export async function runStages(
  recipe: Recipe,
  run: RunFolder,
  events: RunEvents,
  signal?: AbortSignal,
): Promise<FinishedStage[]> {
  const finished: FinishedStage[] = [];
  const externals = new Map<string, string>();
  for (const [index, seed] of recipe.seeds.entries())
    for (const stage of recipe.stages) {
      const perSeed = isPerSeed(stage, recipe.stages);
      if (!perSeed && index > 0) continue;
      signal?.throwIfAborted();
      const inputs = await inputsOf(stage, recipe, perSeed ? seed : null, finished, externals);
      finished.push(await runStage(stage, recipe, run, seed, perSeed, inputs, events, signal));
      await run.update("running");
    }
  return finished;
}

/** Folder of a stage from the run's folder. */
export function stageFolder(name: string, seed: number | null, recipe: Pick<Recipe, "seeds">): string {
  return join("stages", seed === null || recipe.seeds.length === 1 ? name : `${name}.seed-${seed}`);
}

async function runStage(
  stage: NamedStage,
  recipe: Recipe,
  run: RunFolder,
  runSeed: number,
  perSeed: boolean,
  inputs: StageInputs,
  events: RunEvents,
  signal: AbortSignal | undefined,
): Promise<FinishedStage> {
  const { name } = stage;
  const seed = perSeed ? runSeed : null;
  const folder = join(run.path, stageFolder(name, seed, recipe));
  const resolved = resolveStage(stage, recipe, runSeed);
  const key = hashValue(stageKeyParts(resolved, inputs));
  const before = await finishedStage(folder, key);
  if (before !== null) {
    events.onStage?.({ name, seed, state: "skipped", result: before.result, seconds: before.seconds });
    return { name, seed, folder, file: before };
  }
  const aside = await beginStage(folder, { key, kind: stage.kind, seed, config: resolved });
  events.onStage?.({ name, seed, state: "started", result: null, seconds: 0 });
  if (aside !== null) events.onNote?.(`starts anew; what other settings or inputs gave is kept in ${aside}`);
  const began = performance.now();
  const environment: ExecutionEnvironment = {
    context: { folder, configHash: key, signal, onProgress: events.onProgress },
    inputs,
    onNote: events.onNote,
  };
  let done: Awaited<ReturnType<typeof executeStage>>;
  try {
    done = await executeStage(resolved, environment);
  } catch (cause) {
    // The stage's own error is the one to report, also when the disk is what failed.
    await pauseStage(folder, (performance.now() - began) / 1000).catch(() => undefined);
    throw cause;
  }
  const file = await finishStage(folder, done.result, done.output, (performance.now() - began) / 1000);
  // The model is saved: what a half-done stage would need is not.
  await rm(join(folder, CHECKPOINTS_FOLDER), { recursive: true, force: true });
  events.onStage?.({ name, seed, state: "finished", result: file.result, seconds: file.seconds });
  return { name, seed, folder, file };
}

/** Paths and hashes of everything a stage refers to. */
async function inputsOf(
  stage: NamedStage,
  recipe: Recipe,
  seed: number | null,
  finished: readonly FinishedStage[],
  externals: Map<string, string>,
): Promise<StageInputs> {
  const inputs: Record<string, StageInput> = {};
  const hashed = async (path: string): Promise<string> => {
    const hash = externals.get(path) ?? (await hashPath(path));
    externals.set(path, hash);
    return hash;
  };
  for (const key of FILE_OPTIONS) {
    const path = stage.options[key];
    if (typeof path === "string") inputs[key] = { path, hash: await hashPath(path) };
  }
  for (const [input, name] of Object.entries(stage.inputs)) {
    if (input === "environment") continue;
    const external = recipe.models[name]?.path ?? recipe.files[name]?.path;
    if (external !== undefined) {
      const hash = await hashed(external);
      const adapter = recipe.models[name]?.adapter;
      inputs[input] =
        adapter === undefined
          ? { path: external, hash }
          : { path: external, hash: hashValue([hash, await hashed(adapter)]), adapter };
      continue;
    }
    const made = finished.find((f) => f.name === name && (f.seed === null || f.seed === seed));
    if (made?.file.output == null)
      throw new ActError("RUN_DAMAGED", `Stage ${stage.name} needs the output of ${name}, which is missing.`, {
        hint: "Start the run again with --overwrite.",
      });
    inputs[input] = { path: join(made.folder, made.file.output.path), hash: made.file.output.hash };
  }
  return inputs;
}
