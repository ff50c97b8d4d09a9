/**
 * `reinforce`, single-step form: at every expert state the model acts, and is rewarded for the expert's action.
 *
 *   max E_{(s, a+)} E_{y ~ pi(. | s)} R(y),   R = 1 / 0.1 / 0 / -0.5 (rewards/action.ts)
 *
 * The action stage of arXiv 2603.08706, version 1: no environment runs. The whole-episode form is reinforce-episodes.ts.
 */
import { z } from "zod";
import type { ExpertRecord } from "../data/records.js";
import { readRecords } from "../data/records-file.js";
import type { Completion } from "../engine/policy.js";
import { hasZeroVariance } from "../objectives/advantage.js";
import { sampleInformative } from "../objectives/dynamic-sampling.js";
import { objectiveSettingsSchema } from "../objectives/objective.js";
import { resolveObjective } from "../objectives/registry.js";
import { groupOfCompletions, type SampleGroup } from "../objectives/sample.js";
import { parseReply } from "../prompts/reply.js";
import { type ActionReward, actionReward } from "../rewards/action.js";
import { deriveSeed, EpochOrder, streamOf } from "../rollouts/random.js";
import { assertFresh, policyStep, type Reference, rewardMetrics, share } from "./policy-step.js";
import { rewardSchema, stepsOf, trainingShape } from "./settings.js";
import { noData, type StageContext, samplingOptions } from "./stage.js";
import type { TrainableAgent } from "./trainable.js";
import { runTrainingLoop, type StepResult, type TrainingResult } from "./training-loop.js";

/** Keys of the stage `reinforce` in its single-step form. */
export const reinforceStatesSchema = z.strictObject({
  form: z.literal("states").default("states").describe("act once at each expert state"),
  ...trainingShape,
  objective: objectiveSettingsSchema.prefault({}).describe("what is optimized"),
  reward: rewardSchema.prefault({}).describe("reward of each kind of action"),
  groupSize: z.number().int().min(2).max(1024).default(8).describe("replies sampled at each state"),
  batch: z.number().int().min(1).default(16).describe("states of an optimizer step"),
  maxAttempts: z.number().int().min(1).default(4).describe("rounds of dynamic sampling at most"),
});
/** Options of {@link reinforceStates}. */
export type ReinforceStatesOptions = z.infer<typeof reinforceStatesSchema>;

const stateSchema = z.strictObject({ cursor: z.number().int().nonnegative() });
type State = z.infer<typeof stateSchema>;

interface ActedState {
  readonly record: ExpertRecord;
  readonly group: SampleGroup;
  readonly replies: readonly string[];
  readonly rewards: readonly ActionReward[];
  readonly completions: readonly Completion[];
}

/**
 * Trains on the states of an expert file.
 *
 * @param reference Needed when the objective's KL coefficient is not 0: the policy as it was at the start.
 * @throws ActError `STAGE_NO_DATA`, those of {@link runTrainingLoop}.
 */
export async function reinforceStates(
  agent: TrainableAgent,
  expertFile: string,
  options: ReinforceStatesOptions,
  context: StageContext,
  reference: Reference | null,
): Promise<TrainingResult> {
  const { records } = await readRecords(expertFile, "expert");
  if (records.length === 0) throw noData(`${expertFile} holds no states`);
  const order = new EpochOrder(deriveSeed(options.seed, "reinforce", "order"), records.length);
  const steps = stepsOf(options, records.length);
  const objective = resolveObjective(options.objective);

  const step = async (step: number, state: State, signal: AbortSignal): Promise<StepResult<State>> => {
    const began = performance.now();
    let cursor = state.cursor;
    let tooLong = 0;
    const act = async (count: number): Promise<ActedState[]> => {
      const wanted = Array.from({ length: count }, (_, i) => cursor + i);
      cursor += count;
      const acted = await Promise.all(
        wanted.map((c) => actOnce(agent, records[order.at(c).index] as ExpertRecord, c, options, signal)),
      );
      const answered = acted.filter((a) => a !== null);
      tooLong += acted.length - answered.length;
      return answered;
    };
    const drawn = objective.dynamicSampling
      ? await sampleInformative({
          wanted: options.batch,
          maxAttempts: options.maxAttempts,
          objective,
          sample: act,
          groupOf: (acted) => acted.group,
        })
      : { kept: await act(options.batch), rejected: [], attempts: 1 };
    const all = [...drawn.kept, ...drawn.rejected];
    if (all.length === 0) throw noData("no action prompt of this step leaves room for a reply");
    assertFresh(
      agent.policy,
      all.flatMap((a) => a.completions),
    );
    const sampleSeconds = (performance.now() - began) / 1000;

    const trained = await policyStep({
      agent,
      groups: drawn.kept.map((a) => a.group),
      objective,
      reference,
      optimizer: options.optimizer,
      step,
      steps,
      seed: options.seed,
      signal,
    });
    const rewards = all.flatMap((a) => a.rewards);
    const completions = all.flatMap((a) => a.completions);
    const tokens = completions.reduce((sum, c) => sum + c.tokens.length, 0);
    const silent = all.filter((a) => hasZeroVariance(a.rewards.map((r) => r.reward))).length;
    return {
      state: { cursor },
      metrics: {
        ...trained.metrics,
        ...rewardMetrics(
          rewards.map((r) => r.reward),
          rewards.map((r) => r.kind),
        ),
        "groups/count": all.length,
        "groups/zero_variance_share": share(silent, all.length),
        "groups/sampling_attempts": drawn.attempts,
        "rollout/samples": completions.length,
        "rollout/tokens": tokens,
        "rollout/completion_tokens_mean": tokens / completions.length,
        "rollout/truncated_share": share(
          completions.filter((c) => c.finishReason === "length").length,
          completions.length,
        ),
        "rollout/malformed_share": share(rewards.filter((r) => r.kind === "malformed").length, rewards.length),
        "rollout/prompts_too_long": tooLong,
        "optimizer/epoch": cursor / records.length,
      },
      timing: {
        ...trained.timing,
        "rollout/seconds": sampleSeconds,
        "rollout/tokens_per_s": tokens / sampleSeconds,
      },
      samples: drawn.kept.slice(0, options.logSamples).map((a) => ({
        state_id: a.record.id,
        task: a.record.state.task,
        observation: a.record.state.observation,
        expert_action: a.record.expert_action,
        replies: a.replies,
        rewards: a.rewards.map((r) => r.reward),
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
    onStep: (done, metrics) => context.onProgress?.(done, steps, `reward ${metrics["reward/mean"]?.toFixed(3) ?? "-"}`),
    signal: context.signal,
  });
}

/** Samples a group at one state; null where the prompt leaves no room for a reply. */
async function actOnce(
  { policy, dialogue }: TrainableAgent,
  record: ExpertRecord,
  cursor: number,
  options: ReinforceStatesOptions,
  signal: AbortSignal | undefined,
): Promise<ActedState | null> {
  const prompt = await dialogue.actionPrompt(record.state);
  const room = policy.contextLength - prompt.length;
  if (room < 1) return null;
  const sampling = samplingOptions(options.sampling, dialogue);
  const completions = await policy.generate(
    {
      ...sampling,
      maxNewTokens: Math.min(room, sampling.maxNewTokens),
      prompt,
      count: options.groupSize,
      seed: deriveSeed(options.seed, "reinforce"),
      stream: streamOf(cursor),
    },
    signal === undefined ? {} : { signal },
  );
  const replies = await Promise.all(completions.map((c) => dialogue.text(c)));
  const rewards = replies.map((text) =>
    actionReward(parseReply(text), record.expert_action, record.state.admissible, options.reward),
  );
  const outcomes = rewards.map((r) => ({ reward: r.reward, malformed: r.kind === "malformed" }));
  return { record, group: groupOfCompletions(prompt, completions, outcomes), replies, rewards, completions };
}
