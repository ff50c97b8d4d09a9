/**
 * JSON Lines: one JSON value a line, read as a stream and written atomically.
 *
 * Every fault names the file and the line. A last line without its newline is read like any other, so a file cut in
 * the middle of a record fails at that line instead of losing it silently.
 */
import { createReadStream } from "node:fs";
import type { Readable, Transform } from "node:stream";
import { createGunzip } from "node:zlib";
import type { z } from "zod";
import { ActError } from "../errors.js";
import { AtomicFile, fileError } from "./files.js";
import { describeIssues } from "./trajectory.js";

/** One line of a JSONL file. */
export interface JsonlLine {
  /** Counted from 1, blank lines included. */
  readonly line: number;
  readonly value: unknown;
}

export interface JsonlReadOptions {
  /** Longest line read, in bytes after unpacking; guards against a file that is no JSONL at all. */
  readonly maxLineBytes?: number;
  readonly signal?: AbortSignal;
}

/** Options of readers that check records. */
export interface JsonlRecordOptions extends JsonlReadOptions {
  /** What to do about a record that does not fit, e.g. where the format is described. */
  readonly hint?: string;
}

/** Of files that end in `.gz` and cannot be unpacked. */
export const GZIP_HINT = "Fetch it again; a file that is not gzipped must not end in .gz.";

const MAX_LINE_BYTES = 64 * 1024 * 1024;

/** One line of a text file, without its end (LF or CRLF). */
export interface TextLine {
  /** Counted from 1. */
  readonly line: number;
  readonly text: string;
  /** Bytes of the file, after unpacking, up to and with this line's end; null where the file stops before it. */
  readonly end: number | null;
}

/**
 * Lines of a text file (`.gz` is unpacked).
 *
 * @throws ActError `FILE_*`, `DATA_BAD_ENCODING` (not UTF-8), `DATA_LINE_TOO_LONG`, `DATA_BAD_ARCHIVE` (broken gzip).
 */
export async function* readLines(path: string, options: JsonlReadOptions = {}): AsyncGenerator<TextLine> {
  const limit = options.maxLineBytes ?? MAX_LINE_BYTES;
  const file = createReadStream(path);
  const stream: Readable = path.endsWith(".gz") ? gunzipped(file) : file;
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  let pending: Buffer[] = [];
  let pendingBytes = 0;
  let line = 0;
  let taken = 0;

  const take = (whole: boolean): TextLine => {
    line++;
    taken += pendingBytes + 1;
    let bytes = pending.length === 1 && pending[0] !== undefined ? pending[0] : Buffer.concat(pending);
    pending = [];
    pendingBytes = 0;
    if (line === 1 && bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf) bytes = bytes.subarray(3);
    if (bytes.at(-1) === 0x0d) bytes = bytes.subarray(0, -1);
    try {
      return { line, text: decoder.decode(bytes), end: whole ? taken : null };
    } catch (cause) {
      throw new ActError("DATA_BAD_ENCODING", `${path}, line ${line}: not UTF-8 text.`, {
        hint: "Save it as UTF-8 (`iconv -t UTF-8`); a gzipped file is unpacked where its name ends in .gz.",
        cause,
      });
    }
  };
  const keep = (bytes: Buffer): void => {
    if (bytes.length === 0) return;
    pending.push(bytes);
    pendingBytes += bytes.length;
    if (pendingBytes > limit)
      throw new ActError("DATA_LINE_TOO_LONG", `${path}, line ${line + 1}: longer than ${limit} bytes.`, {
        hint: "Expected JSON Lines, one record a line; a JSON array is not read line by line.",
      });
  };

  try {
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      options.signal?.throwIfAborted();
      let start = 0;
      for (let end = chunk.indexOf(0x0a); end !== -1; end = chunk.indexOf(0x0a, start)) {
        keep(chunk.subarray(start, end));
        start = end + 1;
        yield take(true);
      }
      keep(chunk.subarray(start));
    }
    if (pendingBytes > 0) yield take(false);
  } catch (cause) {
    if (cause instanceof ActError || options.signal?.aborted) throw cause;
    const code = cause instanceof Error && "code" in cause ? String(cause.code) : "";
    if (code.startsWith("Z_"))
      throw new ActError("DATA_BAD_ARCHIVE", `${path}: not a whole gzip file, after line ${line}.`, {
        hint: GZIP_HINT,
        cause,
      });
    throw fileError("reading", path, cause);
  } finally {
    file.destroy();
    stream.destroy();
  }
}

/** pipe() does not pass faults on: a file that cannot be read has to end the unpacked stream too. */
function gunzipped(file: Readable): Readable {
  const gunzip: Transform = createGunzip();
  file.on("error", (error) => gunzip.destroy(error));
  return file.pipe(gunzip);
}

/**
 * The JSON values of a file, blank lines skipped.
 *
 * @throws ActError as {@link readLines}, and `DATA_BAD_JSON`.
 */
export async function* readJsonlValues(path: string, options: JsonlReadOptions = {}): AsyncGenerator<JsonlLine> {
  for await (const { line, text } of readLines(path, options)) {
    if (text.trim() === "") continue;
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch (cause) {
      const reason = cause instanceof Error ? cause.message : String(cause);
      throw new ActError("DATA_BAD_JSON", `${path}, line ${line}: not JSON: ${reason}.`, {
        hint: "Expected JSON Lines, one record a line; the file may have been cut off.",
        cause,
      });
    }
    yield { line, value };
  }
}

/**
 * The records of a file, each checked against a schema.
 *
 * @throws ActError as {@link readJsonlValues}, and `DATA_BAD_RECORD` naming the first key that does not fit.
 */
export async function* readJsonl<T>(
  path: string,
  schema: z.ZodType<T>,
  options: JsonlRecordOptions = {},
): AsyncGenerator<T> {
  for await (const { line, value } of readJsonlValues(path, options)) {
    const result = schema.safeParse(value);
    if (!result.success)
      throw new ActError("DATA_BAD_RECORD", `${path}, line ${line}: ${describeIssues(result.error)}`, {
        ...(options.hint === undefined ? {} : { hint: options.hint }),
        cause: result.error,
      });
    yield result.data;
  }
}

/** All records of a file at once; see {@link readJsonl}. */
export async function readAllJsonl<T>(
  path: string,
  schema: z.ZodType<T>,
  options: JsonlRecordOptions = {},
): Promise<T[]> {
  const records: T[] = [];
  for await (const record of readJsonl(path, schema, options)) records.push(record);
  return records;
}

const WRITE_CHARACTERS = 1 << 18;

/** Writes records one by one; the file appears, whole, on {@link JsonlWriter.commit}. */
export class JsonlWriter {
  readonly #file: AtomicFile;
  #records = 0;
  /** Lines not handed to the system yet: a call for each of many thousand short lines takes minutes on a busy disk. */
  #pending: string[] = [];
  #pendingLength = 0;
  #closed = false;

  private constructor(file: AtomicFile) {
    this.#file = file;
  }

  /** Opens a writer. The folder must exist; an existing file is replaced on commit. */
  static async create(path: string): Promise<JsonlWriter> {
    return new JsonlWriter(await AtomicFile.create(path));
  }

  /** Records written so far. */
  get records(): number {
    return this.#records;
  }

  /** @throws ActError `FILE_*`, or `DATA_BAD_RECORD` for a value that JSON cannot hold. */
  async write(record: unknown): Promise<void> {
    const text = JSON.stringify(record);
    if (text === undefined)
      throw new ActError("DATA_BAD_RECORD", `${this.#file.path}, line ${this.#records + 1}: JSON cannot hold it.`);
    if (this.#closed) throw new ActError("FILE_FAILED", `Failed writing ${this.#file.path}: it is already closed.`);
    this.#pending.push(`${text}\n`);
    this.#pendingLength += text.length + 1;
    this.#records++;
    if (this.#pendingLength >= WRITE_CHARACTERS) await this.#flush();
  }

  async commit(): Promise<void> {
    await this.#flush();
    this.#closed = true;
    await this.#file.commit();
  }

  async #flush(): Promise<void> {
    if (this.#pending.length === 0) return;
    const text = this.#pending.join("");
    this.#pending = [];
    this.#pendingLength = 0;
    await this.#file.write(text);
  }

  /** Removes what was written. Safe to call twice, and after commit. */
  async discard(): Promise<void> {
    this.#closed = true;
    await this.#file.discard();
  }
}

/**
 * Writes all records to a file, atomically.
 *
 * @returns Number of records written.
 */
export async function writeJsonl(path: string, records: Iterable<unknown> | AsyncIterable<unknown>): Promise<number> {
  const writer = await JsonlWriter.create(path);
  try {
    for await (const record of records) await writer.write(record);
    await writer.commit();
    return writer.records;
  } finally {
    await writer.discard();
  }
}
