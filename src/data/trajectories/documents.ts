/**
 * Records of a file whatever its layout: JSON Lines, a JSON array, one JSON object, or a JSON object of named records.
 */
import { readFile } from "node:fs/promises";
import { gunzipSync } from "node:zlib";
import { ActError } from "../../errors.js";
import { withFileErrors } from "../files.js";
import { GZIP_HINT, readJsonlValues, readLines } from "../jsonl.js";

/** One record. */
export interface SourceRecord {
  /** File and line, or file and item, for messages. */
  readonly where: string;
  /** Its name in an object of records, else null. */
  readonly name: string | null;
  readonly value: unknown;
}

/** Keys that tell a record from an object of named records. */
const RECORD_KEYS = ["conversations", "conversation", "messages", "turns", "steps", "format"];

/**
 * The records of a file (`.gz` is unpacked), in its order. Lines are streamed; other layouts are read as a whole.
 *
 * @throws ActError `FILE_*`, `DATA_*` naming the line or the item.
 */
export async function* readRecords(path: string, signal?: AbortSignal): AsyncGenerator<SourceRecord> {
  if (await isJsonLines(path)) {
    for await (const { line, value } of readJsonlValues(path, signal === undefined ? {} : { signal }))
      yield { where: `${path}, line ${line}`, name: null, value };
    return;
  }
  const document = parseDocument(path, await readText(path));
  if (Array.isArray(document)) {
    for (const [i, value] of document.entries()) yield { where: `${path}, item ${i + 1}`, name: null, value };
    return;
  }
  if (typeof document !== "object" || document === null || RECORD_KEYS.some((key) => Object.hasOwn(document, key))) {
    yield { where: path, name: null, value: document };
    return;
  }
  for (const [name, value] of Object.entries(document)) yield { where: `${path}, item ${name}`, name, value };
}

/** Whether the first line that is not blank is a JSON object of its own which is not an object of named records. */
async function isJsonLines(path: string): Promise<boolean> {
  const lines: string[] = [];
  for await (const { text } of readLines(path, { maxLineBytes: Number.MAX_SAFE_INTEGER })) {
    if (text.trim() !== "") lines.push(text);
    if (lines.length === 2) break;
  }
  const [first] = lines;
  // An empty file has no records; it is read as lines, of which there are none.
  if (first === undefined) return true;
  if (!first.trimStart().startsWith("{")) return false;
  try {
    const value = JSON.parse(first) as object;
    return lines.length > 1 || RECORD_KEYS.some((key) => Object.hasOwn(value, key));
  } catch {
    // The first line of an object that spans several, or a broken line: two lines that both look whole are lines.
    return first.trimEnd().endsWith("}") && lines.length > 1;
  }
}

async function readText(path: string): Promise<string> {
  const bytes = await withFileErrors("reading", path, () => readFile(path));
  if (!path.endsWith(".gz")) return bytes.toString("utf8");
  try {
    return gunzipSync(bytes).toString("utf8");
  } catch (cause) {
    throw new ActError("DATA_BAD_ARCHIVE", `${path}: not a whole gzip file.`, { hint: GZIP_HINT, cause });
  }
}

function parseDocument(path: string, text: string): unknown {
  try {
    return JSON.parse(text.replace(/^\uFEFF/, "")) as unknown;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new ActError("DATA_BAD_JSON", `${path}: not JSON: ${reason}.`, {
      hint: "Expected JSON Lines, a JSON array or a JSON object.",
      cause,
    });
  }
}
