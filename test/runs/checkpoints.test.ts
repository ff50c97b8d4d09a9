import { mkdir, mkdtemp, readdir, readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeEach, describe, expect, it } from "vitest";
import { Checkpoints } from "../../src/runs/checkpoints.js";

let folder: string;
beforeEach(async () => {
  folder = join(await mkdtemp(join(tmpdir(), "act-checkpoints-")), "checkpoints");
});

const writes =
  (text: string) =>
  async (target: string): Promise<void> => {
    await mkdir(join(target, "engine"));
    await writeFile(join(target, "engine", "state"), text);
  };

describe("Checkpoints", () => {
  it("keeps the newest and gives back what was written", async () => {
    const checkpoints = await Checkpoints.open(folder, 2);
    for (const step of [1, 2, 3]) await checkpoints.save(step, { cursor: step * 10 }, writes(`state ${step}`));
    expect(await checkpoints.steps()).toEqual([2, 3]);
    const latest = await checkpoints.latest();
    expect(latest).toMatchObject({ step: 3, state: { cursor: 30 } });
    expect(await readFile(join(latest?.folder ?? "", "engine", "state"), "utf8")).toBe("state 3");
  });

  it("leaves nothing behind when writing fails", async () => {
    const checkpoints = await Checkpoints.open(folder, 2);
    await checkpoints.save(1, null, writes("one"));
    const failing = checkpoints.save(2, null, async (target) => {
      await writes("half")(target);
      throw Object.assign(new Error("no space"), { code: "ENOSPC" });
    });
    await expect(failing).rejects.toMatchObject({ code: "FILE_NO_SPACE" });
    expect(await readdir(folder)).toEqual(["step-00000001"]);
    expect(await checkpoints.latest()).toMatchObject({ step: 1 });
  });

  it("removes what a killed process left half-written", async () => {
    await Checkpoints.open(folder, 1);
    await mkdir(join(folder, ".step-00000004.123"));
    await Checkpoints.open(folder, 1);
    expect(await readdir(folder)).toEqual([]);
  });

  it("refuses a checkpoint whose bytes have changed, or whose description is gone", async () => {
    const checkpoints = await Checkpoints.open(folder, 2);
    await checkpoints.save(1, null, writes("one"));
    await checkpoints.save(2, null, writes("two"));
    await writeFile(join(folder, "step-00000002", "engine", "state"), "tWo");
    await expect(checkpoints.latest()).rejects.toMatchObject({ code: "RUN_DAMAGED" });
    await writeFile(join(folder, "step-00000002", "checkpoint.json"), '{"format":');
    await expect(checkpoints.latest()).rejects.toMatchObject({ code: "RUN_DAMAGED" });
  });
});
