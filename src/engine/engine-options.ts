/**
 * Options of an engine: checked, defaults filled in from the model, turned into what the native boundary takes.
 */
import { availableParallelism, totalmem } from "node:os";
import { z } from "zod";
import { EngineError } from "./errors.js";
import type { NativeEngineOptions, NativeModelConfig } from "./native.js";
import { parseOptions } from "./requests.js";

/** Bytes each token id stands for (`Tokenizer.tokenBytes()`). */
export interface EngineTokenBytes {
  readonly bytes: Uint8Array;
  /** Ascending, one more than there are tokens. */
  readonly offsets: Uint32Array;
}

export const LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"] as const;

export const loraSchema = z.strictObject({
  rank: z.number().int().min(1).describe("rank of the adapters"),
  alpha: z.number().positive().describe("adapters are scaled by alpha / rank"),
  targets: z
    .array(z.enum(LORA_TARGETS))
    .min(1)
    .default([...LORA_TARGETS])
    .describe("projections that get an adapter"),
  seed: z.number().int().min(0).default(0).describe("seed of the adapters' initial values"),
});

export const engineOptionsSchema = z.strictObject({
  dtype: z.enum(["fp32", "bf16"]).optional().describe("dtype of the weights; default: the model folder's"),
  device: z
    .enum(["cpu", "cuda", "reference", "emulated"])
    .default("cpu")
    .describe("where to compute; reference and emulated (a GPU in host memory) are slow and for tests"),
  instructionSet: z
    .enum(["auto", "portable", "avx2", "avx512", "avx512vnni", "avx512bf16", "amx"])
    .default("auto")
    .describe("vector instructions; auto takes the best this processor has"),
  threads: z.number().int().min(1).max(1024).optional().describe("compute threads; default: the processor's cores"),
  batchInvariant: z
    .boolean()
    .default(false)
    .describe(
      "on a GPU: one order of additions for every batch, so that sampled and scored log-probs are the same bits; the CPU always has it",
    ),
  training: z.boolean().default(false).describe("keep gradients and optimizer state, so that the model can be trained"),
  recompute: z.boolean().default(false).describe("recompute activations in the backward pass: less memory, more time"),
  optimizerState: z
    .enum(["full", "compact"])
    .default("full")
    .describe("full: fp32 masters and moments; compact: bf16 weights rounded stochastically, moments of 8 bits"),
  offloadOptimizer: z.boolean().default(false).describe("keep masters and moments in pinned host memory (GPU only)"),
  lora: loraSchema.nullable().default(null).describe("train adapters instead of the weights"),
  adapter: z
    .string()
    .min(1)
    .optional()
    .describe("folder of PEFT adapters to begin with; rank, alpha and targets come from it"),
  maxSequences: z.number().int().min(1).default(32).describe("sequences sampled side by side at most"),
  draftTokens: z
    .number()
    .int()
    .min(0)
    .max(64)
    .default(0)
    .describe(
      "tokens guessed and checked in a decoding step of each sequence (speculative decoding); results stay the same",
    ),
  cacheTokens: z.number().int().min(1).optional().describe("tokens the key-value cache of sampling holds"),
  maxBatchTokens: z.number().int().min(2).optional().describe("tokens of one forward pass at most"),
  memoryLimit: z
    .number()
    .int()
    .min(0)
    .optional()
    .describe("bytes the engine may allocate; default: what the device has, 0: no limit"),
  tokenBytes: z
    .strictObject({ bytes: z.instanceof(Uint8Array), offsets: z.instanceof(Uint32Array) })
    .nullable()
    .default(null)
    .describe("bytes of every token (`Tokenizer.tokenBytes()`), needed for stop strings"),
});

/** Options as given; everything has a default. */
export type EngineOptions = Omit<z.input<typeof engineOptionsSchema>, "tokenBytes"> & {
  readonly tokenBytes?: EngineTokenBytes | null;
};

/** Default memory of the key-value cache, bytes. */
const CACHE_BYTES = 512 * 2 ** 20;

/** Checks options before anything is read that they name. Throws EngineError `BAD_ARGUMENT`. */
export function checkEngineOptions(given: EngineOptions): void {
  parseOptions(engineOptionsSchema, given, "options");
}

/** @param storedDtype The default of `dtype`: what the model folder holds. */
export function nativeEngineOptions(
  given: EngineOptions,
  model: NativeModelConfig,
  storedDtype: "fp32" | "bf16",
): NativeEngineOptions {
  const options = parseOptions(engineOptionsSchema, given, "options");
  // Keys and values of one token in every layer, fp32.
  const bytesPerToken = 2 * 4 * model.layers * model.kvHeads * model.headDim;
  const everything = options.maxSequences * model.maxPositions;
  const affordable = Math.max(4096, Math.floor(CACHE_BYTES / bytesPerToken));
  return {
    model,
    dtype: options.dtype ?? storedDtype,
    device: options.device,
    instructionSet: options.instructionSet,
    threads: options.threads ?? availableParallelism(),
    batchInvariant: options.batchInvariant,
    training: options.training,
    recompute: options.recompute,
    optimizerState: options.optimizerState,
    offloadOptimizer: options.offloadOptimizer,
    lora: options.lora,
    maxSequences: options.maxSequences,
    draftTokens: options.draftTokens,
    cacheTokens: options.cacheTokens ?? Math.min(everything, affordable),
    maxBatchTokens: options.maxBatchTokens ?? (model.hiddenSize <= 512 ? 2048 : 1024),
    memoryLimit: options.memoryLimit ?? null,
    hostMemory: machineMemory(),
    tokenBytes: options.tokenBytes === null ? null : padTokenBytes(options.tokenBytes, model.vocabSize),
  };
}

/**
 * Bytes this process can hope for. Operating systems promise more than they have: a plan beyond it would not fail when it
 * allocates, but end the process when it computes.
 */
function machineMemory(): number {
  const allowed = process.constrainedMemory();
  return allowed > 0 ? Math.min(allowed, totalmem()) : totalmem();
}

/** Embeddings may have more rows than the tokenizer has tokens; the rows beyond stand for nothing. */
function padTokenBytes({ bytes, offsets }: EngineTokenBytes, vocabSize: number): EngineTokenBytes {
  if (offsets.length > vocabSize + 1)
    throw new EngineError(
      "BAD_ARGUMENT",
      `\`tokenBytes\` describes ${offsets.length - 1} tokens, but the model's vocabulary has ${vocabSize}.`,
      { hint: "Give the tokenizer of this model." },
    );
  const padded = new Uint32Array(vocabSize + 1).fill(bytes.length);
  padded.set(offsets);
  return { bytes, offsets: padded };
}
