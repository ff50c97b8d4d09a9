/**
 * Bodies of requests: what the OpenAI API allows, less what this server cannot do.
 *
 * A parameter that is not understood is an error, never ignored: an agent that asks for a penalty and gets none would be
 * trained on something else than it thinks. Parameters that ask for nothing (`frequency_penalty: 0`) are let through.
 */
import { z } from "zod";
import { describe } from "../errors.js";
import type { ChatMessage } from "../tokens/chat-template.js";
import { ApiError } from "./api-error.js";

const textPart = z.strictObject({ type: z.literal("text"), text: z.string() });

const messageSchema = z.strictObject({
  role: z.enum(["system", "developer", "user", "assistant", "tool"]),
  content: z.union([z.string(), z.array(textPart)]),
  name: z.string().optional(),
  tool_call_id: z.string().optional(),
  refusal: z.null().optional(),
});

const nothing = <T extends z.ZodType>(schema: T): z.ZodOptional<z.ZodNullable<T>> => schema.nullable().optional();

/** Parameters of both kinds of completions. Null means the default, as in the API. */
const samplingShape = {
  model: nothing(z.string()),
  max_tokens: nothing(z.number().int().min(1)),
  temperature: nothing(z.number().min(0).max(2)),
  top_p: nothing(z.number().gt(0).max(1)),
  top_k: nothing(z.number().int().min(0)),
  min_p: nothing(z.number().min(0).max(1)),
  n: nothing(z.number().int().min(1).max(128)),
  seed: nothing(z.number().int()),
  stop: nothing(z.union([z.string().min(1), z.array(z.string().min(1)).max(16)])),
  stream: nothing(z.boolean()),
  stream_options: nothing(z.strictObject({ include_usage: z.boolean().optional() })),
  return_token_ids: nothing(z.boolean()),
  metadata: nothing(z.record(z.string(), z.string())),
  user: nothing(z.string()),
  frequency_penalty: nothing(z.literal(0)),
  presence_penalty: nothing(z.literal(0)),
  logit_bias: nothing(z.strictObject({})),
};

export const chatRequestSchema = z.strictObject({
  ...samplingShape,
  messages: z.array(messageSchema).min(1),
  max_completion_tokens: nothing(z.number().int().min(1)),
  logprobs: nothing(z.boolean()),
  top_logprobs: nothing(z.literal(0)),
  response_format: nothing(z.strictObject({ type: z.literal("text") })),
  tools: nothing(z.array(z.unknown()).max(0)),
  tool_choice: nothing(z.literal("none")),
  parallel_tool_calls: nothing(z.boolean()),
  store: nothing(z.literal(false)),
});
export type ChatRequest = z.infer<typeof chatRequestSchema>;

const ids = z.array(z.number().int().nonnegative()).min(1);

export const completionRequestSchema = z.strictObject({
  ...samplingShape,
  prompt: z.union([z.string().min(1), z.array(z.string().min(1)).min(1).max(128), ids, z.array(ids).min(1).max(128)]),
  logprobs: nothing(z.literal(0)),
  echo: nothing(z.literal(false)),
  best_of: nothing(z.literal(1)),
  suffix: nothing(z.literal("")),
});
export type CompletionRequest = z.infer<typeof completionRequestSchema>;

/** How a client says that an episode ended. */
export const episodeOutcomes = ["success", "failure", "truncated", "environment_failed"] as const;
export type ServedOutcome = (typeof episodeOutcomes)[number];

const idSchema = z.string().min(1).max(256);

export const rewardRequestSchema = z.strictObject({
  episode_id: idSchema,
  /** May be left out where the environment failed: such an episode is not trained on. */
  reward: nothing(z.number()),
  outcome: nothing(z.enum(episodeOutcomes)),
  group: nothing(idSchema),
  /** A reply of the episode could not be used. Counted, nothing else. */
  malformed: nothing(z.boolean()),
});
export type RewardRequest = z.infer<typeof rewardRequestSchema>;

export const episodesQuerySchema = z.strictObject({
  after: z.coerce.number().int().min(0).default(0),
  limit: z.coerce.number().int().min(1).max(1000).default(100),
  tokens: z.enum(["true", "false"]).default("true"),
});

/** Parameters of the API that have a meaning, but not here, and what to do instead. */
const UNSUPPORTED: Readonly<Record<string, string>> = {
  frequency_penalty: "Penalties are not supported: training needs the policy's own distribution.",
  presence_penalty: "Penalties are not supported: training needs the policy's own distribution.",
  logit_bias: "Biases are not supported: training needs the policy's own distribution.",
  top_logprobs: "Only log-probs of sampled tokens are known; leave `top_logprobs` out.",
  logprobs: "Only log-probs of sampled tokens are known: `logprobs` is true or false in chat, 0 or absent otherwise.",
  tools: "Tool calls are not supported: describe tools in the messages and read calls from the text.",
  tool_choice: "Tool calls are not supported: describe tools in the messages and read calls from the text.",
  response_format: "Only text is sampled.",
  best_of: "Ask for `n` completions and choose.",
  echo: "Ask for `return_token_ids` to see the prompt as it was read.",
};

/**
 * Checks a body or a query.
 *
 * @throws ApiError 400 `unknown_parameter`, `missing_required_parameter`, `unsupported_value` or `invalid_value`.
 */
export function parseRequest<S extends z.ZodType>(schema: S, value: unknown): z.output<S> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  if (issue === undefined) throw new ApiError(400, "invalid_value", "The request could not be read.");
  const path = issue.path.map(String);
  if (issue.code === "unrecognized_keys") {
    const param = [...path, issue.keys[0] ?? ""].join(".");
    throw new ApiError(400, "unknown_parameter", `Unknown parameter: \`${param}\`.`, {
      param,
      hint: UNSUPPORTED[param] ?? "Leave it out: parameters that have no effect here are refused.",
    });
  }
  const param = path.join(".");
  const got = issue.path.reduce<unknown>((at, key) => Object(at)[key], value);
  if (got === undefined && param !== "")
    throw new ApiError(400, "missing_required_parameter", `Missing required parameter: \`${param}\`.`, { param });
  const unsupported = UNSUPPORTED[path[0] ?? ""];
  throw new ApiError(
    400,
    unsupported === undefined ? "invalid_value" : "unsupported_value",
    `Invalid value for \`${param === "" ? "body" : param}\`, got ${describe(got)}: ${issue.message}.`,
    { param, ...(unsupported === undefined ? {} : { hint: unsupported }) },
  );
}

/** Messages as chat templates know them: parts joined, `developer` as `system`. */
export function chatMessages(request: ChatRequest): ChatMessage[] {
  return request.messages.map(({ role, content }) => ({
    role: role === "developer" ? "system" : role,
    content: typeof content === "string" ? content : content.map((part) => part.text).join(""),
  }));
}

/** Prompts of a completion request, each a text or a list of ids. */
export function promptsOf({ prompt }: CompletionRequest): (string | readonly number[])[] {
  if (typeof prompt === "string") return [prompt];
  if (prompt.every((part) => typeof part === "number")) return [prompt];
  return prompt.filter((part) => typeof part !== "number");
}
