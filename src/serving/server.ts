/**
 * An OpenAI-compatible HTTP endpoint over a policy, and the way back: rewards for the episodes played through it.
 *
 * | | |
 * | --- | --- |
 * | `GET /v1/models`, `GET /v1/models/{name}` | the one model |
 * | `POST /v1/chat/completions`, `POST /v1/completions` | completions, streamed or not |
 * | `POST /v1/act/rewards` | ends an episode |
 * | `GET /v1/act/episodes` | ended episodes |
 * | `GET /v1/act/status` | counts |
 *
 * See docs/serving.md.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { z } from "zod";
import type { Policy } from "../engine/policy.js";
import { ActError } from "../errors.js";
import { parseOptions } from "../stages/options.js";
import type { ChatTemplate } from "../tokens/chat-template.js";
import { Answer } from "./answers.js";
import { ApiError, apiErrorBody, asApiError } from "./api-error.js";
import { abandonJob, type CompletionContext, completeJob, planJob } from "./complete.js";
import { EventStream } from "./event-stream.js";
import { isAuthorized, readJson, refuseConnection, sendError, sendJson } from "./http.js";
import { type CompletionJob, chatJob, completionJob } from "./job.js";
import {
  chatRequestSchema,
  completionRequestSchema,
  episodesQuerySchema,
  parseRequest,
  rewardRequestSchema,
} from "./requests.js";
import { SamplingGate } from "./sampling-gate.js";
import { ServedEpisodes, servedEpisodesSchema } from "./served-episodes.js";

const milliseconds = z
  .number()
  .positive()
  .max(2 ** 31 - 1);

export const serveSchema = z.strictObject({
  host: z.string().min(1).default("127.0.0.1").describe("address to listen on"),
  port: z.number().int().min(0).max(65535).default(0).describe("port to listen on; 0: any free one"),
  modelName: z.string().min(1).default("act").describe("name of the model in requests and answers"),
  apiKey: z.string().min(1).nullable().default(null).describe("key that clients must send; null: none"),
  maxNewTokens: z.number().int().min(1).default(512).describe("longest completion where a request sets no limit"),
  sliceTokens: z
    .number()
    .int()
    .min(1)
    .default(16)
    .describe("tokens sampled between two pieces of a stream or two looks for a stop string"),
  maxRequests: z.number().int().min(1).default(256).describe("completion requests answered at once at most"),
  maxBodyBytes: z
    .number()
    .int()
    .min(1)
    .default(8 * 2 ** 20)
    .describe("longest request body"),
  requestTimeout: milliseconds.default(600_000).describe("milliseconds a completion request may take"),
  bodyTimeout: milliseconds.default(30_000).describe("milliseconds a client may take to send a request"),
  seed: z.number().int().min(0).max(Number.MAX_SAFE_INTEGER).default(0).describe("seed of requests without their own"),
  episodes: servedEpisodesSchema.prefault({}).describe("recording of episodes for training"),
});
/** Options as given; everything has a default. */
export type ServeOptions = z.input<typeof serveSchema>;

/** How a server is watched. */
export interface ServeEvents {
  /** Faults that are not the client's: answers with status 500 and above. */
  readonly onError?: (error: unknown) => void;
}

/** A running endpoint. */
export interface ModelServer extends AsyncDisposable {
  /** e.g. `http://127.0.0.1:41234`; the API's base URL is this with `/v1`. */
  readonly url: string;
  readonly episodes: ServedEpisodes;
  /** Whatever changes the policy's weights while the server runs has to go through it. */
  readonly gate: SamplingGate;
  /** Ends everything: running completions, connections, timers. The policy is not disposed of. Safe to call twice. */
  close(): Promise<void>;
}

/**
 * Serves a policy.
 *
 * @throws ActError `CONFIG_*` for bad options, `SERVE_ADDRESS` where the address cannot be listened on.
 */
export async function serve(
  policy: Policy,
  chat: ChatTemplate,
  options: ServeOptions = {},
  events: ServeEvents = {},
): Promise<ModelServer> {
  const settings = parseOptions(serveSchema, options, "options of serve");
  const gate = new SamplingGate();
  const episodes = new ServedEpisodes(chat, settings.episodes);
  const endpoint = new Endpoint({ policy, chat, gate, episodes }, settings, events);
  const server = createServer(
    {
      requestTimeout: settings.bodyTimeout,
      headersTimeout: settings.bodyTimeout,
      // Node looks for late requests only so often; by default every 30 s.
      connectionsCheckingInterval: Math.min(30_000, Math.ceil(settings.bodyTimeout / 4)),
    },
    (request, response) => void endpoint.answer(request, response),
  );
  server.on("clientError", refuseConnection);
  await listen(server, settings.host, settings.port);
  const { address, family, port } = server.address() as AddressInfo;
  const url = `http://${family === "IPv6" ? `[${address}]` : address}:${port}`;
  let closing: Promise<void> | null = null;
  const close = (): Promise<void> => {
    closing ??= new Promise<void>((resolve) => {
      episodes.close();
      server.close(() => resolve());
      endpoint.stop();
      server.closeAllConnections();
    });
    return closing;
  };
  return { url, episodes, gate, close, [Symbol.asyncDispose]: close };
}

type Settings = z.infer<typeof serveSchema>;
type Handler = (request: IncomingMessage, response: ServerResponse, url: URL) => Promise<void> | void;

class Endpoint {
  readonly #context: CompletionContext;
  readonly #settings: Settings;
  readonly #events: ServeEvents;
  readonly #started = Math.floor(Date.now() / 1000);
  readonly #running = new Set<AbortController>();
  readonly #routes: Readonly<Record<string, Readonly<Record<string, Handler>>>>;
  #jobs = 0;

  constructor(
    parts: Pick<CompletionContext, "policy" | "chat" | "gate" | "episodes">,
    settings: Settings,
    events: ServeEvents,
  ) {
    const { seed, maxNewTokens, sliceTokens } = settings;
    this.#context = { ...parts, seed, maxNewTokens, sliceTokens, nextJob: () => this.#jobs++ };
    this.#settings = settings;
    this.#events = events;
    const model: Handler = (_, response) => sendJson(response, 200, this.#model());
    this.#routes = {
      "/v1/models": { GET: (_, response) => sendJson(response, 200, { object: "list", data: [this.#model()] }) },
      [`/v1/models/${encodeURIComponent(settings.modelName)}`]: { GET: model },
      "/v1/chat/completions": {
        POST: async (request, response) => {
          const body = parseRequest(chatRequestSchema, await this.#body(request));
          await this.#complete(chatJob(body, request.headers), request, response);
        },
      },
      "/v1/completions": {
        POST: async (request, response) => {
          const body = parseRequest(completionRequestSchema, await this.#body(request));
          await this.#complete(completionJob(body, request.headers), request, response);
        },
      },
      "/v1/act/rewards": {
        POST: async (request, response) => {
          const body = parseRequest(rewardRequestSchema, await this.#body(request));
          sendJson(response, 200, parts.episodes.reward(body));
        },
      },
      "/v1/act/episodes": {
        GET: (_, response, { searchParams }) => {
          const query = parseRequest(episodesQuerySchema, Object.fromEntries(searchParams));
          const list = parts.episodes.list(query.after, query.limit, query.tokens === "true");
          sendJson(response, 200, { object: "list", ...list });
        },
      },
      "/v1/act/status": { GET: (_, response) => sendJson(response, 200, this.#status()) },
    };
  }

  /** Answers one request; never rejects. */
  async answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    try {
      const { apiKey } = this.#settings;
      if (apiKey !== null && !isAuthorized(request, apiKey))
        throw new ApiError(401, "invalid_api_key", "The API key is missing or wrong.", {
          hint: "Send it as `Authorization: Bearer <key>`.",
        });
      const url = new URL(request.url ?? "/", "http://localhost");
      const methods = this.#routes[url.pathname];
      if (methods === undefined)
        throw new ApiError(404, "not_found", `There is nothing at ${url.pathname}.`, {
          hint: `Paths: ${Object.keys(this.#routes).join(", ")}.`,
        });
      const handler = methods[request.method ?? ""];
      if (handler === undefined) {
        response.setHeader("allow", Object.keys(methods).join(", "));
        throw new ApiError(405, "method_not_allowed", `${request.method} is not allowed at ${url.pathname}.`, {
          hint: `Use ${Object.keys(methods).join(" or ")}.`,
        });
      }
      await handler(request, response, url);
    } catch (cause) {
      this.#fail(response, cause);
    }
  }

  /** Ends all completions that run. */
  stop(): void {
    for (const controller of this.#running)
      controller.abort(new ApiError(503, "server_closed", "The server is being closed."));
  }

  async #complete(job: CompletionJob, request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { modelName, maxRequests, requestTimeout } = this.#settings;
    if (job.model !== null && job.model !== modelName)
      throw new ApiError(404, "model_not_found", `There is no model ${JSON.stringify(job.model)}.`, {
        param: "model",
        hint: `This server has ${JSON.stringify(modelName)}.`,
      });
    if (this.#running.size >= maxRequests)
      throw new ApiError(429, "too_many_requests", `${maxRequests} requests are being answered already.`, {
        hint: "Send it again later, or raise the server's `maxRequests`.",
      });
    const controller = new AbortController();
    const onClose = (): void => {
      if (!response.writableFinished) controller.abort(new ApiError(499, "client_closed", "The client has gone."));
    };
    const timer = setTimeout(() => {
      controller.abort(
        new ApiError(504, "timeout", `The request took longer than ${requestTimeout} ms.`, {
          hint: "Ask for fewer tokens, or raise the server's `requestTimeout`.",
        }),
      );
    }, requestTimeout);
    this.#running.add(controller);
    response.once("close", onClose);
    // It may have gone while the body was read.
    if (request.destroyed && response.destroyed) onClose();
    try {
      await this.#sample(job, response, controller.signal);
    } finally {
      clearTimeout(timer);
      response.off("close", onClose);
      this.#running.delete(controller);
    }
  }

  async #sample(job: CompletionJob, response: ServerResponse, signal: AbortSignal): Promise<void> {
    const context = this.#context;
    const planned = await planJob(context, job);
    const answer = new Answer(job, planned, context.chat.tokenizer, this.#settings.modelName);
    if (!job.stream) {
      const choices = await completeJob(context, job, planned, signal, null);
      sendJson(response, 200, await answer.whole(choices));
      return;
    }
    const stream = new EventStream(response, answer, signal);
    try {
      signal.throwIfAborted();
      stream.open(job.prompts.length * job.count);
    } catch (cause) {
      abandonJob(planned);
      throw cause;
    }
    const choices = await completeJob(context, job, planned, signal, (...progress) => stream.grow(...progress));
    await stream.finish(choices, job.includeUsage);
  }

  /** Tells the client what went wrong, in whatever way it still can be told. */
  #fail(response: ServerResponse, cause: unknown): void {
    const error = asApiError(cause);
    if (error.status >= 500) this.#events.onError?.(cause);
    if (response.destroyed || response.writableEnded) return;
    if (response.headersSent) response.end(`data: ${JSON.stringify(apiErrorBody(error))}\n\n`);
    else sendError(response, error);
  }

  #body(request: IncomingMessage): Promise<unknown> {
    return readJson(request, this.#settings.maxBodyBytes);
  }

  #model(): Readonly<Record<string, unknown>> {
    const { policy } = this.#context;
    return {
      id: this.#settings.modelName,
      object: "model",
      created: this.#started,
      owned_by: "act-trainer",
      max_model_len: policy.contextLength,
      weight_version: policy.stats().weightVersion,
    };
  }

  #status(): Readonly<Record<string, unknown>> {
    const { policy, episodes, gate } = this.#context;
    const { opened, open, finished, failed, expired, turns, ...rest } = episodes.counts;
    return {
      object: "act.status",
      weight_version: policy.stats().weightVersion,
      requests: this.#running.size,
      paused_ms: Math.round(gate.pausedMilliseconds),
      episodes: {
        opened,
        open,
        finished,
        failed,
        expired,
        turns,
        separate_turns: rest.separateTurns,
        lost_turns: rest.lostTurns,
        ungrouped: rest.ungrouped,
        dropped: rest.dropped,
        groups_ready: rest.groupsReady,
      },
    };
  }
}

async function listen(server: Server, host: string, port: number): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const onError = (cause: NodeJS.ErrnoException): void => {
      reject(
        new ActError("SERVE_ADDRESS", `Cannot listen on ${host}, port ${port}: ${cause.message}.`, {
          hint: "Choose another port, or 0 for any free one.",
          cause,
        }),
      );
    };
    server.once("error", onError);
    server.listen(port, host, () => {
      server.off("error", onError);
      resolve();
    });
  });
}
