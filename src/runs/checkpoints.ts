/**
 * Checkpoints: folders that are whole or absent.
 *
 * A checkpoint is written under a hidden name, put on disk file by file, and renamed into place; a killed process
 * leaves only hidden leftovers, which the next {@link Checkpoints.open} removes. Folder names hold the step:
 * `step-00000010`.
 */
import { mkdir, open, readdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { fileError, makeFolder, withFileErrors, writeFileAtomic } from "../data/files.js";
import { ActError } from "../errors.js";
import { hashPath } from "./hash.js";

const STATE_FILE = "checkpoint.json";
const FORMAT = "act-trainer/checkpoint@1";
const NAME = /^step-(\d{8})$/u;

const stateSchema = z.strictObject({
  format: z.literal(FORMAT),
  step: z.number().int().nonnegative(),
  /** What the stage needs to go on: counters and journal lengths. */
  state: z.unknown(),
  /** Content hash of every other entry of the folder. */
  entries: z.record(z.string(), z.string()),
});

export interface Checkpoint {
  readonly step: number;
  readonly state: unknown;
  /** Folder of the checkpoint; what `write` put there is below it. */
  readonly folder: string;
}

export class Checkpoints {
  readonly folder: string;
  readonly #keep: number;

  private constructor(folder: string, keep: number) {
    this.folder = folder;
    this.#keep = keep;
  }

  /** Opens a folder of checkpoints, made if absent. `keep`: newest checkpoints kept, >= 1. */
  static async open(folder: string, keep: number): Promise<Checkpoints> {
    await makeFolder(folder);
    await withFileErrors("cleaning", folder, async () => {
      for (const name of await readdir(folder))
        if (name.startsWith(".")) await rm(join(folder, name), { recursive: true, force: true });
    });
    return new Checkpoints(folder, keep);
  }

  /** Steps that have a checkpoint, oldest first. */
  async steps(): Promise<number[]> {
    const names = await withFileErrors("reading", this.folder, () => readdir(this.folder));
    return names
      .map((name) => NAME.exec(name)?.[1])
      .filter((digits) => digits !== undefined)
      .map(Number)
      .sort((a, b) => a - b);
  }

  /**
   * Writes the checkpoint of a step. `write` fills the folder it is given (e.g. with the engine's state).
   *
   * Nothing changes when it throws. An older checkpoint of the same step is replaced.
   */
  async save(step: number, state: unknown, write: (folder: string) => Promise<void>): Promise<void> {
    const name = `step-${String(step).padStart(8, "0")}`;
    const temporary = join(this.folder, `.${name}.${process.pid}`);
    const target = join(this.folder, name);
    try {
      await rm(temporary, { recursive: true, force: true });
      await mkdir(temporary);
      await write(temporary);
      const entries: Record<string, string> = {};
      for (const entry of (await readdir(temporary)).sort()) {
        await syncTree(join(temporary, entry));
        entries[entry] = await hashPath(join(temporary, entry));
      }
      await writeFileAtomic(
        join(temporary, STATE_FILE),
        `${JSON.stringify({ format: FORMAT, step, state, entries })}\n`,
      );
      await syncTree(temporary);
      await rm(target, { recursive: true, force: true });
      await rename(temporary, target);
      await syncTree(this.folder, false);
    } catch (cause) {
      await rm(temporary, { recursive: true, force: true }).catch(() => undefined);
      throw fileError("writing checkpoint", target, cause);
    }
    const steps = await this.steps();
    for (const old of steps.slice(0, Math.max(0, steps.length - this.#keep)))
      await rm(join(this.folder, `step-${String(old).padStart(8, "0")}`), { recursive: true, force: true });
  }

  /**
   * The newest checkpoint, or null where there is none.
   *
   * Throws ActError `RUN_DAMAGED` when its bytes are not those that were written.
   */
  async latest(): Promise<Checkpoint | null> {
    const step = (await this.steps()).at(-1);
    if (step === undefined) return null;
    const folder = join(this.folder, `step-${String(step).padStart(8, "0")}`);
    const damaged = (why: string, cause?: unknown): ActError =>
      new ActError("RUN_DAMAGED", `Checkpoint ${folder} is damaged: ${why}.`, {
        hint: "Remove that folder to go on from the checkpoint before it.",
        ...(cause === undefined ? {} : { cause }),
      });
    let value: unknown;
    try {
      value = JSON.parse(await readFile(join(folder, STATE_FILE), "utf8"));
    } catch (cause) {
      throw damaged(`${STATE_FILE} cannot be read`, cause);
    }
    const parsed = stateSchema.safeParse(value);
    if (!parsed.success) throw damaged(`${STATE_FILE} has another shape`, parsed.error);
    for (const [entry, hash] of Object.entries(parsed.data.entries))
      if ((await hashPath(join(folder, entry)).catch(() => "missing")) !== hash) throw damaged(`${entry} has changed`);
    return { step: parsed.data.step, state: parsed.data.state, folder };
  }

  /** Removes all checkpoints, e.g. when a stage has ended and its model is saved. */
  async clear(): Promise<void> {
    await withFileErrors("removing", this.folder, () => rm(this.folder, { recursive: true, force: true }));
  }
}

/** Puts a file, or a folder and everything in it, on disk. */
async function syncTree(path: string, deep = true): Promise<void> {
  const handle = await open(path, "r");
  try {
    const isFolder = (await handle.stat()).isDirectory();
    if (isFolder && deep) for (const name of await readdir(path)) await syncTree(join(path, name));
    // Some file systems refuse to sync a folder; the rename itself still holds there.
    await handle.sync().catch((cause: unknown) => {
      if (!isFolder) throw cause;
    });
  } finally {
    await handle.close();
  }
}
