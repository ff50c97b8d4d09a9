/**
 * Replays recorded gold episodes against the simulator, each in a fresh JVM, and reports where it differs.
 *
 * The order of some lists depends on every earlier call in the same JVM, so the calls are exactly the recorder's:
 * load, description, look, inventory, list of valid actions, then for each step the step, score, completion and moves.
 */
import { z } from "zod";
import { readJsonl } from "../../data/jsonl.js";
import { EnvironmentError } from "../environment.js";
import type { ReplayMismatch, ReplayReport } from "../replay.js";
import { Simulator } from "./simulator.js";

/** One line of a recording (`gold_episodes.jsonl`). */
export const goldEpisodeSchema = z.object({
  task: z.string(),
  task_id: z.string(),
  variation: z.int().min(0),
  split: z.string(),
  /** Comma-separated; empty for none. */
  simplification: z.string(),
  task_description: z.string(),
  first_observation: z.string(),
  first_inventory: z.string(),
  first_valid_actions_count: z.int().min(0),
  steps: z
    .array(
      z.object({
        action: z.string(),
        observation: z.string(),
        score: z.number(),
        completed: z.boolean(),
        moves: z.int().min(0),
      }),
    )
    .min(1),
  final_score: z.number(),
  completed: z.boolean(),
});

export type GoldEpisode = z.infer<typeof goldEpisodeSchema>;

export interface ScienceWorldReplayOptions {
  /** Path of `scienceworld.jar`. */
  readonly jar: string;
  /** JSON lines, plain or gzipped. */
  readonly episodes: string;
  readonly java?: string;
  /** Heap of a JVM in MiB. */
  readonly heapMb?: number;
  /** JVMs side by side. */
  readonly processes?: number;
  /** Which of the recorded episodes to play; all by default. */
  readonly filter?: (episode: GoldEpisode, index: number) => boolean;
  /** Called after every episode with the number of episodes so far. */
  readonly onProgress?: (episodes: number) => void;
  readonly signal?: AbortSignal;
}

const RECORDING_HINT =
  "Give recorded gold episodes (`gold_episodes.jsonl`), see `Exact repetition` in docs/environments/scienceworld.md.";

/** Long ones: a replay asks what the simulator answers, not how fast. */
const DEADLINES = { startMs: 600_000, loadMs: 600_000, goldMs: 600_000, callMs: 600_000 };
/** Times an episode is begun again in another JVM after its JVM died or did not answer; never after a difference. */
const RETRIES = 2;

/**
 * Plays the episodes again.
 *
 * @throws ActError when the recording cannot be read; EnvironmentError when the simulator fails again and again, which is
 *   not a difference but the lack of an answer.
 */
export async function replayScienceWorld(options: ScienceWorldReplayOptions): Promise<ReplayReport> {
  const episodes: GoldEpisode[] = [];
  let index = 0;
  for await (const episode of readJsonl(options.episodes, goldEpisodeSchema, { hint: RECORDING_HINT }))
    if (options.filter?.(episode, index++) ?? true) episodes.push(episode);
  const found: ReplayMismatch[][] = episodes.map(() => []);
  const queue = episodes.entries();
  // One worker's fault ends the others: their JVMs must not outlive this call.
  const failed = new AbortController();
  const signal = options.signal === undefined ? failed.signal : AbortSignal.any([options.signal, failed.signal]);
  let played = 0;
  const worker = async (): Promise<void> => {
    for (const [i, episode] of queue) {
      found[i] = await answered(() => replayEpisode(episode, options, signal), signal);
      options.onProgress?.(++played);
    }
  };
  const workers = Array.from({ length: options.processes ?? 2 }, () =>
    worker().catch((error: unknown) => {
      failed.abort(error);
      throw error;
    }),
  );
  const settled = await Promise.allSettled(workers);
  if (failed.signal.aborted) throw failed.signal.reason;
  for (const result of settled) if (result.status === "rejected") throw result.reason;
  const mismatches = found.flat();
  const steps = episodes.reduce((sum, episode) => sum + episode.steps.length, 0);
  const wrong = new Set(mismatches.filter((m) => m.step >= 0).map((m) => `${m.episode}#${m.step}`));
  return { episodes: episodes.length, steps, exact: steps - wrong.size, mismatches };
}

/** What a play found, from the first JVM that lasted to its end. */
async function answered<T>(play: () => Promise<T>, signal: AbortSignal): Promise<T> {
  for (let failures = 1; ; failures++) {
    try {
      return await play();
    } catch (error) {
      const again = error instanceof EnvironmentError && error.retryable && failures <= RETRIES;
      if (!again || signal.aborted) throw error;
    }
  }
}

async function replayEpisode(
  episode: GoldEpisode,
  options: ScienceWorldReplayOptions,
  signal: AbortSignal,
): Promise<ReplayMismatch[]> {
  const name = [episode.task, episode.variation, episode.simplification].filter((part) => part !== "").join("/");
  const mismatches: ReplayMismatch[] = [];
  const compare = (step: number, field: string, expected: unknown, got: unknown): void => {
    if (expected !== got) mismatches.push({ episode: name, step, field, expected, got });
  };
  const simulator = await Simulator.start(
    { java: options.java ?? "java", jar: options.jar, heapMb: options.heapMb ?? 256 },
    DEADLINES,
    signal,
  );
  try {
    await simulator.load(episode.task, episode.variation, episode.simplification, false, signal);
    compare(-1, "task_description", episode.task_description, await simulator.taskDescription(signal));
    compare(-1, "first_observation", episode.first_observation, await simulator.look(signal));
    compare(-1, "first_inventory", episode.first_inventory, await simulator.inventory(signal));
    const valid = await simulator.validActionList(signal);
    compare(-1, "first_valid_actions_count", episode.first_valid_actions_count, valid.length);
    let score = 0;
    let completed = false;
    for (const [i, step] of episode.steps.entries()) {
      const outcome = await simulator.step(step.action, signal);
      compare(i, "observation", step.observation, outcome.observation);
      compare(i, "score", step.score, outcome.score);
      compare(i, "completed", step.completed, outcome.completed);
      compare(i, "moves", step.moves, outcome.moves);
      ({ score, completed } = outcome);
    }
    const last = episode.steps.length - 1;
    compare(last, "final_score", episode.final_score, score);
    compare(last, "completed", episode.completed, completed);
    return mismatches;
  } finally {
    await simulator.stop();
  }
}
