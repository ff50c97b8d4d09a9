/**
 * Reading and writing record files (records.ts): header first, every line checked, whole or absent.
 */
import { readFileSync } from "node:fs";
import type { z } from "zod";
import { ActError, invalid } from "../errors.js";
import { choiceHint } from "../schema-issues.js";
import { type JsonlLine, type JsonlReadOptions, JsonlWriter, readJsonlValues } from "./jsonl.js";
import { type HeaderFields, type RecordHeader, type RecordKind, type RecordOf, recordKinds } from "./records.js";
import { describeIssues } from "./trajectory.js";

/** A record file being read. */
export interface RecordFile<K extends RecordKind> {
  readonly header: RecordHeader<K>;
  /** The records, once; errors as of {@link openRecords}. Closing the iteration early closes the file. */
  readonly records: AsyncGenerator<RecordOf<K>, void, void>;
}

/**
 * Opens a record file and reads its header.
 *
 * @throws ActError `DATA_UNKNOWN_KIND`, `DATA_NO_HEADER`, `DATA_WRONG_FORMAT` (another kind of file), `DATA_WRONG_VERSION`, `DATA_BAD_RECORD`
 *   naming the line and the first key that does not fit, or the earlier line that is about the same thing; those of
 *   `readJsonlValues`.
 */
export async function openRecords<K extends RecordKind>(
  path: string,
  kind: K,
  options: JsonlReadOptions = {},
): Promise<RecordFile<K>> {
  const lines = readJsonlValues(path, options);
  try {
    const first = await lines.next();
    if (first.done === true) throw new ActError("DATA_NO_HEADER", `${path}: the file is empty.`, { hint: HEADER_HINT });
    const header = parseHeader(path, kind, first.value);
    return { header, records: records(path, kind, lines) };
  } catch (cause) {
    await lines.return(undefined);
    throw cause;
  }
}

/** Header and all records of a file at once; see {@link openRecords}. */
export async function readRecords<K extends RecordKind>(
  path: string,
  kind: K,
  options: JsonlReadOptions = {},
): Promise<{ header: RecordHeader<K>; records: RecordOf<K>[] }> {
  const file = await openRecords(path, kind, options);
  const all: RecordOf<K>[] = [];
  for await (const record of file.records) all.push(record);
  return { header: file.header, records: all };
}

/** Writes a record file; it appears, whole, on {@link RecordWriter.commit}. */
export class RecordWriter<K extends RecordKind> {
  readonly #checks: RecordChecks<K>;
  readonly #file: JsonlWriter;

  private constructor(path: string, kind: K, file: JsonlWriter) {
    this.#checks = new RecordChecks(path, kind);
    this.#file = file;
  }

  /** Opens a writer and writes the header. Throws ActError `FILE_*`, or `DATA_BAD_RECORD` for a header that does not fit. */
  static async create<K extends RecordKind>(path: string, kind: K, fields: HeaderFields<K>): Promise<RecordWriter<K>> {
    const header = recordHeader(kind, fields);
    const file = await JsonlWriter.create(path);
    try {
      await file.write(header);
    } catch (cause) {
      await file.discard();
      throw cause;
    }
    return new RecordWriter(path, kind, file);
  }

  /** Records written so far, the header not among them. */
  get records(): number {
    return this.#file.records - 1;
  }

  /** Checks a record and writes it. Throws ActError `DATA_BAD_RECORD`, `FILE_*`. */
  async write(record: RecordOf<K>): Promise<void> {
    await this.#file.write(this.#checks.check(record, this.#file.records + 1));
  }

  async commit(): Promise<void> {
    await this.#file.commit();
  }

  /** Removes what was written. Safe to call twice, and after commit. */
  async discard(): Promise<void> {
    await this.#file.discard();
  }
}

/** Writes a whole record file. @returns Number of records. */
export async function writeRecords<K extends RecordKind>(
  path: string,
  kind: K,
  fields: HeaderFields<K>,
  records: Iterable<RecordOf<K>> | AsyncIterable<RecordOf<K>>,
): Promise<number> {
  const writer = await RecordWriter.create(path, kind, fields);
  try {
    for await (const record of records) await writer.write(record);
    await writer.commit();
    return writer.records;
  } finally {
    await writer.discard();
  }
}

/** A whole header. Throws ActError `DATA_BAD_RECORD` naming the first key that does not fit. */
export function recordHeader<K extends RecordKind>(kind: K, fields: HeaderFields<K>): RecordHeader<K> {
  const { format, version, header } = definitionOf(kind);
  const value = { format, version, created_by: createdBy, ...fields };
  return check(header, value, `header of ${format}`) as RecordHeader<K>;
}

/** Throws ActError `DATA_UNKNOWN_KIND`: callers need not be checked by a compiler. */
function definitionOf<K extends RecordKind>(kind: K): (typeof recordKinds)[K] {
  if (Object.hasOwn(recordKinds, kind)) return recordKinds[kind];
  const kinds = Object.keys(recordKinds);
  throw invalid(
    "DATA_UNKNOWN_KIND",
    "kind",
    `one of ${kinds.join(", ")}`,
    kind,
    choiceHint(String(kind), kinds, "Kinds"),
  );
}

/** Where a file of each kind comes from. */
const MAKERS: Readonly<Record<RecordKind, string>> = {
  expert: "`act-trainer collect`, `import` or `select` wrote (expert.jsonl)",
  pairs: "`act-trainer pair` wrote (pairs.jsonl)",
  judgments: "`act-trainer assess` wrote (judgments.jsonl)",
  episodes: "`act-trainer evaluate` wrote (episodes.<panel>.jsonl)",
};

const HEADER_HINT = "The first line of a record file is its header, see docs/data-files.md.";

/** `act-trainer <version>`. The manifest is two folders up from the sources and from the build alike. */
const createdBy: string = (() => {
  const manifest: unknown = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8"));
  const version = typeof manifest === "object" && manifest !== null && "version" in manifest ? manifest.version : "";
  return `act-trainer ${String(version)}`;
})();

function parseHeader<K extends RecordKind>(path: string, kind: K, { line, value }: JsonlLine): RecordHeader<K> {
  const { format, version, header } = definitionOf(kind);
  const found = typeof value === "object" && value !== null ? (value as { format?: unknown; version?: unknown }) : {};
  if (typeof found.format !== "string" || found.version === undefined)
    throw new ActError("DATA_NO_HEADER", `${path}, line ${line}: not a header.`, { hint: HEADER_HINT });
  if (found.format !== format)
    throw new ActError("DATA_WRONG_FORMAT", `${path} is a file of ${JSON.stringify(found.format)}, not ${format}.`, {
      hint: `Give a file that ${MAKERS[kind]}.`,
    });
  if (found.version !== version)
    throw new ActError("DATA_WRONG_VERSION", `${path} has version ${String(found.version)} of ${format}.`, {
      hint: `This package reads version ${version}: write the file again with it, or use the package that wrote it.`,
    });
  return check(header, value, `${path}, line ${line}`) as RecordHeader<K>;
}

async function* records<K extends RecordKind>(
  path: string,
  kind: K,
  lines: AsyncGenerator<JsonlLine>,
): AsyncGenerator<RecordOf<K>, void, void> {
  const checks = new RecordChecks(path, kind);
  for await (const { line, value } of lines) yield checks.check(value, line);
}

/** The checks of a file's records, one after the other: each for itself, and that no two have the same identity. */
class RecordChecks<K extends RecordKind> {
  readonly #path: string;
  readonly #kind: K;
  /** Line of each identity so far. */
  readonly #lines = new Map<string, number>();

  constructor(path: string, kind: K) {
    this.#path = path;
    this.#kind = kind;
  }

  /** Throws ActError `DATA_BAD_RECORD`. */
  check(value: unknown, line: number): RecordOf<K> {
    const { record: schema, identity } = recordKinds[this.#kind];
    const where = `${this.#path}, line ${line}`;
    const record = check(schema, value, where) as Readonly<Record<string, unknown>>;
    const values = identity.map((key) => JSON.stringify(record[key])).join(", ");
    const before = this.#lines.get(values);
    if (before !== undefined)
      throw new ActError(
        "DATA_BAD_RECORD",
        `${where}: ${identity.join(" and ")} (${values}) must be unique, and line ${before} has the same.`,
        { hint: "Leave one of the two out, or tell them apart." },
      );
    this.#lines.set(values, line);
    return record as RecordOf<K>;
  }
}

function check(schema: z.ZodType, value: unknown, where: string): unknown {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  throw new ActError("DATA_BAD_RECORD", `${where}: ${describeIssues(result.error)}`, {
    hint: "The keys of every record file are in docs/data-files.md.",
    cause: result.error,
  });
}
