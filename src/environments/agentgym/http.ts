/**
 * JSON over HTTP/1.1 to an AgentGym server: one request a connection, each with a deadline, sent again only where that
 * is safe.
 *
 * The servers close idle connections after five seconds without a word, so a kept one may be dead when it is used:
 * a fresh connection for each request costs less than telling that apart from a lost step.
 */
import { request as httpRequest, type IncomingMessage } from "node:http";
import { request as httpsRequest } from "node:https";
import { EnvironmentError } from "../environment.js";

export interface HttpLimits {
  /** Times a request is sent again that did not reach the server, or that it turned away with 503. */
  readonly retries: number;
  /** Longest answer taken, in bytes. */
  readonly maxReplyBytes: number;
}

export interface HttpCall {
  readonly method: "GET" | "POST";
  readonly path: string;
  /** Sent as JSON; undefined for no body. */
  readonly body?: unknown;
  readonly deadlineMs: number;
  /** Whether a second sending does no harm, so that a connection that broke half-way is tried again. */
  readonly repeatable: boolean;
  readonly signal?: AbortSignal | undefined;
}

/** An answer of the server: any status, parsed where it is JSON. */
export interface HttpAnswer {
  readonly status: number;
  readonly body: unknown;
  readonly text: string;
}

/** Of a server that takes no more. */
export const BUSY_HINT = "Run fewer episodes at once (`concurrency`), raise `retries`, or let the server take more.";

/** First pause before another sending, in milliseconds; doubled each time. */
const FIRST_PAUSE_MS = 100;

/** The connection failed. */
class Broken extends Error {
  constructor(
    message: string,
    /** Whether the request may have reached the server. */
    readonly sent: boolean,
    cause: unknown,
  ) {
    super(message, { cause });
  }
}

/**
 * Sends a request and reads the answer.
 *
 * @throws EnvironmentError `ENVIRONMENT_TIMEOUT` (over all sendings), `ENVIRONMENT_LOST`, `ENVIRONMENT_CAPACITY` (503),
 *   `ENVIRONMENT_PROTOCOL` (an answer too long, or JSON that is none).
 */
export async function callServer(base: string, call: HttpCall, limits: HttpLimits): Promise<HttpAnswer> {
  const end = performance.now() + call.deadlineMs;
  for (let attempt = 0, pause = FIRST_PAUSE_MS; ; attempt++, pause *= 2) {
    call.signal?.throwIfAborted();
    let fault: EnvironmentError;
    try {
      const answer = await send(base, call, Math.max(1, end - performance.now()), limits.maxReplyBytes);
      if (answer.status !== 503) return answer;
      fault = new EnvironmentError("ENVIRONMENT_CAPACITY", `${call.path}: the server is busy (status 503).`, {
        hint: BUSY_HINT,
      });
    } catch (error) {
      if (!(error instanceof Broken)) throw error;
      fault = new EnvironmentError("ENVIRONMENT_LOST", `${call.path}: ${error.message}.`, {
        hint: "Check that the server runs and that `url` is right.",
        cause: error,
      });
      if (error.sent && !call.repeatable) throw fault;
    }
    if (attempt >= limits.retries || performance.now() + pause > end) throw fault;
    await sleep(pause, call.signal);
  }
}

function send(base: string, call: HttpCall, deadlineMs: number, maxBytes: number): Promise<HttpAnswer> {
  const url = new URL(base.replace(/\/$/, "") + call.path);
  const body = call.body === undefined ? undefined : JSON.stringify(call.body);
  return new Promise((resolve, reject) => {
    let settled = false;
    let connected = false;
    const done = (act: () => void): void => {
      if (settled) return;
      settled = true;
      clearTimeout(timer);
      call.signal?.removeEventListener("abort", onAbort);
      request.destroy();
      act();
    };
    const fail = (error: unknown): void => done(() => reject(error));
    const broken = (message: string, cause?: unknown): void => fail(new Broken(message, connected, cause));
    const request = (url.protocol === "https:" ? httpsRequest : httpRequest)(
      url,
      {
        method: call.method,
        agent: false,
        headers: {
          connection: "close",
          ...(body === undefined
            ? { "content-length": "0" }
            : { "content-type": "application/json", "content-length": String(Buffer.byteLength(body)) }),
        },
      },
      (response) => {
        read(response, maxBytes).then(
          (text) => done(() => resolve({ status: response.statusCode ?? 0, text, body: parse(response, text) })),
          (error: unknown) => {
            if (error instanceof EnvironmentError) fail(error);
            else broken("the connection broke in the middle of an answer", error);
          },
        );
      },
    );
    request.on("socket", (socket) =>
      socket.once("connect", () => {
        connected = true;
      }),
    );
    request.on("error", (cause) => {
      const code = "code" in cause ? String(cause.code) : "";
      // The library's parser: what came is no HTTP.
      if (code.startsWith("HPE_"))
        fail(
          new EnvironmentError("ENVIRONMENT_PROTOCOL", `${call.path}: the answer is no HTTP (${code}).`, {
            hint: "Check that `url` is an AgentGym server.",
            cause,
          }),
        );
      else broken(cause.message === "" ? code : cause.message, cause);
    });
    const timer = setTimeout(
      () =>
        fail(
          new EnvironmentError("ENVIRONMENT_TIMEOUT", `${call.path}: no answer within ${call.deadlineMs} ms.`, {
            hint: "Raise `deadlines.resetMs` (create, reset) or `deadlines.stepMs`.",
          }),
        ),
      deadlineMs,
    );
    const onAbort = (): void => fail(call.signal?.reason);
    call.signal?.addEventListener("abort", onAbort, { once: true });
    request.end(body);
  });
}

async function read(response: IncomingMessage, maxBytes: number): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > maxBytes)
      throw new EnvironmentError("ENVIRONMENT_PROTOCOL", `An answer is longer than ${maxBytes} bytes.`, {
        hint: "Raise `maxReplyBytes`.",
      });
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

/** The JSON of an answer; undefined where it is none. Its callers say what they expected. */
function parse(response: IncomingMessage, text: string): unknown {
  if (!(response.headers["content-type"] ?? "").includes("json")) return undefined;
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}

async function sleep(ms: number, signal: AbortSignal | undefined): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  let onAbort: () => void = () => undefined;
  try {
    await new Promise<void>((resolve, reject) => {
      timer = setTimeout(resolve, ms);
      onAbort = () => reject(signal?.reason);
      signal?.addEventListener("abort", onAbort, { once: true });
    });
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", onAbort);
  }
}
