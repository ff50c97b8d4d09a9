/**
 * The reward of a single decision (Agentic Critical Training, arXiv 2603.08706), for judgments and for actions alike:
 *
 *   R(s, y) = R_acc(a, a+) + R_adm(a, A_adm) + R_fmt(y)
 *
 * R_acc is 1 when the action equals the expert's, R_adm 0.1 when it does not but is admissible, R_fmt -0.5 when the
 * action tags are missing or malformed. Reachable: 1, 0.1, 0, -0.5. The reasoning is never scored.
 */
import type { AdmissibleActions } from "../environments/environment.js";
import { canonicalizeAction, resolveAction } from "../prompts/action-text.js";
import type { ParsedReply } from "../prompts/reply.js";

/** What a reply turned out to be; each kind has one weight. */
export type RewardKind = "exact" | "admissible" | "other" | "malformed";

/** Reward by kind, set per stage. */
export interface RewardWeights {
  readonly exact: number;
  readonly admissible: number;
  readonly other: number;
  readonly malformed: number;
}

/** The paper's values. */
export const defaultRewardWeights: RewardWeights = { exact: 1, admissible: 0.1, other: 0, malformed: -0.5 };

/** A reward and what earned it. */
export interface ActionReward {
  readonly reward: number;
  readonly kind: RewardKind;
}

/**
 * Reward of a reply; the formula is in the file's head.
 *
 * @param reply What `parseReply` made of the completion.
 * @param expert The expert's action, in any spelling; compared in canonical form.
 * @param admissible Actions of the state; null where the environment cannot say, and then nothing is `admissible`.
 */
export function actionReward(
  reply: ParsedReply,
  expert: string,
  admissible: AdmissibleActions | null,
  weights: RewardWeights = defaultRewardWeights,
): ActionReward {
  const kind = rewardKind(reply, expert, admissible);
  return { reward: weights[kind], kind };
}

function rewardKind(reply: ParsedReply, expert: string, admissible: AdmissibleActions | null): RewardKind {
  if (!reply.ok) return "malformed";
  if (reply.action === canonicalizeAction(expert)) return "exact";
  // The text as written first: patterns may tell cases apart that the canonical form does not.
  const known =
    admissible !== null && (resolveAction(reply.raw, admissible) ?? resolveAction(reply.action, admissible));
  return known ? "admissible" : "other";
}
