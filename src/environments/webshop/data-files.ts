/** Finding and reading the files of a WebShop data folder. */
import { createHash, type Hash } from "node:crypto";
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { describe } from "../../errors.js";
import { EnvironmentError } from "../environment.js";
import type { AttributeEntry } from "./catalog.js";
import type { HumanInstruction } from "./goals.js";
import { badData, unreadable } from "./json-records.js";

export interface WebShopFiles {
  /** Raw products: `items_shuffle.json`, `items_shuffle_1000.json` or `products.json`. */
  readonly products: string;
  /** Attributes and synthetic instructions: `items_ins_v2.json` or `items_ins_v2_1000.json`. */
  readonly attributes: string;
  /** Human instructions: `items_human_ins.json`. Needed for human goals only. */
  readonly humanInstructions?: string | undefined;
  /** Recorded title nouns: `title_nouns.jsonl` or `title_nouns.jsonl.gz`. Needed for `nouns: "recorded"` only. */
  readonly nouns?: string | undefined;
}

/**
 * Finds the files of a folder by their usual names; the attribute file may also lie one folder up.
 *
 * Throws {@link EnvironmentError} with code `ENVIRONMENT_BAD_DATA` when a needed file is absent, and with
 * `ENVIRONMENT_BAD_OPTIONS` when two files could be meant.
 */
export function findWebShopFiles(folder: string): WebShopFiles {
  const parent = dirname(resolve(folder));
  const attributeNames = ["items_ins_v2.json", "items_ins_v2_1000.json"];
  const inFolder = pick(folder, [folder], attributeNames);
  return {
    products: needed(folder, [folder], ["items_shuffle.json", "items_shuffle_1000.json", "products.json"]),
    attributes: inFolder ?? needed(folder, [parent], attributeNames),
    humanInstructions: pick(folder, [folder], ["items_human_ins.json"]),
    nouns: pick(folder, [folder], ["title_nouns.jsonl", "title_nouns.jsonl.gz"]),
  };
}

function pick(folder: string, places: readonly string[], names: readonly string[]): string | undefined {
  const found = places.flatMap((place) => names.map((name) => join(place, name))).filter((path) => existsSync(path));
  if (found.length <= 1) return found[0];
  throw new EnvironmentError(
    "ENVIRONMENT_BAD_OPTIONS",
    `The WebShop folder ${folder} has more than one file that could be meant: ${found.join(", ")}.`,
    { hint: "Name the files: `data: {products, attributes, humanInstructions}`." },
  );
}

function needed(folder: string, places: readonly string[], names: readonly string[]): string {
  const path = pick(folder, places, names);
  if (path !== undefined) return path;
  throw badData(folder, `none of ${names.join(", ")} is there`);
}

/** A sha256 that grows by each file read. */
export function newDataHash(): Hash {
  return createHash("sha256");
}

/** Reads `items_ins_v2*.json`: asin to attributes and synthetic instruction. */
export async function readAttributes(path: string, hash: Hash): Promise<Map<string, AttributeEntry>> {
  const entries = new Map<string, AttributeEntry>();
  for (const [asin, value] of Object.entries(await readObject(path, hash))) {
    const entry = asObject(path, asin, value);
    const { attributes, instruction, instruction_attributes } = entry;
    entries.set(asin, {
      attributes: attributes === undefined ? undefined : texts(path, `${asin}.attributes`, attributes),
      instruction:
        instruction === undefined || instruction === null ? null : text(path, `${asin}.instruction`, instruction),
      instructionAttributes:
        instruction_attributes === undefined || instruction_attributes === null
          ? []
          : texts(path, `${asin}.instruction_attributes`, instruction_attributes),
    });
  }
  return entries;
}

/** Reads `items_human_ins.json`: asin to the instructions that people wrote for it. */
export async function readHumanInstructions(path: string, hash: Hash): Promise<Map<string, HumanInstruction[]>> {
  const instructions = new Map<string, HumanInstruction[]>();
  for (const [asin, list] of Object.entries(await readObject(path, hash))) {
    if (!Array.isArray(list)) throw badData(path, `expected a list for \`${asin}\`, got ${describe(list)}`);
    instructions.set(
      asin,
      list.map((value) => {
        const entry = asObject(path, asin, value);
        return {
          instruction: text(path, `${asin}.instruction`, entry.instruction),
          attributes: texts(path, `${asin}.instruction_attributes`, entry.instruction_attributes),
          options: texts(path, `${asin}.instruction_options`, entry.instruction_options),
        };
      }),
    );
  }
  return instructions;
}

async function readObject(path: string, hash: Hash): Promise<Record<string, unknown>> {
  let bytes: Buffer;
  try {
    bytes = await readFile(path);
  } catch (cause) {
    throw unreadable(path, cause);
  }
  hash.update(bytes);
  try {
    return asObject(path, "the file", JSON.parse(bytes.toString("utf8")));
  } catch (cause) {
    if (cause instanceof EnvironmentError) throw cause;
    throw badData(path, "the file is not valid JSON", cause);
  }
}

function asObject(path: string, key: string, value: unknown): Record<string, unknown> {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw badData(path, `expected an object for \`${key}\`, got ${describe(value)}`);
}

function text(path: string, key: string, value: unknown): string {
  if (typeof value === "string") return value;
  throw badData(path, `expected a text for \`${key}\`, got ${describe(value)}`);
}

function texts(path: string, key: string, value: unknown): string[] {
  if (Array.isArray(value) && value.every((item) => typeof item === "string")) return value;
  throw badData(path, `expected a list of texts for \`${key}\`, got ${describe(value)}`);
}
