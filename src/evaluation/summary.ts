/**
 * The figures of a whole run in one file, `summary.json`: the shape that users and checks script against.
 */
import { z } from "zod";

/** Success of one policy on one panel. */
export const panelResultSchema = z.strictObject({
  /** Episodes that count: those whose environment did not fail. */
  episodes: z.number().int().nonnegative(),
  successes: z.number().int().nonnegative(),
  /** successes / episodes. */
  rate: z.number().min(0).max(1),
  /** Wilson's 95% interval of the rate. */
  low: z.number().min(0).max(1),
  high: z.number().min(0).max(1),
  /** Mean final score, 1 is best. */
  score: z.number(),
  /** 95% bootstrap interval of the mean score over episodes; absent in results of older versions. */
  score_low: z.number().optional(),
  score_high: z.number().optional(),
  /** Share of episodes ended by a limit. */
  truncated: z.number().min(0).max(1),
  /** Episodes left out because the environment failed. */
  environment_failed: z.number().int().nonnegative(),
  /** Mean steps an episode. */
  steps: z.number().nonnegative(),
  /** Share of replies from which no action could be read. */
  malformed: z.number().min(0).max(1),
  /** Share of sent actions that the environment did not accept. */
  rejected: z.number().min(0).max(1),
  /** Panel id with version, its content hash, and the environment's version. */
  panel: z.string(),
  panel_hash: z.string(),
  environment_version: z.string(),
  /** Rate by kind of task. */
  categories: z.record(z.string(), z.strictObject({ episodes: z.number().int(), successes: z.number().int() })),
  /** Wall-clock seconds of the whole panel. */
  seconds: z.number().positive(),
});
/** See {@link panelResultSchema}. */
export type PanelResult = z.infer<typeof panelResultSchema>;

/** How well a model tells the better of two actions, asked in both orders. */
export const judgmentResultSchema = z.strictObject({
  /** Share of right verdicts over both orders; a reply that names neither action is wrong. */
  accuracy: z.number().min(0).max(1),
  low: z.number().min(0).max(1),
  high: z.number().min(0).max(1),
  /** Share of pairs for which both orders got the same action, of all pairs. */
  consistency: z.number().min(0).max(1),
  /** Share of picks that fell on the action shown first, of all picks; 0.5 where nothing was picked. */
  first_share: z.number().min(0).max(1),
  /** Share of replies that named neither action. */
  malformed: z.number().min(0).max(1),
  /** Share of replies cut off by the token limit. */
  truncated: z.number().min(0).max(1),
  pairs: z.number().int().nonnegative(),
  /** Accuracy by kind of alternative. */
  by_alternative: z.record(z.string(), z.strictObject({ pairs: z.number().int(), accuracy: z.number() })),
  seconds: z.number().nonnegative(),
});
/** See {@link judgmentResultSchema}. */
export type JudgmentResult = z.infer<typeof judgmentResultSchema>;

/** Two policies on the same tasks. */
export const comparisonResultSchema = z.strictObject({
  left: z.string(),
  right: z.string(),
  panel: z.string(),
  /** Tasks both policies played. */
  pairs: z.number().int().nonnegative(),
  only_left: z.number().int().nonnegative(),
  only_right: z.number().int().nonnegative(),
  /** Rate of right minus rate of left over those tasks, with its 95% bootstrap interval. */
  difference: z.number(),
  low: z.number(),
  high: z.number(),
  /** Exact two-sided McNemar test over all pairs of outcomes. */
  p: z.number().min(0).max(1),
});
/** See {@link comparisonResultSchema}. */
export type ComparisonResult = z.infer<typeof comparisonResultSchema>;

export const SUMMARY_FORMAT = "act-trainer/summary@1";

export const summarySchema = z.strictObject({
  format: z.literal(SUMMARY_FORMAT),
  name: z.string(),
  /** Policy name -> panel name -> result. Over several seeds: episodes of all seeds together. */
  policies: z.record(z.string(), z.record(z.string(), panelResultSchema)),
  judge: z.record(z.string(), judgmentResultSchema),
  comparisons: z.array(comparisonResultSchema),
  /** Rates seed by seed where there is more than one: policy -> panel -> rates in the order of `seeds`. */
  by_seed: z.record(z.string(), z.record(z.string(), z.array(z.number()))),
  seeds: z.array(z.number().int()),
  /** Wall-clock seconds of all stages, over all sessions of the run. */
  seconds: z.number().positive(),
  /** Commit of the package. */
  commit: z.string().min(1),
  machine: z.string().min(1),
  version: z.string().min(1),
});
/** The content of `summary.json`. */
export type Summary = z.infer<typeof summarySchema>;
