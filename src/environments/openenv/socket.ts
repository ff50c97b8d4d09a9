/**
 * The client's side of OpenEnv's socket: one request, one answer, each with a deadline.
 *
 * Answers carry no id. After a deadline or a cancelled call the next answer cannot be told from the late one, so the
 * socket is dropped; so it is after anything the protocol does not allow.
 */
import WebSocket from "ws";
import { z } from "zod";
import { describeIssues } from "../../data/trajectory.js";
import { EnvironmentError, type EnvironmentErrorCode } from "../environment.js";

const observationSchema = z.object({
  type: z.literal("observation"),
  data: z.object({
    observation: z.record(z.string(), z.unknown()),
    reward: z.union([z.number(), z.boolean()]).nullable().default(null),
    done: z.boolean(),
  }),
});
const stateSchema = z.object({ type: z.literal("state"), data: z.record(z.string(), z.unknown()) });
const errorSchema = z.object({
  type: z.literal("error"),
  data: z.object({ message: z.string(), code: z.string(), errors: z.array(z.unknown()).optional() }),
});

/** What reset and step answer. */
export type RemoteObservation = z.output<typeof observationSchema>["data"];

/** The server read the action and found that it does not fit: the agent's fault, not the environment's. */
export class ActionRefused extends Error {}

export interface SocketLimits {
  readonly connectMs: number;
  /** Longest answer taken, in bytes. */
  readonly maxReplyBytes: number;
}

interface Waiting {
  readonly resolve: (text: string) => void;
  readonly reject: (error: unknown) => void;
}

export class OpenEnvSocket {
  readonly #socket: WebSocket;
  #waiting: Waiting | null = null;
  /** Sent without being asked, before any request: why the server refuses this socket. */
  #early: string | null = null;
  #gone: EnvironmentError | null = null;

  private constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.on("message", (data, binary) => this.#onMessage(binary ? null : String(data)));
    socket.on("close", (code, reason) => this.#lose(closedBy(code, String(reason))));
    socket.on("error", (cause) => this.#lose(broken(cause)));
  }

  /**
   * Opens a socket. The server may refuse it only afterwards: then the first request says so.
   *
   * @throws EnvironmentError `ENVIRONMENT_LOST`, `ENVIRONMENT_TIMEOUT`, `ENVIRONMENT_PROTOCOL` (no such path).
   */
  static async connect(url: string, limits: SocketLimits, signal?: AbortSignal): Promise<OpenEnvSocket> {
    signal?.throwIfAborted();
    const raw = new WebSocket(url, { maxPayload: limits.maxReplyBytes, handshakeTimeout: limits.connectMs });
    // Listens from the start: a refusal may come with the handshake.
    const socket = new OpenEnvSocket(raw);
    const opened = new Promise<void>((resolve, reject) => {
      raw.once("open", resolve);
      raw.once("error", (cause) =>
        reject(
          /handshake has timed out/.test(cause.message)
            ? new EnvironmentError("ENVIRONMENT_TIMEOUT", `No connection to ${url} within ${limits.connectMs} ms.`, {
                hint: "Check that the server runs, or raise `deadlines.connectMs`.",
              })
            : new EnvironmentError("ENVIRONMENT_LOST", `No connection to ${url}: ${reasonOf(cause)}.`, {
                hint: "Check that the server runs and that `url` is right.",
                cause,
              }),
        ),
      );
      raw.once("unexpected-response", (_, response) => {
        const status = response.statusCode ?? 0;
        // 5xx passes when the server is up again; anything else is no OpenEnv server.
        const code: EnvironmentErrorCode = status >= 500 ? "ENVIRONMENT_LOST" : "ENVIRONMENT_PROTOCOL";
        const hint = status >= 500 ? "Try again when the server is up." : PROTOCOL_HINT;
        reject(new EnvironmentError(code, `${url} answered the handshake with status ${status}.`, { hint }));
      });
    });
    try {
      await withinSignal(opened, signal);
      return socket;
    } catch (error) {
      socket.drop();
      throw error;
    }
  }

  get usable(): boolean {
    return this.#gone === null;
  }

  /** Resets; throws as {@link OpenEnvSocket.step}. */
  async reset(
    data: Readonly<Record<string, unknown>>,
    deadlineMs: number,
    signal?: AbortSignal,
  ): Promise<RemoteObservation> {
    return this.#checked(observationSchema, await this.#ask({ type: "reset", data }, deadlineMs, signal)).data;
  }

  /**
   * Steps.
   *
   * @throws ActionRefused when the server does not take the action; EnvironmentError otherwise.
   */
  async step(
    data: Readonly<Record<string, unknown>>,
    deadlineMs: number,
    signal?: AbortSignal,
  ): Promise<RemoteObservation> {
    return this.#checked(observationSchema, await this.#ask({ type: "step", data }, deadlineMs, signal)).data;
  }

  async state(deadlineMs: number, signal?: AbortSignal): Promise<Readonly<Record<string, unknown>>> {
    return this.#checked(stateSchema, await this.#ask({ type: "state" }, deadlineMs, signal)).data;
  }

  /** Says goodbye and waits a moment for the server's; then drops what is left. Safe to call twice. */
  async close(): Promise<void> {
    if (this.#socket.readyState === WebSocket.OPEN) {
      const closed = new Promise<void>((resolve) => this.#socket.once("close", () => resolve()));
      this.#socket.send('{"type":"close"}', () => undefined);
      this.#socket.close(1000);
      let timer: NodeJS.Timeout | undefined;
      await Promise.race([
        closed,
        new Promise<void>((resolve) => {
          timer = setTimeout(resolve, GOODBYE_MS);
        }),
      ]);
      clearTimeout(timer);
    }
    this.drop();
  }

  /** Drops the connection; a waiting request ends with `ENVIRONMENT_LOST`. */
  drop(): void {
    this.#lose(
      new EnvironmentError("ENVIRONMENT_LOST", "The connection to the environment server is closed.", {
        hint: LOST_HINT,
      }),
    );
  }

  async #ask(message: object, deadlineMs: number, signal: AbortSignal | undefined): Promise<unknown> {
    signal?.throwIfAborted();
    if (this.#early !== null) {
      const refusal = this.#errorOf(this.#early);
      this.drop();
      if (refusal instanceof ActionRefused) throw this.#violation("a complaint before any request");
      throw refusal;
    }
    if (this.#gone !== null) throw this.#gone;
    if (this.#waiting !== null)
      throw new EnvironmentError("ENVIRONMENT_PROTOCOL", "The connection is busy with another request.", {
        hint: "Await a call before the next.",
      });
    let timer: NodeJS.Timeout | undefined;
    const answer = new Promise<string>((resolve, reject) => {
      this.#waiting = { resolve, reject };
      timer = setTimeout(
        () =>
          reject(
            new EnvironmentError("ENVIRONMENT_TIMEOUT", `No answer within ${deadlineMs} ms.`, {
              hint: "Raise `deadlines.resetMs` (of a reset) or `deadlines.stepMs` (of anything else).",
            }),
          ),
        deadlineMs,
      );
    });
    this.#socket.send(JSON.stringify(message), () => undefined);
    let text: string;
    try {
      text = await withinSignal(answer, signal);
    } catch (error) {
      this.drop();
      throw error;
    } finally {
      clearTimeout(timer);
      this.#waiting = null;
    }
    const parsed = this.#parse(text);
    if (typeof parsed === "object" && parsed !== null && "type" in parsed && parsed.type === "error")
      throw this.#errorOf(text);
    return parsed;
  }

  #checked<T>(schema: z.ZodType<T>, value: unknown): T {
    const result = schema.safeParse(value);
    if (result.success) return result.data;
    throw this.#violation(`an answer that does not fit: ${describeIssues(result.error).replace(/\.$/, "")}`);
  }

  #parse(text: string): unknown {
    try {
      return JSON.parse(text) as unknown;
    } catch {
      throw this.#violation(`an answer that is no JSON: ${JSON.stringify(text.slice(0, 80))}`);
    }
  }

  /** What an error message means to us. */
  #errorOf(text: string): Error {
    const result = errorSchema.safeParse(this.#parse(text));
    if (!result.success) return this.#violation(`a message that was not asked for: ${text.slice(0, 80)}`);
    const { code, message, errors } = result.data.data;
    if (code === "VALIDATION_ERROR") {
      const more = errors === undefined ? "" : ` ${JSON.stringify(errors).slice(0, 400)}`;
      return new ActionRefused(`${message}${more}`);
    }
    // Our own server puts the code of the fault in front of its text.
    const own = /^\[(ENVIRONMENT_[A-Z_]+)\] (.*)$/s.exec(message);
    if (own !== null && OWN_CODES.has(own[1] ?? ""))
      return new EnvironmentError(own[1] as EnvironmentErrorCode, own[2] ?? "");
    const told = `The environment server said ${code}: ${message}`;
    switch (code) {
      case "CAPACITY_REACHED":
        this.drop();
        return new EnvironmentError("ENVIRONMENT_CAPACITY", told, {
          hint: "Raise the server's session limit, or run fewer episodes at once.",
        });
      case "EXECUTION_ERROR":
        return new EnvironmentError("ENVIRONMENT_FAILED", told, { hint: "Look in the server's log." });
      case "FACTORY_ERROR":
        this.drop();
        return new EnvironmentError("ENVIRONMENT_FAILED", told, { hint: "Look in the server's log." });
      default:
        this.drop();
        return new EnvironmentError("ENVIRONMENT_PROTOCOL", told, { hint: PROTOCOL_HINT });
    }
  }

  #violation(what: string): EnvironmentError {
    this.drop();
    return new EnvironmentError("ENVIRONMENT_PROTOCOL", `The environment server sent ${what}.`, {
      hint: PROTOCOL_HINT,
    });
  }

  #onMessage(text: string | null): void {
    if (text === null) {
      this.#lose(
        new EnvironmentError("ENVIRONMENT_PROTOCOL", "The environment server sent a binary message.", {
          hint: PROTOCOL_HINT,
        }),
      );
      return;
    }
    if (this.#waiting !== null) {
      const { resolve } = this.#waiting;
      this.#waiting = null;
      resolve(text);
      return;
    }
    if (this.#early === null) this.#early = text;
    // A second one, or one after an answer: nothing that follows can be trusted.
    else
      this.#lose(
        new EnvironmentError("ENVIRONMENT_PROTOCOL", "The environment server answered what was not asked.", {
          hint: PROTOCOL_HINT,
        }),
      );
  }

  #lose(error: EnvironmentError): void {
    this.#gone ??= error;
    this.#socket.terminate();
    this.#waiting?.reject(this.#gone);
    this.#waiting = null;
  }
}

/** Of a connection that is gone. */
const LOST_HINT = "The next reset connects anew; see that the server runs.";
/** Of a server that speaks something else. */
const PROTOCOL_HINT = "Check that `url` is an OpenEnv server of a version in docs/environments/openenv.md.";

/** Longest wait for the server's closing frame. */
const GOODBYE_MS = 1000;

const OWN_CODES = new Set<string>([
  "ENVIRONMENT_UNKNOWN_TASK",
  "ENVIRONMENT_BAD_OPTIONS",
  "ENVIRONMENT_BAD_DATA",
  "ENVIRONMENT_BAD_ACTION",
  "ENVIRONMENT_NO_EPISODE",
  "ENVIRONMENT_TIMEOUT",
  "ENVIRONMENT_CAPACITY",
  "ENVIRONMENT_PROTOCOL",
  "ENVIRONMENT_LOST",
  "ENVIRONMENT_FAILED",
] satisfies EnvironmentErrorCode[]);

async function withinSignal<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  // Whichever loses the race still settles; nobody listens to it then.
  promise.catch(() => undefined);
  if (signal === undefined) return promise;
  let onAbort: () => void = () => undefined;
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => reject(signal.reason);
    signal.addEventListener("abort", onAbort, { once: true });
  });
  try {
    signal.throwIfAborted();
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

function closedBy(code: number, reason: string): EnvironmentError {
  const why = reason === "" ? "" : ` (${reason})`;
  if (code === 1009)
    return new EnvironmentError("ENVIRONMENT_PROTOCOL", `The environment server refused a message as too long${why}.`, {
      hint: "Shorten the action, or raise the server's limit (`maxMessageBytes` of ours).",
    });
  const how = code === 1012 ? "is shutting down" : code === 1006 ? "went away without a word" : `closed with ${code}`;
  return new EnvironmentError("ENVIRONMENT_LOST", `The environment server ${how}${why}.`, { hint: LOST_HINT });
}

function broken(cause: Error): EnvironmentError {
  const code = "code" in cause ? String(cause.code) : "";
  // The library's own checks of frames and their length.
  if (code.startsWith("WS_ERR_"))
    return new EnvironmentError(
      "ENVIRONMENT_PROTOCOL",
      `The environment server broke the protocol: ${cause.message}.`,
      { hint: code === "WS_ERR_UNSUPPORTED_MESSAGE_LENGTH" ? "Raise `maxReplyBytes`." : PROTOCOL_HINT, cause },
    );
  return new EnvironmentError("ENVIRONMENT_LOST", `The connection broke: ${reasonOf(cause)}.`, {
    hint: LOST_HINT,
    cause,
  });
}

function reasonOf(cause: Error): string {
  if (cause.message !== "") return cause.message;
  return "code" in cause ? String(cause.code) : cause.name;
}
