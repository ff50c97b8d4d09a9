/** Folders that are written whole or not at all. */
import { randomBytes } from "node:crypto";
import { mkdir, open, readdir, rename, rm } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { makeFolder, withFileErrors } from "../data/files.js";
import { EngineError } from "./errors.js";

/**
 * Lets `write` fill a hidden folder beside `dir` and gives it the name `dir` when everything is on disk. A killed
 * process leaves at most the hidden folder. An existing `dir` is replaced when it is empty or holds only files that the
 * new folder has too (an earlier save); anything else in it would be lost, and is refused.
 *
 * @throws EngineError `FOLDER_EXISTS`; the file errors of data/files.ts; whatever `write` throws.
 */
export async function writeFolderAtomic(dir: string, write: (folder: string) => Promise<void>): Promise<void> {
  const target = resolve(dir);
  const temporary = join(dirname(target), `.${basename(target)}.${process.pid}.${randomBytes(4).toString("hex")}.tmp`);
  try {
    await makeFolder(dirname(target));
    await withFileErrors("making", target, () => mkdir(temporary));
    await write(temporary);
    await withFileErrors("writing", target, () => replace(temporary, target));
  } catch (error) {
    await rm(temporary, { recursive: true, force: true }).catch(() => undefined);
    throw error;
  }
}

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
  await syncFolder(temporary);
  if (present !== null) {
    // No system call swaps two folders everywhere: for a moment neither has the name, but each is whole.
    const old = `${temporary}.old`;
    await rename(target, old);
    await rename(temporary, target);
    await rm(old, { recursive: true, force: true });
  } else {
    await rename(temporary, target);
  }
  await syncFolder(dirname(target));
}

/** Makes names durable. Some file systems and Windows cannot sync a folder; the rename itself holds there too. */
async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, "r").catch(() => null);
  if (handle === null) return;
  await handle.sync().catch(() => undefined);
  await handle.close().catch(() => undefined);
}
