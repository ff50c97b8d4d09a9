/** Half-done stages: what is kept of their finished items, and how their work ends. */
import { mkdtemp, open, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";
import { beforeEach, describe, expect, it, vi } from "vitest";
import { PARTIAL_FILE, PartialResults, runResumable } from "../../src/stages/resumable.js";

const faults = vi.hoisted(() => ({ reading: null as string | null }));
const failing = (code: string): Error => Object.assign(new Error("i/o error"), { code });
vi.mock("node:fs/promises", async (original) => {
  const fs = await original<typeof import("node:fs/promises")>();
  return {
    ...fs,
    readFile: (...args: Parameters<typeof fs.readFile>) =>
      faults.reading === null ? fs.readFile(...args) : Promise.reject(failing(faults.reading)),
  };
});
vi.mock("node:fs", async (original) => {
  const fs = await original<typeof import("node:fs")>();
  return {
    ...fs,
    createReadStream: (...args: Parameters<typeof fs.createReadStream>) =>
      faults.reading === null
        ? fs.createReadStream(...args)
        : new Readable({
            read() {
              this.destroy(failing(faults.reading ?? ""));
            },
          }),
  };
});

let folder: string;
let path: string;
beforeEach(async () => {
  faults.reading = null;
  folder = await mkdtemp(join(tmpdir(), "act-resumable-"));
  path = join(folder, PARTIAL_FILE);
});

const line = (index: number, item: unknown): string => `${JSON.stringify({ index, seconds: index, item })}\n`;
const header = `${JSON.stringify({ key: "k" })}\n`;

describe("PartialResults", () => {
  it("keeps the whole lines, and goes on after the last of them", async () => {
    const whole = header + line(0, "naïve") + line(2, "b");
    const torn = Buffer.from(line(1, "ü"));
    // Cut between two characters, and within one.
    for (const cut of [torn.length - 5, torn.indexOf(0xc3) + 1]) {
      await writeFile(path, Buffer.concat([Buffer.from(whole), torn.subarray(0, cut)]));
      const partial = await PartialResults.open<string>(folder, "k");
      expect(partial.inOrder()).toEqual(["naïve", "b"]);
      expect(partial.seconds).toBeGreaterThanOrEqual(2);
      expect(await readFile(path, "utf8")).toBe(whole);
      await partial.add(1, "again");
      await partial.close();
      const resumed = await PartialResults.open<string>(folder, "k");
      expect(resumed.inOrder()).toEqual(["naïve", "again", "b"]);
      await resumed.finish();
    }
  });

  it("drops items of another key", async () => {
    await writeFile(path, header + line(0, "a"));
    const partial = await PartialResults.open(folder, "other");
    expect(partial.size).toBe(0);
    await partial.close();
  });

  it.each([
    ["EIO", "FILE_FAILED"],
    ["EMFILE", "FILE_TOO_MANY_OPEN"],
    ["EACCES", "FILE_NO_PERMISSION"],
  ])("keeps everything where reading fails with %s", async (system, code) => {
    await writeFile(path, header + line(0, "a"));
    faults.reading = system;
    await expect(PartialResults.open(folder, "k")).rejects.toMatchObject({ code });
    faults.reading = null;
    expect(await readFile(path, "utf8")).toBe(header + line(0, "a"));
  });

  it("reads a journal longer than any string", async () => {
    const file = await open(path, "w");
    await file.writeFile(header);
    const long = Buffer.from(line(0, "x".repeat(2 ** 22)));
    for (let i = 0; i < 129; i++) await file.write(long);
    await file.writeFile(line(1, "last"));
    await file.close();
    const { size } = await stat(path);
    expect(size).toBeGreaterThan(2 ** 29);
    const partial = await PartialResults.open<string>(folder, "k");
    expect(partial.size).toBe(2);
    expect(partial.inOrder()[1]).toBe("last");
    expect((await stat(path)).size).toBe(size);
    await partial.close();
    await rm(path);
  });
});

describe("runResumable", () => {
  it("ends with what its caller's callback throws, after the work under way and no more", async () => {
    const partial = await PartialResults.open<number>(folder, "k");
    const begun: number[] = [];
    const running = runResumable(
      partial,
      100,
      2,
      async (index) => {
        begun.push(index);
        await new Promise((resolve) => setTimeout(resolve, 1));
        return index;
      },
      {
        onDone: (done) => {
          if (done === 1) throw new Error("no one listens");
        },
      },
    );
    await expect(running).rejects.toMatchObject({ message: "no one listens" });
    expect(begun.length).toBeLessThanOrEqual(4);
    await partial.close();
  });
});
