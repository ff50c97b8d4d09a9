import { mkdtemp, readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { Journal } from "../../src/runs/journal.js";

describe("Journal", () => {
  it("is cut back to the length a checkpoint recorded", async () => {
    const path = join(await mkdtemp(join(tmpdir(), "act-journal-")), "metrics.jsonl");
    const first = await Journal.open(path);
    await first.append({ step: 1 });
    const { length } = first;
    await first.append({ step: 2 });
    await first.close();
    const second = await Journal.open(path, length);
    await second.append({ step: 2, again: true });
    await second.close();
    await second.close();
    expect(await readFile(path, "utf8")).toBe('{"step":1}\n{"step":2,"again":true}\n');
  });

  it("refuses a file shorter than a checkpoint says", async () => {
    const path = join(await mkdtemp(join(tmpdir(), "act-journal-")), "metrics.jsonl");
    await expect(Journal.open(path, 10)).rejects.toMatchObject({ code: "RUN_DAMAGED" });
  });

  it("names the fault of a folder that is not there", async () => {
    await expect(Journal.open("/nowhere/metrics.jsonl")).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
  });
});
