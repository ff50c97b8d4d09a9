/** Where the simulator is, for tests that drive the real one. */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { resolve } from "node:path";

const folder = resolve(import.meta.dirname, "../../../../shared/envs/scienceworld");
const jar = process.env.SCIENCEWORLD_JAR ?? resolve(folder, "scienceworld.jar");
const java = spawnSync("java", ["-version"]).status === 0;

/** Recordings of the simulator, or null where they are absent. */
export const recordings = existsSync(resolve(folder, "gold_episodes.jsonl")) ? folder : null;

/** Path of the jar, or null (with a printed reason) where live tests cannot run. */
export const liveJar: string | null = java && existsSync(jar) ? jar : null;

if (liveJar === null)
  console.warn(`Live ScienceWorld tests are skipped: ${java ? `there is no ${jar}` : "there is no Java"}.`);
if (recordings === null) console.warn(`ScienceWorld recordings are skipped: there is no ${folder}.`);
