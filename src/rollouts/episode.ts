/**
 * What an episode leaves behind: every prompt and completion as tokens, every action as text, and how it ended.
 */

import type { Completion } from "../engine/policy.js";
import type { AdmissibleActions, EnvironmentErrorCode } from "../environments/environment.js";
import type { Transcript } from "../tokens/transcript.js";

/**
 * How an episode ended.
 *
 * - `success`: the goal holds.
 * - `failure`: the environment ended it without success.
 * - `truncated`: a step, time or context limit, or a stop condition of the caller, ended it.
 * - `environment_failed`: the environment broke; says nothing of the policy and is never trained on.
 */
export type Outcome = "success" | "failure" | "truncated" | "environment_failed";

/** Why an episode was truncated. */
export type TruncationReason = "step_limit" | "time_limit" | "context_limit" | "stop_condition" | "environment_limit";

/** One decision of the policy. */
export interface EpisodeStep {
  /** What the policy saw before it decided. */
  readonly observation: string;
  /** Actions of that state, or null where the environment cannot list them or they were not asked for. */
  readonly admissible: AdmissibleActions | null;
  /**
   * Tokens the policy was given: the whole prompt (per-step form), or the tokens added since the last completion
   * (transcript form).
   */
  readonly prompt: Int32Array;
  readonly completion: Completion;
  /** The completion as text, without its stop token. */
  readonly reply: string;
  /** The action sent to the environment, or null where the reply named none (then nothing was sent). */
  readonly action: string | null;
  /** Words before the action; null where there are none. */
  readonly thought: string | null;
  /** The environment understood the action and carried it out. False for a reply without action. */
  readonly accepted: boolean;
  /** Reward of the step in the environment's own unit; 0 where nothing was sent. */
  readonly reward: number;
}

/** A broken attempt at an episode. */
export interface EpisodeFault {
  readonly code: EnvironmentErrorCode;
  readonly message: string;
  /** Steps taken before it broke. */
  readonly steps: number;
}

/** One finished episode. */
export interface Episode {
  /** Place in the list of episodes asked for. */
  readonly index: number;
  readonly taskId: string;
  /** The goal in words. Empty where the environment failed before it told. */
  readonly task: string;
  readonly category: string;
  readonly outcome: Outcome;
  readonly truncation: TruncationReason | null;
  readonly steps: readonly EpisodeStep[];
  /** The whole episode as one conversation (transcript form), else null. */
  readonly transcript: Transcript | null;
  /** What the last action led to. */
  readonly finalObservation: string;
  /** Score at the end, 1 is best. */
  readonly score: number;
  /** Attempts that broke before this one, and the last one itself when the outcome is `environment_failed`. */
  readonly faults: readonly EpisodeFault[];
  /** Seconds from reset to end, waiting included. */
  readonly seconds: number;
}

/** Sum of the environment's rewards. */
export function totalReward(episode: Episode): number {
  return episode.steps.reduce((sum, step) => sum + step.reward, 0);
}

/** Steps whose action was missing, not understood or impossible. */
export function invalidSteps(episode: Episode): number {
  return episode.steps.filter((step) => !step.accepted).length;
}
