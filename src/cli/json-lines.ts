/**
 * JSON Lines in, JSON Lines out: many lines at work at once, answers in the order of the lines, memory bounded.
 */
import { once } from "node:events";
import { open } from "node:fs/promises";
import type { Readable, Writable } from "node:stream";
import { withFileErrors } from "../data/files.js";
import { ActError } from "../errors.js";

/** What a line is answered with. */
export type Answer = Readonly<Record<string, unknown>>;

export interface LineStreamOptions {
  readonly input: Readable;
  readonly output: Writable;
  /** Lines at work at once, >= 1; also how many answers may wait for an earlier one. */
  readonly concurrency: number;
  /** Longest line in bytes; a longer one is answered with an error and skipped. */
  readonly maxLineBytes?: number;
  readonly signal?: AbortSignal | undefined;
  /** Called after each answer. */
  readonly onAnswer?: ((count: number) => void) | undefined;
}

export interface LineCounts {
  readonly answered: number;
  readonly failed: number;
}

const MAX_LINE_BYTES = 64 * 1024 * 1024;

/**
 * Answers every line of the input with one line.
 *
 * A line that is no JSON, or whose handler throws a typed error, is answered with
 * `{"id"?, "error": {"code", "message", "hint"}, "line"}`, and the stream goes on. Blank lines are skipped.
 *
 * @param handle Gets the parsed value and the number of the line among the answered ones, from 0.
 * @throws Abort reasons, faults of input and output, and errors that are not typed (faults of this program).
 */
export async function answerLines(
  handle: (value: unknown, index: number) => Promise<Answer>,
  options: LineStreamOptions,
): Promise<LineCounts> {
  const { output, signal, concurrency } = options;
  const queue = new AnswerQueue(concurrency);
  let answered = 0;
  let failed = 0;

  // Answers go out as soon as their turn comes, also while the input is silent.
  const write = async (): Promise<void> => {
    for (let next = await queue.take(); next !== null; next = await queue.take()) {
      if ("broken" in next) throw next.broken;
      signal?.throwIfAborted();
      if ("error" in next) failed++;
      answered++;
      if (!output.write(`${JSON.stringify(next)}\n`))
        await once(output, "drain", signal === undefined ? {} : { signal });
      options.onAnswer?.(answered);
    }
  };
  const read = async (): Promise<void> => {
    let index = 0;
    try {
      for await (const { line, text } of splitLines(options.input, options.maxLineBytes ?? MAX_LINE_BYTES, signal)) {
        if (typeof text === "string" && text.trim() === "") continue;
        await queue.room();
        if (queue.closed) return;
        queue.add(answer(handle, line, text, index++, signal));
      }
    } finally {
      queue.end();
    }
  };
  const writing = write().finally(() => {
    queue.close();
    // A reader that waits for input would keep the process alive after the output has failed.
    if (!queue.ended) options.input.destroy();
  });
  const [readResult, writeResult] = await Promise.allSettled([read(), writing]);
  // What ends the writer is the cause; the reader then only notices that its input is gone.
  if (writeResult.status === "rejected") throw writeResult.reason;
  if (readResult.status === "rejected") throw readResult.reason;
  return { answered, failed };
}

type PendingAnswer = Answer | { readonly broken: unknown };

/** Answers under way, in the order of their lines. */
class AnswerQueue {
  readonly #limit: number;
  readonly #waiting: Promise<PendingAnswer>[] = [];
  #ended = false;
  #closed = false;
  #wake: (() => void)[] = [];

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** No more lines will come. */
  get ended(): boolean {
    return this.#ended;
  }

  /** No more answers will be taken. */
  get closed(): boolean {
    return this.#closed;
  }

  add(answer: Promise<PendingAnswer>): void {
    this.#waiting.push(answer);
    this.#changed();
  }

  end(): void {
    this.#ended = true;
    this.#changed();
  }

  close(): void {
    this.#closed = true;
    this.#changed();
  }

  /** Waits until another line may be worked on. */
  async room(): Promise<void> {
    while (!this.#closed && this.#waiting.length >= this.#limit) await this.#change();
  }

  /** The next answer, or null when there are no more. */
  async take(): Promise<PendingAnswer | null> {
    while (this.#waiting.length === 0) {
      if (this.#ended) return null;
      await this.#change();
    }
    const answer = await this.#waiting[0];
    this.#waiting.shift();
    this.#changed();
    return answer ?? null;
  }

  #change(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake.push(resolve);
    });
  }

  #changed(): void {
    const wake = this.#wake;
    this.#wake = [];
    for (const resolve of wake) resolve();
  }
}

/** Never rejects: a promise that waits its turn in the queue must not count as unhandled. */
async function answer(
  handle: (value: unknown, index: number) => Promise<Answer>,
  line: number,
  text: string | ActError,
  index: number,
  signal: AbortSignal | undefined,
): Promise<PendingAnswer> {
  let value: unknown;
  try {
    if (typeof text !== "string") throw text;
    value = parse(text);
    return await handle(value, index);
  } catch (cause) {
    if (signal?.aborted || !(cause instanceof ActError) || cause.code === "DISPOSED") return { broken: cause };
    return { ...idOf(value), error: { code: cause.code, message: cause.problem, hint: cause.hint }, line };
  }
}

/** The line's own name, where it has one. */
function idOf(value: unknown): { readonly id?: string | number } {
  if (typeof value !== "object" || value === null || !("id" in value)) return {};
  const { id } = value;
  return typeof id === "string" || typeof id === "number" ? { id } : {};
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new ActError("DATA_BAD_JSON", `Not JSON: ${reason}.`, { hint: "Expected one JSON object a line.", cause });
  }
}

/** Lines counted from 1; an error in place of the text of one that is too long or no UTF-8. */
async function* splitLines(
  input: Readable,
  limit: number,
  signal: AbortSignal | undefined,
): AsyncGenerator<{ line: number; text: string | ActError }> {
  // A byte order mark at the beginning of a line is left out.
  const decoder = new TextDecoder("utf-8", { fatal: true });
  const read = (): string | ActError => {
    if (bytes > limit)
      return new ActError("DATA_LINE_TOO_LONG", `The line has ${bytes} bytes; at most ${limit} are read.`, {
        hint: "Give one JSON object a line.",
      });
    try {
      return decoder.decode(Buffer.concat(pending));
    } catch {
      return new ActError("DATA_BAD_ENCODING", "The line is not UTF-8 text.", { hint: "Save the input as UTF-8." });
    }
  };
  let pending: Buffer[] = [];
  let bytes = 0;
  let line = 0;
  const take = (): { line: number; text: string | ActError } => {
    const text = read();
    pending = [];
    bytes = 0;
    return { line: ++line, text };
  };
  const keep = (part: Buffer): void => {
    bytes += part.length;
    if (bytes > limit) pending = [];
    else if (part.length > 0) pending.push(part);
  };
  // Aborting has to end a wait for input that never comes.
  const onAbort = (): void => void input.destroy(asError(signal?.reason));
  signal?.addEventListener("abort", onAbort, { once: true });
  try {
    for await (const chunk of input) {
      const buffer: Buffer = typeof chunk === "string" ? Buffer.from(chunk) : (chunk as Buffer);
      let start = 0;
      for (let end = buffer.indexOf(0x0a); end !== -1; end = buffer.indexOf(0x0a, start)) {
        keep(buffer.subarray(start, end));
        start = end + 1;
        yield take();
      }
      keep(buffer.subarray(start));
    }
    if (bytes > 0) yield take();
  } finally {
    signal?.removeEventListener("abort", onAbort);
  }
}

function asError(reason: unknown): Error {
  return reason instanceof Error ? reason : new Error(String(reason));
}

/** Standard input, or a file that is there. Throws ActError `FILE_*`. */
export async function openInput(path: string | undefined): Promise<Readable> {
  if (path === undefined || path === "-") return process.stdin;
  const handle = await withFileErrors("opening", path, () => open(path, "r"));
  return handle.createReadStream();
}
