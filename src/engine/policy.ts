/**
 * What rollouts and stages need of a language model: sample, score, accumulate gradients, step.
 *
 * {@link Engine} (engine.ts) implements it on the native addon; tests may implement it in a few lines.
 */

/** How a prompt is completed. Unset values mean: temperature 1, no truncation of the distribution. */
export interface SamplingOptions {
  /** Upper bound of new tokens, >= 1. */
  readonly maxNewTokens: number;
  /** 0 is greedy. Default 1. */
  readonly temperature?: number;
  /** Keep the k most likely tokens. 0 (default): all. */
  readonly topK?: number;
  /** Keep the smallest set of mass >= topP. 1 (default): all. */
  readonly topP?: number;
  /** Keep tokens at least minP times as likely as the likeliest. 0 (default): all. */
  readonly minP?: number;
  /** Token ids that end a completion; the stop token is part of it. Default: the model's end-of-sequence ids. */
  readonly stopTokens?: readonly number[];
  /** Texts that end a completion; the tokens that completed the text are part of it. */
  readonly stopStrings?: readonly string[];
  /** Constrains the completion to one of these token sequences, then a stop token. */
  readonly choices?: readonly (readonly number[])[];
}

/** A prompt to be completed. */
export interface GenerateRequest extends SamplingOptions {
  readonly prompt: Int32Array | readonly number[];
  /** Completions wanted; all share the prompt. Default 1. */
  readonly count?: number;
  /** Random numbers are a function of (seed, stream, completion index, position) and of nothing else. */
  readonly seed: number | bigint;
  /** Distinguishes requests of one seed, e.g. the global index of the prompt. Default 0. */
  readonly stream?: number | bigint;
  /** False samples from the base model without adapters. Default true. */
  readonly adapters?: boolean;
}

/** `stop`: a stop token or stop text; `length`: `maxNewTokens`; `aborted`: cancelled or disposed of. */
export type FinishReason = "stop" | "length" | "aborted";

/** What was sampled for a prompt; all arrays have one entry a token. */
export interface Completion {
  readonly tokens: Int32Array;
  /** Log-prob of each token at temperature 1 under the untruncated distribution, nats. */
  readonly logprobs: Float32Array;
  /** Log-prob under the distribution the token was drawn from. */
  readonly samplingLogprobs: Float32Array;
  /** Mass that truncation kept, per token (1 without truncation). */
  readonly keptMass: Float32Array;
  /** Entropy of the untruncated distribution at temperature 1, nats. */
  readonly entropy: Float32Array;
  readonly finishReason: FinishReason;
  /** Version of the weights every token was sampled under. */
  readonly weightVersion: number;
}

/** A token forest: segment i holds `segments[i].tokens` and continues `segments[i].parent` (an earlier index, or null). */
export interface TokenForest {
  readonly segments: readonly { readonly parent: number | null; readonly tokens: Int32Array }[];
}

/**
 * Loss rows: the weight streams of docs/engine.md. Row i says: after token `rows[i]` (index over all tokens of the
 * forest, segments laid end to end) the next token is `targets[i]`, and this is what it is worth. Streams left out are 0
 * (clips: no clipping). Weights are already normalized over the whole optimizer step: the engine only sums.
 */
export interface LossRows {
  readonly rows: Int32Array;
  readonly targets: Int32Array;
  readonly ceWeight?: Float32Array;
  readonly advantage?: Float32Array;
  readonly oldLogprob?: Float32Array;
  readonly clipLow?: Float32Array;
  readonly clipHigh?: Float32Array;
  readonly policyWeight?: Float32Array;
  readonly refLogprob?: Float32Array;
  readonly klWeight?: Float32Array;
  readonly entropyWeight?: Float32Array;
  /** Default k3. */
  readonly klEstimator?: "k1" | "k2" | "k3";
  /** Log-probs are of softmax(logits / temperature). Default 1. */
  readonly temperature?: number;
}

/** Per-row values in the order of the rows given, and the weighted sums that make up the loss. */
export interface LossResult {
  readonly logprob: Float32Array;
  readonly entropy: Float32Array;
  readonly ratio: Float32Array;
  readonly kl: Float32Array;
  /** 1 where the clip cut the gradient. */
  readonly clipped: Uint8Array;
  readonly loss: number;
  readonly terms: { readonly ce: number; readonly policy: number; readonly kl: number; readonly entropy: number };
}

/** One optimizer step of AdamW (Loshchilov and Hutter, arXiv 1711.05101). */
export interface AdamWOptions {
  readonly learningRate: number;
  /** Default 0.9. */
  readonly beta1?: number;
  /** Default 0.95. */
  readonly beta2?: number;
  /** Default 1e-8. */
  readonly epsilon?: number;
  /** Decoupled, on matrices only. Default 0. */
  readonly weightDecay?: number;
  /** Global-norm clip. Default 1; 0 turns it off. */
  readonly maxGradNorm?: number;
  /** Of the stochastic rounding of `optimizerState: "compact"`; nothing else is random. Default 0. */
  readonly seed?: number | bigint;
}

/** Memory in bytes, and counters since the engine was made. */
export interface EngineStats {
  readonly bytesAllocated: number;
  readonly bytesPeak: number;
  readonly activeSequences: number;
  readonly cachedTokens: number;
  readonly prefillTokens: number;
  readonly reusedTokens: number;
  readonly decodedTokens: number;
  /** Tokens guessed (`draftTokens`), and how many of them were the tokens then drawn. */
  readonly draftedTokens: number;
  readonly acceptedDrafts: number;
  readonly weightVersion: number;
}

/** A language model as rollouts and stages see it; {@link Engine} is one. */
export interface Policy {
  /** Tokens a prompt and its completion may have together. */
  readonly contextLength: number;
  readonly vocabSize: number;
  /** End-of-sequence ids of the model's generation config. */
  readonly eosTokens: readonly number[];
  /**
   * Samples; requests run side by side, joining and leaving between decode steps. Resolves with `count` completions in
   * order. When the signal aborts, the promise rejects with its reason and the sequences are freed.
   * Throws EngineError PROMPT_TOO_LONG, TOKEN_OUT_OF_RANGE, BAD_ARGUMENT, DISPOSED.
   */
  generate(request: GenerateRequest, options?: { readonly signal?: AbortSignal }): Promise<Completion[]>;
  /** Log-probs and entropies of rows without gradient. `adapters: false` scores with the base model. */
  score(
    forest: TokenForest,
    rows: LossRows,
    options?: { readonly signal?: AbortSignal; readonly adapters?: boolean },
  ): Promise<LossResult>;
  /** Forward and backward; adds to the gradients. A forest larger than a micro-batch is split at its roots. */
  accumulate(forest: TokenForest, rows: LossRows, options?: { readonly signal?: AbortSignal }): Promise<LossResult>;
  /** One optimizer step over what was accumulated. `gradNorm` is before clipping. */
  step(options: AdamWOptions): Promise<{ readonly gradNorm: number; readonly step: number }>;
  zeroGradients(): Promise<void>;
  stats(): EngineStats;
}
