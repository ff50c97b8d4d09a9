/**
 * act-trainer: train language-model agents, critic first.
 *
 * This file is the public API and nothing else; what it does not export may change at any time.
 *
 * @packageDocumentation
 */

// Data
export type { ExpertRecord, JudgmentRecord, PairRecord } from "./data/records.js";
export { readRecords, writeRecords } from "./data/records-file.js";
export { type Trajectory, trajectorySchema } from "./data/trajectory.js";

// The engine: sample, score, accumulate, step
export { Engine, type EnginePlan, type LoadSettings } from "./engine/engine.js";
export type { EngineOptions } from "./engine/engine-options.js";
export { EngineError, type EngineErrorCode } from "./engine/errors.js";
export { type BuiltForest, ForestBuilder, type ForestBuilderOptions } from "./engine/forest-builder.js";
export type {
  AdamWOptions,
  Completion,
  EngineStats,
  FinishReason,
  GenerateRequest,
  LossResult,
  LossRows,
  Policy,
  SamplingOptions,
  TokenForest,
} from "./engine/policy.js";
// Environments
export type {
  AdmissibleActions,
  Environment,
  EnvironmentProvider,
  EpisodeStart,
  Panel,
  Transition,
} from "./environments/environment.js";
export { EnvironmentError, type EnvironmentErrorCode, isAdmissible } from "./environments/environment.js";
export { environmentNames, openEnvironment } from "./environments/registry.js";
// Errors
export { ActError } from "./errors.js";
// Evaluation
export { comparePolicies } from "./evaluation/compare.js";
export { alternativeKind, judgmentResult } from "./evaluation/judgment.js";
export { panelResult } from "./evaluation/panel.js";
export { bootstrapMean, type Interval, mcnemar, wilson } from "./evaluation/statistics.js";
export type { ComparisonResult, JudgmentResult, PanelResult, Summary } from "./evaluation/summary.js";
export { type ImitationExample, imitationBatch, imitationExample } from "./objectives/imitation.js";
export type { Objective, ObjectiveSettings } from "./objectives/objective.js";
export { type PolicyBatch, policyBatch, withReference } from "./objectives/policy-batch.js";
export { resolveObjective } from "./objectives/registry.js";
export { groupOfCompletions, type Sample, type SampleGroup, sampleOfTranscript } from "./objectives/sample.js";
export { canonicalizeAction, resolveAction } from "./prompts/action-text.js";
export { type ParsedReply, parseReply } from "./prompts/reply.js";
export type { DecisionState, HistoryStep } from "./prompts/state.js";
export { actionPrompt, judgmentPrompt, type PromptTemplate } from "./prompts/template.js";
export { promptTemplate } from "./prompts/templates.js";
// Recipes and runs
export { parseRecipe, type Recipe, readRecipe } from "./recipes/recipe.js";
export { type RunEvents, runStages, type StageEvent } from "./recipes/runner.js";
// Rewards and objectives
export { type ActionReward, actionReward, defaultRewardWeights, type RewardWeights } from "./rewards/action.js";
export { type EpisodeRewardOptions, episodeReward } from "./rewards/episode.js";
// Rollouts
export { Dialogue, type PromptSettings, promptSchema } from "./rollouts/dialogue.js";
export { type Episode, type EpisodeStep, invalidSteps, type Outcome, totalReward } from "./rollouts/episode.js";
export { type EpisodeForm, episodeForm, type FormName } from "./rollouts/form.js";
export { deriveSeed, EpochOrder, permutation, streamOf } from "./rollouts/random.js";
export {
  countOutcomes,
  type EpisodeRequest,
  type RolloutCounts,
  type RolloutOptions,
  rollout,
} from "./rollouts/rollout.js";
export { RunFolder, type RunStatus } from "./runs/run-folder.js";
// Serving
export type { SamplingGate } from "./serving/sampling-gate.js";
export { serve } from "./serving/serve.js";
export type { EpisodeCounts, EpisodeRecord, ServedEpisodes } from "./serving/served-episodes.js";
export type { ModelServer, ServeEvents, ServeOptions } from "./serving/server.js";
export { type ReinforceServedOptions, reinforceServed, reinforceServedSchema } from "./serving/train-served.js";
// Stages
export { type AssessOptions, type AssessResult, assess, assessSchema } from "./stages/assess.js";
export { type CollectOptions, type CollectResult, collect, collectSchema, expertRecordsOf } from "./stages/collect.js";
export { type EvaluateOptions, type EvaluateResult, evaluate, evaluateSchema } from "./stages/evaluate.js";
export { type ImitateOptions, imitate, imitateSchema } from "./stages/imitate.js";
export { type ImportOptions, type ImportResult, importExperts, importSchema } from "./stages/import.js";
export { type JudgeOptions, judge, judgeSchema } from "./stages/judge.js";
export { type LoadedAgent, loadAgent } from "./stages/models.js";
export { type PairOptions, type PairResult, pair, pairSchema } from "./stages/pair.js";
export { type PolicyStepOptions, policyStep, type Reference } from "./stages/policy-step.js";
export { type ProbeVerdict, probeMetrics, probePairs } from "./stages/probe.js";
export {
  type ReinforceEpisodesOptions,
  reinforceEpisodes,
  reinforceEpisodesSchema,
} from "./stages/reinforce-episodes.js";
export { type ReinforceStatesOptions, reinforceStates, reinforceStatesSchema } from "./stages/reinforce-states.js";
export { type SelectOptions, select, selectSchema } from "./stages/select.js";
export type { ModelIdentity, StageContext } from "./stages/stage.js";
export type { Agent, TrainableAgent, TrainablePolicy } from "./stages/trainable.js";
export type { TrainingResult } from "./stages/training-loop.js";
// Tokens and prompts
export { type ChatMessage, ChatTemplate, type ChatTemplateOptions } from "./tokens/chat-template.js";
export { Tokenizer } from "./tokens/tokenizer.js";
export { Transcript } from "./tokens/transcript.js";
