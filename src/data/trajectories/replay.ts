/** Recorded episodes played again in an environment: how many come out as recorded. */
import { EnvironmentError, type EnvironmentProvider } from "../../environments/environment.js";
import type { ReplayMismatch, ReplayReport } from "../../environments/replay.js";
import type { Trajectory } from "../trajectory.js";

/** A replay report that also counts whole episodes. */
export interface TrajectoryReplayReport extends ReplayReport {
  /** Episodes of which every recorded text and outcome came out the same. */
  readonly exactEpisodes: number;
  /** Episodes whose every action was carried out, whatever the texts. */
  readonly playedEpisodes: number;
  /** Episodes that could not be begun or whose environment failed, with the reason. */
  readonly failed: readonly { readonly id: string; readonly reason: string }[];
}

export interface TrajectoryReplayOptions {
  /** Episodes side by side. */
  readonly concurrency?: number;
  /** How texts are compared; by default exactly, but for white space at their ends, which data sets do not keep. */
  readonly normalize?: (text: string) => string;
  readonly signal?: AbortSignal;
  readonly onProgress?: (episodes: number) => void;
}

interface Outcome {
  readonly mismatches: readonly ReplayMismatch[];
  readonly steps: number;
  readonly exact: number;
  readonly played: boolean;
  readonly failed: string | null;
}

/**
 * Plays trajectories in environments of a provider and compares texts, success and score.
 *
 * Text fields are compared where they were recorded: goal, each observation, the last one. An episode that ends before
 * its last recorded action is a mismatch of the field `terminated`; its other steps are not played.
 */
export async function replayTrajectories(
  trajectories: Iterable<Trajectory> | AsyncIterable<Trajectory>,
  provider: EnvironmentProvider,
  options: TrajectoryReplayOptions = {},
): Promise<TrajectoryReplayReport> {
  const normalize = options.normalize ?? ((text: string) => text.trim());
  const outcomes: { id: string; outcome: Outcome }[] = [];
  const source = iterate(trajectories);
  let index = 0;
  let played = 0;
  const worker = async (): Promise<void> => {
    for (;;) {
      options.signal?.throwIfAborted();
      const next = await source.next();
      if (next.done === true) return;
      const at = index++;
      const outcome = await replayOne(next.value, provider, normalize, options.signal);
      outcomes[at] = { id: next.value.id, outcome };
      options.onProgress?.(++played);
    }
  };
  await Promise.all(Array.from({ length: options.concurrency ?? 1 }, worker));
  const sum = (count: (outcome: Outcome) => number): number =>
    outcomes.reduce((total, { outcome }) => total + count(outcome), 0);
  return {
    episodes: outcomes.length,
    steps: sum((outcome) => outcome.steps),
    exact: sum((outcome) => outcome.exact),
    mismatches: outcomes.flatMap(({ outcome }) => outcome.mismatches),
    exactEpisodes: sum((o) => (o.failed === null && o.mismatches.length === 0 ? 1 : 0)),
    playedEpisodes: sum((o) => (o.played ? 1 : 0)),
    failed: outcomes.flatMap(({ id, outcome }) => (outcome.failed === null ? [] : [{ id, reason: outcome.failed }])),
  };
}

async function replayOne(
  trajectory: Trajectory,
  provider: EnvironmentProvider,
  normalize: (text: string) => string,
  signal: AbortSignal | undefined,
): Promise<Outcome> {
  const mismatches: ReplayMismatch[] = [];
  let exact = 0;
  const compare = (step: number, field: string, expected: unknown, got: unknown): boolean => {
    const same =
      typeof expected === "string" && typeof got === "string"
        ? normalize(expected) === normalize(got)
        : Object.is(expected, got);
    if (!same) mismatches.push({ episode: trajectory.id, step, field, expected, got });
    return same;
  };
  const environment = await provider.create();
  const passed = signal === undefined ? {} : { signal };
  let played = true;
  try {
    const start = await environment.reset(trajectory.task_id, passed);
    if (trajectory.task !== "") compare(-1, "task", trajectory.task, start.task);
    const first = trajectory.steps[0]?.observation ?? "";
    if (first !== "") compare(-1, "observation", first, start.observation);
    const last = trajectory.steps.length - 1;
    for (const [i, step] of trajectory.steps.entries()) {
      const t = await environment.step(step.action, passed);
      played &&= t.accepted;
      const expected = i === last ? trajectory.final_observation : (trajectory.steps[i + 1]?.observation ?? null);
      let same = expected === null || compare(i, "observation", expected, t.observation);
      if (i === last) {
        if (trajectory.success !== null) same = compare(i, "success", trajectory.success, t.success) && same;
        if (trajectory.score !== null) same = compare(i, "score", trajectory.score, t.score) && same;
      } else if (t.terminated || t.truncated) {
        compare(i, "terminated", false, true);
        played = false;
        break;
      }
      if (same) exact++;
    }
    return { mismatches, steps: trajectory.steps.length, exact, played, failed: null };
  } catch (error) {
    if (!(error instanceof EnvironmentError)) throw error;
    return {
      mismatches,
      steps: trajectory.steps.length,
      exact,
      played: false,
      failed: `${error.code}: ${error.message}`,
    };
  } finally {
    await environment.close();
  }
}

async function* iterate<T>(items: Iterable<T> | AsyncIterable<T>): AsyncGenerator<T> {
  yield* items;
}
