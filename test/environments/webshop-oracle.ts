/** Recorded values of the original WebShop, read from ../shared where it is there. */
import { existsSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { gunzipSync } from "node:zlib";

/** The oracle's folder. */
export const ORACLE = resolve(import.meta.dirname, "../../../shared/envs/webshop/oracle");

/** Whether the recorded values are there; says so once where they are not. */
export const hasOracle = existsSync(join(ORACLE, "sessions.jsonl.gz"));
if (!hasOracle) console.log("Skipping tests against recorded WebShop values: ../shared/envs/webshop/oracle is absent.");

/** The objects of a JSON Lines file of the oracle, packed or not. */
export function oracleLines<T>(name: string): T[] {
  const bytes = readFileSync(join(ORACLE, name));
  const text = (name.endsWith(".gz") ? gunzipSync(bytes) : bytes).toString("utf8");
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as T);
}

/** A JSON file of the oracle. */
export function oracleJson<T>(name: string): T {
  return JSON.parse(readFileSync(join(ORACLE, name), "utf8")) as T;
}
