/**
 * One process a run folder.
 *
 * The lock is a file made with O_EXCL that names its holder. A killed process leaves it behind, so a lock whose holder
 * is gone (same machine, no such process, or one started later than the lock says) is taken over.
 */
import { randomBytes } from "node:crypto";
import { open, readFile, rename, rm } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import { z } from "zod";
import { fileError } from "../data/files.js";
import { ActError } from "../errors.js";

export const LOCK_FILE = "lock.json";

const holderSchema = z.object({
  pid: z.number().int(),
  host: z.string(),
  /** Start of the process in clock ticks since boot (Linux); null elsewhere. Tells a reused pid from the holder. */
  started: z.string().nullable(),
  token: z.string(),
});
type Holder = z.infer<typeof holderSchema>;

/** A held lock. */
export class RunLock {
  readonly #path: string;
  readonly #token: string;

  private constructor(path: string, token: string) {
    this.#path = path;
    this.#token = token;
  }

  /** Takes the lock of a folder. Throws ActError `RUN_LOCKED` when a living process holds it, or `FILE_*`. */
  static async acquire(folder: string): Promise<RunLock> {
    const path = join(folder, LOCK_FILE);
    const token = randomBytes(8).toString("hex");
    const holder: Holder = { pid: process.pid, host: hostname(), started: await startOf(process.pid), token };
    for (let attempt = 0; attempt < 3; attempt++) {
      try {
        const file = await open(path, "wx");
        try {
          await file.writeFile(`${JSON.stringify(holder)}\n`);
        } finally {
          await file.close();
        }
        return new RunLock(path, token);
      } catch (cause) {
        if (!(cause instanceof Error && "code" in cause && cause.code === "EEXIST"))
          throw fileError("locking", folder, cause);
      }
      await takeOver(path, token);
    }
    throw locked(folder, "another process keeps taking it");
  }

  /** Gives the lock back; a lock that someone else has taken over is left alone. Safe to call twice. */
  async release(): Promise<void> {
    const holder = await readHolder(this.#path);
    if (holder?.token === this.#token) await rm(this.#path, { force: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.release();
  }
}

/** Removes a dead holder's lock. The rename makes sure that of two takers only one removes this very lock. */
async function takeOver(path: string, token: string): Promise<void> {
  const holder = await readHolder(path);
  if (holder !== null && (await isAlive(holder)))
    throw locked(path, `process ${holder.pid} on ${holder.host} is using it`);
  const aside = `${path}.${token}`;
  try {
    await rename(path, aside);
  } catch (cause) {
    if (cause instanceof Error && "code" in cause && cause.code === "ENOENT") return;
    throw fileError("locking", path, cause);
  }
  await rm(aside, { force: true });
}

function locked(path: string, why: string): ActError {
  return new ActError("RUN_LOCKED", `The run ${path} is locked: ${why}.`, {
    hint: `Wait for it, end it, or remove ${LOCK_FILE} if that process is on another machine and gone.`,
  });
}

/** Null where the file is gone or was cut off while being written (its writer is then dead or about to rewrite it). */
async function readHolder(path: string): Promise<Holder | null> {
  try {
    const parsed = holderSchema.safeParse(JSON.parse(await readFile(path, "utf8")));
    return parsed.success ? parsed.data : null;
  } catch {
    return null;
  }
}

async function isAlive(holder: Holder): Promise<boolean> {
  if (holder.host !== hostname()) return true; // cannot be asked from here
  try {
    process.kill(holder.pid, 0);
  } catch (cause) {
    return cause instanceof Error && "code" in cause && cause.code === "EPERM";
  }
  return holder.started === null || holder.started === (await startOf(holder.pid));
}

async function startOf(pid: number): Promise<string | null> {
  try {
    const text = await readFile(`/proc/${pid}/stat`, "utf8");
    // The command's name may hold spaces and parentheses; fields are counted after its last ")". Start is field 22.
    return text.slice(text.lastIndexOf(")") + 2).split(" ")[19] ?? null;
  } catch {
    return null;
  }
}
