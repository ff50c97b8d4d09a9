/**
 * Reading the small JSON files of a model folder, with faults that name the file and what to do.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { ActError, invalid } from "../errors.js";

/** A JSON object. */
export type JsonObject = Readonly<Record<string, unknown>>;

/** The text of `name` in a model folder, or null where there is no such file. Throws ActError `TOKENIZER_UNREADABLE`. */
export async function readModelText(modelDir: string, name: string): Promise<string | null> {
  const path = join(modelDir, name);
  try {
    return await readFile(path, "utf8");
  } catch (cause) {
    const code = cause instanceof Error && "code" in cause ? cause.code : undefined;
    if (code === "ENOENT") return null;
    throw new ActError("TOKENIZER_UNREADABLE", `Could not read ${path} (${String(code ?? cause)}).`, {
      hint: "Check that the path is a model folder and that its files can be read.",
      cause,
    });
  }
}

/** A JSON object from `name` in a model folder, or null where there is no such file. Throws `TOKENIZER_MALFORMED`. */
export async function readModelJson(modelDir: string, name: string): Promise<JsonObject | null> {
  const text = await readModelText(modelDir, name);
  if (text === null) return null;
  try {
    const value: unknown = JSON.parse(text);
    if (isObject(value)) return value;
  } catch (cause) {
    throw malformed(modelDir, name, "it is not JSON", cause);
  }
  throw malformed(modelDir, name, "it is not a JSON object");
}

/** Throws ActError `BAD_ARGUMENT` for what is no text. */
export function requireText(value: unknown, key: string): void {
  if (typeof value !== "string") throw invalid("BAD_ARGUMENT", key, "a text", value);
}

export function malformed(modelDir: string, name: string, reason: string, cause?: unknown): ActError {
  return new ActError("TOKENIZER_MALFORMED", `${join(modelDir, name)} cannot be used: ${reason}.`, {
    hint: "Save the model folder again from where it came.",
    cause,
  });
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
