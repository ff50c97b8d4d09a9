/**
 * Reads a JSON array of objects one object at a time, so that a catalogue of several gigabytes never has to fit into
 * one string (V8's limit is 512 MiB).
 */
import type { Hash } from "node:crypto";
import { createReadStream } from "node:fs";
import { type ActError, describe } from "../../errors.js";
import { EnvironmentError } from "../environment.js";

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const OPEN_ARRAY = 0x5b;
const CLOSE_ARRAY = 0x5d;
const OPEN_OBJECT = 0x7b;
const CLOSE_OBJECT = 0x7d;
/** White space and the comma: what may stand around the elements. */
const BETWEEN = new Set([0x20, 0x09, 0x0a, 0x0d, 0x2c]);

/**
 * The elements of the top-level array of a JSON file, in order, as {value, text}.
 *
 * @param hash is given every byte of the file.
 * Throws {@link EnvironmentError} with code `ENVIRONMENT_BAD_DATA` when the file is missing, no array of objects, or
 * ends early.
 */
export async function* jsonRecords(path: string, hash?: Hash): AsyncGenerator<JsonRecord> {
  yield* splitRecords(path, fileChunks(path), hash);
}

/** An element of the array: its value, and its text as it stands in the file. */
export interface JsonRecord {
  readonly value: Record<string, unknown>;
  readonly text: string;
}

/** {@link jsonRecords} of bytes that come in pieces. @param path names the file in errors. */
export async function* splitRecords(
  path: string,
  chunks: AsyncIterable<Buffer> | Iterable<Buffer>,
  hash?: Hash,
): AsyncGenerator<JsonRecord> {
  let depth = 0; // 1 between the objects of the array, 2 and more inside one
  let inString = false;
  let escaped = false;
  let sawArray = false;
  let count = 0;
  let pending: Buffer[] = [];
  for await (const chunk of chunks) {
    hash?.update(chunk);
    let from = 0;
    for (let i = 0; i < chunk.length; i++) {
      const byte = chunk[i]!;
      if (depth < 2) {
        if (BETWEEN.has(byte)) continue;
        if (depth === 0 && byte === OPEN_ARRAY && !sawArray) sawArray = true;
        else if (depth === 1 && byte === OPEN_OBJECT) from = i;
        else if (depth === 1 && byte === CLOSE_ARRAY) {
          depth = 0;
          continue;
        } else {
          throw badData(
            path,
            `expected one array of objects, got ${describe(chunk.toString("utf8", i, i + 20))} ${place(sawArray, count)}`,
          );
        }
        depth++;
      } else if (inString) {
        if (escaped) escaped = false;
        else if (byte === BACKSLASH) escaped = true;
        else if (byte === QUOTE) inString = false;
      } else if (byte === QUOTE) inString = true;
      else if (byte === OPEN_OBJECT || byte === OPEN_ARRAY) depth++;
      else if ((byte === CLOSE_OBJECT || byte === CLOSE_ARRAY) && --depth === 1) {
        pending.push(chunk.subarray(from, i + 1));
        const text = Buffer.concat(pending).toString("utf8");
        pending = [];
        yield { value: parseRecord(path, count++, text), text };
      }
    }
    if (depth >= 2) pending.push(chunk.subarray(from));
  }
  if (!sawArray) throw badData(path, "expected an array of objects, got an empty file");
  if (depth !== 0) throw badData(path, `the file ends inside the array, after ${count} whole elements`);
}

function place(sawArray: boolean, count: number): string {
  return sawArray ? `after element ${count - 1}` : "at the start";
}

async function* fileChunks(path: string): AsyncGenerator<Buffer> {
  try {
    for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) yield chunk as Buffer;
  } catch (cause) {
    throw unreadable(path, cause);
  }
}

function parseRecord(path: string, index: number, text: string): Record<string, unknown> {
  try {
    return JSON.parse(text) as Record<string, unknown>;
  } catch (cause) {
    return parseWithoutNumbers(path, index, text, cause);
  }
}

// Python's json writes NaN and Infinity, which JSON does not know; no field that is read here holds a number.
function parseWithoutNumbers(path: string, index: number, text: string, cause: unknown): Record<string, unknown> {
  const plain = text.replace(/("(?:[^"\\]|\\.)*")|-?\b(?:NaN|Infinity)\b/g, (_, quoted?: string) => quoted ?? "null");
  try {
    return JSON.parse(plain) as Record<string, unknown>;
  } catch {
    throw badData(path, `element ${index} is not valid JSON`, cause);
  }
}

/** The keys of an object's member that is itself an object, in the order of the file. */
export function memberKeys(text: string, member: string): string[] {
  // JavaScript moves keys that look like array indices to the front; Python's dictionaries do not.
  const keys: string[] = [];
  const path: (string | null)[] = [];
  let lastString = "";
  for (const [token] of text.matchAll(/"(?:[^"\\]|\\.)*"|[[\]{}:]/g)) {
    if (token.startsWith('"')) lastString = token;
    else if (token === ":") {
      const key = JSON.parse(lastString) as string;
      path[path.length - 1] = key;
      if (path.length === 2 && path[0] === member && !keys.includes(key)) keys.push(key);
    } else if (token === "{" || token === "[") path.push(null);
    else path.pop();
  }
  return keys;
}

/** The error for a data file whose content is not what it should be. */
export function badData(path: string, problem: string, cause?: unknown): EnvironmentError {
  return new EnvironmentError("ENVIRONMENT_BAD_DATA", `Reading WebShop data from ${path}: ${problem}.`, {
    hint: "Give the original WebShop files, or leave `data` out for the made-up set.",
    cause,
  });
}

/** The error for a data file that cannot be opened or read. */
export function unreadable(path: string, cause: unknown): ActError {
  const reason = cause instanceof Error ? cause.message : describe(cause);
  return badData(path, `cannot read the file (${reason})`, cause);
}
