/**
 * Advantages of a group's rewards, in fp64.
 *
 * A group whose rewards are all equal gets advantages of exactly 0: that is found by comparing the rewards, never by a
 * small standard deviation, whose rounding residue divided by itself would be of full size.
 */

/**
 * - `group-normalized`: (R_i - mean) / (std + 1e-6), sample standard deviation (N - 1)   GRPO, arXiv 2402.03300
 * - `group-centered`: R_i - mean                                                       Dr. GRPO, arXiv 2503.20783
 * - `leave-one-out`: R_i - mean of the others = G / (G - 1) (R_i - mean)                 RLOO, arXiv 2402.14740
 */
export type AdvantageEstimator = "group-normalized" | "group-centered" | "leave-one-out";

export const advantageEstimators = ["group-normalized", "group-centered", "leave-one-out"] as const;

/** As verl; far below the smallest difference between rewards that is meant. */
export const STANDARD_DEVIATION_EPSILON = 1e-6;

/** Whether no reward differs from another: the group says nothing about what is better. */
export function hasZeroVariance(rewards: readonly number[]): boolean {
  return rewards.every((reward) => reward === rewards[0]);
}

/** @param rewards At least two, finite. */
export function advantages(estimator: AdvantageEstimator, rewards: readonly number[]): Float64Array {
  const result = new Float64Array(rewards.length);
  if (hasZeroVariance(rewards)) return result;
  const count = rewards.length;
  const mean = rewards.reduce((sum, reward) => sum + reward, 0) / count;
  rewards.forEach((reward, i) => {
    result[i] = reward - mean;
  });
  if (estimator === "group-centered") return result;
  const scale =
    estimator === "leave-one-out" ? count / (count - 1) : 1 / (deviation(result) + STANDARD_DEVIATION_EPSILON);
  return result.map((centered) => centered * scale);
}

/** Sample standard deviation of centered values. */
function deviation(centered: Float64Array): number {
  const squares = centered.reduce((sum, x) => sum + x * x, 0);
  return Math.sqrt(squares / (centered.length - 1));
}
