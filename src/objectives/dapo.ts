/**
 * DAPO, decoupled clip and dynamic sampling policy optimization (arXiv 2503.14476, eq. 8).
 *
 *   J = 1/(sum_i |o_i|) sum_i sum_t min(r_it A_i, clip(r_it, 1 - 0.2, 1 + 0.28) A_i)
 *   A_i = (R_i - mean(R)) / (std(R) + 1e-6)
 *
 * Its four parts: clip-higher (0.2 / 0.28); the mean over tokens, not sequences; dynamic sampling (groups whose rewards
 * are all equal are replaced, dynamic-sampling.ts); overlong shaping (rewards/length.ts), whose two lengths depend on the
 * task: stages fill them in ({@link overlongShaping}). No KL term.
 */
import type { OverlongShaping } from "../rewards/length.js";
import { commonObjective, type Objective, type ObjectiveOverrides, override } from "./objective.js";

export const dapoPreset: Objective = {
  ...commonObjective,
  name: "dapo",
  advantage: "group-normalized",
  clip: { low: 0.2, high: 0.28 },
  aggregation: "token-mean",
  kl: { coefficient: 0, estimator: "k3" },
  dynamicSampling: true,
};

/** The paper's share: L_cache 4,096 of L_max 20,480. @param longest L_max, most new tokens of a sample. */
export function overlongShaping(longest: number): OverlongShaping {
  return { maxLength: longest, cacheLength: Math.max(1, Math.round((4096 / 20480) * longest)) };
}

export function dapo(overrides: ObjectiveOverrides = {}): Objective {
  return override(dapoPreset, overrides);
}
