/**
 * DAPO's dynamic sampling (arXiv 2503.14476, eq. 11): groups whose rewards are all equal teach nothing; others are
 * sampled in their place until the batch is full, up to a number of attempts.
 */
import { judgeGroup } from "./group.js";
import type { Objective } from "./objective.js";
import type { SampleGroup } from "./sample.js";

export interface DynamicSamplingOptions<T> {
  /** Groups wanted. */
  readonly wanted: number;
  /** Rounds of sampling at most, >= 1. */
  readonly maxAttempts: number;
  /** The objective that will be trained on: its truncation and shaping decide what counts as a difference. */
  readonly objective: Objective;
  /** Samples up to `count` fresh groups; fewer (or none) means that prompts have run out. `attempt` counts from 0. */
  readonly sample: (count: number, attempt: number) => Promise<readonly T[]>;
  /** The group's samples. */
  readonly groupOf: (item: T) => SampleGroup;
}

export interface DynamicSamplingResult<T> {
  /** At most `wanted`, in the order sampled. */
  readonly kept: readonly T[];
  /** Left out: zero variance, or fewer than two samples left. In the order sampled. */
  readonly rejected: readonly T[];
  readonly attempts: number;
  /** Whether `wanted` was reached. */
  readonly full: boolean;
}

/** Whether a group would have a gradient under the objective's advantage term. */
export function isInformative(group: SampleGroup, objective: Objective): boolean {
  const { zeroVariance, undersized } = judgeGroup(group, objective);
  return !zeroVariance && !undersized;
}

export async function sampleInformative<T>(options: DynamicSamplingOptions<T>): Promise<DynamicSamplingResult<T>> {
  const kept: T[] = [];
  const rejected: T[] = [];
  let attempts = 0;
  while (kept.length < options.wanted && attempts < options.maxAttempts) {
    const items = await options.sample(options.wanted - kept.length, attempts++);
    if (items.length === 0) break;
    for (const item of items) (isInformative(options.groupOf(item), options.objective) ? kept : rejected).push(item);
  }
  return { kept, rejected, attempts, full: kept.length >= options.wanted };
}
