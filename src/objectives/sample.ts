/**
 * What an objective is computed from: groups of samples, each with its reward, as tokens.
 */
import type { Completion } from "../engine/policy.js";
import { ActError } from "../errors.js";
import type { Transcript } from "../tokens/transcript.js";

/** One array of tokens, some of which the policy sampled. */
export interface TrainingSequence {
  readonly tokens: Int32Array;
  /** [tokens.length]; 1: sampled and trained on. The first token never is: nothing stands before it. */
  readonly mask: Uint8Array;
  /** [tokens.length] Log-prob when sampled, at temperature 1, untruncated, nats. Read where the mask is 1. */
  readonly logprobs: Float32Array;
  /** [tokens.length] Log-prob under the distribution the token was drawn from. Read where the mask is 1. */
  readonly samplingLogprobs: Float32Array;
}

/** One completion, or one episode: a single reward for everything sampled in it. */
export interface Sample {
  /** One for a completion or an append-only transcript; one a turn where turns are rendered anew. */
  readonly sequences: readonly TrainingSequence[];
  /** Before truncation policy and overlong shaping. */
  readonly reward: number;
  /** Its last reply was cut by the token limit. One cut before it is a turn like any other: the environment answered it. */
  readonly truncated: boolean;
  /** A reply in it could not be parsed. Counted, nothing else. */
  readonly malformed: boolean;
}

/** Samples of one prompt (or one task), compared with each other. */
export interface SampleGroup {
  readonly samples: readonly Sample[];
}

/** What a completion was worth. */
export interface CompletionOutcome {
  readonly reward: number;
  readonly malformed: boolean;
}

/** What a sequence takes from a completion. */
export type SequenceSource = Pick<Completion, "tokens" | "logprobs" | "samplingLogprobs">;

/**
 * A prompt and what was sampled for it as one sequence.
 *
 * @throws ActError `OBJECTIVE_BAD_SAMPLE` for an empty prompt or lists that differ in length.
 */
export function sequenceOf(prompt: ArrayLike<number>, completion: SequenceSource): TrainingSequence {
  const length = prompt.length + completion.tokens.length;
  if (prompt.length === 0)
    throw badSample("the prompt is empty", "Begin it with one token at least, e.g. the tokenizer's `bos_token`.");
  for (const list of [completion.logprobs, completion.samplingLogprobs])
    if (list.length !== completion.tokens.length)
      throw badSample(`${completion.tokens.length} tokens came with ${list.length} log-probs`, AS_SAMPLED);
  const tokens = new Int32Array(length);
  tokens.set(prompt);
  tokens.set(completion.tokens, prompt.length);
  const logprobs = new Float32Array(length).fill(Number.NaN);
  logprobs.set(completion.logprobs, prompt.length);
  const samplingLogprobs = new Float32Array(length).fill(Number.NaN);
  samplingLogprobs.set(completion.samplingLogprobs, prompt.length);
  return { tokens, mask: new Uint8Array(length).fill(1, prompt.length), logprobs, samplingLogprobs };
}

/** The group of a prompt. `outcomes[i]` belongs to `completions[i]`; aborted completions are refused. */
export function groupOfCompletions(
  prompt: ArrayLike<number>,
  completions: readonly Completion[],
  outcomes: readonly CompletionOutcome[],
): SampleGroup {
  if (completions.length !== outcomes.length)
    throw badSample(
      `${completions.length} completions came with ${outcomes.length} outcomes`,
      "Give one outcome for each completion.",
    );
  return {
    samples: completions.map((completion, i) => {
      const outcome = outcomes[i];
      if (outcome === undefined || completion.finishReason === "aborted")
        throw badSample("an aborted completion has no reward", "Leave out completions with finish reason `aborted`.");
      const truncated = completion.finishReason === "length";
      return { sequences: [sequenceOf(prompt, completion)], truncated, ...outcome };
    }),
  };
}

/** A multi-turn transcript as one sequence: trainable actions are trained on, everything else is context. */
export function sequenceOfTranscript(transcript: Transcript): TrainingSequence {
  return {
    tokens: transcript.tokens(),
    mask: transcript.trainableMask(),
    logprobs: transcript.logprobs(),
    samplingLogprobs: transcript.samplingLogprobs(),
  };
}

/** A sample of a whole episode on one append-only transcript. */
export function sampleOfTranscript(transcript: Transcript, outcome: CompletionOutcome): Sample {
  return { sequences: [sequenceOfTranscript(transcript)], truncated: endsCut(transcript), ...outcome };
}

/** Whether a transcript's last reply was cut by the token limit. */
function endsCut({ spans }: Transcript): boolean {
  return spans.findLast(({ role }) => role === "action")?.finishReason === "length";
}

/** Tokens of a sample that are trained on. */
export function trainedTokens(sample: Sample): number {
  let count = 0;
  for (const { mask } of sample.sequences) for (const bit of mask) count += bit;
  return count;
}

/** Of a completion that is not what the engine gave. */
export const AS_SAMPLED = "Give the completion as `generate` returned it.";

/** @param hint The next thing to try, as one sentence. */
export function badSample(reason: string, hint: string): ActError {
  return new ActError("OBJECTIVE_BAD_SAMPLE", `Cannot train on this sample: ${reason}.`, { hint });
}
