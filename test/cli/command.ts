/** The built command line as a user runs it. Needs `npm run build`. */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

export const main = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));
if (!existsSync(main)) throw new Error("dist/cli/main.js is missing: run `npm run build` first");

/** Each command takes a second or two; on a busy machine ten times that. Milliseconds. */
export const PATIENCE = 900_000;

export interface Result {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs `act-trainer` with these arguments to its end. */
export function cli(args: readonly string[], input: string | Buffer = ""): Result {
  return spawnSync(process.execPath, [main, ...args], { input, encoding: "utf8", timeout: PATIENCE });
}
