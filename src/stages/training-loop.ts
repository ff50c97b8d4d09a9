/**
 * The loop every training stage runs in: steps, metrics, checkpoints, exact resume, abort thresholds.
 *
 * Exactness rests on three things. Draws are functions of counters, so the state between steps is a few numbers.
 * A checkpoint holds that state, the engine's state and the lengths of the journals. A resumed run cuts the journals
 * back to those lengths and goes on. What depends on the clock is in `timing.jsonl`, never in `metrics.jsonl`.
 */
import { join } from "node:path";
import { z } from "zod";
import { makeFolder } from "../data/files.js";
import type { MetricName, MetricValues } from "../data/records-metrics.js";
import { ActError } from "../errors.js";
import { followSignal } from "../rollouts/abort.js";
import { Checkpoints } from "../runs/checkpoints.js";
import { Journal, type JournalRecord } from "../runs/journal.js";
import { parseOptions } from "./options.js";
import type { TrainablePolicy } from "./trainable.js";

export const METRICS_FILE = "metrics.jsonl";
export const TIMING_FILE = "timing.jsonl";
export const SAMPLES_FILE = "samples.jsonl";
export const CHECKPOINTS_FOLDER = "checkpoints";
export const MODEL_FOLDER = "model";

export const checkpointSchema = z.strictObject({
  every: z.number().int().min(1).default(20).describe("steps between checkpoints"),
  keep: z.number().int().min(1).default(2).describe("newest checkpoints kept"),
});

export const abortSchema = z.strictObject({
  truncated: z.number().min(0).max(1).nullable().default(null).describe("share of truncated samples; null: no limit"),
  malformed: z.number().min(0).max(1).nullable().default(null).describe("share of replies without an action"),
  zeroVariance: z.number().min(0).max(1).nullable().default(null).describe("share of groups with equal rewards"),
  environmentFailed: z.number().min(0).max(1).nullable().default(0.5).describe("share of failed environments"),
  patience: z.number().int().min(1).default(5).describe("steps in a row above a limit before the stage stops"),
});
export type AbortSettings = z.infer<typeof abortSchema>;

/** The metric each threshold looks at. */
const ABORT_METRICS = {
  truncated: "rollout/truncated_share",
  malformed: "rollout/malformed_share",
  zeroVariance: "groups/zero_variance_share",
  environmentFailed: "rollout/environment_failed_share",
} as const satisfies Readonly<Record<Exclude<keyof AbortSettings, "patience">, MetricName>>;

/** What one step gives back. */
export interface StepResult<S> {
  /** Counters for the next step; plain JSON. */
  readonly state: S;
  /** Deterministic figures by documented name. */
  readonly metrics: MetricValues;
  /** Figures that depend on the clock or the machine. */
  readonly timing: MetricValues;
  /** Samples to keep for readers. */
  readonly samples?: readonly JournalRecord[];
}

export interface TrainingLoop<S> {
  /** Folder of the stage. */
  readonly folder: string;
  readonly policy: TrainablePolicy;
  /** Steps in all, >= 0. */
  readonly steps: number;
  readonly checkpoint: z.infer<typeof checkpointSchema>;
  readonly abort: AbortSettings;
  readonly initial: S;
  readonly stateSchema: z.ZodType<S>;
  /** One optimizer step. Must leave no gradients behind when it throws or is aborted (the loop zeroes them). */
  step(step: number, state: S, signal: AbortSignal): Promise<StepResult<S>>;
  readonly onStep?: ((step: number, metrics: MetricValues, timing: MetricValues) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** What a training stage leaves. */
export interface TrainingResult {
  /** Folder of the trained model. */
  readonly model: string;
  /** Step the loop went on from; 0 for a fresh start. */
  readonly resumedFrom: number;
}

const loopStateSchema = z.strictObject({
  stage: z.unknown(),
  journals: z.strictObject({ metrics: z.number(), timing: z.number(), samples: z.number() }),
  /** Steps in a row above each threshold. */
  above: z.record(z.string(), z.number()),
});

/**
 * Runs a stage from its newest checkpoint (or the beginning) to its end, and saves the model.
 *
 * @throws ActError `TRAINING_NOT_FINITE`, `TRAINING_ABORTED` (a threshold), `RUN_DAMAGED`, `FILE_*`; the engine's
 *   errors; the signal's reason. A stopped stage keeps a checkpoint of its last whole step. When that cannot be
 *   written, the error says so: it has the code and message of what stopped the stage (`TRAINING_NOT_SAVED` for a
 *   signal's reason without a code) and that as its `cause`.
 */
export async function runTrainingLoop<S>(loop: TrainingLoop<S>): Promise<TrainingResult> {
  const { folder, policy } = loop;
  using following = followSignal(loop.signal);
  const { signal } = following;
  await makeFolder(folder);
  const checkpoints = await Checkpoints.open(join(folder, CHECKPOINTS_FOLDER), loop.checkpoint.keep);
  const saved = await checkpoints.latest();
  const resumed = saved === null ? null : parseOptions(loopStateSchema, saved.state, saved.folder);
  const initial =
    resumed === null ? loop.initial : parseOptions(loop.stateSchema, resumed.stage, saved?.folder ?? folder);
  let savedStep = saved?.step ?? null;
  const above: Record<string, number> = { ...resumed?.above };
  if (saved !== null) await policy.loadState(join(saved.folder, "engine"));
  // Gradients a stopped step left behind in this engine are none of ours.
  await policy.zeroGradients();

  const metrics = await Journal.open(join(folder, METRICS_FILE), resumed?.journals.metrics);
  const timing = await Journal.open(join(folder, TIMING_FILE), resumed?.journals.timing);
  const samples = await Journal.open(join(folder, SAMPLES_FILE), resumed?.journals.samples);
  const wholeStep = (step: number, stage: S) => ({
    step,
    stage,
    journals: { metrics: metrics.length, timing: timing.length, samples: samples.length },
    weights: policy.stats().weightVersion,
  });
  /** The last step of which every line is in its journal, as a checkpoint records it. */
  let last = wholeStep(saved?.step ?? 0, initial);
  const save = async (): Promise<void> => {
    const { step, stage, journals } = last;
    if (savedStep === step) return;
    for (const journal of [metrics, timing, samples]) await journal.sync();
    await checkpoints.save(step, { stage, journals, above }, (target) => policy.saveState(join(target, "engine")));
    savedStep = step;
  };

  try {
    while (last.step < loop.steps) {
      signal.throwIfAborted();
      const began = performance.now();
      const result = await oneStep(loop, last.step, last.stage, signal);
      const step = last.step + 1;
      const seconds = (performance.now() - began) / 1000;
      const clock = { ...result.timing, step_s: seconds };
      for (const sample of result.samples ?? []) await samples.append({ step, ...sample });
      await metrics.append({ step, ...result.metrics });
      await timing.append({ step, ...clock, time: new Date().toISOString() });
      last = wholeStep(step, result.state);
      loop.onStep?.(step, result.metrics, clock);
      checkThresholds(loop.abort, result.metrics, above, step);
      if (step % loop.checkpoint.every === 0) await save();
    }
    await save();
  } catch (cause) {
    // A stop between steps (signal, threshold) loses nothing: the state of the last whole step is kept.
    if (!signal.aborted && !(cause instanceof ActError && cause.code === "TRAINING_ABORTED")) throw cause;
    try {
      // Weights of a step that could not be journaled, or went wrong after its update, are of no whole step.
      if (policy.stats().weightVersion === last.weights) await save();
    } catch (fault) {
      throw withFailedSave(cause, fault, last.step, savedStep);
    }
    throw cause;
  } finally {
    for (const journal of [metrics, timing, samples]) await journal.close();
  }
  const model = join(folder, MODEL_FOLDER);
  await policy.saveModel(model);
  return { model, resumedFrom: saved?.step ?? 0 };
}

async function oneStep<S>(loop: TrainingLoop<S>, step: number, state: S, signal: AbortSignal): Promise<StepResult<S>> {
  try {
    return await loop.step(step, state, signal);
  } catch (cause) {
    // The step's own error is the one to report, also when the engine is too broken to zero anything.
    await loop.policy.zeroGradients().catch(() => undefined);
    throw cause;
  }
}

/** What ended a stage, saying too that its last step is not kept as it usually is. */
function withFailedSave(cause: unknown, fault: unknown, step: number, savedStep: number | null): ActError {
  const text = (error: unknown): string => (error instanceof Error ? error.message : String(error));
  return new ActError(cause instanceof ActError ? cause.code : "TRAINING_NOT_SAVED", text(cause), {
    hint: `Resuming goes on from step ${savedStep ?? 0}: the checkpoint of step ${step} was not written. ${text(fault)}`,
    cause,
  });
}

/** Counts steps in a row above each limit and stops the stage when patience runs out. */
function checkThresholds(
  abort: AbortSettings,
  metrics: MetricValues,
  above: Record<string, number>,
  step: number,
): void {
  for (const [name, metric] of Object.entries(ABORT_METRICS) as [keyof typeof ABORT_METRICS, MetricName][]) {
    const limit = abort[name];
    const value = metrics[metric];
    if (limit === null || typeof value !== "number") continue;
    above[name] = value > limit ? (above[name] ?? 0) + 1 : 0;
    if (above[name] >= abort.patience) {
      above[name] = 0;
      throw new ActError(
        "TRAINING_ABORTED",
        `Stopped after step ${step}: ${metric} was above ${limit} for ${abort.patience} steps in a row (now ${value}).`,
        { hint: `Look at ${SAMPLES_FILE}; raise \`abort.${name}\` to go on from the checkpoint.` },
      );
    }
  }
}

/** Throws when a figure of a step is not a number: such a step must not reach the weights. */
export function assertFinite(values: Readonly<Record<string, number>>, step: number): void {
  for (const [name, value] of Object.entries(values))
    if (!Number.isFinite(value))
      throw new ActError("TRAINING_NOT_FINITE", `Step ${step + 1}: ${name} is ${value}.`, {
        hint: "Lower the learning rate, or go on from an earlier checkpoint.",
      });
}
