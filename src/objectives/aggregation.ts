/**
 * How token losses become one number: the weight of each token, given counts over the whole optimizer step.
 *
 * N samples, n_i trained tokens in sample i (all turns of an episode together), L a constant length:
 * - `seq-mean-token-mean`: 1 / (N n_i)           original GRPO, arXiv 2402.03300
 * - `token-mean`: 1 / sum_j n_j                  DAPO, arXiv 2503.14476
 * - `seq-mean-token-sum`: 1 / N                  REINFORCE, RLOO
 * - `seq-mean-token-sum-norm`: 1 / (N L)         Dr. GRPO, arXiv 2503.20783
 */
import { ActError } from "../errors.js";

export type Aggregation = "seq-mean-token-mean" | "token-mean" | "seq-mean-token-sum" | "seq-mean-token-sum-norm";

export const aggregations = [
  "seq-mean-token-mean",
  "token-mean",
  "seq-mean-token-sum",
  "seq-mean-token-sum-norm",
] as const;

/** Counts over the whole optimizer step. Never over a part of it, or the gradient depends on how it was split. */
export interface BatchTotals {
  /** Samples that take part. */
  readonly samples: number;
  /** Their trained tokens. */
  readonly tokens: number;
}

/**
 * Weight of each trained token of a sample.
 *
 * @param sampleTokens n_i, >= 1.
 * @param normalizationLength L, tokens; only `seq-mean-token-sum-norm` reads it.
 * @throws ActError `OBJECTIVE_BAD_OPTIONS` where L is needed and missing.
 */
export function tokenWeight(
  aggregation: Aggregation,
  sampleTokens: number,
  totals: BatchTotals,
  normalizationLength: number | null,
): number {
  switch (aggregation) {
    case "seq-mean-token-mean":
      return 1 / (totals.samples * sampleTokens);
    case "token-mean":
      return 1 / totals.tokens;
    case "seq-mean-token-sum":
      return 1 / totals.samples;
    case "seq-mean-token-sum-norm":
      if (normalizationLength === null)
        throw new ActError("OBJECTIVE_BAD_OPTIONS", "`seq-mean-token-sum-norm` needs `normalizationLength`.", {
          hint: "Set it to the largest number of new tokens of a sample.",
        });
      return 1 / (totals.samples * normalizationLength);
  }
}
