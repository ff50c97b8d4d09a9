/**
 * The folder of one stage of a run: what it was made from, and what came out.
 *
 * `stage.json` is written when a stage begins and again when it ends. A finished stage whose key (configuration and
 * hashes of its inputs) is the same is not run again; a half-done one is gone on with; one with another key starts over,
 * beside what was there.
 */
import { existsSync } from "node:fs";
import { readFile, rename } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { makeFolder, withFileErrors, writeFileAtomic } from "../data/files.js";
import { hashPath } from "./hash.js";

export const STAGE_FILE = "stage.json";
const FORMAT = "act-trainer/stage@1";

const stageFileSchema = z.strictObject({
  format: z.literal(FORMAT),
  key: z.string(),
  kind: z.string(),
  seed: z.number().nullable(),
  status: z.enum(["running", "complete"]),
  /** The resolved options. */
  config: z.unknown(),
  /** What the stage reports: counts and figures. */
  result: z.unknown(),
  /** Path of the output from the stage's folder, and its content hash. */
  output: z.strictObject({ path: z.string(), hash: z.string() }).nullable(),
  seconds: z.number().nonnegative(),
});
export type StageFile = z.infer<typeof stageFileSchema>;

/**
 * The stage file of a folder, or null where there is none, or none of this format.
 *
 * @throws ActError `FILE_*` when it cannot be read.
 */
export async function readStageFile(folder: string): Promise<StageFile | null> {
  const path = join(folder, STAGE_FILE);
  if (!existsSync(path)) return null;
  const text = await withFileErrors("reading", path, () => readFile(path, "utf8"));
  try {
    return stageFileSchema.safeParse(JSON.parse(text)).data ?? null;
  } catch {
    return null;
  }
}

/** Whether a stage is finished under this key, its output as it was. */
export async function finishedStage(folder: string, key: string): Promise<StageFile | null> {
  const file = await readStageFile(folder);
  if (file === null || file.status !== "complete" || file.key !== key) return null;
  if (file.output === null) return file;
  const hash = await hashPath(join(folder, file.output.path)).catch(() => null);
  return hash === file.output.hash ? file : null;
}

/**
 * Prepares a stage's folder. What another key left there may be the work of days: it is moved aside, not removed.
 *
 * @returns Where to, or null where nothing was in the way.
 */
export async function beginStage(
  folder: string,
  stage: Pick<StageFile, "key" | "kind" | "seed" | "config">,
): Promise<string | null> {
  const file = await readStageFile(folder);
  const goesOn = file?.key === stage.key && file.status === "running";
  const aside = goesOn || !existsSync(folder) ? null : freeName(folder);
  if (aside !== null) await withFileErrors("moving", folder, () => rename(folder, aside));
  await makeFolder(folder);
  const begun: StageFile = {
    ...stage,
    format: FORMAT,
    status: "running",
    result: null,
    output: null,
    seconds: goesOn ? file.seconds : 0,
  };
  await writeStageFile(folder, begun);
  return aside;
}

function freeName(folder: string): string {
  for (let i = 1; ; i++) {
    const name = `${folder}.before-${i}`;
    if (!existsSync(name)) return name;
  }
}

/** Records that a stage is finished. @param output Path from the folder, or null. */
export async function finishStage(
  folder: string,
  result: unknown,
  output: string | null,
  seconds: number,
): Promise<StageFile> {
  const begun = await readStageFile(folder);
  if (begun === null) throw new TypeError(`${folder} was never begun.`);
  const hashed = output === null ? null : { path: output, hash: await hashPath(join(folder, output)) };
  const finished: StageFile = {
    ...begun,
    status: "complete",
    result,
    output: hashed,
    seconds: begun.seconds + seconds,
  };
  await writeStageFile(folder, finished);
  return finished;
}

/** Records the seconds of a session that did not finish the stage. */
export async function pauseStage(folder: string, seconds: number): Promise<void> {
  const begun = await readStageFile(folder);
  if (begun !== null) await writeStageFile(folder, { ...begun, seconds: begun.seconds + seconds });
}

async function writeStageFile(folder: string, file: StageFile): Promise<void> {
  await writeFileAtomic(join(folder, STAGE_FILE), `${JSON.stringify(file, null, 2)}\n`);
}
