/**
 * Dr. GRPO, "GRPO done right" (arXiv 2503.20783).
 *
 *   J = 1/G sum_i 1/L sum_t min(r_it A_i, clip(r_it, 1 - eps, 1 + eps) A_i),   A_i = R_i - mean(R)
 *
 * L is a constant (`normalizationLength`, the largest number of new tokens), so that long answers are not favored when
 * wrong; there is no division by the standard deviation, so that very easy and very hard prompts are not. No KL term.
 */
import { commonObjective, type Objective, type ObjectiveOverrides, override } from "./objective.js";

export const drGrpoPreset: Objective = {
  ...commonObjective,
  name: "dr-grpo",
  advantage: "group-centered",
  clip: { low: 0.2, high: 0.2 },
  aggregation: "seq-mean-token-sum-norm",
  kl: { coefficient: 0, estimator: "k3" },
};

/** `normalizationLength` has to be given: no constant suits every task. Stages fill in the most new tokens of a sample. */
export function drGrpo(overrides: ObjectiveOverrides = {}): Objective {
  return override(drGrpoPreset, overrides);
}
