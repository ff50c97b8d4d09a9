/**
 * Groups of samples to one optimizer step: a token forest and its loss rows, normalized over the whole step.
 *
 * Off-policy terms. `oldLogprob` is what sampling reported at temperature 1 over the whole vocabulary, so at learning
 * rate 0 the ratio is 1. Where tokens were drawn from another distribution mu (temperature other than 1, top-k, top-p,
 * min-p, constrained choices), the gradient's expectation is over mu; each token is then weighted by
 *
 *   c = min(pi_old(token) / mu(token), importanceCap)
 *
 * (truncated importance sampling per token, arXiv 1606.02647). Both log-probs come from sampling itself, so c is exact.
 * Two things remain uncorrected: tokens that truncation removed are never seen, and the weights of earlier tokens of the
 * sequence are left out to bound the variance.
 */
import type { LossRows, TokenForest } from "../engine/policy.js";
import { ActError } from "../errors.js";
import { type BatchTotals, tokenWeight } from "./aggregation.js";
import { type ForestOptions, layForest } from "./forest.js";
import { batchTotals, judgeGroup } from "./group.js";
import type { Objective } from "./objective.js";
import { AS_SAMPLED, badSample, type Sample, type SampleGroup } from "./sample.js";

/** What became of the samples of a batch; nothing leaves it uncounted. */
export interface BatchCounts {
  readonly groups: number;
  /** Groups whose remaining rewards are all equal. */
  readonly zeroVarianceGroups: number;
  /** Groups left with fewer than two samples after drops: no baseline, so they do not take part. */
  readonly undersizedGroups: number;
  readonly samples: number;
  readonly truncatedSamples: number;
  /** Truncated samples that left their group (`truncation: drop`). */
  readonly droppedSamples: number;
  readonly malformedSamples: number;
  /** Samples without a trained token (e.g. every completion empty); they leave their group. */
  readonly emptySamples: number;
  /** Samples that take part in the normalization. */
  readonly usedSamples: number;
  /** Samples among those that were not laid out, because all their weights are 0. */
  readonly weightlessSamples: number;
  /** Loss rows. */
  readonly rows: number;
  /** Tokens of the forest, and what they would be if every sequence were laid out alone. */
  readonly forestTokens: number;
  readonly flatTokens: number;
}

/** How far the sampling distribution was from the policy, over the rows of the batch. All 1 when it was the policy. */
export interface ImportanceStats {
  readonly mean: number;
  readonly max: number;
  /** Share of rows whose weight was capped. */
  readonly cappedShare: number;
}

/** Forest and loss rows of one optimizer step (or a part of one), with what they were made from. */
export interface PolicyBatch {
  readonly forest: TokenForest;
  readonly rows: LossRows;
  /** [rows] Index of the row's sample, counted over all samples of all groups as given. */
  readonly rowSample: Int32Array;
  /** [samples] Reward after truncation policy and shaping; NaN for samples that left. */
  readonly rewards: Float64Array;
  /** [samples] Advantage; NaN for samples that left. */
  readonly advantages: Float64Array;
  /** The KL weight is not 0: call {@link withReference} before accumulating. */
  readonly needsReference: boolean;
  readonly counts: BatchCounts;
  readonly importance: ImportanceStats;
}

export interface PolicyBatchOptions extends ForestOptions {
  /** Counts of the whole optimizer step, where `groups` are only a part of it. Default: those of `groups`. */
  readonly totals?: BatchTotals;
  /** Lay out samples whose weights are all 0 too, so that their log-probs are reported. Default false. */
  readonly includeWeightless?: boolean;
}

/**
 * One optimizer step's batch, or a part of one (`options.totals`). Rows run by group, sample, sequence, token.
 *
 * A batch may come out without rows (e.g. no group differs in reward): check `counts.rows` before stepping.
 *
 * @throws ActError `OBJECTIVE_GROUP_TOO_SMALL` for a group given with fewer than two samples, `OBJECTIVE_BAD_SAMPLE`.
 */
export function policyBatch(
  groups: readonly SampleGroup[],
  objective: Objective,
  options: PolicyBatchOptions = {},
): PolicyBatch {
  for (const { samples } of groups) for (const { sequences } of samples) sequences.forEach(checkLengths);
  const judged = groups.map((group) => judgeGroup(group, objective));
  const totals = options.totals ?? batchTotals(groups, objective);
  let sampleCount = 0;
  let weightless = 0;
  const shown = judged.map(({ samples }) => {
    const first = sampleCount;
    sampleCount += samples.length;
    const used = samples.map((sample, i) => ({ ...sample, index: first + i })).filter((sample) => sample.used);
    const kept = used.filter(({ advantage }) => options.includeWeightless === true || hasWeight(advantage, objective));
    weightless += used.length - kept.length;
    return kept.flatMap(({ sample, advantage, tokens, index }) => {
      const weight = tokenWeight(objective.aggregation, tokens, totals, objective.normalizationLength);
      return sample.sequences.filter(hasTrained).map((sequence) => ({ sequence, advantage, weight, index }));
    });
  });
  const laid = layForest(
    shown.map((group) => group.map(({ sequence }) => sequence)),
    options,
  );
  const streams = new Streams(objective);
  shown.forEach((group, g) => {
    group.forEach((entry, i) => {
      streams.addSequence(entry.sequence, laid.positions[g]?.[i] ?? new Int32Array(0), entry);
    });
  });
  const all = judged.flatMap(({ samples }) => samples);
  const rows = streams.rows();
  return {
    forest: laid.forest,
    rows,
    rowSample: Int32Array.from(streams.rowSample),
    rewards: Float64Array.from(all, ({ used, reward }) => (used ? reward : Number.NaN)),
    advantages: Float64Array.from(all, ({ used, advantage }) => (used ? advantage : Number.NaN)),
    needsReference: objective.kl.coefficient > 0 && rows.rows.length > 0,
    counts: {
      groups: groups.length,
      zeroVarianceGroups: judged.filter(({ zeroVariance }) => zeroVariance).length,
      undersizedGroups: judged.filter(({ undersized }) => undersized).length,
      samples: all.length,
      truncatedSamples: all.filter(({ sample }) => sample.truncated).length,
      droppedSamples: all.filter(({ dropped }) => dropped).length,
      malformedSamples: all.filter(({ sample }) => sample.malformed).length,
      emptySamples: all.filter(({ tokens }) => tokens === 0).length,
      usedSamples: all.filter(({ used }) => used).length,
      weightlessSamples: weightless,
      rows: rows.rows.length,
      forestTokens: laid.tokens,
      flatTokens: laid.flatTokens,
    },
    importance: streams.importance(),
  };
}

/**
 * The batch with the reference policy's log-probs in place.
 *
 * @param refLogprob [rows] As `score(batch.forest, batch.rows)` of the reference policy reports them.
 */
export function withReference(batch: PolicyBatch, refLogprob: Float32Array): PolicyBatch {
  if (refLogprob.length !== batch.rows.rows.length)
    throw new ActError(
      "OBJECTIVE_BAD_REFERENCE",
      `Expected ${batch.rows.rows.length} reference log-probs, one a loss row, got ${refLogprob.length}.`,
      { hint: "Give the `logprob` of the reference's `score(batch.forest, batch.rows)`." },
    );
  return { ...batch, needsReference: false, rows: { ...batch.rows, refLogprob } };
}

function hasWeight(advantage: number, { kl, entropyCoefficient }: Objective): boolean {
  return advantage !== 0 || kl.coefficient > 0 || entropyCoefficient > 0;
}

/** Of a sequence without trained tokens as well: a mask that is cut short may be why it has none. */
function checkLengths({ tokens, mask, logprobs, samplingLogprobs }: Sample["sequences"][number]): void {
  for (const [name, list] of Object.entries({ mask, logprobs, samplingLogprobs }))
    if (list.length !== tokens.length)
      throw badSample(
        `${tokens.length} tokens came with ${list.length} entries of \`${name}\``,
        "Give one entry for each token.",
      );
}

function hasTrained({ mask }: { readonly mask: Uint8Array }): boolean {
  return mask.includes(1);
}

/** The weight streams under construction. */
class Streams {
  readonly rowSample: number[] = [];
  readonly #objective: Objective;
  readonly #row: number[] = [];
  readonly #target: number[] = [];
  readonly #advantage: number[] = [];
  readonly #old: number[] = [];
  readonly #policyWeight: number[] = [];
  readonly #weight: number[] = [];
  #importanceSum = 0;
  #importanceMax = 0;
  #capped = 0;

  constructor(objective: Objective) {
    this.#objective = objective;
  }

  addSequence(
    { tokens, mask, logprobs, samplingLogprobs }: Sample["sequences"][number],
    positions: Int32Array,
    of: { readonly advantage: number; readonly weight: number; readonly index: number },
  ): void {
    for (let t = 1; t <= positions.length; t++) {
      if (mask[t] !== 1) continue;
      const old = logprobs[t] ?? Number.NaN;
      const importance = this.#importance(old, samplingLogprobs[t] ?? Number.NaN);
      this.#row.push(positions[t - 1] ?? -1);
      this.#target.push(tokens[t] ?? -1);
      this.#advantage.push(of.advantage);
      this.#old.push(old);
      this.#policyWeight.push(of.weight * importance);
      this.#weight.push(of.weight);
      this.rowSample.push(of.index);
    }
  }

  /** c of the file's head; the exact number 1 where both log-probs are equal. */
  #importance(old: number, sampling: number): number {
    if (!Number.isFinite(old) || !Number.isFinite(sampling))
      throw badSample(`a trained token has log-probs ${old} and ${sampling}`, AS_SAMPLED);
    const ratio = Math.exp(old - sampling);
    const cap = this.#objective.importanceCap;
    this.#importanceSum += ratio;
    this.#importanceMax = Math.max(this.#importanceMax, ratio);
    if (cap === null) return 1;
    if (ratio > cap) this.#capped++;
    return Math.min(ratio, cap);
  }

  rows(): LossRows {
    const { clip, kl, entropyCoefficient } = this.#objective;
    const count = this.#row.length;
    const scaled = (coefficient: number): Float32Array => Float32Array.from(this.#weight, (w) => coefficient * w);
    return {
      rows: Int32Array.from(this.#row),
      targets: Int32Array.from(this.#target),
      advantage: Float32Array.from(this.#advantage),
      oldLogprob: Float32Array.from(this.#old),
      policyWeight: Float32Array.from(this.#policyWeight),
      ...(clip === null
        ? {}
        : { clipLow: new Float32Array(count).fill(clip.low), clipHigh: new Float32Array(count).fill(clip.high) }),
      ...(kl.coefficient > 0 ? { klWeight: scaled(kl.coefficient), klEstimator: kl.estimator } : {}),
      ...(entropyCoefficient > 0 ? { entropyWeight: scaled(entropyCoefficient) } : {}),
    };
  }

  importance(): ImportanceStats {
    const count = this.#row.length;
    if (count === 0) return { mean: 1, max: 1, cappedShare: 0 };
    return { mean: this.#importanceSum / count, max: this.#importanceMax, cappedShare: this.#capped / count };
  }
}
