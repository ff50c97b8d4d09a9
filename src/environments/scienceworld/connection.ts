/**
 * A loopback connection to a JVM that speaks py4j: one request at a time, each with a deadline.
 *
 * An answer that comes too late cannot be told from the next one's, so a connection whose request timed out or was
 * cancelled is closed for good.
 */
import { createConnection, type Socket } from "node:net";
import { EnvironmentError } from "../environment.js";
import {
  callRequest,
  constructRequest,
  JAR_HINT,
  type JavaArgument,
  JavaReference,
  type JavaReply,
  type JavaValue,
  parseReply,
  releaseRequest,
} from "./py4j.js";

/** How long a request may take. */
export interface RequestOptions {
  readonly deadlineMs: number;
  readonly signal?: AbortSignal | undefined;
}

/** Longest answer read, in bytes. The longest list of valid actions seen is under 3 MiB. */
const MAX_REPLY_BYTES = 64 * 1024 * 1024;

interface Pending {
  readonly resolve: (line: string) => void;
  readonly reject: (error: unknown) => void;
}

export class Py4jConnection {
  readonly #socket: Socket;
  #chunks: Buffer[] = [];
  #bytes = 0;
  #pending: Pending | null = null;
  #closed: EnvironmentError | null = null;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setNoDelay(true);
    // The request's timer keeps the host alive while something waits; an idle connection must not.
    socket.unref();
    socket.on("data", (chunk: Buffer) => this.#onData(chunk));
    socket.on("error", (cause) => this.#fail(lost("The connection to the simulator broke", cause)));
    socket.on("close", () => this.#fail(lost("The simulator closed the connection")));
  }

  /** Connects to a port of this machine. Throws `ENVIRONMENT_LOST` or `ENVIRONMENT_TIMEOUT`. */
  static async connect(port: number, options: RequestOptions): Promise<Py4jConnection> {
    const socket = createConnection({ host: "127.0.0.1", port });
    const connected = new Promise<void>((resolve, reject) => {
      socket.once("connect", resolve);
      socket.once("error", (cause) => reject(lost(`No connection to the simulator on port ${port}`, cause)));
    });
    try {
      await withDeadline(connected, options, "connecting to the simulator");
      return new Py4jConnection(socket);
    } catch (error) {
      socket.on("error", () => undefined);
      socket.destroy();
      throw error;
    }
  }

  /** Makes an object of a class. */
  async construct(className: string, options: RequestOptions): Promise<JavaReference> {
    const value = await this.#value(constructRequest(className), `new ${className}`, options);
    if (value instanceof JavaReference) return value;
    throw new EnvironmentError("ENVIRONMENT_PROTOCOL", `new ${className} did not return an object.`, {
      hint: JAR_HINT,
    });
  }

  /**
   * Calls a method.
   *
   * @throws EnvironmentError `ENVIRONMENT_TIMEOUT`, `ENVIRONMENT_LOST`, `ENVIRONMENT_PROTOCOL`, or `ENVIRONMENT_FAILED`
   *   when Java threw.
   */
  async call(
    target: JavaReference | string,
    method: string,
    args: readonly JavaArgument[],
    options: RequestOptions,
  ): Promise<JavaValue> {
    return this.#value(callRequest(target, method, args), method, options);
  }

  /** Lets the JVM forget an object. */
  async release(reference: JavaReference, options: RequestOptions): Promise<void> {
    await this.#value(releaseRequest(reference), "release", options);
  }

  /** Sends a request as it stands and gives back the answer line. */
  async request(text: string, what: string, options: RequestOptions): Promise<string> {
    if (this.#closed !== null) throw this.#closed;
    options.signal?.throwIfAborted();
    if (this.#pending !== null)
      throw new EnvironmentError("ENVIRONMENT_PROTOCOL", `${what}: the connection is busy with another request.`, {
        hint: "Await a call before the next.",
      });
    const answer = new Promise<string>((resolve, reject) => {
      this.#pending = { resolve, reject };
    });
    this.#socket.write(text);
    try {
      return await withDeadline(answer, options, what);
    } catch (error) {
      this.close();
      throw error;
    } finally {
      this.#pending = null;
    }
  }

  /** Closes the connection; a waiting request ends with `ENVIRONMENT_LOST`. Safe to call twice. */
  close(): void {
    this.#fail(lost("The connection to the simulator is closed"));
  }

  async #value(request: string, what: string, options: RequestOptions): Promise<JavaValue> {
    const reply = this.#parse(await this.request(request, what, options));
    if (reply.kind === "value") return reply.value;
    let message = reply.message;
    if (reply.reference !== null) {
      const text = this.#parse(await this.request(callRequest(reply.reference, "toString", []), what, options));
      message = text.kind === "value" ? String(text.value) : "an exception without text";
    }
    throw new EnvironmentError("ENVIRONMENT_FAILED", `The simulator failed at ${what}: ${message.split("\n")[0]}.`);
  }

  #parse(line: string): JavaReply {
    try {
      return parseReply(line);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  #onData(chunk: Buffer): void {
    const end = chunk.indexOf(0x0a);
    this.#chunks.push(chunk);
    this.#bytes += chunk.length;
    if (end === -1) {
      if (this.#bytes > MAX_REPLY_BYTES)
        this.#fail(new EnvironmentError("ENVIRONMENT_PROTOCOL", `An answer is longer than ${MAX_REPLY_BYTES} bytes.`));
      return;
    }
    if (end !== chunk.length - 1 || this.#pending === null) {
      this.#fail(
        new EnvironmentError("ENVIRONMENT_PROTOCOL", "The simulator answered what was not asked.", { hint: JAR_HINT }),
      );
      return;
    }
    const line = Buffer.concat(this.#chunks).toString("utf8", 0, this.#bytes - 1);
    this.#chunks = [];
    this.#bytes = 0;
    const { resolve } = this.#pending;
    this.#pending = null;
    resolve(line);
  }

  #fail(error: EnvironmentError): void {
    this.#closed ??= error;
    this.#chunks = [];
    this.#socket.destroy();
    this.#pending?.reject(this.#closed);
    this.#pending = null;
  }
}

/** Waits for a promise at most `deadlineMs`, or until the signal aborts (then throws its reason). */
export async function withDeadline<T>(promise: Promise<T>, options: RequestOptions, what: string): Promise<T> {
  const { deadlineMs, signal } = options;
  let timer: NodeJS.Timeout | undefined;
  let onAbort: (() => void) | undefined;
  const limit = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () =>
        reject(
          new EnvironmentError("ENVIRONMENT_TIMEOUT", `No answer within ${deadlineMs} ms: ${what}.`, {
            hint: "Raise `deadlines`, or lower `maxProcesses` where the machine is busy.",
          }),
        ),
      deadlineMs,
    );
    onAbort = () => reject(signal?.reason);
    signal?.addEventListener("abort", onAbort, { once: true });
  });
  // Whichever loses the race still settles; nobody listens to it then.
  promise.catch(() => undefined);
  try {
    signal?.throwIfAborted();
    return await Promise.race([promise, limit]);
  } finally {
    clearTimeout(timer);
    if (onAbort !== undefined) signal?.removeEventListener("abort", onAbort);
  }
}

function lost(message: string, cause?: unknown): EnvironmentError {
  const why = cause instanceof Error ? `: ${cause.message}` : "";
  return new EnvironmentError("ENVIRONMENT_LOST", `${message}${why}.`, {
    hint: "The next reset starts another JVM.",
    cause,
  });
}
