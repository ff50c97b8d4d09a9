/**
 * Which samples of a group take part in an optimizer step, with which reward and which advantage.
 */
import { ActError } from "../errors.js";
import { shapeReward } from "../rewards/length.js";
import { advantages, hasZeroVariance } from "./advantage.js";
import type { BatchTotals } from "./aggregation.js";
import type { Objective } from "./objective.js";
import { badSample, type Sample, type SampleGroup, trainedTokens } from "./sample.js";

export interface JudgedSample {
  readonly sample: Sample;
  /** Trained tokens. */
  readonly tokens: number;
  /** After truncation policy and overlong shaping; 0 where dropped. */
  readonly reward: number;
  /** Truncated, under `truncation: drop`. */
  readonly dropped: boolean;
  /** Takes part in the normalization. */
  readonly used: boolean;
  /** 0 where not used. */
  readonly advantage: number;
}

export interface JudgedGroup {
  readonly samples: readonly JudgedSample[];
  /** The rewards that remain are all equal. */
  readonly zeroVariance: boolean;
  /** Fewer than two samples remain: there is no baseline, and nobody takes part. */
  readonly undersized: boolean;
}

/**
 * @throws ActError `OBJECTIVE_GROUP_TOO_SMALL` for a group given with fewer than two samples, `OBJECTIVE_BAD_SAMPLE` for a
 *   reward that is not finite.
 */
export function judgeGroup(group: SampleGroup, objective: Objective): JudgedGroup {
  if (group.samples.length < 2)
    throw new ActError(
      "OBJECTIVE_GROUP_TOO_SMALL",
      `A group needs at least two samples, got ${group.samples.length}.`,
      {
        hint: "Advantages compare samples of one prompt: raise the group size.",
      },
    );
  const shaped = group.samples.map((sample) => {
    if (!Number.isFinite(sample.reward))
      throw badSample(
        `its reward is ${sample.reward}`,
        "Rewards have to be finite numbers: correct the reward function.",
      );
    const tokens = trainedTokens(sample);
    const { reward, dropped } = shapeReward(sample.reward, { length: tokens, truncated: sample.truncated }, objective);
    return { sample, tokens, reward, dropped, stays: !dropped && tokens > 0 };
  });
  const rewards = shaped.filter(({ stays }) => stays).map(({ reward }) => reward);
  const undersized = rewards.length < 2;
  const zeroVariance = !undersized && hasZeroVariance(rewards);
  const left = undersized || (zeroVariance && objective.dynamicSampling);
  const values = left ? null : advantages(objective.advantage, rewards);
  let at = 0;
  const samples = shaped.map(({ stays, ...sample }) => {
    if (!stays || values === null) return { ...sample, used: false, advantage: 0 };
    return { ...sample, used: true, advantage: values[at++] ?? 0 };
  });
  return { samples, zeroVariance, undersized };
}

/** Counts that {@link policyBatch} normalizes by; those of several parts add up. */
export function batchTotals(groups: readonly SampleGroup[], objective: Objective): BatchTotals {
  let samples = 0;
  let tokens = 0;
  for (const judged of groups.flatMap((group) => judgeGroup(group, objective).samples)) {
    if (!judged.used) continue;
    samples++;
    tokens += judged.tokens;
  }
  return { samples, tokens };
}
