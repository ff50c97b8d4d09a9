import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readdir, readFile, writeFile } from "node:fs/promises";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, it, vi } from "vitest";
import { LOCK_FILE, RunLock } from "../../src/runs/lock.js";

const hooks = vi.hoisted(() => ({
  /** Code that `link` fails with. */
  noLinks: null as string | null,
  /** Awaited after a file was read, before its reader has it. */
  afterRead: async (_path: string): Promise<void> => undefined,
}));
vi.mock("node:fs/promises", async (original) => {
  const fs = await original<typeof import("node:fs/promises")>();
  return {
    ...fs,
    link: (...args: Parameters<typeof fs.link>) =>
      hooks.noLinks === null
        ? fs.link(...args)
        : Promise.reject(Object.assign(new Error("no links"), { code: hooks.noLinks })),
    readFile: async (path: string, encoding: "utf8") => {
      const text = await fs.readFile(path, encoding);
      await hooks.afterRead(path);
      return text;
    },
  };
});
afterEach(() => {
  hooks.noLinks = null;
  hooks.afterRead = async () => undefined;
});

const fresh = (): Promise<string> => mkdtemp(join(tmpdir(), "act-lock-"));

/** Pid of a process that has ended. */
async function deadPid(): Promise<number> {
  const child = spawn(process.execPath, ["-e", ""]);
  await once(child, "exit");
  return child.pid ?? -1;
}

const TOKEN = "0123456789abcdef";

/** Writes a lock of this machine. `name`: another file's than the lock's. */
async function leave(folder: string, pid: number, started: string | null, name = LOCK_FILE, token = TOKEN) {
  await writeFile(join(folder, name), JSON.stringify({ pid, host: hostname(), started, token }));
}

describe("RunLock", () => {
  it("lets one holder in at a time", async () => {
    const folder = await fresh();
    const lock = await RunLock.acquire(folder);
    await expect(RunLock.acquire(folder)).rejects.toMatchObject({ code: "RUN_LOCKED" });
    await lock.release();
    await lock.release();
    await (await RunLock.acquire(folder)).release();
  });

  it("takes over the lock of a process that is gone, and of one that only shares its pid", async () => {
    const folder = await fresh();
    await leave(folder, await deadPid(), null);
    await (await RunLock.acquire(folder)).release();
    await leave(folder, process.pid, "1");
    await (await RunLock.acquire(folder)).release();
    expect(await readdir(folder)).toEqual([]);
  });

  it.each(["", '{"pid":', '{"pid":1,"host":"h","started":null,"token":"../../etc/passwd"}'])(
    "refuses a lock that names no holder: it may be one that is being written (%j)",
    async (text) => {
      const folder = await fresh();
      await writeFile(join(folder, LOCK_FILE), text);
      await expect(RunLock.acquire(folder)).rejects.toMatchObject({
        code: "RUN_DAMAGED",
        hint: expect.stringContaining("Remove that file"),
      });
      expect(await readFile(join(folder, LOCK_FILE), "utf8")).toBe(text);
    },
  );

  it("does not take the lock of one that was faster in taking over", async () => {
    const folder = await fresh();
    await leave(folder, await deadPid(), null);
    // The slow one has read the dead holder and is held up there.
    let goOn = (): void => undefined;
    const slowReads = new Promise<void>((resolve) => {
      hooks.afterRead = async (path) => {
        if (!path.endsWith(LOCK_FILE)) return;
        hooks.afterRead = async () => undefined;
        resolve();
        await new Promise<void>((proceed) => {
          goOn = proceed;
        });
      };
    });
    const slow = RunLock.acquire(folder);
    await slowReads;
    const fast = await RunLock.acquire(folder);
    const held = await readFile(join(folder, LOCK_FILE), "utf8");
    goOn();
    await expect(slow).rejects.toMatchObject({ code: "RUN_LOCKED" });
    expect(await readFile(join(folder, LOCK_FILE), "utf8")).toBe(held);
    await fast.release();
    expect(await readdir(folder)).toEqual([]);
  });

  it("takes over from those that died taking over, and waits for one that lives", async () => {
    const folder = await fresh();
    const dead = await deadPid();
    const next = "f".repeat(16);
    await leave(folder, dead, null);
    await leave(folder, dead, null, `.${LOCK_FILE}.${TOKEN}`, next);
    await leave(folder, process.pid, null, `.${LOCK_FILE}.${next}`, "e".repeat(16));
    await expect(RunLock.acquire(folder)).rejects.toMatchObject({ code: "RUN_LOCKED" });
    await leave(folder, dead, null, `.${LOCK_FILE}.${next}`, "e".repeat(16));
    await (await RunLock.acquire(folder)).release();
    expect(await readdir(folder)).toEqual([]);
  });

  it.each([null, "EPERM", "ENOTSUP", "EOPNOTSUPP", "ENOSYS"])(
    "has one holder however many want it at once, free or left behind (links fail with %s)",
    async (noLinks) => {
      hooks.noLinks = noLinks;
      hooks.afterRead = () => new Promise((resolve) => setTimeout(resolve, Math.random() * 3));
      const dead = await deadPid();
      for (let round = 0; round < 12; round++) {
        const folder = await fresh();
        if (round % 3 > 0) await leave(folder, dead, null);
        if (round % 3 > 1) await leave(folder, dead, null, `.${LOCK_FILE}.${TOKEN}`, "f".repeat(16));
        const takers = await Promise.allSettled(Array.from({ length: 12 }, () => RunLock.acquire(folder)));
        const holders = takers.flatMap((taker) => (taker.status === "fulfilled" ? [taker.value] : []));
        expect(holders).toHaveLength(1);
        for (const taker of takers)
          if (taker.status === "rejected")
            expect(taker.reason).toMatchObject({ code: expect.stringMatching(/^RUN_(LOCKED|DAMAGED)$/u) });
        await holders[0]?.release();
        expect(await readdir(folder)).toEqual([]);
      }
    },
  );

  it("does not judge processes of other machines", async () => {
    const folder = await fresh();
    await writeFile(
      join(folder, LOCK_FILE),
      JSON.stringify({ pid: 1, host: "elsewhere", started: null, token: TOKEN }),
    );
    await expect(RunLock.acquire(folder)).rejects.toMatchObject({ code: "RUN_LOCKED" });
  });

  it("leaves a lock alone that someone else has taken over", async () => {
    const folder = await fresh();
    const lock = await RunLock.acquire(folder);
    const theirs = JSON.stringify({ pid: 1, host: "elsewhere", started: null, token: TOKEN });
    await writeFile(join(folder, LOCK_FILE), theirs);
    await lock.release();
    expect(await readFile(join(folder, LOCK_FILE), "utf8")).toBe(theirs);
  });
});
