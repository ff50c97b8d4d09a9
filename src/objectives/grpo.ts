/**
 * GRPO, group relative policy optimization (DeepSeekMath, arXiv 2402.03300, eq. 3).
 *
 *   J = 1/G sum_i 1/|o_i| sum_t ( min(r_it A_i, clip(r_it, 1 - eps, 1 + eps) A_i) - beta KL_k3(pi || pi_ref) )
 *   A_i = (R_i - mean(R)) / (std(R) + 1e-6)
 *
 * eps 0.2; beta 1e-3, as the common open implementations set it (the paper: 0.04). Outcome rewards only: the paper's
 * process supervision and its iterated reward model are left out.
 */
import { commonObjective, type Objective, type ObjectiveOverrides, override } from "./objective.js";

export const grpoPreset: Objective = {
  ...commonObjective,
  name: "grpo",
  advantage: "group-normalized",
  clip: { low: 0.2, high: 0.2 },
  aggregation: "seq-mean-token-mean",
  kl: { coefficient: 1e-3, estimator: "k3" },
};

export function grpo(overrides: ObjectiveOverrides = {}): Objective {
  return override(grpoPreset, overrides);
}
