/**
 * The figures of training, by name: what each means, its unit, and which journal it stands in.
 *
 * `metrics.jsonl` holds what is a function of the configuration and the data: a resumed run writes the same bytes.
 * `timing.jsonl` holds what depends on the clock or the machine. Both have `step` (optimizer steps done, from 1) in every
 * line and are journals without a header. docs/metrics.md is this table; a test keeps it so.
 */
import { z } from "zod";

export interface Metric {
  readonly journal: "metrics" | "timing";
  /** `1` for shares and other pure numbers. */
  readonly unit: string;
  readonly meaning: string;
}

const metric = (unit: string, meaning: string): Metric => ({ journal: "metrics", unit, meaning });
const timing = (unit: string, meaning: string): Metric => ({ journal: "timing", unit, meaning });

export const metricTable = {
  "reward/mean": metric("reward", "mean over samples, before truncation policy and overlong shaping"),
  "reward/shaped_mean": metric("reward", "mean over samples that take part, as advantages see it"),
  "reward/share_exact": metric("1", "share of samples whose action equals the expert's"),
  "reward/share_admissible": metric("1", "share whose action is another admissible one"),
  "reward/share_other": metric("1", "share whose action is neither"),
  "reward/share_malformed": metric("1", "share from which no action could be read"),

  "rollout/samples": metric("samples", "completions sampled, or episodes where whole episodes are samples"),
  "rollout/tokens": metric("tokens", "tokens sampled"),
  "rollout/completion_tokens_mean": metric("tokens", "mean length of a completion"),
  "rollout/truncated_share": metric(
    "1",
    "share of samples cut by the token limit; of episodes, those whose last reply was",
  ),
  "rollout/dropped_share": metric(
    "1",
    "share of samples that left training because they were cut (`truncation: drop`)",
  ),
  "rollout/malformed_share": metric("1", "share of replies from which no action could be read"),
  "rollout/empty_share": metric("1", "share of samples without a token to train on"),
  "rollout/prompts_too_long": metric("prompts", "prompts left out because the context has no room for a reply"),
  "rollout/environment_failed_share": metric("1", "share of episodes whose environment broke; never trained on"),
  "rollout/success_share": metric("1", "share of episodes that reached the goal"),
  "rollout/score_mean": metric("score", "mean final score of an episode, 1 is best"),
  "rollout/steps_mean": metric("steps", "mean steps of an episode"),
  "rollout/rejected_share": metric("1", "share of sent actions that the environment did not accept"),

  "groups/count": metric("groups", "groups sampled, the replaced ones of dynamic sampling among them"),
  "groups/zero_variance_share": metric("1", "share of groups whose rewards are all equal"),
  "groups/undersized_share": metric("1", "share of groups left with fewer than two samples"),
  "groups/sampling_attempts": metric("rounds", "rounds dynamic sampling took to fill the batch"),

  "policy/loss": metric("loss", "what the step minimized, all terms"),
  "policy/kl": metric("nats", "mean over tokens of the KL estimate to the reference policy"),
  "policy/entropy": metric("nats", "mean over tokens of the entropy of the next-token distribution"),
  "policy/clip_fraction": metric("1", "share of tokens whose gradient the clip cut"),
  "policy/ratio_mean": metric("1", "mean ratio of new to sampled probability"),
  "policy/mean_abs_logprob_gap": metric(
    "nats",
    "mean |sampled - scored log-prob| before the update, over the tokens trained on; absent where there are none",
  ),
  "policy/max_abs_logprob_gap": metric(
    "nats",
    "largest |sampled - scored log-prob| before the first update on a batch",
  ),
  "policy/importance_mean": metric("1", "mean of policy over sampling probability, before the cap"),
  "policy/importance_max": metric("1", "largest of policy over sampling probability, before the cap"),
  "policy/importance_capped_share": metric("1", "share of tokens whose importance weight was capped"),
  "policy/advantage_abs_mean": metric("1", "mean |advantage| over samples that take part"),

  "imitation/loss": metric("nats", "mean negative log-prob of a target token"),
  "imitation/examples": metric("examples", "examples of the step"),

  "judge/accuracy": metric("1", "share of verdicts that name the expert's action"),
  "judge/first_share": metric("1", "share of picks that fell on the action shown first, of all picks"),
  "judge/swap_consistency": metric("1", "share of pairs, asked in both orders, for which the same action was picked"),
  "judge/probe_accuracy": metric("1", "as `judge/accuracy`, for the answer the judge finds likelier without reasoning"),
  "judge/probe_first_share": metric("1", "as `judge/first_share`, without reasoning; 0.5 is unbiased"),
  "judge/probe_swap_consistency": metric("1", "as `judge/swap_consistency`, without reasoning"),

  "served/stale_share": metric(
    "1",
    "share of served episodes left out: their weights were too old, or no other was left",
  ),
  "served/staleness_mean": metric("updates", "mean updates between an episode's first token and its training"),
  "served/expired_share": metric("1", "share of served episodes that ended without a reward in time"),
  "served/ungrouped_share": metric("1", "share of served episodes that left before their group was complete"),
  "served/separate_turns_share": metric("1", "share of completions whose prompt continued no transcript"),

  "batch/rows": metric("tokens", "tokens trained on"),
  "batch/forest_tokens": metric("tokens", "distinct tokens computed"),
  "batch/flat_tokens": metric("tokens", "tokens if nothing were shared"),

  "optimizer/grad_norm": metric("1", "global norm of the gradient before clipping"),
  "optimizer/learning_rate": metric("1", "learning rate of the step"),
  "optimizer/epoch": metric("epochs", "passes over the data so far"),

  "rollout/seconds": timing("s", "sampling, environments included"),
  "rollout/tokens_per_s": timing("tokens/s", "tokens sampled per second of sampling"),
  "training/seconds": timing("s", "scoring, forward, backward and update"),
  "training/tokens_per_s": timing("tokens/s", "distinct tokens computed per second of training"),
  "served/pause_seconds": timing("s", "time during which the endpoint sampled nothing because of the update"),
  "memory/peak_bytes": timing("bytes", "largest sum of the engine's allocations so far"),
  step_s: timing("s", "the whole step"),
  time: timing("UTC", "when the step ended, ISO 8601"),
} as const satisfies Readonly<Record<string, Metric>>;

export type MetricName = keyof typeof metricTable;
/** Names of the numbers in `metrics.jsonl`. */
export const metricNames: readonly MetricName[] = namesOf("metrics");
/** Names in `timing.jsonl`. */
export const timingNames: readonly MetricName[] = namesOf("timing");

/** A line of `metrics.jsonl`: null where a figure has nothing to be computed from. Unknown names are errors. */
export const metricsRecordSchema = z.strictObject({
  step: z.number().int().positive(),
  ...Object.fromEntries(metricNames.map((name) => [name, z.number().nullable().optional()])),
});

/** A line of `timing.jsonl`. */
export const timingRecordSchema = z.strictObject({
  step: z.number().int().positive(),
  ...Object.fromEntries(timingNames.map((name) => [name, z.union([z.number(), z.string()]).nullable().optional()])),
});

/** Figures of one step by name, for writers: a name that is not documented does not compile. */
export type MetricValues = { readonly [N in MetricName]?: number | null };

function namesOf(journal: Metric["journal"]): readonly MetricName[] {
  return (Object.keys(metricTable) as MetricName[]).filter((name) => metricTable[name].journal === journal);
}
