/**
 * RLOO, REINFORCE leave-one-out ("Back to basics", arXiv 2402.14740, eq. 8).
 *
 *   grad J = 1/G sum_i (R_i - mean_{j != i} R_j) sum_t grad log pi(o_it)
 *
 * Not clipped. Written with the ratio to the sampling policy instead of the plain log-prob: on the policy's own samples
 * the gradient is the same, and a second update on the same samples is corrected for. The paper subtracts beta * k1 from
 * the reward; here KL, where wanted, is a term of the loss.
 */
import { commonObjective, type Objective, type ObjectiveOverrides, override } from "./objective.js";

export const rlooPreset: Objective = {
  ...commonObjective,
  name: "rloo",
  advantage: "leave-one-out",
  clip: null,
  aggregation: "seq-mean-token-sum",
  kl: { coefficient: 0, estimator: "k3" },
};

export function rloo(overrides: ObjectiveOverrides = {}): Objective {
  return override(rlooPreset, overrides);
}
