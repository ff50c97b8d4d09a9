/** Folders that are written whole or not at all. */
import { randomBytes } from "node:crypto";
import { mkdir, open, readdir, realpath, rename, rm, rmdir, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { fileError, isRunning, makeFolder, syncFolder, withFileErrors } from "../data/files.js";
import { ActError } from "../errors.js";
import { EngineError } from "./errors.js";

/**
 * Lets `write` fill a hidden folder beside `dir` with files and gives it the name `dir` when everything is on disk. An
 * existing `dir` is replaced when it is empty or holds only files that the new folder has too (an earlier save);
 * anything else in it would be lost, and is refused. When replacing it fails, it is there as before. A call that fails
 * leaves nothing, also of the folders above that it made. What a link names is replaced, not the link.
 *
 * A killed process leaves hidden folders, and no `dir` if it was just replacing one; the next call for the same `dir`,
 * or {@link restoreFolder}, puts the earlier one back and removes the rest.
 *
 * @throws EngineError `FOLDER_EXISTS`; the file errors of data/files.ts; whatever `write` throws.
 */
export async function writeFolderAtomic(dir: string, write: (folder: string) => Promise<void>): Promise<void> {
  const target = await followed(dir);
  const made = await missingFolders(dirname(target));
  const temporary = join(dirname(target), `.${basename(target)}.${process.pid}.${randomBytes(4).toString("hex")}.tmp`);
  ours.add(basename(temporary));
  try {
    await makeFolder(dirname(target));
    await clearLeftovers(target);
    await withFileErrors("making", target, () => mkdir(temporary));
    await write(temporary);
    await withFileErrors("writing", target, () => replace(temporary, target));
  } catch (error) {
    await rm(temporary, { recursive: true, force: true }).catch(() => undefined);
    // One that others have put something into stays.
    for (const folder of made) await rmdir(folder).catch(() => undefined);
    throw error;
  } finally {
    ours.delete(basename(temporary));
  }
}

/** Puts `dir` back where a process was killed while it replaced it; for those who are about to read it. */
export async function restoreFolder(dir: string): Promise<void> {
  const target = await followed(dir);
  if (await isMissing(target)) await clearLeftovers(target);
}

async function followed(dir: string): Promise<string> {
  return realpath(dir).catch(() => resolve(dir));
}

async function isMissing(path: string): Promise<boolean> {
  return stat(path).then(
    () => false,
    (error: NodeJS.ErrnoException) => error.code === "ENOENT",
  );
}

/** Of a folder and those above it the ones that are not there, deepest first. */
async function missingFolders(folder: string): Promise<string[]> {
  return (await isMissing(folder)) ? [folder, ...(await missingFolders(dirname(folder)))] : [];
}

/** Hidden folders this process is filling: one of its pid that is not here is of an earlier process with that pid. */
const ours = new Set<string>();

async function replace(temporary: string, target: string): Promise<void> {
  const written = new Set(await readdir(temporary));
  const present = await readdir(target).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return null;
    throw error;
  });
  const foreign = present?.find((name) => !written.has(name));
  if (foreign !== undefined)
    throw new EngineError("FOLDER_EXISTS", `Failed writing ${target}: it holds other files (${foreign}).`, {
      hint: "Choose an empty or a new folder.",
    });
  for (const name of written) await syncFile(join(temporary, name));
  await syncFolder(temporary);
  if (present !== null) {
    // No system call swaps two folders everywhere: for a moment neither has the name, but each is whole.
    const old = `${temporary}${OLD}`;
    await rename(target, old);
    try {
      await rename(temporary, target);
    } catch (cause) {
      await rename(old, target).catch(() => {
        const { code, message } = fileError("writing", target, cause);
        throw new ActError(code, message, { hint: `What was there before is in ${old}; rename it back.`, cause });
      });
      throw cause;
    }
    await rm(old, { recursive: true, force: true });
  } else {
    await rename(temporary, target);
  }
  await syncFolder(dirname(target));
}

/** Added to the name of a hidden folder: what `dir` held while that one takes its place. */
const OLD = ".old";
/** Such names, after that of `dir`: the pid, and what {@link OLD} may have been added to. */
const LEFTOVER = /^(\d+)\.[0-9a-f]{8}\.tmp(\.old)?$/u;

/**
 * Tidies up after killed processes; living ones, this one among them, may be at work still. Whatever fails here is no
 * reason not to write. A process of another machine (or container) looks like a dead one: of two that save to one `dir`
 * of a shared disk at the same time, one may fail.
 */
async function clearLeftovers(target: string): Promise<void> {
  const parent = dirname(target);
  const prefix = `.${basename(target)}.`;
  for (const name of await readdir(parent).catch(() => [])) {
    const pid = LEFTOVER.exec(name.slice(prefix.length))?.[1];
    if (!name.startsWith(prefix) || pid === undefined) continue;
    const mine = Number(pid) === process.pid;
    if (mine ? ours.has(name.replace(OLD, "")) : isRunning(Number(pid))) continue;
    const left = join(parent, name);
    const restores = name.endsWith(OLD) && (await isMissing(target));
    const tidied = restores ? rename(left, target) : rm(left, { recursive: true, force: true });
    await tidied.catch(() => undefined);
  }
}

/** Puts a file on disk, whoever wrote it. */
async function syncFile(path: string): Promise<void> {
  const handle = await open(path, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
