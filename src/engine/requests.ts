/**
 * Calls as the public interface (policy.ts) states them, checked and turned into what the native boundary takes.
 *
 * What depends on the model (token ids, context, cache) is checked natively, where it is known.
 */
import { z } from "zod";
import { describe } from "../errors.js";
import { EngineError } from "./errors.js";
import type { NativeForest, NativeGenerateRequest, NativeLossRows, NativeStepOptions } from "./native.js";
import type { AdamWOptions, GenerateRequest, LossRows, TokenForest } from "./policy.js";

const ids = z.union([z.instanceof(Int32Array), z.array(z.number().int())]);
const seed = z.union([
  z.bigint().min(0n).max(0xffff_ffff_ffff_ffffn),
  z
    .number()
    .int()
    .min(0)
    .max(Number.MAX_SAFE_INTEGER)
    .transform((value) => BigInt(value)),
]);

const generateSchema = z.strictObject({
  prompt: ids,
  count: z.number().int().min(1).default(1),
  maxNewTokens: z.number().int().min(1),
  temperature: z.number().min(0).default(1),
  topK: z.number().int().min(0).default(0),
  topP: z.number().gt(0).max(1).default(1),
  minP: z.number().min(0).max(1).default(0),
  stopTokens: ids.optional(),
  stopStrings: z.array(z.string().min(1)).default([]),
  choices: z.array(ids).min(1).optional(),
  seed,
  stream: seed.default(0n),
  adapters: z.boolean().default(true),
});

const adamwSchema = z.strictObject({
  learningRate: z.number().min(0),
  beta1: z.number().min(0).lt(1).default(0.9),
  beta2: z.number().min(0).lt(1).default(0.95),
  epsilon: z.number().positive().default(1e-8),
  weightDecay: z.number().min(0).default(0),
  maxGradNorm: z.number().min(0).default(1),
});

/** Parses with zod, turning the first complaint into EngineError BAD_ARGUMENT. Keys of value undefined count as absent. */
export function parseOptions<Schema extends z.ZodType>(schema: Schema, value: unknown, what: string): z.output<Schema> {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  const key = issue === undefined || issue.path.length === 0 ? what : issue.path.join(".");
  const got = issue === undefined ? value : issue.path.reduce<unknown>((at, part) => Object(at)[part], value);
  const complaint = issue?.code === "unrecognized_keys" ? `Unknown keys ${issue.keys.join(", ")}` : issue?.message;
  throw new EngineError("BAD_ARGUMENT", `Invalid \`${key}\` (${describe(got)}): ${complaint ?? "not allowed"}.`);
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
  const { segments } = forest;
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
export function nativeLossRows(rows: LossRows): NativeLossRows {
  const temperature = rows.temperature ?? 1;
  if (!(temperature > 0) || !Number.isFinite(temperature))
    throw new EngineError("BAD_ARGUMENT", `Expected a finite number > 0 for \`temperature\`, got ${temperature}.`);
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
    klEstimator: rows.klEstimator ?? "k3",
    inverseTemperature: 1 / temperature,
  };
}

export function nativeStepOptions(options: AdamWOptions): NativeStepOptions {
  return parseOptions(adamwSchema, options, "options");
}
