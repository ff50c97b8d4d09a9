/**
 * A multi-turn episode as one append-only array of tokens.
 *
 * Tokens are appended and never changed, moved or tokenized again: what the model sampled is what it is trained on.
 * Text is a view of the tokens (`Tokenizer.decode`).
 */
import type { Completion, FinishReason } from "../engine/policy.js";
import { ActError } from "../errors.js";

/**
 * Where tokens come from: the first `prompt`, `observation`s of the environment, `template` text between turns (turn
 * markers), and `action`s, which are all that the model sampled, its reasoning included.
 */
export type SpanRole = "prompt" | "observation" | "template" | "action";

/** A stretch [start, end) of the transcript. Spans lie end to end and cover it. */
export interface TranscriptSpan {
  readonly start: number;
  readonly end: number;
  readonly role: SpanRole;
  /** Version of the weights that sampled an action; null for everything else. */
  readonly weightVersion: number | null;
  /** How an action ended; null for everything else. */
  readonly finishReason: FinishReason | null;
  /** Whether the span may be trained on: actions, unless they were aborted or appended with `trainable: false`. */
  readonly trainable: boolean;
}

/** What a transcript keeps of a completion. */
export type SampledAction = Pick<
  Completion,
  "tokens" | "logprobs" | "samplingLogprobs" | "finishReason" | "weightVersion"
>;

/** A transcript as plain data, as records keep it. Log-probs are null where nothing was sampled. */
export interface TranscriptData {
  readonly tokens: readonly number[];
  readonly spans: readonly TranscriptSpan[];
  readonly logprobs: readonly (number | null)[];
  readonly sampling_logprobs: readonly (number | null)[];
}

/** See the file's head. Not safe for two writers; copies handed out are the caller's. */
export class Transcript {
  #tokens = new Int32Array(256);
  #logprobs = new Float32Array(256);
  #samplingLogprobs = new Float32Array(256);
  #length = 0;
  readonly #spans: TranscriptSpan[] = [];

  /** Tokens so far. */
  get length(): number {
    return this.#length;
  }

  get spans(): readonly TranscriptSpan[] {
    return this.#spans;
  }

  /** A copy of the tokens [start, end): the prompt of the next turn, or one span. */
  tokens(start = 0, end = this.#length): Int32Array {
    return this.#tokens.slice(start, Math.min(end, this.#length));
  }

  /** Log-prob of each token at temperature 1, nats; NaN where the model did not sample it. */
  logprobs(start = 0, end = this.#length): Float32Array {
    return this.#logprobs.slice(start, Math.min(end, this.#length));
  }

  /** Log-prob of each token under the distribution it was drawn from; NaN where the model did not sample it. */
  samplingLogprobs(start = 0, end = this.#length): Float32Array {
    return this.#samplingLogprobs.slice(start, Math.min(end, this.#length));
  }

  /** 1 for every token that may be trained on, else 0. */
  trainableMask(): Uint8Array {
    const mask = new Uint8Array(this.#length);
    for (const span of this.#spans) if (span.trainable) mask.fill(1, span.start, span.end);
    return mask;
  }

  /** Appends tokens that the model did not sample. Nothing is appended for an empty list. */
  append(role: Exclude<SpanRole, "action">, tokens: ArrayLike<number>): void {
    if (tokens.length === 0) return;
    const start = this.#reserve(tokens.length);
    this.#tokens.set(tokens, start);
    this.#logprobs.fill(Number.NaN, start, this.#length);
    this.#samplingLogprobs.fill(Number.NaN, start, this.#length);
    this.#spans.push({ start, end: this.#length, role, weightVersion: null, finishReason: null, trainable: false });
  }

  /**
   * Appends a completion exactly as sampled, its stop token included.
   *
   * @throws ActError `TRANSCRIPT_BAD_ACTION` where the lists differ in length.
   */
  appendAction(action: SampledAction, options: { readonly trainable?: boolean } = {}): void {
    const { tokens, logprobs, samplingLogprobs, finishReason, weightVersion } = action;
    if (logprobs.length !== tokens.length || samplingLogprobs.length !== tokens.length)
      throw new ActError(
        "TRANSCRIPT_BAD_ACTION",
        `A completion of ${tokens.length} tokens came with ${logprobs.length} log-probs and ${samplingLogprobs.length} sampling log-probs.`,
        { hint: "Append the completion as `generate` returned it." },
      );
    if (tokens.length === 0) return;
    const trainable = (options.trainable ?? true) && finishReason !== "aborted";
    const start = this.#reserve(tokens.length);
    this.#tokens.set(tokens, start);
    this.#logprobs.set(logprobs, start);
    this.#samplingLogprobs.set(samplingLogprobs, start);
    this.#spans.push({ start, end: this.#length, role: "action", weightVersion, finishReason, trainable });
  }

  /** Plain data for a record; {@link Transcript.fromData} gives the same transcript back. */
  toData(): TranscriptData {
    const listed = (values: Float32Array): (number | null)[] => Array.from(values, (x) => (Number.isNaN(x) ? null : x));
    return {
      tokens: Array.from(this.tokens()),
      spans: [...this.#spans],
      logprobs: listed(this.logprobs()),
      sampling_logprobs: listed(this.samplingLogprobs()),
    };
  }

  /** @throws ActError `TRANSCRIPT_BAD_DATA` where spans do not cover the tokens end to end. */
  static fromData(data: TranscriptData): Transcript {
    const bad = (reason: string): ActError =>
      new ActError("TRANSCRIPT_BAD_DATA", `Not a transcript: ${reason}.`, {
        hint: "Give what `toData` returned, unchanged.",
      });
    const length = data.tokens.length;
    if (data.logprobs.length !== length || data.sampling_logprobs.length !== length)
      throw bad(`${length} tokens with ${data.logprobs.length} and ${data.sampling_logprobs.length} log-probs`);
    const transcript = new Transcript();
    for (const span of data.spans) {
      if (span.start !== transcript.length || span.end <= span.start || span.end > length)
        throw bad(`span ${span.start}..${span.end} does not continue at ${transcript.length} of ${length}`);
      const tokens = Int32Array.from(data.tokens.slice(span.start, span.end));
      if (span.role !== "action") {
        transcript.append(span.role, tokens);
        continue;
      }
      const sampled = (list: readonly (number | null)[]): Float32Array =>
        Float32Array.from(list.slice(span.start, span.end), (x) => {
          if (x === null) throw bad(`a token of the action ${span.start}..${span.end} has no log-prob`);
          return x;
        });
      if (span.finishReason === null || span.weightVersion === null)
        throw bad("an action without finish reason or weights");
      transcript.appendAction(
        {
          tokens,
          logprobs: sampled(data.logprobs),
          samplingLogprobs: sampled(data.sampling_logprobs),
          finishReason: span.finishReason,
          weightVersion: span.weightVersion,
        },
        { trainable: span.trainable },
      );
    }
    if (transcript.length !== length) throw bad(`spans end at ${transcript.length} of ${length} tokens`);
    return transcript;
  }

  /** Makes room for `count` more tokens and returns where they go. */
  #reserve(count: number): number {
    const start = this.#length;
    const needed = start + count;
    if (needed > this.#tokens.length) {
      const capacity = Math.max(needed, this.#tokens.length * 2);
      this.#tokens = grown(new Int32Array(capacity), this.#tokens);
      this.#logprobs = grown(new Float32Array(capacity), this.#logprobs);
      this.#samplingLogprobs = grown(new Float32Array(capacity), this.#samplingLogprobs);
    }
    this.#length = needed;
    return start;
  }
}

function grown<T extends Int32Array | Float32Array>(larger: T, old: T): T {
  larger.set(old);
  return larger;
}
