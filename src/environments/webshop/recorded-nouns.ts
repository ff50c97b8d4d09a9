/** A recorded table of title nouns, for replaying what the original's tagger saw. */
import { readFile } from "node:fs/promises";
import { gunzipSync } from "node:zlib";
import { EnvironmentError } from "../environment.js";
import { badData, unreadable } from "./json-records.js";
import type { NounsOf } from "./reward.js";

/**
 * Reads a `title_nouns.jsonl` file (packed with gzip where its name ends in `.gz`), one {name, nouns} a line.
 *
 * The function that comes back throws {@link EnvironmentError} for a title that the table does not have.
 */
export async function readRecordedNouns(path: string): Promise<NounsOf> {
  const table = new Map<string, readonly string[]>();
  for (const line of (await readText(path)).split("\n")) {
    if (line === "") continue;
    const { name, nouns } = parseLine(path, line);
    if (typeof name !== "string" || !Array.isArray(nouns) || !nouns.every((noun) => typeof noun === "string")) {
      throw badData(path, "expected lines of {name: text, nouns: list of texts}");
    }
    table.set(name, nouns);
  }
  return (title) => {
    const nouns = table.get(title);
    if (nouns !== undefined) return nouns;
    throw new EnvironmentError("ENVIRONMENT_BAD_DATA", `No recorded nouns for the title ${JSON.stringify(title)}.`, {
      hint: 'Use `nouns: "tagger"`, or add the title to the table.',
    });
  };
}

function parseLine(path: string, line: string): { name?: unknown; nouns?: unknown } {
  try {
    return JSON.parse(line) as { name?: unknown; nouns?: unknown };
  } catch (cause) {
    throw badData(path, "a line is not valid JSON", cause);
  }
}

/** A text file, unpacked where its name ends in `.gz`. */
export async function readText(path: string): Promise<string> {
  try {
    const bytes = await readFile(path);
    return (path.endsWith(".gz") ? gunzipSync(bytes) : bytes).toString("utf8");
  } catch (cause) {
    throw unreadable(path, cause);
  }
}
