/**
 * Calls as the public interface (policy.ts) states them, checked and turned into what the native boundary takes.
 *
 * What depends on the model (token ids, context, cache) is checked natively, where it is known.
 */
import { z } from "zod";
import { schemaIssue } from "../schema-issues.js";
import { EngineError } from "./errors.js";
import type { NativeForest, NativeGenerateRequest, NativeLossRows, NativeStepOptions } from "./native.js";
import type { AdamWOptions, GenerateRequest, LossRows, TokenForest } from "./policy.js";

/** The engine computes in fp32: what overflows there is refused here, where it has the caller's name. */
const LARGEST_FLOAT = 3.4028234663852886e38;
/** Its inverse is finite in fp32. */
const LEAST_TEMPERATURE = 1e-38;
const LEAST_FLOAT = 1.1754943508222875e-38;
/** Below 1 also in fp32. */
const LARGEST_BETA = 1 - 2 ** -24;

/** Plain numbers become 32-bit integers: one beyond their range would come out as another token's id. */
const ids = z.union([z.instanceof(Int32Array), z.array(z.int32())], "Expected an Int32Array or an array of token ids");
const seed = z.union(
  [
    z.bigint().min(0n).max(0xffff_ffff_ffff_ffffn),
    z
      .number()
      .int()
      .min(0)
      .transform((value) => BigInt(value)),
  ],
  "Expected a safe integer >= 0, or a bigint below 2^64",
);

const generateSchema = z.strictObject({
  prompt: ids,
  count: z.int32().min(1).default(1),
  maxNewTokens: z.int32().min(1),
  temperature: z
    .number()
    .max(LARGEST_FLOAT)
    .refine((t) => t === 0 || t >= LEAST_TEMPERATURE, `Expected 0 or a number from ${LEAST_TEMPERATURE}`)
    .default(1),
  topK: z.int32().min(0).default(0),
  topP: z.number().min(LEAST_FLOAT).max(1).default(1),
  minP: z.number().min(0).max(1).default(0),
  stopTokens: ids.optional(),
  stopStrings: z.array(z.string().min(1)).default([]),
  choices: z.array(ids).min(1).optional(),
  seed,
  stream: seed.default(0n),
  adapters: z.boolean().default(true),
});

const int32s = z.instanceof(Int32Array, { error: "Expected an Int32Array" });
const floats = z.instanceof(Float32Array, { error: "Expected a Float32Array" }).optional();

/** What is inside the arrays is checked natively. */
const rowsSchema = z.strictObject({
  rows: int32s,
  targets: int32s,
  ceWeight: floats,
  advantage: floats,
  oldLogprob: floats,
  clipLow: floats,
  clipHigh: floats,
  policyWeight: floats,
  refLogprob: floats,
  klWeight: floats,
  entropyWeight: floats,
  klEstimator: z.enum(["k1", "k2", "k3"]).default("k3"),
  temperature: z.number().min(LEAST_TEMPERATURE).max(LARGEST_FLOAT).default(1),
});

const forestSchema = z.strictObject({
  segments: z.array(z.strictObject({ parent: z.int32().min(0).nullable(), tokens: int32s })),
});

function isSignal(value: unknown): value is AbortSignal {
  if (typeof value !== "object" || value === null) return false;
  return "aborted" in value && "addEventListener" in value && "throwIfAborted" in value;
}

/** What every call that can be cancelled takes: `generate`, `accumulate`, `saveAdapters`, `saveState`, `loadState`. */
export const callSchema = z.strictObject({
  signal: z.custom<AbortSignal>(isSignal, "Expected an AbortSignal").optional(),
});
export const scoreCallSchema = callSchema.extend({ adapters: z.boolean().optional() });
export const loadSchema = callSchema.extend({
  onProgress: z.custom<object>((value) => typeof value === "function", "Expected a function").optional(),
});
export const saveModelSchema = callSchema.extend({
  dtype: z.enum(["fp32", "bf16"]).optional(),
  companionsFrom: z.string().min(1).optional(),
});

const adamwSchema = z.strictObject({
  learningRate: z.number().min(0).max(LARGEST_FLOAT),
  beta1: z.number().min(0).max(LARGEST_BETA).default(0.9),
  beta2: z.number().min(0).max(LARGEST_BETA).default(0.95),
  epsilon: z.number().min(LEAST_FLOAT).max(LARGEST_FLOAT).default(1e-8),
  weightDecay: z.number().min(0).max(LARGEST_FLOAT).default(0),
  maxGradNorm: z.number().min(0).default(1),
  seed: seed.default(0n),
});

/** Parses with zod, turning the first complaint into EngineError BAD_ARGUMENT. Keys of value undefined count as absent. */
export function parseOptions<Schema extends z.ZodType>(schema: Schema, value: unknown, what: string): z.output<Schema> {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const { message, hint } = schemaIssue(schema, value, parsed.error, what);
  throw new EngineError("BAD_ARGUMENT", message, { hint, cause: parsed.error });
}

export function nativeGenerateRequest(request: GenerateRequest, eosTokens: readonly number[]): NativeGenerateRequest {
  const options = parseOptions(generateSchema, request, "request");
  const stopTokens = Int32Array.from(options.stopTokens ?? eosTokens);
  const choices = options.choices?.map((choice) => Int32Array.from(choice)) ?? null;
  if (choices !== null) checkChoices(choices, stopTokens, options.maxNewTokens);
  return {
    prompt: Int32Array.from(options.prompt),
    count: options.count,
    maxNewTokens: options.maxNewTokens,
    temperature: options.temperature,
    topK: options.topK,
    topP: options.topP,
    minP: options.minP,
    seed: options.seed,
    stream: options.stream,
    stopTokens,
    stopStrings: options.stopStrings.map((text) => new Uint8Array(Buffer.from(text, "utf8"))),
    choices,
    adapters: options.adapters,
  };
}

/** A choice that can never be completed would only ever come back cut off. */
function checkChoices(choices: readonly Int32Array[], stopTokens: Int32Array, maxNewTokens: number): void {
  for (const [index, choice] of choices.entries()) {
    if (choice.some((token) => stopTokens.includes(token)))
      throw new EngineError("BAD_ARGUMENT", `Choice ${index} contains a stop token.`, {
        hint: "Leave it out: a stop token follows every choice by itself.",
      });
    if (choice.length + 1 > maxNewTokens)
      throw new EngineError(
        "BAD_ARGUMENT",
        `Choice ${index} has ${choice.length} tokens, which with a stop token exceed \`maxNewTokens\` ${maxNewTokens}.`,
        { hint: `Set \`maxNewTokens\` to at least ${choice.length + 1}.` },
      );
  }
}

export function nativeForest(forest: TokenForest): NativeForest {
  const { segments } = parseOptions(forestSchema, forest, "forest");
  const tokens = new Int32Array(segments.reduce((sum, segment) => sum + segment.tokens.length, 0));
  let at = 0;
  for (const segment of segments) {
    tokens.set(segment.tokens, at);
    at += segment.tokens.length;
  }
  return {
    tokens,
    parents: Int32Array.from(segments, (segment) => segment.parent ?? -1),
    lengths: Int32Array.from(segments, (segment) => segment.tokens.length),
  };
}

const NO_STREAM = new Float32Array(0);

/**
 * Streams left out are empty, which natively means zeros; clips left out mean no clipping, that is bounds that no ratio
 * reaches.
 */
export function nativeLossRows(given: LossRows): NativeLossRows {
  const rows = parseOptions(rowsSchema, given, "rows");
  const unclipped = (): Float32Array => new Float32Array(rows.rows.length).fill(Number.POSITIVE_INFINITY);
  return {
    rows: rows.rows,
    targets: rows.targets,
    ceWeight: rows.ceWeight ?? NO_STREAM,
    advantage: rows.advantage ?? NO_STREAM,
    oldLogprob: rows.oldLogprob ?? NO_STREAM,
    clipLow: rows.clipLow ?? unclipped(),
    clipHigh: rows.clipHigh ?? unclipped(),
    policyWeight: rows.policyWeight ?? NO_STREAM,
    refLogprob: rows.refLogprob ?? NO_STREAM,
    klWeight: rows.klWeight ?? NO_STREAM,
    entropyWeight: rows.entropyWeight ?? NO_STREAM,
    klEstimator: rows.klEstimator,
    inverseTemperature: 1 / rows.temperature,
  };
}

export function nativeStepOptions(options: AdamWOptions): NativeStepOptions {
  return parseOptions(adamwSchema, options, "options");
}

/**
 * Checks the arguments of a save or of `loadState`. A folder named by an empty text would be the one the process runs in.
 *
 * @param schema {@link callSchema} or {@link saveModelSchema}.
 */
export function checkFolderCall(dir: string, settings: object, schema: z.ZodType): void {
  parseOptions(z.string().min(1, "Expected a path"), dir, "dir");
  parseOptions(schema, settings, "settings");
}

/** An unsigned 64-bit seed. */
export function nativeSeed(value: number | bigint): bigint {
  return parseOptions(seed, value, "seed");
}
