/**
 * Completions for clients, sampled whole or slice by slice.
 *
 * A completion that is streamed or that a text may end is sampled a few tokens at a time: each slice continues the
 * prompt and all tokens so far, whose keys the engine still has. Random numbers depend on (seed, stream, position)
 * alone, so the slices give the tokens that one call would have given.
 */
import { setMaxListeners } from "node:events";
import type { Completion, GenerateRequest, Policy } from "../engine/policy.js";
import { ApiError } from "./api-error.js";
import type { CompletionText, StopText } from "./stop-text.js";

/** What is asked of the policy, for each of `count` completions. */
export type SampleRequest = Pick<
  GenerateRequest,
  "temperature" | "topK" | "topP" | "minP" | "maxNewTokens" | "stopTokens"
> & {
  readonly prompt: Int32Array;
  readonly count: number;
  readonly seed: bigint;
  readonly stream: bigint;
};

/** A finished completion. */
export interface SampledCompletion extends CompletionText {
  readonly completion: Completion;
}

export interface SampleOptions {
  readonly stop: StopText;
  /** Tokens of a slice; null samples whole completions. */
  readonly slice: number | null;
  /** Told of completion `index` after each slice that does not end it. */
  readonly onSlice?: (index: number, completion: Completion) => Promise<void>;
  /** Told of each completion as it ends. */
  readonly onFinished?: (index: number, sampled: SampledCompletion) => Promise<void>;
  readonly signal: AbortSignal;
}

/**
 * Samples all completions of a request. Call it under one pass of the sampling gate.
 *
 * @throws ApiError 503 `aborted` where the engine was disposed of, `weights_changed`; the policy's errors; the signal's
 *   reason.
 */
export async function sampleCompletions(
  policy: Policy,
  request: SampleRequest,
  options: SampleOptions,
): Promise<SampledCompletion[]> {
  const { slice, signal } = options;
  const finish = async (completion: Completion, index: number): Promise<SampledCompletion> => {
    const sampled = { completion, ...(await options.stop.finished(completion.tokens)) };
    await options.onFinished?.(index, sampled);
    return sampled;
  };
  if (slice === null) {
    const completions = await policy.generate(request, { signal });
    for (const completion of completions) assertWhole(completion);
    return Promise.all(completions.map(finish));
  }
  // One completion's failure must not leave the others running for nobody.
  const controller = new AbortController();
  const shared = AbortSignal.any([signal, controller.signal]);
  setMaxListeners(request.count + 1, shared);
  const sampling = Array.from({ length: request.count }, async (_, index) => {
    try {
      const stream = request.stream + BigInt(index);
      const whole = await sampleSlices(policy, { ...request, count: 1, stream }, slice, options, index, shared);
      return await finish(whole, index);
    } catch (cause) {
      controller.abort(cause);
      throw cause;
    }
  });
  const settled = await Promise.allSettled(sampling);
  return settled.map((result) => {
    if (result.status === "fulfilled") return result.value;
    throw shared.reason;
  });
}

async function sampleSlices(
  policy: Policy,
  request: SampleRequest,
  slice: number,
  options: SampleOptions,
  index: number,
  signal: AbortSignal,
): Promise<Completion> {
  const { prompt, maxNewTokens } = request;
  let whole: Completion | null = null;
  for (;;) {
    const before: number = whole?.tokens.length ?? 0;
    const left = maxNewTokens - before;
    const [part] = await policy.generate(
      {
        ...request,
        prompt: whole === null ? prompt : joined(prompt, whole.tokens),
        maxNewTokens: Math.min(slice, left),
      },
      { signal },
    );
    if (part === undefined) throw new TypeError("The policy returned no completion.");
    assertWhole(part);
    whole = whole === null ? part : appended(whole, part);
    const end = await options.stop.end(whole.tokens, before);
    if (end !== null) return { ...cut(whole, end), finishReason: "stop" };
    if (part.finishReason === "stop" || whole.tokens.length >= maxNewTokens) return whole;
    await options.onSlice?.(index, whole);
  }
}

function assertWhole({ finishReason }: Completion): void {
  if (finishReason === "aborted")
    throw new ApiError(503, "aborted", "The engine ended the completion before it was whole.");
}

function appended(first: Completion, second: Completion): Completion {
  if (first.weightVersion !== second.weightVersion)
    throw new ApiError(503, "weights_changed", "The weights changed in the middle of a completion.", {
      hint: "Update the weights through the server's gate.",
    });
  return {
    tokens: joined(first.tokens, second.tokens),
    logprobs: joinedFloats(first.logprobs, second.logprobs),
    samplingLogprobs: joinedFloats(first.samplingLogprobs, second.samplingLogprobs),
    keptMass: joinedFloats(first.keptMass, second.keptMass),
    entropy: joinedFloats(first.entropy, second.entropy),
    finishReason: second.finishReason,
    weightVersion: second.weightVersion,
  };
}

function cut(completion: Completion, end: number): Completion {
  return {
    ...completion,
    tokens: completion.tokens.slice(0, end),
    logprobs: completion.logprobs.slice(0, end),
    samplingLogprobs: completion.samplingLogprobs.slice(0, end),
    keptMass: completion.keptMass.slice(0, end),
    entropy: completion.entropy.slice(0, end),
  };
}

/** Two lists of tokens end to end. */
export function joined(first: Int32Array, second: Int32Array): Int32Array {
  const all = new Int32Array(first.length + second.length);
  all.set(first);
  all.set(second, first.length);
  return all;
}

function joinedFloats(first: Float32Array, second: Float32Array): Float32Array {
  const all = new Float32Array(first.length + second.length);
  all.set(first);
  all.set(second, first.length);
  return all;
}
