/**
 * Shapes of recorded episodes that `import` reads, each turned into trajectories.
 */
import { readJsonl } from "../data/jsonl.js";
import { TRAJECTORY_FORMAT, type Trajectory, trajectorySchema } from "../data/trajectory.js";

export const importFormats = ["trajectory", "scienceworld-gold"] as const;
export type ImportFormat = (typeof importFormats)[number];

/** Episodes of a file, in its order. Throws ActError `FILE_*`, `DATA_*` naming the line. */
export async function* readEpisodes(file: string, format: ImportFormat): AsyncGenerator<Trajectory> {
  if (format === "trajectory") yield* readJsonl(file, trajectorySchema);
  else yield* scienceWorldGold(file);
}

/** Gold paths as they were recorded for replays (`gold_episodes.jsonl`): a score of 1 is the goal. */
async function* scienceWorldGold(file: string): AsyncGenerator<Trajectory> {
  const { goldEpisodeSchema } = await import("../environments/scienceworld/replay.js");
  const { formatTaskId } = await import("../environments/scienceworld/tasks.js");
  for await (const episode of readJsonl(file, goldEpisodeSchema)) {
    const taskId = formatTaskId(episode.task, episode.variation, episode.simplification);
    const last = episode.steps.at(-1);
    yield {
      format: TRAJECTORY_FORMAT,
      id: taskId,
      environment: "scienceworld",
      environment_version: null,
      task_id: taskId,
      category: episode.task,
      task: episode.task_description,
      steps: episode.steps.map((step, i) => ({
        observation: episode.steps[i - 1]?.observation ?? episode.first_observation,
        thought: null,
        action: step.action,
        admissible: null,
      })),
      final_observation: last?.observation ?? null,
      success: episode.completed && episode.final_score >= 1,
      score: Math.min(1, episode.final_score),
      source: "scienceworld-gold",
    };
  }
}
