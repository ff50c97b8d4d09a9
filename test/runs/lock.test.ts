import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, writeFile } from "node:fs/promises";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { LOCK_FILE, RunLock } from "../../src/runs/lock.js";

const fresh = (): Promise<string> => mkdtemp(join(tmpdir(), "act-lock-"));

/** Pid of a process that has ended. */
async function deadPid(): Promise<number> {
  const child = spawn(process.execPath, ["-e", ""]);
  await once(child, "exit");
  return child.pid ?? -1;
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
    const write = (pid: number, started: string | null): Promise<void> =>
      writeFile(join(folder, LOCK_FILE), JSON.stringify({ pid, host: hostname(), started, token: "x" }));
    await write(await deadPid(), null);
    await (await RunLock.acquire(folder)).release();
    await write(process.pid, "1");
    await (await RunLock.acquire(folder)).release();
  });

  it("takes over a lock that was cut off while it was written", async () => {
    const folder = await fresh();
    await writeFile(join(folder, LOCK_FILE), '{"pid":');
    await (await RunLock.acquire(folder)).release();
  });

  it("does not judge processes of other machines", async () => {
    const folder = await fresh();
    await writeFile(join(folder, LOCK_FILE), JSON.stringify({ pid: 1, host: "elsewhere", started: null, token: "x" }));
    await expect(RunLock.acquire(folder)).rejects.toMatchObject({ code: "RUN_LOCKED" });
  });

  it("leaves a lock alone that someone else has taken over", async () => {
    const folder = await fresh();
    const lock = await RunLock.acquire(folder);
    const theirs = JSON.stringify({ pid: 1, host: "elsewhere", started: null, token: "theirs" });
    await writeFile(join(folder, LOCK_FILE), theirs);
    await lock.release();
    expect(await readFile(join(folder, LOCK_FILE), "utf8")).toBe(theirs);
  });
});
