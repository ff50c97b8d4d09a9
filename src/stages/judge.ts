/**
 * `judge`: the ACT stage. The model learns, by group-relative policy optimization, to say which of two actions is better.
 *
 *   max E_{(s, a+, a-)} E_order E_{y ~ pi(. | s, a_1, a_2)} R(y),   R = 1 / 0.1 / 0 / -0.5 (rewards/action.ts)
 *
 * (Agentic Critical Training, arXiv 2603.08706.) The model reasons freely and copies the better action into its tags; it
 * is never shown a reference rationale. A group shares its prompt and therefore its order; orders are balanced over the
 * pairs and turn round from epoch to epoch.
 */
import { z } from "zod";
import type { PairRecord } from "../data/records.js";
import { readRecords } from "../data/records-file.js";
import type { MetricValues } from "../data/records-metrics.js";
import type { Completion } from "../engine/policy.js";
import { hasZeroVariance } from "../objectives/advantage.js";
import { sampleInformative } from "../objectives/dynamic-sampling.js";
import { objectiveSettingsSchema } from "../objectives/objective.js";
import { resolveObjective } from "../objectives/registry.js";
import { groupOfCompletions, type SampleGroup } from "../objectives/sample.js";
import { type ActionReward, actionReward } from "../rewards/action.js";
import { deriveSeed, EpochOrder, streamOf } from "../rollouts/random.js";
import type { JournalRecord } from "../runs/journal.js";
import { assertFresh, meanOrNull, policyStep, type Reference, rewardMetrics, share } from "./policy-step.js";
import { probeMetrics, probePairs } from "./probe.js";
import { rewardSchema, stepsOf, trainingShape } from "./settings.js";
import { noData, type StageContext, samplingOptions } from "./stage.js";
import type { TrainableAgent } from "./trainable.js";
import { runTrainingLoop, type StepResult, type TrainingResult } from "./training-loop.js";
import { agreement, candidatesOf, readVerdict, type Verdict, verdictShares } from "./verdict.js";

/** Keys of the stage `judge`. */
export const judgeSchema = z.strictObject({
  ...trainingShape,
  objective: objectiveSettingsSchema.prefault({}).describe("what is optimized"),
  reward: rewardSchema.prefault({}).describe("reward of each kind of answer"),
  groupSize: z.number().int().min(2).max(1024).default(8).describe("answers sampled for each question"),
  batch: z.number().int().min(1).default(16).describe("pairs of an optimizer step"),
  orders: z
    .enum(["hash", "both"])
    .default("hash")
    .describe("`hash`: one order a pair, balanced; `both`: two questions a pair, one in each order"),
  probeEvery: z
    .number()
    .int()
    .min(0)
    .default(1)
    .describe("steps between probes of position bias and swap consistency without reasoning; 0: never"),
  maxAttempts: z.number().int().min(1).default(4).describe("rounds of dynamic sampling at most"),
});
/** Options of {@link judge}. */
export type JudgeOptions = z.infer<typeof judgeSchema>;

const stateSchema = z.strictObject({
  /** Questions asked so far; names the next question and its random stream. */
  cursor: z.number().int().nonnegative(),
});
type JudgeState = z.infer<typeof stateSchema>;

/** A question with its sampled answers. */
interface AskedQuestion {
  readonly pair: PairRecord;
  readonly pairIndex: number;
  readonly expertFirst: boolean;
  readonly group: SampleGroup;
  readonly verdicts: readonly Verdict[];
  readonly rewards: readonly ActionReward[];
  readonly completions: readonly Completion[];
}

/**
 * Trains on a pairs file.
 *
 * @param reference Needed when the objective's KL coefficient is not 0: the policy as it was at the start.
 * @throws ActError `STAGE_NO_DATA`, those of {@link runTrainingLoop}.
 */
export async function judge(
  agent: TrainableAgent,
  pairsFile: string,
  options: JudgeOptions,
  context: StageContext,
  reference: Reference | null,
): Promise<TrainingResult> {
  const { records } = await readRecords(pairsFile, "pairs");
  if (records.length === 0) throw noData(`${pairsFile} holds no pairs`);
  const questions = new Questions(records, options);
  const steps = stepsOf(options, records.length);
  return runTrainingLoop<JudgeState>({
    folder: context.folder,
    policy: agent.policy,
    steps,
    checkpoint: options.checkpoint,
    abort: options.abort,
    initial: { cursor: 0 },
    stateSchema,
    step: (step, state, signal) => judgeStep({ agent, questions, options, reference, step, steps, state, signal }),
    onStep: (step, metrics) => context.onProgress?.(step, steps, progressText(metrics)),
    signal: context.signal,
  });
}

/** The endless order in which questions are asked. */
class Questions {
  readonly #pairs: readonly PairRecord[];
  readonly #order: EpochOrder;
  readonly #both: boolean;

  constructor(pairs: readonly PairRecord[], options: JudgeOptions) {
    this.#pairs = pairs;
    this.#both = options.orders === "both";
    this.#order = new EpochOrder(deriveSeed(options.seed, "judge", "order"), pairs.length);
  }

  /** Questions of an epoch. */
  get count(): number {
    return this.#pairs.length * (this.#both ? 2 : 1);
  }

  at(cursor: number): { pair: PairRecord; pairIndex: number; expertFirst: boolean; epoch: number } {
    const { index, epoch } = this.#order.at(this.#both ? Math.floor(cursor / 2) : cursor);
    const pair = this.#pairs[index] as PairRecord;
    const turned = (this.#both ? cursor : epoch) % 2 === 1;
    return { pair, pairIndex: index, expertFirst: pair.expert_first !== turned, epoch };
  }
}

async function judgeStep(run: {
  readonly agent: TrainableAgent;
  readonly questions: Questions;
  readonly options: JudgeOptions;
  readonly reference: Reference | null;
  readonly step: number;
  readonly steps: number;
  readonly state: JudgeState;
  readonly signal: AbortSignal;
}): Promise<StepResult<JudgeState>> {
  const { agent, questions, options, step, steps, signal } = run;
  const objective = resolveObjective(options.objective);
  const began = performance.now();
  let cursor = run.state.cursor;
  let tooLong = 0;
  const ask = async (count: number): Promise<AskedQuestion[]> => {
    const wanted = Array.from({ length: count }, (_, i) => cursor + i);
    cursor += count;
    const asked = await Promise.all(wanted.map((c) => askQuestion(agent, questions.at(c), c, options, signal)));
    const answered = asked.filter((q) => q !== null);
    tooLong += asked.length - answered.length;
    return answered;
  };

  const batch = options.orders === "both" ? 2 * options.batch : options.batch;
  const drawn = objective.dynamicSampling
    ? await sampleInformative({
        wanted: batch,
        maxAttempts: options.maxAttempts,
        objective,
        sample: ask,
        groupOf: (question) => question.group,
      })
    : { kept: await ask(batch), rejected: [], attempts: 1 };
  const all = [...drawn.kept, ...drawn.rejected];
  if (all.length === 0) throw noData("no judgment prompt of this step leaves room for an answer");
  assertFresh(
    agent.policy,
    all.flatMap((q) => q.completions),
  );
  const probing = options.probeEvery > 0 && step % options.probeEvery === 0;
  const probed = probing
    ? probeMetrics(await probePairs(agent, [...new Set(drawn.kept.map((q) => q.pair))], { signal }))
    : {};
  const sampleSeconds = (performance.now() - began) / 1000;

  const trained = await policyStep({
    agent,
    groups: drawn.kept.map((q) => q.group),
    objective,
    reference: run.reference,
    optimizer: options.optimizer,
    step,
    steps,
    seed: options.seed,
    signal,
  });
  const tokens = all.flatMap((q) => q.completions).reduce((sum, c) => sum + c.tokens.length, 0);
  return {
    state: { cursor },
    metrics: {
      ...trained.metrics,
      ...sampleMetrics(all, tokens),
      ...probed,
      "rollout/prompts_too_long": tooLong,
      "groups/sampling_attempts": drawn.attempts,
      "optimizer/epoch": cursor / questions.count,
    },
    timing: {
      ...trained.timing,
      "rollout/seconds": sampleSeconds,
      "rollout/tokens_per_s": tokens / sampleSeconds,
    },
    samples: samplesOf(drawn.kept, options.logSamples),
  };
}

/** Asks one question; null where its prompt leaves no room for an answer. */
async function askQuestion(
  agent: TrainableAgent,
  question: { readonly pair: PairRecord; readonly pairIndex: number; readonly expertFirst: boolean },
  cursor: number,
  options: JudgeOptions,
  signal: AbortSignal | undefined,
): Promise<AskedQuestion | null> {
  const { policy, dialogue } = agent;
  const { pair, expertFirst } = question;
  const prompt = await dialogue.judgmentPrompt(pair.state, candidatesOf(pair, expertFirst));
  const room = policy.contextLength - prompt.length;
  if (room < 1) return null;
  const sampling = samplingOptions(options.sampling, dialogue);
  const completions = await policy.generate(
    {
      ...sampling,
      maxNewTokens: Math.min(room, sampling.maxNewTokens),
      prompt,
      count: options.groupSize,
      seed: deriveSeed(options.seed, "judge"),
      stream: streamOf(cursor),
    },
    signal === undefined ? {} : { signal },
  );
  const verdicts = await Promise.all(completions.map((c) => readVerdict(dialogue, pair, expertFirst, c)));
  const rewards = verdicts.map((v) =>
    actionReward(v.parsed, pair.expert_action, pair.state.admissible, options.reward),
  );
  const outcomes = rewards.map((r) => ({ reward: r.reward, malformed: r.kind === "malformed" }));
  return { ...question, group: groupOfCompletions(prompt, completions, outcomes), verdicts, rewards, completions };
}

/** Figures over everything that was sampled, groups that dynamic sampling rejected among it. */
function sampleMetrics(asked: readonly AskedQuestion[], tokens: number): MetricValues {
  const verdicts = asked.flatMap((q) => q.verdicts);
  const completions = asked.flatMap((q) => q.completions);
  const rewards = asked.flatMap((q) => q.rewards);
  const { accuracy, firstShare } = verdictShares(verdicts);
  return {
    ...rewardMetrics(
      rewards.map((r) => r.reward),
      rewards.map((r) => r.kind),
    ),
    "judge/accuracy": accuracy,
    "judge/first_share": firstShare,
    "judge/swap_consistency": swapConsistency(asked),
    "groups/count": asked.length,
    "groups/zero_variance_share": share(
      asked.filter((q) => hasZeroVariance(q.rewards.map((r) => r.reward))).length,
      asked.length,
    ),
    "rollout/samples": completions.length,
    "rollout/tokens": tokens,
    "rollout/completion_tokens_mean": tokens / completions.length,
    "rollout/truncated_share": share(completions.filter((c) => c.finishReason === "length").length, completions.length),
    "rollout/malformed_share": share(rewards.filter((r) => r.kind === "malformed").length, rewards.length),
  };
}

/** Mean agreement of pairs that were asked in both orders in this step; null where none was. */
function swapConsistency(asked: readonly AskedQuestion[]): number | null {
  const agreements: number[] = [];
  for (const pairIndex of new Set(asked.map((q) => q.pairIndex))) {
    const questions = asked.filter((q) => q.pairIndex === pairIndex);
    const one = questions.find((q) => q.expertFirst);
    const other = questions.find((q) => !q.expertFirst);
    if (one !== undefined && other !== undefined) agreements.push(agreement(one.verdicts, other.verdicts));
  }
  return meanOrNull(agreements);
}

function samplesOf(asked: readonly AskedQuestion[], count: number): JournalRecord[] {
  return asked.slice(0, count).map((q) => ({
    pair_id: q.pair.id,
    task: q.pair.state.task,
    observation: q.pair.state.observation,
    expert_action: q.pair.expert_action,
    alternative: q.pair.alternative,
    expert_first: q.expertFirst,
    replies: q.verdicts.map((v) => v.text),
    picked: q.verdicts.map((v) => v.picked),
    rewards: q.rewards.map((r) => r.reward),
  }));
}

function progressText(metrics: MetricValues): string {
  const number = (value: number | null | undefined): string => (typeof value === "number" ? value.toFixed(3) : "-");
  return `reward ${number(metrics["reward/mean"])}  accuracy ${number(metrics["judge/accuracy"])}`;
}
