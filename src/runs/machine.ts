/**
 * What a result was made with: version, commit and machine.
 */
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { cpus, totalmem } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

/** Folder of this package: the nearest one above this file that holds a package.json. */
export const PACKAGE_FOLDER = join(dirname(fileURLToPath(import.meta.url)), "..", "..");

/** Version of this package. */
export async function packageVersion(): Promise<string> {
  const manifest: unknown = JSON.parse(await readFile(join(PACKAGE_FOLDER, "package.json"), "utf8"));
  const version = manifest !== null && typeof manifest === "object" && "version" in manifest ? manifest.version : null;
  return typeof version === "string" ? version : "unknown";
}

/**
 * Commit of this package's sources, with `+changes` when files differ from it; `npm-<version>` where it is not a clone.
 */
export async function packageCommit(): Promise<string> {
  const git = async (...args: string[]): Promise<string> =>
    (await promisify(execFile)("git", ["-C", PACKAGE_FOLDER, ...args])).stdout.trim();
  try {
    // An installed package lies inside some other project's repository: that one's commit says nothing.
    if ((await git("rev-parse", "--show-prefix")) !== "") return `npm-${await packageVersion()}`;
    const commit = await git("rev-parse", "HEAD");
    const changes = await git("status", "--porcelain", "--untracked-files=no");
    return changes === "" ? commit : `${commit}+changes`;
  } catch {
    return `npm-${await packageVersion()}`;
  }
}

/** Processor, cores, memory and Node version in one line. */
export function machineDescription(): string {
  const cores = cpus();
  const model = cores[0]?.model.trim().replaceAll(/\s+/gu, " ") ?? "unknown processor";
  const gibibytes = Math.round(totalmem() / 2 ** 30);
  return `${model}, ${cores.length} cores, ${gibibytes} GiB, ${process.platform}-${process.arch}, Node ${process.version}`;
}
