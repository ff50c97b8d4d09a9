/** Folders that are written whole or not at all, when the disk fails or a process is killed in between. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readlinkSync } from "node:fs";
import { copyFile, mkdir, mkdtemp, open, readdir, readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { writeFolderAtomic } from "../../src/engine/atomic-folder.js";

const faults = vi.hoisted(() => ({ rename: (_from: string, _to: string): boolean => false }));
vi.mock("node:fs/promises", async (original) => {
  const fs = await original<typeof import("node:fs/promises")>();
  return {
    ...fs,
    rename: (from: string, to: string) =>
      faults.rename(from, to)
        ? Promise.reject(Object.assign(new Error("i/o error"), { code: "EIO" }))
        : fs.rename(from, to),
  };
});

let place: string;
let target: string;
let dead: number;
beforeEach(async () => {
  place = await mkdtemp(join(tmpdir(), "act-atomic-"));
  target = join(place, "model");
  const child = spawn(process.execPath, ["-e", ""]);
  await once(child, "exit");
  dead = child.pid ?? -1;
});
afterEach(() => {
  faults.rename = () => false;
  vi.restoreAllMocks();
});

const save = (text: string): Promise<void> =>
  writeFolderAtomic(target, (folder) => writeFile(join(folder, "weights"), text));
const saved = (folder = target): Promise<string> => readFile(join(folder, "weights"), "utf8");

/** A hidden folder as a process leaves it. */
async function leave(pid: number, suffix: string, text: string): Promise<void> {
  const folder = join(place, `.model.${pid}.0123abcd${suffix}`);
  await mkdir(folder);
  await writeFile(join(folder, "weights"), text);
}

describe("writeFolderAtomic", () => {
  it("puts the earlier folder back when the new one cannot take its place", async () => {
    await save("one");
    faults.rename = (from, to) => from.endsWith(".tmp") && to === target;
    await expect(save("two")).rejects.toMatchObject({ code: "FILE_FAILED" });
    expect(await saved()).toBe("one");
    expect(await readdir(place)).toEqual(["model"]);
  });

  it("tells where the earlier folder is when it cannot be put back either", async () => {
    await save("one");
    faults.rename = (_, to) => to === target;
    const error = await save("two").catch((cause: Error) => cause);
    const [left] = await readdir(place);
    expect(left).toMatch(/\.old$/u);
    expect(error).toMatchObject({ code: "FILE_FAILED", hint: expect.stringContaining(left as string) });
    expect(await saved(join(place, left as string))).toBe("one");
  });

  it("puts back what a killed process had moved aside, before anything else is tried", async () => {
    await leave(dead, ".tmp", "two");
    await leave(dead, ".tmp.old", "one");
    const failing = writeFolderAtomic(target, async () => {
      throw new Error("no model");
    });
    await expect(failing).rejects.toThrow("no model");
    expect(await saved()).toBe("one");
    expect(await readdir(place)).toEqual(["model"]);
  });

  it("removes what killed processes left, and nothing of living ones or of other folders", async () => {
    await save("one");
    await leave(dead, ".tmp", "half");
    await leave(dead, ".tmp.old", "zero");
    await leave(process.ppid, ".tmp", "under way");
    // A container's first process has the pid of the one before.
    await leave(process.pid, ".tmp", "of another with this pid");
    const others = [".model.notes", ".model.1.tmp", `.model2.${dead}.0123abcd.tmp`, `.other.${dead}.0123abcd.tmp`];
    for (const name of others) await mkdir(join(place, name));
    await writeFolderAtomic(target, async (folder) => {
      await save("three"); // beside this one, which is not a leftover either
      await writeFile(join(folder, "weights"), "two");
    });
    expect(await saved()).toBe("two");
    expect((await readdir(place)).sort()).toEqual([...others, `.model.${process.ppid}.0123abcd.tmp`, "model"].sort());
  });

  it.skipIf(!existsSync("/proc/self/fd"))("puts every file on disk before the folder has its name", async () => {
    const handle = await open(join(place, "companion"), "w");
    const synced: string[] = [];
    const prototype = Object.getPrototypeOf(handle) as typeof handle;
    const sync = prototype.sync;
    vi.spyOn(prototype, "sync").mockImplementation(function (this: typeof handle) {
      synced.push(basename(readlinkSync(`/proc/self/fd/${this.fd}`)));
      return sync.call(this);
    });
    await handle.close();
    faults.rename = () => {
      expect(synced).toEqual(expect.arrayContaining(["tokenizer.json", "weights"]));
      return false;
    };
    await writeFolderAtomic(target, async (folder) => {
      await writeFile(join(folder, "weights"), "one");
      await copyFile(join(place, "companion"), join(folder, "tokenizer.json"));
    });
  });
});
