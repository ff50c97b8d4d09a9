/**
 * `reinforce` on episodes that others play: agents use the endpoint as their model and post rewards; groups of their
 * episodes are trained on as they come in.
 *
 * Sampling goes on while gradients are computed and pauses only for the update itself. Episodes may therefore have been
 * sampled by weights a few updates old, even within one episode: the ratio of the objective is taken against the
 * log-probs under which each token was sampled, and episodes older than `maxStaleness` updates are left out and counted.
 *
 * What agents do is not a function of the configuration: a resumed run goes on exactly from its weights and optimizer
 * state, but with other episodes.
 */
import { z } from "zod";
import type { MetricValues } from "../data/records-metrics.js";
import { hasZeroVariance } from "../objectives/advantage.js";
import { sampleInformative } from "../objectives/dynamic-sampling.js";
import { objectiveSettingsSchema } from "../objectives/objective.js";
import { resolveObjective } from "../objectives/registry.js";
import type { SampleGroup } from "../objectives/sample.js";
import { meanOrNull, policyStep, type Reference, share } from "../stages/policy-step.js";
import type { StageContext } from "../stages/stage.js";
import { optimizerSchema, type TrainableAgent } from "../stages/trainable.js";
import {
  abortSchema,
  checkpointSchema,
  runTrainingLoop,
  type StepResult,
  type TrainingResult,
} from "../stages/training-loop.js";
import type { ServedGroup } from "./episode-groups.js";
import { gatedPolicy, type SamplingGate } from "./sampling-gate.js";
import type { EndedEpisode, EpisodeCounts, ServedEpisodes } from "./served-episodes.js";

/** Settings of {@link reinforceServed} as configurations write them. */
export const reinforceServedSchema = z.strictObject({
  steps: z.number().int().min(1).describe("optimizer steps"),
  batch: z.number().int().min(1).default(4).describe("groups of an optimizer step"),
  maxStaleness: z
    .number()
    .int()
    .min(0)
    .nullable()
    .default(8)
    .describe("updates since an episode's oldest token was sampled, at most; null: no limit"),
  maxAttempts: z.number().int().min(1).default(4).describe("rounds of dynamic sampling at most"),
  objective: objectiveSettingsSchema.prefault({ name: "grpo" }).describe("what is optimized"),
  optimizer: optimizerSchema.describe("learning rate and AdamW"),
  checkpoint: checkpointSchema.prefault({}).describe("when state is saved"),
  abort: abortSchema.prefault({}).describe("when the stage stops itself"),
  logSamples: z.number().int().min(0).default(2).describe("groups of each step written to samples.jsonl"),
});
/** Settings with all defaults filled in. */
export type ReinforceServedOptions = z.infer<typeof reinforceServedSchema>;

/** Where the episodes come from; `serve` gives one. */
export interface ServedSource {
  readonly episodes: Pick<ServedEpisodes, "takeGroups" | "counts">;
  readonly gate: SamplingGate;
}

const stateSchema = z.strictObject({ groups: z.number().int().nonnegative() });
type State = z.infer<typeof stateSchema>;

/** A group as it is trained on: without episodes that are too old. */
interface FreshGroup {
  readonly key: string;
  readonly episodes: readonly EndedEpisode[];
  readonly group: SampleGroup;
}

/**
 * Trains until `steps` updates are made; waits for episodes as long as it takes.
 *
 * @param agent Its policy must be the one that is served.
 * @param reference Needed when the objective's KL coefficient is not 0: the policy as it was at the start.
 * @throws What {@link runTrainingLoop} throws. Groups of a step that failed are lost.
 */
export async function reinforceServed(
  agent: TrainableAgent,
  source: ServedSource,
  options: ReinforceServedOptions,
  context: StageContext,
  reference: Reference | null,
): Promise<TrainingResult> {
  const { steps, batch, maxStaleness } = options;
  const objective = resolveObjective(options.objective);
  const policy = gatedPolicy(agent.policy, source.gate);
  let before = source.episodes.counts;

  const step = async (step: number, state: State): Promise<StepResult<State>> => {
    const began = performance.now();
    const paused = source.gate.pausedMilliseconds;
    const taken: ServedGroup[] = [];
    const take = async (count: number): Promise<FreshGroup[]> => {
      const fresh: FreshGroup[] = [];
      while (fresh.length < count) {
        const groups = await source.episodes.takeGroups(count - fresh.length, { signal: context.signal });
        taken.push(...groups);
        const version = policy.stats().weightVersion;
        fresh.push(...groups.map((group) => freshGroup(group, version, maxStaleness)).filter(hasGroup));
      }
      return fresh;
    };
    const drawn = objective.dynamicSampling
      ? await sampleInformative({
          wanted: batch,
          maxAttempts: options.maxAttempts,
          objective,
          sample: take,
          groupOf: ({ group }) => group,
        })
      : { kept: await take(batch), rejected: [], attempts: 1 };
    const waited = (performance.now() - began) / 1000;
    const version = policy.stats().weightVersion;

    const trained = await policyStep({
      agent: { ...agent, policy },
      groups: drawn.kept.map(({ group }) => group),
      objective,
      reference,
      optimizer: options.optimizer,
      step,
      steps,
      seed: 0, // nothing else here is drawn: episodes come as they come
      signal: context.signal,
    });
    const fresh = [...drawn.kept, ...drawn.rejected];
    const counts = source.episodes.counts;
    const tokens = taken.flatMap(({ episodes }) => episodes).reduce((sum, e) => sum + e.recorded.sampledTokens, 0);
    const metrics = {
      ...trained.metrics,
      ...episodeMetrics(taken, fresh, version),
      ...countMetrics(before, counts),
      "rollout/tokens": tokens,
      "groups/sampling_attempts": drawn.attempts,
    };
    before = counts;
    return {
      state: { groups: state.groups + taken.length },
      metrics,
      timing: {
        ...trained.timing,
        "rollout/seconds": waited,
        "served/pause_seconds": (source.gate.pausedMilliseconds - paused) / 1000,
      },
      samples: drawn.kept.slice(0, options.logSamples).map(({ key, episodes }) => ({
        group: key,
        episodes: episodes.map(({ id }) => id),
        outcomes: episodes.map(({ outcome }) => outcome),
        rewards: episodes.map(({ reward }) => reward),
        turns: episodes.map(({ recorded }) => recorded.turns),
      })),
    };
  };

  return runTrainingLoop<State>({
    folder: context.folder,
    policy,
    steps,
    checkpoint: options.checkpoint,
    abort: options.abort,
    initial: { groups: 0 },
    stateSchema,
    step,
    onStep: (done, metrics) => context.onProgress?.(done, steps, `reward ${metrics["reward/mean"]?.toFixed(3) ?? "-"}`),
    signal: context.signal,
  });
}

/** The group without episodes whose oldest token was sampled more than `limit` updates ago. */
function freshGroup({ key, episodes, group }: ServedGroup, version: number, limit: number | null): FreshGroup {
  const keep = episodes.map((episode) => limit === null || staleness(episode, version) <= limit);
  return {
    key,
    episodes: episodes.filter((_, i) => keep[i]),
    group: { samples: group.samples.filter((_, i) => keep[i]) },
  };
}

function staleness({ recorded }: EndedEpisode, version: number): number {
  return version - (recorded.weightVersions?.[0] ?? version);
}

/** Two episodes at least are left to compare. */
function hasGroup({ episodes }: FreshGroup): boolean {
  return episodes.length >= 2;
}

function episodeMetrics(taken: readonly ServedGroup[], fresh: readonly FreshGroup[], version: number): MetricValues {
  const all = taken.flatMap(({ episodes }) => episodes);
  const used = fresh.flatMap(({ episodes }) => episodes);
  const told = used.filter(({ outcome }) => outcome !== null);
  const rewards = ({ group }: FreshGroup): number[] => group.samples.map(({ reward }) => reward);
  return {
    "reward/mean": meanOrNull(fresh.flatMap(rewards)),
    "groups/count": taken.length,
    "groups/zero_variance_share": share(fresh.filter((g) => hasZeroVariance(rewards(g))).length, fresh.length),
    "rollout/samples": all.length,
    "rollout/success_share": share(told.filter(({ outcome }) => outcome === "success").length, told.length),
    "rollout/steps_mean": meanOrNull(used.map(({ recorded }) => recorded.turns)),
    "served/stale_share": share(all.length - used.length, all.length),
    "served/staleness_mean": meanOrNull(used.map((episode) => staleness(episode, version))),
  };
}

/** What happened at the endpoint since the step before. */
function countMetrics(before: EpisodeCounts, after: EpisodeCounts): MetricValues {
  const since = (key: keyof EpisodeCounts): number => after[key] - before[key];
  const ended = since("finished") + since("failed") + since("expired");
  return {
    "rollout/environment_failed_share": share(since("failed"), ended),
    "served/expired_share": share(since("expired"), ended),
    "served/ungrouped_share": share(since("ungrouped") + since("dropped"), ended),
    "served/separate_turns_share": share(since("separateTurns"), since("turns")),
  };
}
