/**
 * What a training stage needs of a model beyond sampling: to save and load all of its state.
 */
import { z } from "zod";
import type { AdamWOptions, Policy } from "../engine/policy.js";
import type { Dialogue } from "../rollouts/dialogue.js";
import { learningRateFactor, scheduleSchema } from "./schedule.js";

/**
 * A {@link Policy} that can be stopped and gone on with, bit for bit. `Engine` is one.
 *
 * Folders are made by these methods and appear whole or not at all; an earlier one of the same kind is replaced.
 */
export interface TrainablePolicy extends Policy {
  /** Writes weights, optimizer state and step counter. */
  saveState(dir: string): Promise<void>;
  /** Takes up what {@link TrainablePolicy.saveState} wrote. */
  loadState(dir: string): Promise<void>;
  /** Writes a Hugging Face model folder. */
  saveModel(dir: string): Promise<void>;
}

/** A model that samples, with its prompts. */
export interface Agent {
  readonly policy: Policy;
  readonly dialogue: Dialogue;
}

/** A model under training, with its prompts. */
export interface TrainableAgent extends Agent {
  readonly policy: TrainablePolicy;
  /**
   * Most tokens one tree of a training batch may have (the engine's `maxBatchTokens`): prefixes are then shared over
   * the whole batch. Null: shared within a group only, however large.
   */
  readonly maxTreeTokens: number | null;
}

export const optimizerSchema = z.strictObject({
  learningRate: z.number().min(0).describe("peak learning rate"),
  schedule: scheduleSchema.prefault({}).describe("learning rate over the steps"),
  beta1: z.number().min(0).lt(1).default(0.9).describe("AdamW: decay of the first moment"),
  beta2: z.number().min(0).lt(1).default(0.95).describe("AdamW: decay of the second moment"),
  epsilon: z.number().positive().default(1e-8).describe("AdamW: added to the root of the second moment"),
  weightDecay: z.number().min(0).default(0).describe("AdamW: decoupled weight decay of matrices"),
  maxGradNorm: z.number().min(0).default(1).describe("global-norm clip; 0: none"),
});
export type OptimizerSettings = z.infer<typeof optimizerSchema>;

/** AdamW settings of one step. @param seed Of stochastic rounding. */
export function adamw(
  settings: OptimizerSettings,
  step: number,
  steps: number,
  seed: number,
): AdamWOptions & { learningRate: number } {
  return {
    learningRate: settings.learningRate * learningRateFactor(settings.schedule, step, steps),
    beta1: settings.beta1,
    beta2: settings.beta2,
    epsilon: settings.epsilon,
    weightDecay: settings.weightDecay,
    maxGradNorm: settings.maxGradNorm,
    seed,
  };
}
