/**
 * Content hashes: what decides whether a finished stage may be kept.
 */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { withFileErrors } from "../data/files.js";
import { invalid } from "../errors.js";

/** JSON with sorted keys and no spaces: one text for one value. Keys whose value is undefined are left out. */
export function canonicalJson(value: unknown): string {
  if (value === null || typeof value === "string" || typeof value === "boolean") return JSON.stringify(value);
  if (typeof value === "number") {
    if (!Number.isFinite(value)) throw invalid("BAD_ARGUMENT", "value", "a finite number", value);
    return JSON.stringify(value);
  }
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(",")}]`;
  if (typeof value === "object") {
    const entries = Object.entries(value).filter(([, v]) => v !== undefined);
    entries.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
    return `{${entries.map(([k, v]) => `${JSON.stringify(k)}:${canonicalJson(v)}`).join(",")}}`;
  }
  throw invalid("BAD_ARGUMENT", "value", "something JSON can hold", value);
}

/** sha256 of a value's canonical JSON, in hex. */
export function hashValue(value: unknown): string {
  return createHash("sha256").update(canonicalJson(value)).digest("hex");
}

/** sha256 of a file's bytes, in hex. Throws ActError `FILE_*`. */
export async function hashFile(path: string): Promise<string> {
  const hash = createHash("sha256");
  await withFileErrors("reading", path, () => pipeline(createReadStream(path), hash));
  return hash.digest("hex");
}

/**
 * sha256 of a file, or of a folder's names and contents (hidden entries left out). Throws ActError `FILE_*`.
 */
export async function hashPath(path: string): Promise<string> {
  const info = await withFileErrors("reading", path, () => stat(path));
  if (!info.isDirectory()) return hashFile(path);
  const names = (await withFileErrors("reading", path, () => readdir(path))).filter((n) => !n.startsWith(".")).sort();
  const parts: [string, string][] = [];
  for (const name of names) parts.push([name, await hashPath(join(path, name))]);
  return hashValue(parts);
}
