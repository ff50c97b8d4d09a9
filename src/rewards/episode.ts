/**
 * The return of a whole episode, from what the environment said of it and from the actions it did not accept.
 */

export interface EpisodeRewardOptions {
  /**
   * `success`: 1 when the goal holds at the end, else 0. `score`: the environment's final score (1 is best). `return`: the
   * sum of the environment's rewards of all steps.
   */
  readonly source: "success" | "score" | "return";
  /** Multiplies the source. Default 1 (verl-agent's recipes use 10). */
  readonly scale: number;
  /** Subtracted once per action that was malformed or not accepted (verl-agent: 0.1). */
  readonly invalidActionPenalty: number;
}

export const defaultEpisodeReward: EpisodeRewardOptions = { source: "success", scale: 1, invalidActionPenalty: 0.1 };

/** What an episode's reward depends on. */
export interface EpisodeFacts {
  readonly success: boolean;
  /** Final score, 1 is best. */
  readonly score: number;
  /** Sum of the environment's rewards of all steps. */
  readonly totalReward: number;
  /** Replies without a well-formed action, and actions the environment did not accept. */
  readonly invalidActions: number;
}

/** scale * (success, score or return) - invalidActionPenalty * invalidActions. */
export function episodeReward(facts: EpisodeFacts, options: EpisodeRewardOptions = defaultEpisodeReward): number {
  const values = { success: Number(facts.success), score: facts.score, return: facts.totalReward };
  return options.scale * values[options.source] - options.invalidActionPenalty * facts.invalidActions;
}
