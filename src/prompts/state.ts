/**
 * The textual state of a decision: everything a prompt may show, before any wording.
 *
 * The paper's s_t: task description, observation-action history, current observation.
 */
import type { AdmissibleActions } from "../environments/environment.js";

/** One past decision: what was seen, then what was done. */
export interface HistoryStep {
  /** The observation the action answered. */
  readonly observation: string;
  readonly action: string;
}

/** What is known when an action has to be chosen. */
export interface DecisionState {
  /** The goal in the environment's words. */
  readonly task: string;
  /** What the agent sees now. */
  readonly observation: string;
  /** Past decisions, oldest first. The whole episode, unless whoever made the state knew only its end. */
  readonly history: readonly HistoryStep[];
  /** Actions taken before this state, >= `history.length`. The first state of an episode has step 0. */
  readonly step: number;
  /** What can be done now; null where the environment cannot say. */
  readonly admissible: AdmissibleActions | null;
}
