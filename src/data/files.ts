/**
 * File faults as typed errors, and files that are either whole or absent.
 *
 * A file that is written here appears under its name only when all its bytes are on disk: a killed run, a full disk or
 * a pulled plug leaves the old file or none, never half a file.
 */
import { randomBytes } from "node:crypto";
import { constants, readdirSync, readFileSync } from "node:fs";
import { type FileHandle, mkdir, open, realpath, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { ActError } from "../errors.js";

/** Codes of the errors {@link fileError} makes. */
export type FileErrorCode =
  | "FILE_NOT_FOUND"
  | "FILE_NO_SPACE" // disk or quota full
  | "FILE_READ_ONLY" // read-only file system
  | "FILE_NO_PERMISSION"
  | "FILE_NOT_A_FILE" // a folder, or a part of the path is no folder
  | "FILE_NOT_A_FOLDER" // a file where a folder is to be
  | "FILE_TOO_MANY_OPEN"
  | "FILE_FAILED"; // anything else, e.g. a failing disk

const KNOWN: Readonly<Record<string, readonly [FileErrorCode, string, string]>> = {
  ENOENT: ["FILE_NOT_FOUND", "there is no such file or folder", "Check the path."],
  ENOSPC: ["FILE_NO_SPACE", "no space is left on the device", "Free space or choose another folder."],
  EDQUOT: ["FILE_NO_SPACE", "the disk quota is used up", "Free space or choose another folder."],
  EFBIG: ["FILE_NO_SPACE", "the file would be larger than allowed", "Choose another folder or raise the limit."],
  EROFS: ["FILE_READ_ONLY", "the file system is read-only", "Choose another folder."],
  EACCES: ["FILE_NO_PERMISSION", "permission denied", "Check owner and mode of the file and its folder."],
  EPERM: ["FILE_NO_PERMISSION", "operation not permitted", "Check owner and mode of the file and its folder."],
  EISDIR: ["FILE_NOT_A_FILE", "it is a folder", "Give the path of a file."],
  EEXIST: ["FILE_NOT_A_FOLDER", "there is a file of that name", "Choose another folder."],
  ENOTDIR: ["FILE_NOT_A_FILE", "a part of the path is not a folder", "Check the path."],
  EMFILE: ["FILE_TOO_MANY_OPEN", "too many files are open", "Raise the limit with `ulimit -n`."],
  ENFILE: ["FILE_TOO_MANY_OPEN", "too many files are open on this machine", "Close other programs."],
};

/** Turns a system error met while `doing` something (e.g. `writing`) with `path` into an {@link ActError}. */
export function fileError(doing: string, path: string, cause: unknown): ActError {
  if (cause instanceof ActError) return cause;
  const system = cause instanceof Error && "code" in cause ? String(cause.code) : "";
  const [code, reason, hint] = KNOWN[system] ?? ["FILE_FAILED", String(cause instanceof Error ? cause.message : cause)];
  return new ActError(code, `Failed ${doing} ${path}: ${reason}.`, { cause, ...(hint === undefined ? {} : { hint }) });
}

/** Runs a file operation, turning its faults into typed errors. */
export async function withFileErrors<T>(doing: string, path: string, run: () => Promise<T>): Promise<T> {
  try {
    return await run();
  } catch (cause) {
    throw fileError(doing, path, cause);
  }
}

/**
 * Makes a folder and those above it; one that is there already is fine.
 *
 * `mkdir` with `recursive` tries for ever where a file system refuses every new name with ENOENT, as /proc does.
 *
 * @throws ActError `FILE_*`.
 */
export async function makeFolder(path: string): Promise<void> {
  await withFileErrors("making", path, () => makeAll(path));
}

async function makeAll(path: string): Promise<void> {
  const make = (): Promise<void> =>
    mkdir(path).catch(async (cause: NodeJS.ErrnoException) => {
      const there = cause.code === "EEXIST" && (await stat(path)).isDirectory();
      if (!there) throw cause;
    });
  await make().catch(async (cause: NodeJS.ErrnoException) => {
    const parent = dirname(path);
    if (cause.code !== "ENOENT" || parent === path) throw cause;
    await makeAll(parent);
    await make();
  });
}

/**
 * A file under construction: bytes go to a temporary file in the target's folder (the same file system, so that the
 * rename is atomic); {@link AtomicFile.commit} makes it the target, {@link AtomicFile.discard} removes it.
 */
export class AtomicFile {
  readonly #handle: FileHandle;
  readonly #temporary: string;
  readonly #target: string;
  readonly path: string;
  #state: "open" | "done" = "open";

  private constructor(path: string, target: string, temporary: string, handle: FileHandle) {
    this.path = path;
    this.#target = target;
    this.#temporary = temporary;
    this.#handle = handle;
  }

  /** Opens the temporary file. The folder must exist; what a link names is replaced, not the link. */
  static async create(path: string): Promise<AtomicFile> {
    const target = await realpath(path).catch(() => path);
    const temporary = join(
      dirname(target),
      `.${basename(target)}.${process.pid}.${randomBytes(6).toString("hex")}.tmp`,
    );
    const handle = await withFileErrors("creating", path, async () => {
      const present = await stat(target).catch(() => null);
      // rename() would fail only after everything was written.
      if (present?.isDirectory()) throw Object.assign(new Error("is a directory"), { code: "EISDIR" });
      // And it would put a file in the place of a device or a pipe, for every program of the machine.
      if (present !== null && !present.isFile())
        throw new ActError("FILE_NOT_A_FILE", `Failed creating ${path}: it is a device or a pipe.`, {
          hint: "Give the path of a file.",
        });
      return open(
        temporary,
        constants.O_CREAT | constants.O_EXCL | constants.O_WRONLY,
        (present?.mode ?? 0o666) & 0o777,
      );
    });
    return new AtomicFile(path, target, temporary, handle);
  }

  /** Appends bytes. On a fault the temporary file is removed and the target stays as it was. */
  async write(data: string | Uint8Array): Promise<void> {
    this.#assertOpen();
    try {
      await this.#handle.writeFile(data);
    } catch (cause) {
      await this.discard();
      throw fileError("writing", this.path, cause);
    }
  }

  /** Puts the bytes on disk and gives the file its name. */
  async commit(): Promise<void> {
    this.#assertOpen();
    try {
      await this.#handle.sync();
      await this.#handle.close();
      await rename(this.#temporary, this.#target);
      this.#state = "done";
    } catch (cause) {
      await this.discard();
      throw fileError("writing", this.path, cause);
    }
    await syncFolder(dirname(this.#target));
  }

  /** Removes the temporary file; the target stays as it was. Safe to call twice, and after commit. */
  async discard(): Promise<void> {
    if (this.#state === "done") return;
    this.#state = "done";
    // The first fault is the one to report; a handle that fails to close or a file already gone adds nothing.
    await this.#handle.close().catch(() => undefined);
    await rm(this.#temporary, { force: true }).catch(() => undefined);
  }

  #assertOpen(): void {
    if (this.#state === "done") throw new ActError("FILE_FAILED", `Failed writing ${this.path}: it is already closed.`);
  }
}

/** Writes a whole file at once, atomically. */
export async function writeFileAtomic(path: string, data: string | Uint8Array): Promise<void> {
  const file = await AtomicFile.create(path);
  await file.write(data);
  await file.commit();
}

/** Whether a process of this machine has this pid. Names and locks of files that a process left behind tell its pid. */
export function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
  } catch (cause) {
    // It is there, and another user's.
    return cause instanceof Error && "code" in cause && cause.code === "EPERM";
  }
  return !isZombie(pid);
}

/** Whether nothing is left of a process but its exit status, which its parent has not asked for (Linux). */
function isZombie(pid: number): boolean {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The state follows the command's name, which may hold parentheses. It is the first thread's; others may still write.
    const ended = text[text.lastIndexOf(")") + 2] === "Z";
    return ended && readdirSync(`/proc/${pid}/task`).length === 1;
  } catch {
    return false;
  }
}

/** Makes the names in a folder durable. Some file systems and Windows cannot sync a folder; a rename itself holds there too. */
export async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, "r").catch(() => null);
  if (handle === null) return;
  await handle.sync().catch(() => undefined);
  await handle.close().catch(() => undefined);
}
