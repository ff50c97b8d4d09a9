/** The objectives' public names. */
export { type AdvantageEstimator, advantageEstimators, advantages, hasZeroVariance } from "./advantage.js";
export { type Aggregation, aggregations, type BatchTotals, tokenWeight } from "./aggregation.js";
export { dapo } from "./dapo.js";
export { drGrpo } from "./dr-grpo.js";
export { type DynamicSamplingOptions, isInformative, sampleInformative } from "./dynamic-sampling.js";
export { batchTotals } from "./group.js";
export { grpo } from "./grpo.js";
export {
  type ImitationBatch,
  type ImitationExample,
  imitationBatch,
  imitationExample,
  imitationTotals,
} from "./imitation.js";
export { type Objective, type ObjectiveSettings, objectiveNames, objectiveSettingsSchema } from "./objective.js";
export { type BatchCounts, type PolicyBatch, policyBatch, withReference } from "./policy-batch.js";
export { resolveObjective } from "./registry.js";
export { rloo } from "./rloo.js";
export {
  groupOfCompletions,
  type Sample,
  type SampleGroup,
  sampleOfTranscript,
  sequenceOf,
  sequenceOfTranscript,
  type TrainingSequence,
} from "./sample.js";
