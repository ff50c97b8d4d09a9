import { existsSync } from "node:fs";
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeEach, describe, expect, it } from "vitest";
import { RunFolder, readStatus } from "../../src/runs/run-folder.js";
import { beginStage, finishedStage, finishStage, pauseStage, readStageFile } from "../../src/runs/stage-folder.js";

let folder: string;
beforeEach(async () => {
  folder = join(await mkdtemp(join(tmpdir(), "act-run-")), "run");
});

describe("RunFolder", () => {
  it("keeps configuration and status over sessions", async () => {
    const first = await RunFolder.create(folder, "demo", { a: 1 }, false);
    await first.update("interrupted", { code: "INTERRUPTED", message: "Stopped." });
    await first.close();
    expect(await readStatus(folder)).toMatchObject({ status: "interrupted", error: { code: "INTERRUPTED" } });
    const { seconds } = await readStatus(folder);
    const second = await RunFolder.open(folder);
    expect(await second.readConfig()).toEqual({ a: 1 });
    expect(second.status).toMatchObject({ status: "running", error: null });
    expect(second.seconds).toBeGreaterThan(seconds);
    await expect(RunFolder.open(folder)).rejects.toMatchObject({ code: "RUN_LOCKED" });
    await second.close();
  });

  it("overwrites a run only when asked, and nothing that is no run", async () => {
    await (await RunFolder.create(folder, "demo", {}, false)).close();
    await mkdir(join(folder, "stages"));
    await expect(RunFolder.create(folder, "demo", {}, false)).rejects.toMatchObject({ code: "RUN_EXISTS" });
    await (await RunFolder.create(folder, "demo", {}, true)).close();
    expect(existsSync(join(folder, "stages"))).toBe(false);
    const other = await mkdtemp(join(tmpdir(), "act-other-"));
    await writeFile(join(other, "thesis.tex"), "x");
    await expect(RunFolder.create(other, "demo", {}, true)).rejects.toMatchObject({ code: "RUN_NOT_A_RUN" });
    expect(existsSync(join(other, "thesis.tex"))).toBe(true);
  });

  it.each([
    ["run.json of another program", { "run.json": "x" }],
    ["run.json in JSON", { "run.json": '"x"' }],
    ["run.json that only tells of us", { "run.json": '{"about": "act-trainer/run@1"}' }],
    ["config.json of another program", { "config.json": '{"name": "site", "stages": ["build"]}' }],
    ["both", { "run.json": "{}", "config.json": "[]" }],
  ])("leaves a foreign folder as it was: %s", async (_name, files) => {
    await mkdir(folder);
    const all = { ...files, "p.txt": "precious" };
    for (const [name, text] of Object.entries(all)) await writeFile(join(folder, name), text);
    for (const overwrite of [true, false])
      await expect(RunFolder.create(folder, "demo", {}, overwrite)).rejects.toMatchObject({ code: "RUN_NOT_A_RUN" });
    expect((await readdir(folder)).sort()).toEqual(Object.keys(all).sort());
  });

  const recipe = { name: "demo", seeds: [0], stages: [] };
  it.each([
    [
      "cut off in run.json",
      async () => writeFile(join(folder, "run.json"), '{\n  "format": "act-trainer/run@1",\n  "na'),
    ],
    ["with an empty run.json", async () => writeFile(join(folder, "run.json"), "")],
    ["killed before its run.json", async () => rm(join(folder, "run.json"))],
    ["without configuration", async () => rm(join(folder, "config.json"))],
    ["of a later version", async () => writeFile(join(folder, "run.json"), '{"format":"act-trainer/run@2"}')],
  ])("replaces a damaged run: %s", async (_name, damage) => {
    await (await RunFolder.create(folder, "demo", recipe, false)).close();
    await writeFile(join(folder, "summary.json"), "{}");
    await damage();
    await expect(RunFolder.create(folder, "demo", recipe, false)).rejects.toMatchObject({ code: "RUN_EXISTS" });
    await (await RunFolder.create(folder, "demo", recipe, true)).close();
    expect((await readdir(folder)).sort()).toEqual(["config.json", "run.json"]);
  });

  it("says what is wrong with a folder that is no run, or a damaged one", async () => {
    await expect(RunFolder.open(folder)).rejects.toMatchObject({ code: "RUN_NOT_FOUND" });
    await mkdir(folder);
    await writeFile(join(folder, "run.json"), "{");
    await expect(RunFolder.open(folder)).rejects.toMatchObject({ code: "RUN_DAMAGED" });
  });

  it.skipIf(process.getuid?.() === 0)("names a folder that may not be written", async () => {
    await mkdir(folder);
    await chmod(folder, 0o500);
    await expect(RunFolder.create(folder, "demo", {}, false)).rejects.toMatchObject({ code: "FILE_NO_PERMISSION" });
  });
});

describe("stage folders", () => {
  const stage = { key: "k1", kind: "collect", seed: null, config: {} };

  it("keep a finished stage under its key, while its output is as it was", async () => {
    await beginStage(folder, stage);
    await writeFile(join(folder, "expert.jsonl"), "one\n");
    expect(await finishedStage(folder, "k1")).toBeNull();
    await finishStage(folder, { states: 1 }, "expert.jsonl", 2);
    expect(await finishedStage(folder, "k1")).toMatchObject({ result: { states: 1 }, seconds: 2 });
    expect(await finishedStage(folder, "k2")).toBeNull();
    await writeFile(join(folder, "expert.jsonl"), "two\n");
    expect(await finishedStage(folder, "k1")).toBeNull();
  });

  it("go on with a half-done stage of the same key and start over with another", async () => {
    await beginStage(folder, stage);
    await writeFile(join(folder, "partial.jsonl"), "");
    await pauseStage(folder, 3);
    await beginStage(folder, stage);
    expect(existsSync(join(folder, "partial.jsonl"))).toBe(true);
    expect((await readStageFile(folder))?.seconds).toBe(3);
    expect(await beginStage(folder, { ...stage, key: "k2" })).toBe(`${folder}.before-1`);
    expect(existsSync(join(folder, "partial.jsonl"))).toBe(false);
  });

  it("keep what another key, or nobody known, left", async () => {
    expect(await beginStage(folder, stage)).toBeNull();
    await writeFile(join(folder, "partial.jsonl"), "days of work");
    await beginStage(folder, { ...stage, key: "k2" });
    await finishStage(folder, {}, null, 1);
    await beginStage(folder, stage);
    await writeFile(join(folder, "stage.json"), "{");
    await beginStage(folder, stage);
    expect(await readFile(join(`${folder}.before-1`, "partial.jsonl"), "utf8")).toBe("days of work");
    expect((await readStageFile(`${folder}.before-2`))?.key).toBe("k2");
    expect(await readFile(join(`${folder}.before-3`, "stage.json"), "utf8")).toBe("{");
  });

  it("say that a stage file cannot be read, and touch nothing", async () => {
    await mkdir(join(folder, "stage.json"), { recursive: true });
    await expect(beginStage(folder, stage)).rejects.toMatchObject({ code: "FILE_NOT_A_FILE" });
    expect(await readdir(folder)).toEqual(["stage.json"]);
  });
});
