/** Recipes of examples/ as a user runs them, shortened, on the real model of ../shared/models. */
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect } from "vitest";
import { type Summary, summarySchema } from "../../src/evaluation/summary.js";

const root = fileURLToPath(new URL("../../", import.meta.url));
const unpack = join(root, "../shared/models/unpack.mjs");

/** Whether SmolLM2-135M-Instruct is there; says so where it is not. */
export const smollm2Present = existsSync(unpack);
if (!smollm2Present) console.log("skipped: ../shared/models is not there");

/** Writes the model's folder. Returns its path. */
export function unpackSmollm2(folder: string): string {
  const model = join(folder, "smollm2");
  expect(spawnSync(process.execPath, [unpack, model]).status).toBe(0);
  return model;
}

/** Runs a recipe in `run` with `--set` for every change. Returns its summary. */
export function runRecipe(
  name: string,
  run: string,
  changes: Readonly<Record<string, string | number>>,
  environment: Readonly<Record<string, string>> = {},
): Summary {
  const { status, stderr } = spawnSync(
    process.execPath,
    [
      join(root, "dist/cli/main.js"),
      ...["run", join(root, "examples", name), "--run", run],
      ...Object.entries(changes).flatMap(([path, value]) => ["--set", `${path}=${value}`]),
    ],
    { encoding: "utf8", env: { ...process.env, ...environment } },
  );
  expect(stderr).not.toContain("error");
  expect(status).toBe(0);
  return summarySchema.parse(JSON.parse(readFileSync(join(run, "summary.json"), "utf8")));
}
