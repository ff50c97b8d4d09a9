/**
 * The lines of `generate` and `score`: what they may say, and what they are answered with.
 */
import { z } from "zod";
import type { GenerateRequest, Policy } from "../engine/policy.js";
import { ActError, invalid } from "../errors.js";
import { parseOptions } from "../stages/options.js";
import type { ChatTemplate } from "../tokens/chat-template.js";
import type { Tokenizer } from "../tokens/tokenizer.js";
import type { Answer } from "./json-lines.js";

/** Ids are 32-bit integers in the engine. */
const MAX_TOKEN_ID = 2 ** 31 - 1;

const messageSchema = z.strictObject({
  role: z.enum(["system", "user", "assistant", "tool"]),
  content: z.string(),
});

const tokenId = z.number().int().nonnegative().max(MAX_TOKEN_ID);

const sourceShape = {
  messages: z.array(messageSchema).min(1).optional(),
  text: z.string().optional(),
  ids: z.array(tokenId).min(1).optional(),
  /** Carried over to the answer. */
  id: z.union([z.string(), z.number()]).optional(),
};

const generateLineSchema = z.strictObject({
  ...sourceShape,
  max_new_tokens: z.number().int().min(1).optional(),
  temperature: z.number().min(0).optional(),
  top_k: z.number().int().min(0).optional(),
  top_p: z.number().gt(0).max(1).optional(),
  min_p: z.number().min(0).max(1).optional(),
  seed: z.number().int().nonnegative().optional(),
  stop: z.union([z.string().min(1), z.array(z.string().min(1))]).optional(),
  stop_token_ids: z.array(tokenId).optional(),
});

const { messages: _, ...scoreShape } = sourceShape;
const scoreLineSchema = z.strictObject(scoreShape);

/** What both commands work with. */
export interface LineContext {
  readonly policy: Policy;
  readonly tokenizer: Tokenizer;
  /** Null where the model has none: lines with `messages` are then answered with an error. */
  readonly chat: ChatTemplate | null;
  readonly signal?: AbortSignal | undefined;
}

/** Settings of lines that do not set their own. */
export interface GenerateDefaults {
  readonly maxNewTokens: number;
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  readonly seed: number;
}

/**
 * Answers a line of `generate`: `{prompt_ids, ids, text, logprobs, finish_reason}`.
 *
 * A line without its own seed draws from (seed of the command, number of the line): the same input gives the same
 * answers, however many lines are at work at once.
 */
export async function generateLine(
  value: unknown,
  index: number,
  context: LineContext,
  defaults: GenerateDefaults,
): Promise<Answer> {
  const line = parseOptions(generateLineSchema, value, "line");
  const { policy, tokenizer, chat } = context;
  const prompt = await promptOf(line, context);
  const request: GenerateRequest = {
    prompt,
    maxNewTokens: line.max_new_tokens ?? defaults.maxNewTokens,
    temperature: line.temperature ?? defaults.temperature,
    topK: line.top_k ?? defaults.topK,
    topP: line.top_p ?? defaults.topP,
    minP: line.min_p ?? defaults.minP,
    seed: line.seed ?? defaults.seed,
    // Streams are spaced so that no two lines share a random number.
    stream: line.seed === undefined ? BigInt(index) << 16n : 0n,
    ...(line.stop === undefined ? {} : { stopStrings: [line.stop].flat() }),
    ...stopTokens(line.stop_token_ids, line.messages === undefined ? null : chat),
  };
  const [completion] = await policy.generate(request, signalOf(context));
  if (completion === undefined) throw new TypeError("The policy returned no completion.");
  const { tokens, finishReason } = completion;
  const stops = request.stopTokens ?? policy.eosTokens;
  const last = tokens.at(-1);
  const ended = finishReason === "stop" && last !== undefined && stops.includes(last);
  return {
    ...(line.id === undefined ? {} : { id: line.id }),
    prompt_ids: Array.from(prompt),
    ids: Array.from(tokens),
    text: await tokenizer.decode(ended ? tokens.subarray(0, -1) : tokens),
    logprobs: Array.from(completion.logprobs),
    finish_reason: finishReason,
  };
}

/** Answers a line of `score`: `{ids, logprobs, sum}`; log-probs of every token after the first, in nats. */
export async function scoreLine(value: unknown, context: LineContext): Promise<Answer> {
  const line = parseOptions(scoreLineSchema, value, "line");
  const tokens = await promptOf(line, context);
  const count = tokens.length - 1;
  let logprobs = new Float32Array(0);
  if (count > 0) {
    const rows = Int32Array.from({ length: count }, (_, i) => i);
    const forest = { segments: [{ parent: null, tokens: tokens.slice(0, -1) }] };
    const result = await context.policy.score(forest, { rows, targets: tokens.slice(1) }, signalOf(context));
    logprobs = Float32Array.from(result.logprob);
  }
  return {
    ...(line.id === undefined ? {} : { id: line.id }),
    ids: Array.from(tokens),
    logprobs: Array.from(logprobs),
    sum: logprobs.reduce((sum, x) => sum + x, 0),
  };
}

async function promptOf(
  line: {
    readonly messages?: z.infer<typeof messageSchema>[] | undefined;
    readonly text?: string | undefined;
    readonly ids?: number[] | undefined;
  },
  { policy, tokenizer, chat }: LineContext,
): Promise<Int32Array> {
  const given = [line.messages, line.text, line.ids].filter((x) => x !== undefined).length;
  if (given !== 1)
    throw new ActError("CONFIG_BAD_VALUE", `Expected one of \`messages\`, \`text\` and \`ids\`, got ${given}.`, {
      hint: "Give exactly one of them.",
    });
  let tokens: Int32Array;
  if (line.messages !== undefined) {
    if (chat === null)
      throw new ActError("TEMPLATE_MISSING", "This model has no chat template.", { hint: "Give `text` or `ids`." });
    tokens = await chat.encode(line.messages).catch(nameWayAround);
  } else if (line.text !== undefined) tokens = await tokenizer.encode(line.text, { addSpecialTokens: true });
  else tokens = Int32Array.from(line.ids ?? []);
  const outside = tokens.find((id) => id >= policy.vocabSize);
  if (outside !== undefined)
    throw new ActError("TOKEN_OUT_OF_RANGE", `Token ${outside} is not in the vocabulary of ${policy.vocabSize}.`, {
      hint: "Give ids that the model's own tokenizer makes.",
    });
  if (tokens.length === 0)
    throw invalid("BAD_ARGUMENT", "text", "at least one token", "", "Give a text that is not empty.");
  if (tokens.length > policy.contextLength)
    throw new ActError(
      "PROMPT_TOO_LONG",
      `${tokens.length} tokens do not fit the context of ${policy.contextLength}.`,
      {
        hint: "Shorten the line.",
      },
    );
  return tokens;
}

/** The chat template's option to let control tokens pass is for programs; a line has another way. */
function nameWayAround(cause: unknown): never {
  if (!(cause instanceof ActError && cause.code === "TEMPLATE_CONTROL_TOKEN")) throw cause;
  throw new ActError(cause.code, cause.problem, {
    hint: "Take it out, or give the whole prompt as `text`, whose control tokens count as such.",
    cause,
  });
}

function stopTokens(
  given: readonly number[] | undefined,
  chat: ChatTemplate | null,
): { stopTokens?: readonly number[] } {
  if (given !== undefined) return { stopTokens: given };
  return chat === null ? {} : { stopTokens: chat.stopTokens };
}

function signalOf({ signal }: LineContext): { signal?: AbortSignal } {
  return signal === undefined ? {} : { signal };
}
