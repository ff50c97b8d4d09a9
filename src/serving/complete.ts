/**
 * Answers one job: finds its prompts, samples under the gate, records what belongs to an episode.
 */
import { setMaxListeners } from "node:events";
import type { Completion, Policy } from "../engine/policy.js";
import { deriveSeed } from "../rollouts/random.js";
import type { ChatTemplate } from "../tokens/chat-template.js";
import { ApiError } from "./api-error.js";
import type { CompletionJob } from "./job.js";
import { freshPrompt, type PlannedPrompt } from "./recorded-episode.js";
import { type SampledCompletion, type SampleRequest, sampleCompletions } from "./sampler.js";
import type { SamplingGate } from "./sampling-gate.js";
import type { EpisodeTurn, ServedEpisodes } from "./served-episodes.js";
import { StopText } from "./stop-text.js";

export interface CompletionContext {
  readonly policy: Policy;
  readonly chat: ChatTemplate;
  readonly gate: SamplingGate;
  readonly episodes: ServedEpisodes;
  readonly seed: number;
  /** Tokens of a completion that sets no limit of its own. */
  readonly maxNewTokens: number;
  /** Tokens sampled between two pieces of a stream, or between two looks for a stop string. */
  readonly sliceTokens: number;
  /** Number of the next job without episode and seed; names its random stream. */
  readonly nextJob: () => number;
}

/** The prompts of a job, found before the first token is sampled. */
export interface PlannedJob {
  readonly prompts: readonly PlannedPrompt[];
  readonly turns: readonly EpisodeTurn[];
  readonly requests: readonly SampleRequest[];
}

/** Told of what is settled of choice `index` while it grows. */
export type Progress = (index: number, completion: Completion, settled: string) => Promise<void>;

/** Streams of one job are spaced so that no two completions share a random number: at most 2^16 a request. */
const STREAM_BITS = 16n;

/**
 * Checks a job and finds its prompts. Must be followed by {@link completeJob} or {@link abandonJob}.
 *
 * @throws ApiError 400 `context_length_exceeded` and those of prompts and episodes.
 */
export async function planJob(context: CompletionContext, job: CompletionJob): Promise<PlannedJob> {
  const { chat, episodes } = context;
  const turns: EpisodeTurn[] = [];
  const prompts: PlannedPrompt[] = [];
  try {
    for (const input of job.prompts) {
      if (job.episode === null) {
        prompts.push(await freshPrompt(chat, input));
        continue;
      }
      const turn = await episodes.begin(job.episode.id, job.episode.group, input);
      turns.push(turn);
      prompts.push(turn.planned);
    }
    const own = job.episode === null && job.seed === null ? context.nextJob() : 0;
    const requests = prompts.map((prompt, i) => requestOf(context, job, prompt, turns[i] ?? null, own, i));
    return { prompts, turns, requests };
  } catch (cause) {
    for (const turn of turns) turn.abandon();
    throw cause;
  }
}

/** Gives back the prompts of a job that will not be answered. */
export function abandonJob({ turns }: PlannedJob): void {
  for (const turn of turns) turn.abandon();
}

/**
 * Samples all choices of a job and records them; choice `p * count + i` is completion `i` of prompt `p`.
 *
 * What a client that has gone would have got is not recorded: the episode goes on without it.
 */
export async function completeJob(
  context: CompletionContext,
  job: CompletionJob,
  planned: PlannedJob,
  signal: AbortSignal,
  onProgress: Progress | null,
): Promise<SampledCompletion[]> {
  const stop = new StopText(context.chat.tokenizer, job.stops, context.chat.stopTokens);
  const sliced = onProgress !== null || job.stops.length > 0;
  // One prompt's failure must not leave the others running for nobody.
  const controller = new AbortController();
  const shared = AbortSignal.any([signal, controller.signal]);
  setMaxListeners(planned.requests.length + 1, shared);
  try {
    const sampled = await context.gate.sample(async () => {
      const all = await Promise.allSettled(
        planned.requests.map(async (request, p) => {
          try {
            return await sampleCompletions(context.policy, request, {
              stop,
              slice: sliced ? context.sliceTokens : null,
              signal: shared,
              ...(onProgress === null
                ? {}
                : {
                    onSlice: async (i, completion) =>
                      onProgress(p * job.count + i, completion, await stop.settled(completion.tokens)),
                  }),
            });
          } catch (cause) {
            controller.abort(cause);
            throw cause;
          }
        }),
      );
      return all.map((result) => {
        if (result.status === "rejected") throw shared.reason;
        return result.value;
      });
    }, shared);
    signal.throwIfAborted();
    planned.turns.forEach((turn, p) => {
      turn.record(sampled[p] ?? []);
    });
    return sampled.flat();
  } finally {
    abandonJob(planned);
  }
}

function requestOf(
  context: CompletionContext,
  job: CompletionJob,
  { tokens }: PlannedPrompt,
  turn: EpisodeTurn | null,
  jobNumber: number,
  index: number,
): SampleRequest {
  const { policy, chat } = context;
  if (tokens.length === 0)
    throw new ApiError(400, "invalid_value", "The prompt has no token.", {
      param: "prompt",
      hint: "Send a text, or at least one token id.",
    });
  const outside = tokens.find((id) => id >= policy.vocabSize);
  if (outside !== undefined)
    throw new ApiError(400, "token_out_of_range", `Token ${outside} is not in the vocabulary of ${policy.vocabSize}.`, {
      hint: "Encode with the tokenizer of the served model.",
    });
  const room = policy.contextLength - tokens.length;
  const wanted = job.maxTokens ?? 1;
  if (room < wanted)
    throw new ApiError(
      400,
      "context_length_exceeded",
      `This model's maximum context length is ${policy.contextLength} tokens. The prompt has ${tokens.length} tokens and ${wanted} are wanted for the completion.`,
      { param: job.kind === "chat" ? "messages" : "prompt", hint: "Shorten the prompt or ask for fewer tokens." },
    );
  return {
    prompt: tokens,
    count: job.count,
    maxNewTokens: job.maxTokens ?? Math.min(room, context.maxNewTokens),
    temperature: job.temperature,
    topP: job.topP,
    topK: job.topK,
    minP: job.minP,
    stopTokens: chat.stopTokens,
    ...randomOf(context.seed, job, turn, jobNumber, index),
  };
}

/**
 * A request with a seed draws the same numbers whenever it comes. Without one, numbers depend on the server's seed and
 * on the episode's id and turn, so that episodes do not depend on each other's timing; else on the order of requests.
 */
function randomOf(
  serverSeed: number,
  job: CompletionJob,
  turn: EpisodeTurn | null,
  jobNumber: number,
  index: number,
): { readonly seed: bigint; readonly stream: bigint } {
  if (job.seed !== null) return { seed: job.seed, stream: BigInt(index) << STREAM_BITS };
  if (turn !== null)
    return { seed: deriveSeed(serverSeed, "episode", turn.episodeId), stream: BigInt(turn.index) << STREAM_BITS };
  return { seed: deriveSeed(serverSeed, "request", jobNumber), stream: BigInt(index) << STREAM_BITS };
}
