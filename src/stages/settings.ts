/**
 * Settings that training stages have in common.
 */
import { z } from "zod";
import { defaultRewardWeights } from "../rewards/action.js";
import { samplingSchema, seedSchema } from "./stage.js";
import { optimizerSchema } from "./trainable.js";
import { abortSchema, checkpointSchema } from "./training-loop.js";

/** Reward of each kind of reply. */
export const rewardSchema = z.strictObject({
  exact: z.number().default(defaultRewardWeights.exact).describe("the expert's action"),
  admissible: z.number().default(defaultRewardWeights.admissible).describe("another admissible action"),
  other: z.number().default(defaultRewardWeights.other).describe("any other action"),
  malformed: z.number().default(defaultRewardWeights.malformed).describe("no readable action"),
});

/** Keys of every training stage. */
export const optimizingShape = {
  epochs: z.number().positive().default(3).describe("passes over the data; used where `steps` is null"),
  steps: z.number().int().min(0).nullable().default(null).describe("optimizer steps; null: as `epochs` says"),
  checkpoint: checkpointSchema.prefault({}).describe("when state is saved"),
  seed: seedSchema,
};

/** Keys of every training stage that samples. */
export const trainingShape = {
  ...optimizingShape,
  optimizer: optimizerSchema
    .extend({ learningRate: optimizerSchema.shape.learningRate.default(1e-6) })
    .prefault({})
    .describe("learning rate and AdamW"),
  sampling: samplingSchema.prefault({}).describe("how answers are sampled"),
  abort: abortSchema.prefault({}).describe("when the stage stops itself"),
  logSamples: z.number().int().min(0).default(2).describe("groups of each step written to samples.jsonl"),
};

/** Optimizer steps of a stage over `items` a pass. */
export function stepsOf(
  options: { readonly steps: number | null; readonly epochs: number; readonly batch: number },
  items: number,
): number {
  return options.steps ?? Math.max(1, Math.ceil((options.epochs * items) / options.batch));
}
