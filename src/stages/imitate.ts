/**
 * `imitate`: supervised learning of the expert's actions.
 *
 *   L = - sum_i w_i log pi(answer_i | action prompt of s_i)
 *
 * The answer is the action in its tags, after the expert's own words where it has any and `thoughts` is on. Loss is on
 * the answer only, its stop token included.
 */
import { z } from "zod";
import type { ExpertRecord } from "../data/records.js";
import { readRecords } from "../data/records-file.js";
import { type ImitationExample, imitationBatch, imitationExample } from "../objectives/imitation.js";
import { BlockOrder, deriveSeed, EpochOrder } from "../rollouts/random.js";
import { optimizingShape, stepsOf } from "./settings.js";
import { noData, type StageContext } from "./stage.js";
import { adamw, optimizerSchema, type TrainableAgent } from "./trainable.js";
import { abortSchema, assertFinite, runTrainingLoop, type StepResult, type TrainingResult } from "./training-loop.js";

/** Keys of the stage `imitate`. */
export const imitateSchema = z.strictObject({
  ...optimizingShape,
  optimizer: optimizerSchema
    .extend({ learningRate: optimizerSchema.shape.learningRate.default(1e-5) })
    .prefault({})
    .describe("learning rate and AdamW"),
  batch: z.number().int().min(1).default(16).describe("states of an optimizer step"),
  thoughts: z.boolean().default(true).describe("learn the expert's words before the action, where there are any"),
  order: z
    .enum(["states", "episodes"])
    .default("states")
    .describe(
      "`states`: every state by itself, in random order; `episodes`: episodes in random order, their states together, so that what their prompts share is computed once",
    ),
  states: z.number().int().min(1).nullable().default(null).describe("states used, a seeded choice; null: all"),
  aggregation: z
    .enum(["token-mean", "seq-mean-token-mean", "seq-mean-token-sum"])
    .default("token-mean")
    .describe("how token losses become one number"),
});
/** Options of {@link imitate}. */
export type ImitateOptions = z.infer<typeof imitateSchema>;

const stateSchema = z.strictObject({ cursor: z.number().int().nonnegative() });
type ImitateState = z.infer<typeof stateSchema>;

/**
 * Trains on an expert file.
 *
 * @throws ActError `STAGE_NO_DATA`, those of {@link runTrainingLoop}.
 */
export async function imitate(
  agent: TrainableAgent,
  expertFile: string,
  options: ImitateOptions,
  context: StageContext,
): Promise<TrainingResult> {
  const { records } = await readRecords(expertFile, "expert");
  if (records.length === 0) throw noData(`${expertFile} holds no states`);
  const chosen = new EpochOrder(deriveSeed(options.seed, "imitate", "states"), records.length);
  const used = Array.from(
    { length: Math.min(records.length, options.states ?? records.length) },
    (_, i) => records[chosen.at(i).index] as ExpertRecord,
  );
  const orderSeed = deriveSeed(options.seed, "imitate", "order");
  const order =
    options.order === "states" ? new EpochOrder(orderSeed, used.length) : new BlockOrder(orderSeed, episodesOf(used));
  const steps = stepsOf(options, used.length);

  const step = async (step: number, state: ImitateState, signal: AbortSignal): Promise<StepResult<ImitateState>> => {
    const began = performance.now();
    const wanted = Array.from({ length: options.batch }, (_, i) => used[order.at(state.cursor + i).index]);
    const examples = await Promise.all(wanted.map((record) => exampleOf(agent, record as ExpertRecord, options)));
    const fitting = examples.filter((example) => example !== null);
    if (fitting.length === 0) throw noData("no example of this step fits the model's context");
    const layout = agent.maxTreeTokens === null ? {} : { maxTreeTokens: agent.maxTreeTokens };
    const batch = imitationBatch(fitting, { ...layout, aggregation: options.aggregation });
    const result = await agent.policy.accumulate(batch.forest, batch.rows, { signal });
    assertFinite({ "policy/loss": result.loss }, step);
    const settings = adamw(options.optimizer, step, steps, options.seed);
    const { gradNorm } = await agent.policy.step(settings);
    assertFinite({ "optimizer/grad_norm": gradNorm }, step);
    const seconds = (performance.now() - began) / 1000;
    const rows = batch.rows.rows.length;
    const tokens = batch.forest.segments.reduce((sum, s) => sum + s.tokens.length, 0);
    const cursor = state.cursor + options.batch;
    return {
      state: { cursor },
      metrics: {
        "policy/loss": result.loss,
        "policy/entropy": sum(result.entropy) / rows,
        "imitation/loss": -sum(result.logprob) / rows,
        "imitation/examples": fitting.length,
        "rollout/prompts_too_long": examples.length - fitting.length,
        "batch/rows": rows,
        "batch/forest_tokens": tokens,
        "batch/flat_tokens": fitting.reduce((total, e) => total + e.tokens.length - 1, 0),
        "optimizer/learning_rate": settings.learningRate,
        "optimizer/grad_norm": gradNorm,
        "optimizer/epoch": cursor / used.length,
      },
      timing: {
        "training/seconds": seconds,
        "training/tokens_per_s": tokens / seconds,
        "memory/peak_bytes": agent.policy.stats().bytesPeak,
      },
    };
  };

  return runTrainingLoop<ImitateState>({
    folder: context.folder,
    policy: agent.policy,
    steps,
    checkpoint: options.checkpoint,
    abort: abortSchema.parse({}),
    initial: { cursor: 0 },
    stateSchema,
    step,
    onStep: (done, metrics) =>
      context.onProgress?.(done, steps, `loss ${metrics["imitation/loss"]?.toFixed(4) ?? "-"}`),
    signal: context.signal,
  });
}

/** Positions of the records of each episode, by step. */
function episodesOf(records: readonly ExpertRecord[]): number[][] {
  const episodes = new Map<string, number[]>();
  records.forEach((record, i) => {
    // A record's id is `<episode>#<step>`.
    const episode = record.id.slice(0, record.id.lastIndexOf("#"));
    const list = episodes.get(episode);
    if (list === undefined) episodes.set(episode, [i]);
    else list.push(i);
  });
  const stepOf = (i: number): number => records[i]?.state.step ?? 0;
  return [...episodes.values()].map((list) => list.sort((a, b) => stepOf(a) - stepOf(b)));
}

/** Prompt and answer of a state; null where they do not fit the context. */
async function exampleOf(
  { policy, dialogue }: TrainableAgent,
  record: ExpertRecord,
  options: ImitateOptions,
): Promise<ImitationExample | null> {
  const prompt = await dialogue.actionPrompt(record.state);
  const answer = await dialogue.target(options.thoughts ? record.thought : null, record.expert_action);
  return prompt.length + answer.length > policy.contextLength ? null : imitationExample(prompt, answer);
}

/** In double precision, in order. */
function sum(values: Float32Array): number {
  let total = 0;
  for (const value of values) total += value;
  return total;
}
