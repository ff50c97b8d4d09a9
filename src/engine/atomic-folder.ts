/** Folders that are written whole or not at all. */
import { randomBytes } from "node:crypto";
import { mkdir, open, readdir, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { fileError, isRunning, makeFolder, syncFolder, withFileErrors } from "../data/files.js";
import { ActError } from "../errors.js";
import { EngineError } from "./errors.js";

/**
 * Lets `write` fill a hidden folder beside `dir` with files and gives it the name `dir` when everything is on disk. An
 * existing `dir` is replaced when it is empty or holds only files that the new folder has too (an earlier save);
 * anything else in it would be lost, and is refused. When replacing it fails, it is there as before.
 *
 * A killed process leaves hidden folders, and no `dir` if it was just replacing one; the next call for the same `dir`
 * puts the earlier one back and removes the rest.
 *
 * @throws EngineError `FOLDER_EXISTS`; the file errors of data/files.ts; whatever `write` throws.
 */
export async function writeFolderAtomic(dir: string, write: (folder: string) => Promise<void>): Promise<void> {
  const target = resolve(dir);
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
    throw error;
  } finally {
    ours.delete(basename(temporary));
  }
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
    const missing = await stat(target).then(
      () => false,
      (error: NodeJS.ErrnoException) => error.code === "ENOENT",
    );
    const tidied = missing && name.endsWith(OLD) ? rename(left, target) : rm(left, { recursive: true, force: true });
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
