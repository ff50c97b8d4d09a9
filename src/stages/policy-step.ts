/**
 * One optimizer step on groups of samples, and its figures: what judging and reinforcing have in common.
 */

import type { MetricValues } from "../data/records-metrics.js";
import type { Completion, LossResult, LossRows, Policy } from "../engine/policy.js";
import { ActError } from "../errors.js";
import type { Objective } from "../objectives/objective.js";
import { type PolicyBatch, policyBatch, withReference } from "../objectives/policy-batch.js";
import type { SampleGroup } from "../objectives/sample.js";
import type { RewardKind } from "../rewards/action.js";
import { adamw, type OptimizerSettings, type TrainableAgent } from "./trainable.js";
import { assertFinite } from "./training-loop.js";

/** The policy that the KL term holds on to: another engine, or the same one without its adapters. */
export interface Reference {
  readonly policy: Policy;
  readonly adapters: boolean;
}

/** What one optimizer step works on. */
export interface PolicyStepOptions {
  readonly agent: TrainableAgent;
  readonly groups: readonly SampleGroup[];
  readonly objective: Objective;
  /** Needed when the objective's KL coefficient is not 0. */
  readonly reference: Reference | null;
  readonly optimizer: OptimizerSettings;
  readonly step: number;
  readonly steps: number;
  /** Of stochastic rounding. */
  readonly seed: number;
  readonly signal?: AbortSignal | undefined;
}

/** Figures of one optimizer step by name. */
export interface PolicyStepResult {
  readonly metrics: MetricValues;
  readonly timing: MetricValues;
}

/**
 * Accumulates the gradient of all groups and takes one optimizer step.
 *
 * A batch without any loss row (no group differs in reward, no KL or entropy term) takes no step: the weights stay as
 * they are and `optimizer/grad_norm` is null.
 */
export async function policyStep(options: PolicyStepOptions): Promise<PolicyStepResult> {
  const { agent, objective, step, steps } = options;
  const { policy } = agent;
  const signal = options.signal === undefined ? {} : { signal: options.signal };
  const began = performance.now();
  const layout = agent.maxTreeTokens === null ? {} : { maxTreeTokens: agent.maxTreeTokens };
  let batch = policyBatch(options.groups, objective, layout);
  const settings = adamw(options.optimizer, step, steps, options.seed);
  const counted = { ...countMetrics(batch), "optimizer/learning_rate": settings.learningRate };
  if (batch.counts.rows === 0)
    return {
      metrics: { ...counted, "optimizer/grad_norm": null },
      timing: { "training/seconds": (performance.now() - began) / 1000 },
    };

  if (batch.needsReference) {
    if (options.reference === null) throw new TypeError("The objective has a KL term, but there is no reference.");
    const { policy: reference, adapters } = options.reference;
    const scored = await reference.score(batch.forest, batch.rows, { ...signal, adapters });
    batch = withReference(batch, scored.logprob);
  }
  const result = await policy.accumulate(batch.forest, batch.rows, signal);
  assertFinite({ "policy/loss": result.loss }, step);
  const { gradNorm } = await policy.step(settings);
  assertFinite({ "optimizer/grad_norm": gradNorm }, step);
  const seconds = (performance.now() - began) / 1000;
  return {
    metrics: { ...counted, ...lossMetrics(result, batch.rows), "optimizer/grad_norm": gradNorm },
    timing: {
      "training/seconds": seconds,
      "training/tokens_per_s": batch.counts.forestTokens / seconds,
      "memory/peak_bytes": policy.stats().bytesPeak,
    },
  };
}

function countMetrics(batch: PolicyBatch): MetricValues {
  const { counts, importance } = batch;
  const trained = (values: Float64Array): number[] => Array.from(values).filter((x) => !Number.isNaN(x));
  return {
    "reward/shaped_mean": meanOrNull(trained(batch.rewards)),
    "policy/advantage_abs_mean": meanOrNull(trained(batch.advantages).map(Math.abs)),
    "groups/undersized_share": share(counts.undersizedGroups, counts.groups),
    "rollout/samples": counts.samples,
    "rollout/truncated_share": share(counts.truncatedSamples, counts.samples),
    "rollout/dropped_share": share(counts.droppedSamples, counts.samples),
    "rollout/malformed_share": share(counts.malformedSamples, counts.samples),
    "rollout/empty_share": share(counts.emptySamples, counts.samples),
    "batch/rows": counts.rows,
    "batch/forest_tokens": counts.forestTokens,
    "batch/flat_tokens": counts.flatTokens,
    "policy/importance_mean": importance.mean,
    "policy/importance_max": importance.max,
    "policy/importance_capped_share": importance.cappedShare,
  };
}

/** Per-row figures as means over the rows, and their extremes. */
function lossMetrics(result: LossResult, rows: LossRows): MetricValues {
  const count = rows.rows.length;
  let gapSum = 0;
  let gapMax = 0;
  let entropy = 0;
  let kl = 0;
  let clipped = 0;
  let ratio = 0;
  for (let i = 0; i < count; i++) {
    const gap = Math.abs((result.logprob[i] as number) - (rows.oldLogprob?.[i] as number));
    gapSum += gap;
    gapMax = Math.max(gapMax, gap);
    entropy += result.entropy[i] as number;
    kl += result.kl[i] as number;
    clipped += result.clipped[i] as number;
    ratio += result.ratio[i] as number;
  }
  return {
    "policy/loss": result.loss,
    "policy/entropy": entropy / count,
    "policy/kl": rows.refLogprob === undefined ? null : kl / count,
    "policy/clip_fraction": clipped / count,
    "policy/ratio_mean": ratio / count,
    "policy/mean_abs_logprob_gap": gapSum / count,
    "policy/max_abs_logprob_gap": gapMax,
  };
}

/**
 * Makes sure that what is about to be trained on was sampled by the very weights that are trained.
 *
 * @throws ActError `TRAINING_STALE_SAMPLES`: a defect, never the user's fault.
 */
export function assertFresh(policy: Policy, completions: readonly Completion[]): void {
  const { weightVersion } = policy.stats();
  const stale = completions.find((c) => c.weightVersion !== weightVersion);
  if (stale !== undefined)
    throw new ActError(
      "TRAINING_STALE_SAMPLES",
      `A completion was sampled by version ${stale.weightVersion} of the weights, but version ${weightVersion} is trained.`,
      { hint: "Nothing else may change the weights of a model while a stage trains it." },
    );
}

/** Mean reward and the share of each kind of reward. */
export function rewardMetrics(rewards: readonly number[], kinds: readonly RewardKind[]): MetricValues {
  const of = (kind: RewardKind): number | null =>
    kinds.length === 0 ? null : kinds.filter((k) => k === kind).length / kinds.length;
  return {
    "reward/mean": meanOrNull(rewards),
    "reward/share_exact": of("exact"),
    "reward/share_admissible": of("admissible"),
    "reward/share_other": of("other"),
    "reward/share_malformed": of("malformed"),
  };
}

/** A share, or null of nothing. */
export function share(part: number, whole: number): number | null {
  return whole === 0 ? null : part / whole;
}

/** A mean, or null of nothing. */
export function meanOrNull(values: readonly number[]): number | null {
  return values.length === 0 ? null : values.reduce((sum, x) => sum + x, 0) / values.length;
}
