/**
 * The whole contract with the native addon. Nothing else in this package imports the binary.
 *
 * Every promise is settled from the engine's own thread; a rejection is an Error with a `code` property, turned into an
 * {@link EngineError} by `engine.ts`. Typed arrays handed over must not be changed until the promise settles.
 */

/** What the computation depends on; produced by `model-config.ts`, mirrored by `ModelConfig` in native/engine/model.h. */
export interface NativeModelConfig {
  vocabSize: number;
  hiddenSize: number;
  layers: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  intermediateSize: number;
  maxPositions: number;
  normEps: number;
  tiedEmbeddings: boolean;
  qkvBias: boolean;
  qkNorm: boolean;
  /** [headDim / 2], RoPE scaling applied. */
  invFreq: Float32Array;
  ropeFactor: number;
}

export interface NativeEngineOptions {
  model: NativeModelConfig;
  dtype: "fp32" | "bf16";
  /** `cpu`, `reference`, `cuda`, `emulated`. */
  device: string;
  /** `auto`, `portable`, `avx2`, `avx512`, `avx512vnni`, `avx512bf16`, `amx` (CPU only). */
  instructionSet: string;
  threads: number;
  /** On `cuda` and `emulated`: one order of additions for every shape. The others always have it. */
  batchInvariant: boolean;
  training: boolean;
  recompute: boolean;
  /** `full`: fp32 masters and moments; `compact`: bf16 weights rounded stochastically, moments of 8 bits. */
  optimizerState: "full" | "compact";
  /** Masters and moments in pinned host memory; only for devices apart from the host. */
  offloadOptimizer: boolean;
  lora: { rank: number; alpha: number; targets: string[]; seed: number } | null;
  /** Sequences decoded side by side at most. */
  maxSequences: number;
  /** Tokens guessed and checked in a decoding step of each sequence, 0 to 64. */
  draftTokens: number;
  /** Tokens the key-value cache holds (rounded up to pages of 16). */
  cacheTokens: number;
  /** Tokens of the forest in one forward pass at most (prefill chunk and micro-batch). */
  maxBatchTokens: number;
  /** Bytes; a plan above it is refused with code MEMORY_PLAN. 0: no limit; null: what the device has. */
  memoryLimit: number | null;
  /** Bytes this process may hope for of the machine: what devices in host memory have, and a bound of pinned memory. */
  hostMemory: number;
  /** Token id -> bytes it stands for (concatenated, with offsets [vocab + 1]); for stop strings. Null: none allowed. */
  tokenBytes: { bytes: Uint8Array; offsets: Uint32Array } | null;
}

/** Bytes by purpose; `total` is what is enforced. */
export interface NativeMemoryPlan {
  weights: number;
  gradients: number;
  optimizer: number;
  cache: number;
  activations: number;
  head: number;
  scratch: number;
  total: number;
  /** Optimizer state in pinned host memory, not part of the total. */
  host: number;
}

export interface NativeGenerateRequest {
  prompt: Int32Array;
  /** Completions of this prompt; its keys and values are stored and read once for all of them. */
  count: number;
  maxNewTokens: number;
  temperature: number;
  topK: number;
  topP: number;
  minP: number;
  /** Random numbers are a function of (seed, stream + completion index, position). */
  seed: bigint;
  stream: bigint;
  stopTokens: Int32Array;
  stopStrings: Uint8Array[];
  /** When not null, completions are constrained to be one of these token sequences followed by a stop token. */
  choices: Int32Array[] | null;
  adapters: boolean;
}

export interface NativeCompletion {
  tokens: Int32Array;
  /** At temperature 1, untruncated. */
  logprobs: Float32Array;
  /** Under the distribution the token was drawn from. */
  samplingLogprobs: Float32Array;
  /** Mass kept by truncation. */
  keptMass: Float32Array;
  entropy: Float32Array;
  finishReason: "stop" | "length" | "aborted";
  /** Version of the weights (number of optimizer steps or tensor writes) every token was sampled under. */
  weightVersion: number;
}

/** A forest batch: every segment's tokens in order; a segment continues its parent. */
export interface NativeForest {
  tokens: Int32Array;
  /** Per segment: index of the parent or -1; parents come before children. */
  parents: Int32Array;
  /** Per segment: number of tokens. */
  lengths: Int32Array;
}

/** Loss rows: `rows[i]` is the token index (into `tokens`) whose NEXT token `targets[i]` is judged. Streams in ops.h. */
export interface NativeLossRows {
  rows: Int32Array;
  targets: Int32Array;
  ceWeight: Float32Array;
  advantage: Float32Array;
  oldLogprob: Float32Array;
  clipLow: Float32Array;
  clipHigh: Float32Array;
  policyWeight: Float32Array;
  refLogprob: Float32Array;
  klWeight: Float32Array;
  entropyWeight: Float32Array;
  klEstimator: "k1" | "k2" | "k3";
  inverseTemperature: number;
}

export interface NativeLossResult {
  logprob: Float32Array;
  entropy: Float32Array;
  ratio: Float32Array;
  kl: Float32Array;
  clipped: Uint8Array;
  loss: number;
  ce: number;
  policy: number;
  klTerm: number;
  entropyTerm: number;
}

export interface NativeTensorInfo {
  name: string;
  shape: number[];
  trainable: boolean;
}
export type NativeTensorKind = "weight" | "master" | "gradient" | "moment1" | "moment2";

export interface NativeStepOptions {
  learningRate: number;
  beta1: number;
  beta2: number;
  epsilon: number;
  /** Applied to matrices only, not to norm weights and biases. */
  weightDecay: number;
  /** Global-norm clip; 0: off. */
  maxGradNorm: number;
  /** Of the stochastic rounding of a compact optimizer state: random numbers are a function of (seed, tensor, step, element). */
  seed: bigint;
}

export interface NativeEngine {
  readonly plan: NativeMemoryPlan;
  /** Backend and instruction set in words. */
  readonly device: string;
  tensors(): NativeTensorInfo[];
  /** From a byte range of a file. */
  loadTensor(
    name: string,
    file: string,
    offset: number,
    byteLength: number,
    dtype: "F32" | "F16" | "BF16",
  ): Promise<void>;
  /** Little-endian values: weight in the engine's dtype (bf16 as its 16 bits), every other kind fp32. */
  readTensor(name: string, kind: NativeTensorKind): Promise<Float32Array | Uint16Array>;
  writeTensor(name: string, kind: NativeTensorKind, data: Float32Array): Promise<void>;
  /** Seeded normal initial values for every weight (standard deviation `std`; norms 1, biases 0). */
  initialize(seed: bigint, std: number): Promise<void>;
  /**
   * Queues a request; `onCompletion` is called once a completion, as each finishes; the promise resolves when all have.
   * Returns an id for {@link cancel}.
   */
  generate(
    request: NativeGenerateRequest,
    onCompletion: (index: number, completion: NativeCompletion) => void,
  ): {
    id: number;
    done: Promise<void>;
  };
  /** Ends a request: its unfinished completions come back with finishReason `aborted`. */
  cancel(id: number): void;
  /** Log-probs and entropies of loss rows, no gradient; streams other than rows and targets may be empty. `id` cancels. */
  score(forest: NativeForest, rows: NativeLossRows, adapters: boolean): { id: number; done: Promise<NativeLossResult> };
  /** Forward and backward, split into micro-batches of whole trees; adds to the gradients. */
  accumulate(forest: NativeForest, rows: NativeLossRows): { id: number; done: Promise<NativeLossResult> };
  /** One AdamW step from the accumulated gradients, which are then zeroed. Rejects with BUSY while sampling. */
  step(options: NativeStepOptions): Promise<{ gradNorm: number; step: number }>;
  zeroGradients(): Promise<void>;
  /** Optimizer step counter, part of exact resume. */
  optimizerStep: number;
  stats(): {
    bytesAllocated: number;
    bytesPeak: number;
    activeSequences: number;
    cachedTokens: number;
    prefillTokens: number;
    reusedTokens: number;
    decodedTokens: number;
    draftedTokens: number;
    acceptedDrafts: number;
    weightVersion: number;
  };
  /** Ends running work as aborted and frees everything; resolves when the thread has ended. Safe to call twice. */
  dispose(): Promise<void>;
}

export interface NativeAddon {
  createEngine(options: NativeEngineOptions): Promise<NativeEngine>;
  /** Plan for options, without allocating. */
  planMemory(options: NativeEngineOptions): NativeMemoryPlan;
  /** Instruction sets this processor has, best last. */
  instructionSets(): string[];
  /** What an engine on `device` would compute with; throws with code DEVICE_UNAVAILABLE and a sentence what is missing. */
  describeDevice(device: string): string;
  version: string;
}
