/**
 * One process a run folder.
 *
 * The lock is a file that names its holder and appears with its content: it is written under a hidden name, and a hard
 * link gives it its own, which fails where there is one. So a lock that names nobody is damaged or not ours, and is
 * refused. A killed process leaves its lock behind; one whose holder is gone (same machine, no such process, or one
 * started later than the lock says) is taken over.
 */
import { randomBytes } from "node:crypto";
import { link, readFile, rename, rm, writeFile } from "node:fs/promises";
import { hostname } from "node:os";
import { dirname, join } from "node:path";
import { z } from "zod";
import { fileError, isRunning, withFileErrors } from "../data/files.js";
import { ActError } from "../errors.js";

export const LOCK_FILE = "lock.json";

const holderSchema = z.object({
  pid: z.number().int(),
  host: z.string(),
  /** Start of the process in clock ticks since boot (Linux); null elsewhere. Tells a reused pid from the holder. */
  started: z.string().nullable(),
  /** Of this lock alone; part of a file's name in {@link takeOver}. */
  token: z.string().regex(/^[0-9a-f]{16}$/u),
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

  /**
   * Takes the lock of a folder.
   *
   * @throws ActError `RUN_LOCKED` when a living process holds it, `RUN_DAMAGED` when it names no holder, `FILE_*`.
   */
  static async acquire(folder: string): Promise<RunLock> {
    const path = join(folder, LOCK_FILE);
    const token = randomBytes(8).toString("hex");
    const mine: Holder = { pid: process.pid, host: hostname(), started: await startOf(process.pid), token };
    for (let attempt = 0; attempt < 3; attempt++) {
      if (await make(path, mine)) return new RunLock(path, token);
      const holder = await readHolder(path);
      if (holder === null) continue; // given back in the meantime
      await assertGone(folder, holder);
      if (await takeOver(path, holder, mine)) return new RunLock(path, token);
    }
    throw locked(folder, "another process keeps taking it");
  }

  /** Gives the lock back; a lock that someone else has taken over is left alone. Safe to call twice. */
  async release(): Promise<void> {
    // A lock that cannot be read may be another's. If it is ours, it is taken over when this process has ended.
    const holder = await readHolder(this.#path).catch(() => null);
    if (holder?.token === this.#token) await rm(this.#path, { force: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.release();
  }
}

/**
 * Puts our lock in the place of a dead holder's, in one rename. False where another process was faster.
 *
 * Two processes that both saw the dead holder must not both do so: the second would replace the first one's lock. So
 * each has to make the file named by the dead holder's token first, which one process can; where that one died before
 * its rename, the file named by its token, and so on. Whoever made the last of them is the only living process that may
 * replace this very lock, and finds it still there unless one before it has done so. Tokens never come back, so neither
 * does a lock that was replaced; files of its succession that are left then mean nothing to anybody.
 */
async function takeOver(path: string, dead: Holder, mine: Holder): Promise<boolean> {
  const successionOf = (holder: Holder): string => join(dirname(path), `.${LOCK_FILE}.${holder.token}`);
  const passed: string[] = [];
  let claim = successionOf(dead);
  while (!(await make(claim, mine))) {
    const before = await readHolder(claim);
    if (before === null) return false;
    await assertGone(dirname(path), before);
    // It may have taken its file away and then ended, and another have made it anew.
    if ((await readHolder(claim))?.token !== before.token) return false;
    passed.push(claim);
    claim = successionOf(before);
  }
  try {
    if ((await readHolder(path))?.token !== dead.token) return false;
    await withFileErrors("locking", path, () => rename(claim, path));
  } finally {
    await discard(claim);
  }
  for (const file of passed) await discard(file);
  return true;
}

/** Takes away a file that means nothing any more; one that stays does no harm. */
async function discard(path: string): Promise<void> {
  await rm(path, { force: true }).catch(() => undefined);
}

/** What `link` fails with where a file system has no hard links. */
const NO_LINKS = ["EPERM", "ENOTSUP", "EOPNOTSUPP", "ENOSYS"];

/** Makes a file that names a holder; false where there is one of that name. */
async function make(path: string, holder: Holder): Promise<boolean> {
  const content = `${JSON.stringify(holder)}\n`;
  const temporary = join(dirname(path), `.${LOCK_FILE}.${randomBytes(8).toString("hex")}.tmp`);
  try {
    // A machine that goes down must not leave a name without content.
    await writeFile(temporary, content, { flag: "wx", flush: true });
    await link(temporary, path).catch(async (cause: NodeJS.ErrnoException) => {
      if (!NO_LINKS.includes(cause.code ?? "")) throw cause;
      // Without links the file is empty for a moment. Whoever reads it then is refused, as with any damaged lock, so
      // there is never a second holder; but a process killed in that moment, or a disk full just then, leaves a lock
      // that has to be removed by hand.
      await writeFile(path, content, { flag: "wx", flush: true });
    });
    return true;
  } catch (cause) {
    if (cause instanceof Error && "code" in cause && cause.code === "EEXIST") return false;
    throw fileError("locking", path, cause);
  } finally {
    await discard(temporary);
  }
}

/** Null where there is none. */
async function readHolder(path: string): Promise<Holder | null> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (cause) {
    if (cause instanceof Error && "code" in cause && cause.code === "ENOENT") return null;
    throw fileError("locking", path, cause);
  }
  try {
    return holderSchema.parse(JSON.parse(text));
  } catch (cause) {
    throw new ActError("RUN_DAMAGED", `${path} does not say which process holds the lock.`, {
      hint: "Remove that file if no process is at work in its folder.",
      cause,
    });
  }
}

/** Throws `RUN_LOCKED` when the holder lives, or may live. */
async function assertGone(folder: string, holder: Holder): Promise<void> {
  if (await isAlive(holder)) throw locked(folder, `process ${holder.pid} on ${holder.host} is using it`);
}

function locked(path: string, why: string): ActError {
  return new ActError("RUN_LOCKED", `The run ${path} is locked: ${why}.`, {
    hint: `Wait for it, end it, or remove ${LOCK_FILE} if that process is on another machine and gone.`,
  });
}

async function isAlive(holder: Holder): Promise<boolean> {
  if (holder.host !== hostname()) return true; // cannot be asked from here
  return isRunning(holder.pid) && (holder.started === null || holder.started === (await startOf(holder.pid)));
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
