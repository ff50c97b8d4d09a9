/**
 * `collect`: plays the environment's expert and writes every decision to `expert.jsonl`.
 *
 * Only episodes that reach the goal are kept: a demonstration that fails teaches the wrong thing.
 */
import { join } from "node:path";
import { z } from "zod";
import { makeFolder } from "../data/files.js";
import type { ExpertRecord } from "../data/records.js";
import { writeRecords } from "../data/records-file.js";
import type { Trajectory } from "../data/trajectory.js";
import { type Environment, EnvironmentError, type EnvironmentProvider } from "../environments/environment.js";
import type { HistoryStep } from "../prompts/state.js";
import { callEnvironment } from "../rollouts/deadline.js";
import { pauseBeforeRetry, retryDelay, retryShape } from "../rollouts/retry.js";
import { PartialResults, runResumable } from "./resumable.js";
import { noData, type StageContext } from "./stage.js";
import { taskRangeShape, tasksInRange } from "./task-range.js";

export const EXPERT_FILE = "expert.jsonl";

/** A long history in every record makes files large: it grows with the square of an episode's length. */
export const historyLength = z
  .number()
  .int()
  .min(0)
  .nullable()
  .default(null)
  .describe("past decisions kept in each record; null: all");

/** Keys of the stage `collect`. */
export const collectSchema = z.strictObject({
  panel: z.string().describe("panel whose tasks are played"),
  ...taskRangeShape,
  stepLimit: z.number().int().min(1).nullable().default(null).describe("steps at most; null: the environment's limit"),
  history: historyLength,
  concurrency: z.number().int().min(1).default(4).describe("episodes side by side"),
  environmentTimeLimit: z
    .number()
    .positive()
    .nullable()
    .default(60_000)
    .describe("milliseconds a call of the environment may take; null: no limit"),
  ...retryShape,
});
/** Options of {@link collect}. */
export type CollectOptions = z.infer<typeof collectSchema>;

/** What became of the tasks. */
export interface CollectResult {
  readonly file: string;
  readonly tasks: number;
  /** Tasks whose demonstration was kept. */
  readonly solved: number;
  /** Tasks the expert gave up on or did not finish within the limit. */
  readonly unsolved: number;
  readonly environmentFailed: number;
  /** Decisions written. */
  readonly states: number;
}

interface TaskResult {
  readonly outcome: "solved" | "unsolved" | "environment_failed";
  readonly records: readonly ExpertRecord[];
}

/**
 * Plays the expert on a panel.
 *
 * @throws ActError `STAGE_NO_DATA` when the range holds no task or no demonstration was solved; EnvironmentError for an unknown panel.
 */
export async function collect(
  provider: EnvironmentProvider,
  options: CollectOptions,
  context: StageContext,
): Promise<CollectResult> {
  await makeFolder(context.folder);
  const panel = await provider.panel(options.panel);
  const tasks = tasksInRange(panel.tasks, options, `panel ${panel.id}`);
  const partial = await PartialResults.open<TaskResult>(context.folder, context.configHash);
  try {
    await runResumable(
      partial,
      tasks.length,
      options.concurrency,
      (index, signal) => demonstrate(provider, tasks[index] as string, options, signal),
      {
        signal: context.signal,
        onDone: (done) => context.onProgress?.(done, tasks.length, ""),
        durable: (result) => result.outcome !== "environment_failed",
      },
    );
    const results = partial.inOrder();
    const file = join(context.folder, EXPERT_FILE);
    const header = {
      environment: { name: provider.name, version: provider.version },
      panel: { id: panel.id, hash: panel.hash },
      source: "expert",
      config_hash: context.configHash,
    };
    const of = (outcome: TaskResult["outcome"]): number => results.filter((r) => r.outcome === outcome).length;
    if (of("solved") === 0) throw noData(`the expert solved none of ${tasks.length} tasks of ${panel.id}`);
    const states = await writeRecords(
      file,
      "expert",
      header,
      results.flatMap((r) => r.records),
    );
    await partial.finish();
    return {
      file,
      tasks: tasks.length,
      solved: of("solved"),
      unsolved: of("unsolved"),
      environmentFailed: of("environment_failed"),
      states,
    };
  } finally {
    await partial.close();
  }
}

async function demonstrate(
  provider: EnvironmentProvider,
  taskId: string,
  options: CollectOptions,
  signal: AbortSignal,
): Promise<TaskResult> {
  for (let attempt = 0; ; attempt++) {
    let environment: Environment | null = null;
    try {
      environment = await provider.create();
      return await playExpert(environment, taskId, options.stepLimit ?? provider.stepLimit, options, signal);
    } catch (cause) {
      signal.throwIfAborted();
      if (!(cause instanceof EnvironmentError)) throw cause;
      // A task that is not there is a mistake of whoever asks, not a fault to count.
      if (cause.code === "ENVIRONMENT_UNKNOWN_TASK" || cause.code === "ENVIRONMENT_BAD_DATA") throw cause;
      if (!cause.retryable || attempt >= options.retries) return { outcome: "environment_failed", records: [] };
    } finally {
      await environment?.close().catch(() => undefined);
    }
    await pauseBeforeRetry(retryDelay(options.retryPause, attempt, taskId), signal);
  }
}

async function playExpert(
  environment: Environment,
  taskId: string,
  stepLimit: number,
  options: CollectOptions,
  signal: AbortSignal,
): Promise<TaskResult> {
  const call = <T>(what: string, run: (signal: AbortSignal) => Promise<T>): Promise<T> =>
    callEnvironment(`${what} of task ${taskId}`, options.environmentTimeLimit, signal, run);
  const start = await call("reset", (s) => environment.reset(taskId, { signal: s }));
  const records: ExpertRecord[] = [];
  const history: HistoryStep[] = [];
  let observation = start.observation;
  for (let step = 0; step < stepLimit; step++) {
    const admissible = await call("admissible actions", () => environment.admissibleActions());
    const action = await call("expert action", () => environment.expertAction());
    if (action === null) break;
    const thought = await call("expert thought", async () => (await environment.expertThought?.()) ?? null);
    records.push({
      id: `${taskId}#${step}`,
      task_id: taskId,
      category: start.category,
      state: { task: start.task, observation, history: recent(history, options.history), step, admissible },
      expert_action: action,
      thought,
    });
    const transition = await call("step", (s) => environment.step(action, { signal: s }));
    if (transition.success) return { outcome: "solved", records };
    if (transition.terminated || transition.truncated) break;
    history.push({ observation, action });
    observation = transition.observation;
  }
  return { outcome: "unsolved", records: [] };
}

/** Decisions of a recorded episode. */
export function expertRecordsOf(trajectory: Trajectory, historyLength: number | null = null): ExpertRecord[] {
  const history: HistoryStep[] = [];
  return trajectory.steps.map((step, i) => {
    const { observation, action, admissible, thought } = step;
    const record: ExpertRecord = {
      id: `${trajectory.id}#${i}`,
      task_id: trajectory.task_id,
      category: trajectory.category,
      state: { task: trajectory.task, observation, history: recent(history, historyLength), step: i, admissible },
      expert_action: action,
      thought,
    };
    history.push({ observation, action });
    return record;
  });
}

function recent(history: readonly HistoryStep[], length: number | null): HistoryStep[] {
  return length === null ? [...history] : history.slice(Math.max(0, history.length - length));
}
