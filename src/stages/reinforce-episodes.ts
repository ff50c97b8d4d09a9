/**
 * `reinforce`, whole-episode form: groups of episodes of one task, compared by how they end.
 *
 *   max E_task E_{episode ~ pi} R(episode),   R = success or score, less a penalty for each invalid action
 *
 * Everything sampled in an episode carries its advantage; observations are context. Episodes whose environment failed
 * leave their group: they say nothing of the policy. The number of steps may grow over training (horizon.ts).
 */
import { z } from "zod";
import type { MetricValues } from "../data/records-metrics.js";
import type { EnvironmentProvider } from "../environments/environment.js";
import { ActError } from "../errors.js";
import { hasZeroVariance } from "../objectives/advantage.js";
import { sampleInformative } from "../objectives/dynamic-sampling.js";
import { objectiveSettingsSchema } from "../objectives/objective.js";
import { resolveObjective } from "../objectives/registry.js";
import { type Sample, type SampleGroup, sequenceOf, sequenceOfTranscript } from "../objectives/sample.js";
import { episodeReward } from "../rewards/episode.js";
import { type Episode, invalidSteps, totalReward } from "../rollouts/episode.js";
import { episodeForm, formNames } from "../rollouts/form.js";
import { horizonAt, horizonSchema } from "../rollouts/horizon.js";
import { deriveSeed, EpochOrder } from "../rollouts/random.js";
import { retryShape } from "../rollouts/retry.js";
import { rollout } from "../rollouts/rollout.js";
import { assertFresh, meanOrNull, policyStep, type Reference, share } from "./policy-step.js";
import { stepsOf, trainingShape } from "./settings.js";
import { type StageContext, samplingOptions } from "./stage.js";
import { taskRangeShape, tasksInRange } from "./task-range.js";
import type { TrainableAgent } from "./trainable.js";
import { runTrainingLoop, type StepResult, type TrainingResult } from "./training-loop.js";

/** Settings of playing that evaluation and reinforcing share. */
export const playShape = {
  shown: z.enum(formNames).default("per-step").describe("how the policy is shown an episode"),
  admissible: z
    .boolean()
    .nullable()
    .default(null)
    .describe("ask for admissible actions at every step; null: where prompts list them"),
  concurrency: z.number().int().min(1).default(32).describe("episodes side by side"),
  stepLimit: z.number().int().min(1).nullable().default(null).describe("steps at most; null: the environment's limit"),
  timeLimit: z
    .number()
    .positive()
    .nullable()
    .default(null)
    .describe("milliseconds an episode may take; null: no limit (results then do not depend on the machine)"),
  environmentTimeLimit: z
    .number()
    .positive()
    .nullable()
    .default(60_000)
    .describe("milliseconds a call of the environment may take; null: no limit"),
  malformedLimit: z
    .number()
    .int()
    .min(1)
    .nullable()
    .default(null)
    .describe("replies without action in a row that end an episode; null: none"),
  ...retryShape,
};

/** Keys of the stage `reinforce` in its whole-episode form. */
export const reinforceEpisodesSchema = z.strictObject({
  form: z.literal("episodes").describe("play whole episodes"),
  ...trainingShape,
  ...playShape,
  panel: z.string().describe("panel whose tasks are played"),
  ...taskRangeShape,
  objective: objectiveSettingsSchema.prefault({}).describe("what is optimized"),
  reward: z
    .strictObject({
      source: z
        .enum(["success", "score", "return"])
        .default("success")
        .describe("what an episode is worth: its end, or the sum of its steps' rewards"),
      scale: z.number().positive().default(1).describe("multiplies the source"),
      invalidActionPenalty: z.number().min(0).default(0.1).describe("subtracted for each invalid action"),
    })
    .prefault({})
    .describe("reward of an episode"),
  groupSize: z.number().int().min(2).max(256).default(8).describe("episodes of each task"),
  batch: z.number().int().min(1).default(16).describe("tasks of an optimizer step"),
  maxAttempts: z.number().int().min(1).default(4).describe("rounds of dynamic sampling at most"),
  horizon: horizonSchema.nullable().default(null).describe("step limit that grows over training; null: `stepLimit`"),
});
/** Options of {@link reinforceEpisodes}. */
export type ReinforceEpisodesOptions = z.infer<typeof reinforceEpisodesSchema>;

const stateSchema = z.strictObject({ cursor: z.number().int().nonnegative() });
type State = z.infer<typeof stateSchema>;

interface PlayedTask {
  readonly episodes: readonly Episode[];
  /** Rewards of the episodes that count, in their order. */
  readonly rewards: readonly number[];
  readonly group: SampleGroup;
}

/**
 * Trains on a panel of tasks.
 *
 * @param reference Needed when the objective's KL coefficient is not 0: the policy as it was at the start.
 * @throws ActError `STAGE_NO_DATA`, those of {@link runTrainingLoop}; EnvironmentError for an unknown panel.
 */
export async function reinforceEpisodes(
  agent: TrainableAgent,
  provider: EnvironmentProvider,
  options: ReinforceEpisodesOptions,
  context: StageContext,
  reference: Reference | null,
): Promise<TrainingResult> {
  const panel = await provider.panel(options.panel);
  const tasks = tasksInRange(panel.tasks, options, `panel ${panel.id}`);
  const order = new EpochOrder(deriveSeed(options.seed, "reinforce", "tasks"), tasks.length);
  const steps = stepsOf(options, tasks.length);
  const objective = resolveObjective(options.objective);

  const step = async (step: number, state: State, signal: AbortSignal): Promise<StepResult<State>> => {
    const began = performance.now();
    let cursor = state.cursor;
    const all: PlayedTask[] = [];
    const play = async (count: number): Promise<PlayedTask[]> => {
      const first = cursor;
      cursor += count;
      const taskIds = Array.from({ length: count }, (_, i) => tasks[order.at(first + i).index] as string);
      const played = await playGroups(agent, provider, taskIds, first, step, options, signal);
      all.push(...played);
      return played.filter(hasGroup);
    };
    const drawn = objective.dynamicSampling
      ? await sampleInformative({
          wanted: options.batch,
          maxAttempts: options.maxAttempts,
          objective,
          sample: play,
          groupOf: (played) => played.group,
        })
      : { kept: await play(options.batch), rejected: [] as const, attempts: 1 };
    const trainable = drawn.kept;
    if (trainable.length === 0 && drawn.rejected.length === 0) throw environmentsDown(all);
    assertFresh(
      agent.policy,
      all.flatMap((p) => p.episodes).flatMap((e) => e.steps.map((s) => s.completion)),
    );
    const sampleSeconds = (performance.now() - began) / 1000;

    const trained = await policyStep({
      agent,
      groups: trainable.map((p) => p.group),
      objective,
      reference,
      optimizer: options.optimizer,
      step,
      steps,
      seed: options.seed,
      signal,
    });
    const tokens = all.flatMap((p) => p.episodes).reduce((sum, e) => sum + tokensOf(e), 0);
    return {
      state: { cursor },
      metrics: {
        ...trained.metrics,
        ...episodeMetrics(all, tokens),
        "groups/sampling_attempts": drawn.attempts,
        "optimizer/epoch": cursor / tasks.length,
      },
      timing: {
        ...trained.timing,
        "rollout/seconds": sampleSeconds,
        "rollout/tokens_per_s": tokens / sampleSeconds,
      },
      samples: trainable.slice(0, options.logSamples).map((p) => ({
        task_id: p.episodes[0]?.taskId ?? "",
        task: p.episodes[0]?.task ?? "",
        outcomes: p.episodes.map((e) => e.outcome),
        rewards: p.rewards,
        replies: p.episodes[0]?.steps.map((s) => s.reply) ?? [],
        observations: p.episodes[0]?.steps.map((s) => s.observation) ?? [],
      })),
    };
  };

  return runTrainingLoop<State>({
    folder: context.folder,
    policy: agent.policy,
    steps,
    checkpoint: options.checkpoint,
    abort: options.abort,
    initial: { cursor: 0 },
    stateSchema,
    step,
    onStep: (done, metrics) =>
      context.onProgress?.(done, steps, `success ${metrics["rollout/success_share"]?.toFixed(3) ?? "-"}`),
    signal: context.signal,
  });
}

/** Plays a group of episodes for each task, all side by side. */
async function playGroups(
  agent: TrainableAgent,
  provider: EnvironmentProvider,
  taskIds: readonly string[],
  firstCursor: number,
  step: number,
  options: ReinforceEpisodesOptions,
  signal: AbortSignal | undefined,
): Promise<PlayedTask[]> {
  const { groupSize } = options;
  const requests = taskIds.flatMap((taskId, t) =>
    Array.from({ length: groupSize }, (_, g) => ({ index: (firstCursor + t) * groupSize + g, taskId })),
  );
  const limit = options.stepLimit ?? provider.stepLimit;
  const episodes = await rollout(requests, {
    policy: agent.policy,
    provider,
    form: episodeForm(options.shown, agent.dialogue),
    sampling: samplingOptions(options.sampling, agent.dialogue),
    seed: deriveSeed(options.seed, "reinforce", "episodes"),
    stepLimit: options.horizon === null ? limit : Math.min(limit, horizonAt(options.horizon, step)),
    timeLimit: options.timeLimit,
    environmentTimeLimit: options.environmentTimeLimit,
    admissible: options.admissible ?? agent.dialogue.listsAdmissible,
    malformedLimit: options.malformedLimit,
    concurrency: options.concurrency,
    retries: options.retries,
    retryPause: options.retryPause,
    signal,
  });
  return taskIds.map((_, t) => {
    const own = episodes.slice(t * groupSize, (t + 1) * groupSize);
    const counted = own.filter((e) => e.outcome !== "environment_failed");
    const rewards = counted.map((e) => rewardOf(e, options));
    return { episodes: own, rewards, group: { samples: counted.map((e, i) => sampleOf(e, rewards[i] as number)) } };
  });
}

function rewardOf(episode: Episode, options: ReinforceEpisodesOptions): number {
  const success = episode.outcome === "success";
  const facts = {
    success,
    score: episode.score,
    totalReward: totalReward(episode),
    invalidActions: invalidSteps(episode),
  };
  return episodeReward(facts, options.reward);
}

/** Transcript form: one sequence. Per-step form: one sequence a step, all with the episode's reward. */
function sampleOf(episode: Episode, reward: number): Sample {
  const { transcript, steps } = episode;
  return {
    sequences:
      transcript === null ? steps.map((s) => sequenceOf(s.prompt, s.completion)) : [sequenceOfTranscript(transcript)],
    reward,
    truncated: endsCut(episode),
    malformed: steps.some((s) => s.action === null),
  };
}

function endsCut({ steps }: Episode): boolean {
  return steps.at(-1)?.completion.finishReason === "length";
}

/** Two episodes at least are left to compare. */
function hasGroup(played: PlayedTask): boolean {
  return played.group.samples.length >= 2;
}

function environmentsDown(played: readonly PlayedTask[]): ActError {
  const fault = played.flatMap((p) => p.episodes).flatMap((e) => e.faults)[0];
  return new ActError(
    "TRAINING_ENVIRONMENTS_DOWN",
    `No task of this step has two episodes that count${fault === undefined ? "" : `; first fault: ${fault.message}`}.`,
    { hint: "Check the environment, then resume the run: it goes on from its last checkpoint." },
  );
}

function tokensOf(episode: Episode): number {
  return episode.steps.reduce((sum, s) => sum + s.completion.tokens.length, 0);
}

function episodeMetrics(played: readonly PlayedTask[], tokens: number): MetricValues {
  const all = played.flatMap((p) => p.episodes);
  const counted = all.filter((e) => e.outcome !== "environment_failed");
  const steps = counted.flatMap((e) => e.steps);
  const sent = steps.filter((s) => s.action !== null);
  return {
    "reward/mean": meanOrNull(played.flatMap((p) => p.rewards)),
    "groups/count": played.length,
    "groups/zero_variance_share": share(
      played.filter((p) => hasGroup(p) && hasZeroVariance(p.rewards)).length,
      played.length,
    ),
    "rollout/samples": all.length,
    "rollout/tokens": tokens,
    "rollout/completion_tokens_mean": steps.length === 0 ? null : tokens / steps.length,
    "rollout/truncated_share": share(counted.filter(endsCut).length, counted.length),
    "rollout/malformed_share": share(steps.length - sent.length, steps.length),
    "rollout/environment_failed_share": share(all.length - counted.length, all.length),
    "rollout/success_share": share(counted.filter((e) => e.outcome === "success").length, counted.length),
    "rollout/score_mean": meanOrNull(counted.map((e) => e.score)),
    "rollout/steps_mean": counted.length === 0 ? null : steps.length / counted.length,
    "rollout/rejected_share": share(sent.filter((s) => !s.accepted).length, sent.length),
  };
}
