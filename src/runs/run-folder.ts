/**
 * The folder of a run: who works in it, what it is to do, how far it is.
 *
 *   run.json       status, seconds, version            config.json    the recipe, every path absolute
 *   lock.json      who is at work                      stages/<name>/ one folder a stage (and seed)
 *   summary.json   the figures, at the end             report.html    the same for people
 */
import { readdir, readFile, rm } from "node:fs/promises";
import { join, resolve } from "node:path";
import { z } from "zod";
import { makeFolder, withFileErrors, writeFileAtomic } from "../data/files.js";
import { ActError } from "../errors.js";
import { LOCK_FILE, RunLock } from "./lock.js";

export const RUN_FILE = "run.json";
export const CONFIG_FILE = "config.json";
const FORMAT = "act-trainer/run@1";

const statusSchema = z.strictObject({
  format: z.literal(FORMAT),
  name: z.string(),
  status: z.enum(["running", "interrupted", "failed", "complete"]),
  /** Wall-clock seconds of all finished sessions, and of the running one up to `updated`. */
  seconds: z.number().nonnegative(),
  started: z.string(),
  updated: z.string(),
  /** Code and message of what ended the last session; null where nothing did. */
  error: z.strictObject({ code: z.string(), message: z.string() }).nullable(),
});
/** The content of `run.json`. */
export type RunStatus = z.infer<typeof statusSchema>;

/** A run folder this process holds the lock of. Give it back with {@link RunFolder.close}. */
export class RunFolder {
  readonly path: string;
  readonly #lock: RunLock;
  #status: RunStatus;
  readonly #before: number;
  readonly #began = performance.now();

  private constructor(path: string, lock: RunLock, status: RunStatus) {
    this.path = path;
    this.#lock = lock;
    this.#status = status;
    this.#before = status.seconds;
  }

  /**
   * Makes a run folder.
   *
   * @param overwrite Removes an earlier run in that folder, damaged or half made as it may be, and nothing but a run.
   * @throws ActError `RUN_EXISTS`, `RUN_NOT_A_RUN` (a folder with other files), `RUN_LOCKED`, `FILE_*`.
   */
  static async create(path: string, name: string, config: unknown, overwrite: boolean): Promise<RunFolder> {
    const folder = resolve(path);
    await makeFolder(folder);
    const entries = await withFileErrors("reading", folder, () => readdir(folder));
    const others = entries.filter((entry) => !entry.startsWith(".") && entry !== LOCK_FILE);
    if (others.length > 0) {
      if (!(await holdsRun(folder)))
        throw new ActError("RUN_NOT_A_RUN", `${folder} holds files that are no run.`, {
          hint: "Choose another folder, or remove the files yourself if they are a run whose run.json and config.json are damaged.",
        });
      if (!overwrite)
        throw new ActError("RUN_EXISTS", `${folder} already holds a run.`, {
          hint: `Go on with \`act-trainer resume ${path}\`, or start again with --overwrite.`,
        });
    }
    const lock = await RunLock.acquire(folder);
    try {
      // These two go last: a removal that is interrupted leaves a folder that is still known to be a run.
      const marks = [CONFIG_FILE, RUN_FILE];
      for (const entry of [...others.filter((e) => !marks.includes(e)), ...marks])
        await withFileErrors("removing", join(folder, entry), () =>
          rm(join(folder, entry), { recursive: true, force: true }),
        );
      const now = new Date().toISOString();
      const status: RunStatus = {
        format: FORMAT,
        name,
        status: "running",
        seconds: 0,
        started: now,
        updated: now,
        error: null,
      };
      const run = new RunFolder(folder, lock, status);
      await run.writeConfig(config);
      await run.update("running");
      return run;
    } catch (cause) {
      await lock.release();
      throw cause;
    }
  }

  /**
   * Opens an existing run.
   *
   * @throws ActError `RUN_NOT_FOUND`, `RUN_DAMAGED`, `RUN_LOCKED`, `FILE_*`.
   */
  static async open(path: string): Promise<RunFolder> {
    const folder = resolve(path);
    const status = await readStatus(folder);
    const lock = await RunLock.acquire(folder);
    const run = new RunFolder(folder, lock, status);
    try {
      await run.update("running");
      return run;
    } catch (cause) {
      await lock.release();
      throw cause;
    }
  }

  get status(): RunStatus {
    return this.#status;
  }

  /** Wall-clock seconds of the run, over all its sessions. */
  get seconds(): number {
    return this.#before + (performance.now() - this.#began) / 1000;
  }

  /** The configuration as it was written. Throws ActError `RUN_DAMAGED`. */
  async readConfig(): Promise<unknown> {
    return readJson(join(this.path, CONFIG_FILE));
  }

  async writeConfig(config: unknown): Promise<void> {
    await writeFileAtomic(join(this.path, CONFIG_FILE), `${JSON.stringify(config, null, 2)}\n`);
  }

  /** Records how the run stands. */
  async update(status: RunStatus["status"], error: RunStatus["error"] = null): Promise<void> {
    const now = new Date().toISOString();
    this.#status = { ...this.#status, status, error, seconds: this.seconds, updated: now };
    await writeFileAtomic(join(this.path, RUN_FILE), `${JSON.stringify(this.#status, null, 2)}\n`);
  }

  /** Gives the lock back. Safe to call twice. */
  async close(): Promise<void> {
    await this.#lock.release();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** `run.json` of any version, whole or cut off. */
const RUN_MARK = /^\s*\{\s*"format"\s*:\s*"act-trainer\/run@/u;

/** The least that is common to the configurations runs are made of: a recipe, or what `act-trainer serve` was told. */
const configSchema = z.union([
  z.looseObject({ name: z.string(), seeds: z.array(z.number()), stages: z.array(z.unknown()) }),
  z.looseObject({ command: z.literal("serve"), engine: z.unknown(), training: z.unknown() }),
]);

/**
 * Whether a folder is a run of ours, so that its files may be removed. Other programs write files of these names too: it
 * is their content that tells. Either file is enough: a run that was killed while it was made has no run.json yet.
 */
async function holdsRun(folder: string): Promise<boolean> {
  const textOf = (file: string): Promise<string> => readFile(join(folder, file), "utf8").catch(() => "");
  if (RUN_MARK.test(await textOf(RUN_FILE))) return true;
  try {
    return configSchema.safeParse(JSON.parse(await textOf(CONFIG_FILE))).success;
  } catch {
    return false;
  }
}

/** How a run stands, without taking it. Throws ActError `RUN_NOT_FOUND`, `RUN_DAMAGED`. */
export async function readStatus(path: string): Promise<RunStatus> {
  const value = await readJson(join(path, RUN_FILE));
  const parsed = statusSchema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw damaged(join(path, RUN_FILE), parsed.error);
}

async function readJson(file: string): Promise<unknown> {
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch (cause) {
    throw new ActError("RUN_NOT_FOUND", `There is no run here: ${file} cannot be read.`, {
      hint: "Give the folder that `act-trainer run` wrote to.",
      cause,
    });
  }
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw damaged(file, cause);
  }
}

function damaged(file: string, cause: unknown): ActError {
  return new ActError("RUN_DAMAGED", `${file} is damaged.`, { hint: "Start the run again with --overwrite.", cause });
}
