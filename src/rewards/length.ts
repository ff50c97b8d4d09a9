/**
 * What length does to a reward: truncated completions and DAPO's soft punishment of overlong ones.
 */
import { invalid } from "../errors.js";

/**
 * What becomes of a completion that hit its length limit:
 * - `drop`: it leaves its group before advantages are computed (DAPO's overlong filtering);
 * - `zero`: its reward is 0, whatever its text says;
 * - `penalize`: its reward is `truncationPenalty`;
 * - `keep`: its reward is what its text earns, as if it had ended there.
 */
export const truncationPolicies = ["drop", "zero", "penalize", "keep"] as const;
export type TruncationPolicy = (typeof truncationPolicies)[number];

/** DAPO, eq. 13 (arXiv 2503.14476). */
export interface OverlongShaping {
  /** L_max, tokens. */
  readonly maxLength: number;
  /** L_cache, tokens, 1..maxLength: the stretch below L_max over which the penalty grows from 0 to -1. */
  readonly cacheLength: number;
}

export interface LengthOptions {
  readonly truncation: TruncationPolicy;
  /** Reward of a truncated completion under `penalize`. */
  readonly truncationPenalty: number;
  /** Null: no shaping. */
  readonly overlong: OverlongShaping | null;
}

export interface ShapedReward {
  readonly reward: number;
  /** The completion takes no part in training. */
  readonly dropped: boolean;
}

/**
 * R_length = 0 up to L_max - L_cache, ((L_max - L_cache) - length) / L_cache up to L_max, -1 beyond.
 *
 * @param length Tokens of the completion.
 * @returns 0 .. -1, to be added to the reward.
 */
export function overlongPenalty(length: number, { maxLength, cacheLength }: OverlongShaping): number {
  if (!(cacheLength >= 1 && cacheLength <= maxLength))
    throw invalid("REWARD_BAD_OPTIONS", "cacheLength", `a number from 1 to maxLength (${maxLength})`, cacheLength);
  const threshold = maxLength - cacheLength;
  if (length <= threshold) return 0;
  return length <= maxLength ? (threshold - length) / cacheLength : -1;
}

/** Applies the truncation policy, then the overlong penalty (truncated completions count as beyond L_max only by length). */
export function shapeReward(
  reward: number,
  completion: { readonly length: number; readonly truncated: boolean },
  options: LengthOptions,
): ShapedReward {
  if (completion.truncated && options.truncation === "drop") return { reward: 0, dropped: true };
  const base = completion.truncated ? cutReward(reward, options) : reward;
  const penalty = options.overlong === null ? 0 : overlongPenalty(completion.length, options.overlong);
  return { reward: base + penalty, dropped: false };
}

function cutReward(reward: number, { truncation, truncationPenalty }: LengthOptions): number {
  if (truncation === "keep") return reward;
  return truncation === "zero" ? 0 : truncationPenalty;
}
