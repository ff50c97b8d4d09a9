import { mkdtemp, open, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { z } from "zod";
import { AtomicFile, fileError, writeFileAtomic } from "../../src/data/files.js";
import { JsonlWriter, readAllJsonl, readJsonlValues, readLines, writeJsonl } from "../../src/data/jsonl.js";
import { parseTrajectory, TRAJECTORY_FORMAT, trajectorySchema } from "../../src/data/trajectory.js";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "act-data-"));
});
afterEach(async () => {
  await rm(folder, { recursive: true, force: true });
});

async function values(path: string, options = {}): Promise<unknown[]> {
  const all: unknown[] = [];
  for await (const { value } of readJsonlValues(path, options)) all.push(value);
  return all;
}

const trajectory = {
  format: TRAJECTORY_FORMAT,
  id: "a",
  environment: "household",
  environment_version: null,
  task_id: "train/1",
  category: null,
  task: "put a mug on the desk",
  steps: [{ observation: "You see a mug.", thought: null, action: "take mug", admissible: null }],
  final_observation: null,
  success: true,
  score: 1,
  source: "test",
};

describe("reading JSON Lines", () => {
  it("gives back what was written, whatever the values", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.jsonValue(), { maxLength: 20 }), async (records) => {
        const path = join(folder, "any.jsonl");
        expect(await writeJsonl(path, records)).toBe(records.length);
        // JSON has no -0; one turn through JSON is the value that was written.
        expect(await values(path)).toEqual(JSON.parse(JSON.stringify(records)));
      }),
      { numRuns: 50 },
    );
  });

  it("splits lines the same wherever the chunks of the file end", async () => {
    const path = join(folder, "long.jsonl");
    // Longer than a read chunk (64 KiB), with two-byte characters on every boundary.
    const records = Array.from({ length: 50 }, (_, i) => ({ i, text: "ü".repeat(7001 + i) }));
    await writeFile(path, records.map((r) => JSON.stringify(r)).join("\r\n"));
    expect(await values(path)).toEqual(records);
    await writeFile(`${path}.gz`, gzipSync(await readFile(path)));
    expect(await values(`${path}.gz`)).toEqual(records);
  });

  it("counts bytes to the end of each line, which the last one may lack", async () => {
    const path = join(folder, "a.jsonl");
    const text = "\uFEFF1\r\n\nü\n4";
    await writeFile(path, text);
    await writeFile(`${path}.gz`, gzipSync(text));
    for (const file of [path, `${path}.gz`]) {
      const ends: (number | null)[] = [];
      for await (const { end } of readLines(file)) ends.push(end);
      expect(ends).toEqual([6, 7, 10, null]);
    }
  });

  it("skips blank lines and a byte order mark, counting lines as an editor does", async () => {
    const path = join(folder, "a.jsonl");
    await writeFile(path, "\uFEFF1\n\n  \n2\nnope\n");
    await expect(values(path)).rejects.toMatchObject({
      code: "DATA_BAD_JSON",
      message: expect.stringContaining(`${path}, line 5`),
    });
  });

  it("refuses a last line that was cut off", async () => {
    const path = join(folder, "cut.jsonl");
    await writeFile(path, '{"a":1}\n{"a":');
    await expect(values(path)).rejects.toMatchObject({
      code: "DATA_BAD_JSON",
      message: expect.stringMatching(/line 2/),
    });
  });

  it("refuses bytes that are not UTF-8, naming the line", async () => {
    const path = join(folder, "latin1.jsonl");
    await writeFile(path, Buffer.from([0x31, 0x0a, 0x22, 0xe9, 0x22, 0x0a]));
    await expect(values(path)).rejects.toMatchObject({
      code: "DATA_BAD_ENCODING",
      message: expect.stringMatching(/line 2/),
    });
  });

  it("refuses a line beyond the limit without reading the whole file", async () => {
    const path = join(folder, "array.json");
    await writeFile(path, `[${"1,".repeat(100_000)}1]`);
    await expect(values(path, { maxLineBytes: 1000 })).rejects.toMatchObject({ code: "DATA_LINE_TOO_LONG" });
  });

  it("types the faults of the file system and of gzip", async () => {
    await expect(values(join(folder, "none.jsonl"))).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
    await expect(values(join(folder, "none.jsonl.gz"))).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
    await expect(values(folder)).rejects.toMatchObject({ code: "FILE_NOT_A_FILE" });
    const cut = join(folder, "cut.jsonl.gz");
    await writeFile(cut, gzipSync("1\n2\n".repeat(1000)).subarray(0, 20));
    await expect(values(cut)).rejects.toMatchObject({ code: "DATA_BAD_ARCHIVE" });
  });

  it("stops when its signal does", async () => {
    const path = join(folder, "a.jsonl");
    await writeFile(path, "1\n2\n");
    const signal = AbortSignal.abort(new Error("enough"));
    await expect(values(path, { signal })).rejects.toThrow("enough");
  });

  it("names the key a record lacks", async () => {
    const path = join(folder, "a.jsonl");
    await writeJsonl(path, [{ a: 1 }, { a: "one" }]);
    const schema = z.strictObject({ a: z.number() });
    await expect(readAllJsonl(path, schema)).rejects.toMatchObject({
      code: "DATA_BAD_RECORD",
      message: expect.stringMatching(/line 2: a: /),
    });
  });

  it("closes the file when the reader stops early", async () => {
    const path = join(folder, "a.jsonl");
    await writeFile(path, "1\n".repeat(100_000));
    const before = (await readdir("/proc/self/fd").catch(() => [])).length;
    for (let i = 0; i < 20; i++) for await (const { line } of readLines(path)) if (line === 2) break;
    const after = (await readdir("/proc/self/fd").catch(() => [])).length;
    expect(after).toBeLessThan(before + 10);
  });
});

describe("writing files", () => {
  it("leaves the old file and no temporary file when the writer fails half-way", async () => {
    const path = join(folder, "a.jsonl");
    await writeFile(path, "old");
    function* records(): Generator<unknown> {
      yield { a: 1 };
      throw new Error("stop");
    }
    await expect(writeJsonl(path, records())).rejects.toThrow("stop");
    expect(await readFile(path, "utf8")).toBe("old");
    expect(await readdir(folder)).toEqual(["a.jsonl"]);
  });

  it("shows the file only on commit, whole", async () => {
    const path = join(folder, "a.jsonl");
    const writer = await JsonlWriter.create(path);
    await writer.write({ a: 1 });
    await expect(readFile(path)).rejects.toThrow();
    await writer.commit();
    await writer.discard();
    expect(await readFile(path, "utf8")).toBe('{"a":1}\n');
    expect(await readdir(folder)).toEqual(["a.jsonl"]);
    await expect(writer.write({})).rejects.toMatchObject({ code: "FILE_FAILED" });
  });

  it("refuses a value JSON cannot hold", async () => {
    await expect(writeJsonl(join(folder, "a.jsonl"), [undefined])).rejects.toMatchObject({ code: "DATA_BAD_RECORD" });
    expect(await readdir(folder)).toEqual([]);
  });

  it("types a missing folder and a target that is a folder, before anything is written", async () => {
    await expect(AtomicFile.create(join(folder, "none", "a"))).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
    await expect(writeFileAtomic(folder, "x")).rejects.toMatchObject({ code: "FILE_NOT_A_FILE" });
  });

  it.skipIf(process.platform !== "linux")("types a full disk, with the device's own error", async () => {
    const full = await open("/dev/full", "w");
    try {
      await full.write("x");
      expect.unreachable("/dev/full takes no bytes");
    } catch (cause) {
      const error = fileError("writing", "runs/a", cause);
      expect(error).toMatchObject({ code: "FILE_NO_SPACE", hint: expect.stringContaining("Free space") });
    } finally {
      await full.close();
    }
  });

  it("types a read-only file system", () => {
    const cause = Object.assign(new Error("EROFS: read-only file system"), { code: "EROFS" });
    expect(fileError("writing", "runs/a", cause)).toMatchObject({ code: "FILE_READ_ONLY", cause });
  });
});

describe("the trajectory record", () => {
  it("accepts its shape and nothing else", () => {
    expect(parseTrajectory(trajectory, "here")).toEqual(trajectory);
    for (const bad of [
      { ...trajectory, extra: 1 },
      { ...trajectory, steps: [] },
      { ...trajectory, score: 1.5 },
      { ...trajectory, format: "act-trainer/trajectory@0" },
      { ...trajectory, steps: [{ ...trajectory.steps[0], action: "" }] },
      null,
    ])
      expect(trajectorySchema.safeParse(bad).success).toBe(false);
    expect(() => parseTrajectory({ ...trajectory, task: 1 }, "expert.jsonl, line 3")).toThrow(
      /expert\.jsonl, line 3: .*task: /,
    );
  });
});
