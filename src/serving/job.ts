/**
 * A request for completions, chat or text, in one form.
 */
import type { IncomingHttpHeaders } from "node:http";
import { ApiError } from "./api-error.js";
import type { PromptInput } from "./recorded-episode.js";
import { type ChatRequest, type CompletionRequest, chatMessages, promptsOf } from "./requests.js";

export interface CompletionJob {
  readonly kind: "chat" | "text";
  readonly model: string | null;
  readonly prompts: readonly PromptInput[];
  /** Completions of each prompt. */
  readonly count: number;
  /** Null: as many as the server allows by default and the context has room for. */
  readonly maxTokens: number | null;
  readonly temperature: number;
  readonly topP: number;
  readonly topK: number;
  readonly minP: number;
  readonly stops: readonly string[];
  /** Null: the server's. */
  readonly seed: bigint | null;
  readonly stream: boolean;
  readonly includeUsage: boolean;
  readonly logprobs: boolean;
  readonly tokenIds: boolean;
  /** The episode the completions belong to, or null. */
  readonly episode: { readonly id: string; readonly group: string | null } | null;
}

export const EPISODE_HEADER = "x-act-episode";
export const GROUP_HEADER = "x-act-group";

export function chatJob(request: ChatRequest, headers: IncomingHttpHeaders): CompletionJob {
  const { max_tokens: old, max_completion_tokens: current } = request;
  if (old != null && current != null && old !== current)
    throw new ApiError(400, "invalid_value", "`max_tokens` and `max_completion_tokens` differ.", {
      param: "max_completion_tokens",
      hint: "Give one of them.",
    });
  return {
    ...commonJob(request, headers),
    kind: "chat",
    prompts: [{ kind: "chat", messages: chatMessages(request) }],
    maxTokens: current ?? old ?? null,
    logprobs: request.logprobs ?? false,
  };
}

export function completionJob(request: CompletionRequest, headers: IncomingHttpHeaders): CompletionJob {
  return {
    ...commonJob(request, headers),
    kind: "text",
    prompts: promptsOf(request).map((prompt) =>
      typeof prompt === "string" ? { kind: "text", text: prompt } : { kind: "ids", ids: prompt },
    ),
    maxTokens: request.max_tokens ?? null,
    // 0 asks for the sampled tokens' log-probs and no others.
    logprobs: request.logprobs === 0,
  };
}

function commonJob(
  request: ChatRequest | CompletionRequest,
  headers: IncomingHttpHeaders,
): Omit<CompletionJob, "kind" | "prompts" | "maxTokens" | "logprobs"> {
  const { stop, seed } = request;
  const id = named("episode_id", headers[EPISODE_HEADER], request.metadata?.episode_id);
  const group = named("group", headers[GROUP_HEADER], request.metadata?.group);
  if (id === null && group !== null)
    throw new ApiError(400, "missing_required_parameter", "A group was named, but no episode.", {
      param: "metadata.episode_id",
      hint: `Send the episode's id in the header ${EPISODE_HEADER} or in \`metadata.episode_id\`.`,
    });
  return {
    model: request.model ?? null,
    count: request.n ?? 1,
    temperature: request.temperature ?? 1,
    topP: request.top_p ?? 1,
    topK: request.top_k ?? 0,
    minP: request.min_p ?? 0,
    stops: stop == null ? [] : typeof stop === "string" ? [stop] : stop,
    seed: seed == null ? null : BigInt.asUintN(64, BigInt(seed)),
    stream: request.stream ?? false,
    includeUsage: request.stream_options?.include_usage ?? false,
    tokenIds: request.return_token_ids ?? false,
    episode: id === null ? null : { id, group },
  };
}

/** A name from a header or from the metadata; both may give it when they agree. */
function named(param: string, header: string | string[] | undefined, meta: string | undefined): string | null {
  const first = Array.isArray(header) ? header[0] : header;
  if (first !== undefined && meta !== undefined && first !== meta)
    throw new ApiError(400, "invalid_value", `The header and \`metadata.${param}\` differ.`, {
      param: `metadata.${param}`,
      hint: "Send one of them, or the same in both.",
    });
  const name = first ?? meta ?? null;
  if (name !== null && (name.length === 0 || name.length > 256))
    throw new ApiError(400, "invalid_value", `Expected 1 to 256 characters, got ${name.length}.`, {
      param: `metadata.${param}`,
    });
  return name;
}
