/**
 * An objective as data. The files named after algorithms fill this form; every setting can be overridden by name.
 *
 * What is minimized, summed over every trained token t of every sample i of the optimizer step:
 *
 *   w_i * ( - c_it * min(r_it A_i, clip(r_it, 1 - low, 1 + high) A_i) + beta * KL_it - eta * H_it )
 *
 *   r_it  exp(log pi(t) - log pi_old(t)), pi_old as sampled, both at temperature 1 over the whole vocabulary
 *   A_i   advantage (advantage.ts)      w_i  weight of a token (aggregation.ts)
 *   c_it  importance weight of the sampling distribution (policy-batch.ts); 1 when it was pi_old itself
 */
import { z } from "zod";
import { ActError } from "../errors.js";
import { type OverlongShaping, type TruncationPolicy, truncationPolicies } from "../rewards/length.js";
import { schemaIssue } from "../schema-issues.js";
import { type AdvantageEstimator, advantageEstimators } from "./advantage.js";
import { type Aggregation, aggregations } from "./aggregation.js";

export const objectiveNames = ["grpo", "dr-grpo", "dapo", "rloo"] as const;
export type ObjectiveName = (typeof objectiveNames)[number];

/** Every setting of an objective; the formula is in the file's head. */
export interface Objective {
  readonly name: ObjectiveName;
  readonly advantage: AdvantageEstimator;
  /** Distances from ratio 1, each > 0. Null: no clipping. */
  readonly clip: { readonly low: number; readonly high: number } | null;
  readonly aggregation: Aggregation;
  /** L of `seq-mean-token-sum-norm`, tokens. */
  readonly normalizationLength: number | null;
  readonly kl: {
    /** beta, >= 0. 0: no reference policy is needed. */
    readonly coefficient: number;
    /** With d = log pi_ref - log pi: k1 = -d, k2 = d^2 / 2, k3 = exp(d) - d - 1. */
    readonly estimator: "k1" | "k2" | "k3";
  };
  /** eta, >= 0. */
  readonly entropyCoefficient: number;
  /** Groups without any difference in reward leave the batch, and others are sampled in their place. */
  readonly dynamicSampling: boolean;
  readonly truncation: TruncationPolicy;
  /** Reward of a truncated sample under `penalize`. */
  readonly truncationPenalty: number;
  readonly overlong: OverlongShaping | null;
  /** Cap of the importance weight c_it, > 0. Null: c_it is 1, however the tokens were drawn. */
  readonly importanceCap: number | null;
}

/** Settings by which a configuration changes an objective; unknown keys are errors. */
export const objectiveSettingsSchema = z.strictObject({
  name: z
    .enum(objectiveNames)
    .default("grpo")
    .describe("preset that the other settings change, see docs/objectives.md"),
  advantage: z.enum(advantageEstimators).optional().describe("advantage of a sample within its group"),
  clip: z
    .strictObject({
      low: z.number().positive().max(1).describe("distance below ratio 1"),
      high: z.number().positive().describe("distance above ratio 1"),
    })
    .nullable()
    .optional()
    .describe("clipping of the ratio; null: none"),
  aggregation: z.enum(aggregations).optional().describe("weight of a token"),
  normalizationLength: z
    .number()
    .int()
    .positive()
    .nullable()
    .optional()
    .describe("tokens that `seq-mean-token-sum-norm` divides by; default in stages: most new tokens of a sample"),
  kl: z
    .strictObject({
      coefficient: z.number().nonnegative().optional().describe("weight of the KL to the reference policy; 0: none"),
      estimator: z.enum(["k1", "k2", "k3"]).optional().describe("how KL is estimated from a token"),
    })
    .optional()
    .describe("KL term of the loss"),
  entropyCoefficient: z.number().nonnegative().optional().describe("weight of the entropy bonus"),
  dynamicSampling: z.boolean().optional().describe("replace groups whose rewards are all equal"),
  truncation: z.enum(truncationPolicies).optional().describe("what becomes of samples cut by the token limit"),
  truncationPenalty: z.number().optional().describe("reward of a cut sample under `penalize`"),
  overlong: z
    .strictObject({
      maxLength: z.number().int().positive().describe("tokens at which the penalty reaches -1"),
      cacheLength: z.number().int().positive().describe("tokens over which it grows"),
    })
    .refine(({ maxLength, cacheLength }) => cacheLength <= maxLength, "a `cacheLength` of at most `maxLength`")
    .nullable()
    .optional()
    .describe("penalty for long samples; null: none; default of `dapo` in stages: over the last fifth of a sample"),
  importanceCap: z
    .number()
    .positive()
    .nullable()
    .optional()
    .describe("cap of importance weights where sampling was not at temperature 1, untruncated; null: no weights"),
});

/** An objective by name, with the settings that differ from its preset. */
export type ObjectiveSettings = z.infer<typeof objectiveSettingsSchema>;
/** Settings without the name. */
export type ObjectiveOverrides = Omit<ObjectiveSettings, "name">;

/** What all presets share; each states what it changes. */
export const commonObjective = {
  normalizationLength: null,
  entropyCoefficient: 0,
  dynamicSampling: false,
  truncation: "penalize",
  truncationPenalty: -0.5,
  overlong: null,
  importanceCap: 2,
} as const satisfies Partial<Objective>;

/** Checks settings. Throws ActError `OBJECTIVE_BAD_OPTIONS` naming the one that does not fit. */
export function parseObjectiveSettings(value: unknown): ObjectiveSettings {
  const result = objectiveSettingsSchema.safeParse(value);
  if (result.success) return result.data;
  const { message, hint } = schemaIssue(objectiveSettingsSchema, value, result.error, "objective");
  throw new ActError("OBJECTIVE_BAD_OPTIONS", message, { hint, cause: result.error });
}

/** A preset with some settings replaced. Throws ActError `OBJECTIVE_BAD_OPTIONS`. */
export function override(preset: Objective, overrides: ObjectiveOverrides): Objective {
  const { kl, ...given } = parseObjectiveSettings({ ...overrides, name: preset.name });
  const defined = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  return {
    ...preset,
    ...defined,
    kl: { coefficient: kl?.coefficient ?? preset.kl.coefficient, estimator: kl?.estimator ?? preset.kl.estimator },
  };
}
