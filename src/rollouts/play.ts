/**
 * Plays one episode: prompt, completion, action, observation, until something ends it.
 */

import type { Policy, SamplingOptions } from "../engine/policy.js";
import type {
  AdmissibleActions,
  Environment,
  EnvironmentError,
  EpisodeStart,
  Transition,
} from "../environments/environment.js";
import { resolveAction } from "../prompts/action-text.js";
import { parseReply } from "../prompts/reply.js";
import type { DecisionState, HistoryStep } from "../prompts/state.js";
import { callEnvironment } from "./deadline.js";
import type { Episode, EpisodeStep, Outcome, TruncationReason } from "./episode.js";
import type { EpisodeForm } from "./form.js";
import { streamOf } from "./random.js";

/** Settings of every episode of a rollout. */
export interface PlayOptions {
  readonly policy: Policy;
  /** Makes a fresh prompt state for each episode; see {@link EpisodeForm}. */
  readonly form: () => EpisodeForm;
  readonly sampling: SamplingOptions;
  /** Same seed, same episodes. */
  readonly seed: bigint;
  /** Decisions after which an episode is truncated, >= 1. */
  readonly stepLimit: number;
  /** Wall-clock milliseconds after which an episode is truncated; null: none. Results then depend on the machine. */
  readonly timeLimit: number | null;
  /** Milliseconds one call of the environment may take before it counts as failed; null: none. */
  readonly environmentTimeLimit: number | null;
  /** Ask the environment for its admissible actions at every step; actions are then sent in its own spelling. */
  readonly admissible: boolean;
  /** Replies without action in a row after which the episode is truncated; null: none. */
  readonly malformedLimit: number | null;
  /** Ends an episode as truncated (`stop_condition`) when it returns true; asked after every step. */
  readonly stop?: ((steps: readonly EpisodeStep[]) => boolean) | undefined;
  /** Samples without the model's adapters. */
  readonly withoutAdapters?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** What a policy sees after a reply from which no action could be read. Nothing was sent to the environment. */
export const NO_ACTION_OBSERVATION = "No action was found in the reply.";

/**
 * Plays one episode to its end.
 *
 * Draws depend on (seed, index, step) only: an episode that is played again after a fault samples the same replies.
 *
 * @throws EnvironmentError from the environment, with the steps so far in `steps`; the policy's errors; abort reasons.
 */
export async function playEpisode(
  environment: Environment,
  index: number,
  taskId: string,
  options: PlayOptions,
  steps: EpisodeStep[],
): Promise<Episode> {
  const { policy, signal } = options;
  const began = performance.now();
  const call = <T>(what: string, run: (signal: AbortSignal) => Promise<T>): Promise<T> =>
    callEnvironment(`${what} of task ${taskId}`, options.environmentTimeLimit, signal, run);
  const start: EpisodeStart = await call("reset", (s) => environment.reset(taskId, { signal: s }));
  const form = options.form();
  const history: HistoryStep[] = [];
  let observation = start.observation;
  let score = 0;
  let malformedInRow = 0;

  const end = (outcome: Outcome, truncation: TruncationReason | null = null): Episode => ({
    index,
    taskId,
    task: start.task,
    category: start.category,
    outcome,
    truncation,
    steps,
    transcript: form.transcript,
    finalObservation: observation,
    score,
    faults: [],
    seconds: (performance.now() - began) / 1000,
  });

  for (let step = 0; ; step++) {
    signal?.throwIfAborted();
    if (step >= options.stepLimit) return end("truncated", "step_limit");
    if (options.timeLimit !== null && performance.now() - began > options.timeLimit)
      return end("truncated", "time_limit");

    const admissible: AdmissibleActions | null = options.admissible
      ? await call("admissible actions", () => environment.admissibleActions())
      : null;
    const state: DecisionState = { task: start.task, observation, history: [...history], step, admissible };
    const { full, added } = await form.prompt(state);
    const room = policy.contextLength - full.length;
    if (room < 1) return end("truncated", "context_limit");

    const [completion] = await policy.generate(
      {
        ...options.sampling,
        maxNewTokens: Math.min(room, options.sampling.maxNewTokens),
        prompt: full,
        seed: options.seed,
        stream: streamOf(index, step),
        ...(options.withoutAdapters === true ? { adapters: false } : {}),
      },
      signal === undefined ? {} : { signal },
    );
    if (completion === undefined) throw new TypeError("The policy returned no completion.");
    form.append(completion);

    const reply = await form.text(completion);
    const parsed = parseReply(reply);
    const before = observation;
    let action: string | null = null;
    let transition: Transition | null = null;
    if (parsed.ok) {
      const sent = (admissible === null ? null : resolveAction(parsed.raw, admissible)) ?? parsed.raw.trim();
      action = sent;
      transition = await call("step", (s) => environment.step(sent, { signal: s }));
      observation = transition.observation;
      score = transition.score;
      malformedInRow = 0;
    } else {
      observation = NO_ACTION_OBSERVATION;
      malformedInRow++;
    }
    steps.push({
      observation: before,
      admissible,
      prompt: added,
      completion,
      reply,
      action,
      thought: parsed.ok && parsed.thought !== "" ? parsed.thought : null,
      accepted: transition?.accepted ?? false,
      reward: transition?.reward ?? 0,
    });
    history.push({ observation: before, action: action ?? "" });

    if (transition?.success) return end("success");
    if (transition?.terminated) return end("failure");
    if (transition?.truncated) return end("truncated", "environment_limit");
    if (options.malformedLimit !== null && malformedInRow >= options.malformedLimit)
      return end("truncated", "stop_condition");
    if (options.stop?.(steps)) return end("truncated", "stop_condition");
  }
}

/** The record of an episode whose environment failed for good. */
export function failedEpisode(
  index: number,
  taskId: string,
  steps: readonly EpisodeStep[],
  faults: readonly EnvironmentError[],
  stepsOfFaults: readonly number[],
  seconds: number,
): Episode {
  return {
    index,
    taskId,
    task: "",
    category: "",
    outcome: "environment_failed",
    truncation: null,
    steps,
    transcript: null,
    finalObservation: "",
    score: 0,
    faults: faults.map((f, i) => ({ code: f.code, message: f.message, steps: stepsOfFaults[i] ?? 0 })),
    seconds,
  };
}
