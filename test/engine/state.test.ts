/** Saved states on disk: replaced whole or not at all, whatever ends the save. Their contents: engine.test.ts. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readdir, readFile, rename, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import type { Engine } from "../../src/engine/engine.js";
import { flat, tinyEngine, tokens } from "./tiny.js";

/** Renames that fail, as on a failing disk. */
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

describe("saveState", () => {
  let engine: Engine;
  let place: string;
  let dir: string;
  beforeAll(async () => {
    engine = await tinyEngine({ training: true });
  });
  afterAll(() => engine.dispose());
  beforeEach(async () => {
    place = await mkdtemp(join(tmpdir(), "act-state-"));
    dir = join(place, "state");
  });
  afterEach(async () => {
    faults.rename = () => false;
    await rm(place, { recursive: true, force: true });
  });

  /** Takes a step, so that the next state differs. */
  async function train(): Promise<void> {
    const { forest, rows } = flat(tokens(6, 1));
    await engine.accumulate(forest, { ...rows, ceWeight: new Float32Array(rows.rows.length).fill(0.2) });
    await engine.step({ learningRate: 1e-3 });
  }

  /** Loads the state in `dir`, whose hash is checked by that, and tells its step. */
  async function loadedStep(): Promise<number> {
    await using other = await tinyEngine({ training: true }, 9);
    await other.loadState(dir);
    return other.optimizerStep;
  }

  it("keeps the earlier state when it fails between its two files", async () => {
    await engine.saveState(dir);
    const saved = engine.optimizerStep;
    await train();
    faults.rename = (_, to) => basename(to) === "state.json";
    await expect(engine.saveState(dir)).rejects.toMatchObject({ code: "FILE_FAILED" });
    expect(await loadedStep()).toBe(saved);
    expect(await readdir(place)).toEqual(["state"]);
    expect((await readdir(dir)).sort()).toEqual(["state.json", "state.safetensors"]);
    faults.rename = () => false;
    await engine.saveState(dir);
    expect(await loadedStep()).toBe(saved + 1);
  });

  it("killed while it takes the place of the earlier state, leaves that one to loadState", async () => {
    await engine.saveState(dir);
    const child = spawn(process.execPath, ["-e", ""]);
    await once(child, "exit");
    const left = join(place, `.state.${child.pid}.0123abcd.tmp`);
    await mkdir(left);
    await writeFile(join(left, "state.safetensors"), "half");
    await rename(dir, `${left}.old`);
    expect(await loadedStep()).toBe(engine.optimizerStep);
    expect(await readdir(place)).toEqual(["state"]);
  });

  it("leaves nothing behind when it is aborted, also no folder above", async () => {
    const controller = new AbortController();
    const save = engine.saveState(join(place, "run", "step", "state"), { signal: controller.signal });
    controller.abort(new Error("enough"));
    await expect(save).rejects.toThrow("enough");
    expect(await readdir(place)).toEqual([]);
  });

  it("writes where a link leads", async () => {
    await mkdir(join(place, "disk"));
    await symlink(join(place, "disk"), dir);
    await engine.saveState(dir);
    await engine.saveState(dir);
    expect(await loadedStep()).toBe(engine.optimizerStep);
    expect((await readdir(join(place, "disk"))).sort()).toEqual(["state.json", "state.safetensors"]);
    expect((await readdir(place)).sort()).toEqual(["disk", "state"]);
  });

  it("refuses a folder with other files", async () => {
    await mkdir(dir);
    await writeFile(join(dir, "notes"), "mine");
    await expect(engine.saveState(dir)).rejects.toMatchObject({ code: "FOLDER_EXISTS" });
    expect(await readFile(join(dir, "notes"), "utf8")).toBe("mine");
    expect(await readdir(place)).toEqual(["state"]);
  });
});
