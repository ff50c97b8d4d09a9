/**
 * Many episodes against one policy.
 *
 * A slot is an environment and whoever plays in it; a slot whose episode has ended takes the next one at once, so no
 * episode waits for another. What is sampled depends on the episode's index and step, never on the slot or on which
 * episodes happen to run beside it.
 */
import { type Environment, EnvironmentError, type EnvironmentProvider } from "../environments/environment.js";
import { invalid } from "../errors.js";
import { followSignal } from "./abort.js";
import { asEnvironmentError, withDeadline } from "./deadline.js";
import type { Episode, EpisodeStep } from "./episode.js";
import { failedEpisode, type PlayOptions, playEpisode } from "./play.js";
import { pauseBeforeRetry, RETRY_PAUSE_MS, retryDelay } from "./retry.js";

/** One episode to play. */
export interface EpisodeRequest {
  /** Names the episode's random stream: the same index and seed sample the same replies. */
  readonly index: number;
  readonly taskId: string;
}

/** Settings of a rollout, on top of those of every episode. */
export interface RolloutOptions extends PlayOptions {
  readonly provider: EnvironmentProvider;
  /** Episodes side by side, >= 1. */
  readonly concurrency: number;
  /** Times an episode is started again after a retryable fault of its environment. */
  readonly retries: number;
  /** Longest pause before the first of them in milliseconds, see {@link retryDelay}; default 1000. */
  readonly retryPause?: number | undefined;
  /** Called as episodes end, in that order. */
  readonly onEpisode?: ((episode: Episode) => void) | undefined;
}

/** What happened over all episodes, faults that a retry made good included. */
export interface RolloutCounts {
  readonly success: number;
  readonly failure: number;
  readonly truncated: number;
  readonly environment_failed: number;
  /** Faults of environments, whether or not a retry helped. */
  readonly faults: number;
}

/**
 * Plays episodes, `concurrency` at a time.
 *
 * A fault of an environment ends that attempt; its environment is closed, and a retryable fault starts the episode
 * again in a fresh one after a pause. An episode that still fails comes back with outcome `environment_failed`.
 *
 * @returns Episodes in the order of `requests`.
 * @throws Abort reasons and the policy's errors, after every environment has been closed.
 */
export async function rollout(requests: readonly EpisodeRequest[], options: RolloutOptions): Promise<Episode[]> {
  const { concurrency } = options;
  if (!(Number.isInteger(concurrency) && concurrency >= 1))
    throw invalid("BAD_ARGUMENT", "concurrency", "an integer >= 1", concurrency);
  const episodes = new Array<Episode>(requests.length);
  options.signal?.throwIfAborted();
  // One slot's error must end the others too: they share this signal.
  using controller = followSignal(options.signal);
  const shared = { ...options, signal: controller.signal };
  let next = 0;

  const slot = async (): Promise<void> => {
    const seat = new Seat(options.provider);
    try {
      for (let i = next++; i < requests.length; i = next++) {
        const episode = await playWithRetries(seat, requests[i] as EpisodeRequest, shared);
        episodes[i] = episode;
        options.onEpisode?.(episode);
      }
    } catch (cause) {
      controller.abort(cause);
      throw cause;
    } finally {
      await seat.close();
    }
  };

  const slots = await Promise.allSettled(Array.from({ length: Math.min(concurrency, requests.length) }, slot));
  // The first cause is the controller's reason; the other slots only repeat it.
  if (slots.some((s) => s.status === "rejected")) throw controller.signal.reason;
  return episodes;
}

/** Counts outcomes. */
export function countOutcomes(episodes: readonly Episode[]): RolloutCounts {
  const of = (outcome: Episode["outcome"]): number => episodes.filter((e) => e.outcome === outcome).length;
  return {
    success: of("success"),
    failure: of("failure"),
    truncated: of("truncated"),
    environment_failed: of("environment_failed"),
    faults: episodes.reduce((sum, e) => sum + e.faults.length, 0),
  };
}

/** A broken environment may hang on closing too. */
const CLOSE_MILLISECONDS = 10_000;

/** Holds a slot's environment; made when first needed and again after a fault. */
class Seat {
  readonly #provider: EnvironmentProvider;
  #environment: Environment | null = null;

  constructor(provider: EnvironmentProvider) {
    this.#provider = provider;
  }

  async environment(): Promise<Environment> {
    try {
      this.#environment ??= await this.#provider.create();
    } catch (cause) {
      throw asEnvironmentError(cause);
    }
    return this.#environment;
  }

  /** Closing something broken may fail as well; the fault that led here is the one that counts. */
  async close(): Promise<void> {
    const environment = this.#environment;
    this.#environment = null;
    if (environment === null) return;
    await withDeadline("close", CLOSE_MILLISECONDS, undefined, () => environment.close()).catch(() => undefined);
  }
}

async function playWithRetries(
  seat: Seat,
  request: EpisodeRequest,
  options: RolloutOptions & { readonly signal: AbortSignal },
): Promise<Episode> {
  const began = performance.now();
  const faults: EnvironmentError[] = [];
  const lost: number[] = [];
  for (;;) {
    const steps: EpisodeStep[] = [];
    try {
      const environment = await seat.environment();
      const episode = await playEpisode(environment, request.index, request.taskId, options, steps);
      const earlier = faults.map((f, i) => ({ code: f.code, message: f.message, steps: lost[i] ?? 0 }));
      return { ...episode, faults: earlier, seconds: (performance.now() - began) / 1000 };
    } catch (cause) {
      options.signal.throwIfAborted();
      if (!(cause instanceof EnvironmentError)) throw cause;
      faults.push(cause);
      lost.push(steps.length);
      await seat.close();
      if (!cause.retryable || faults.length > options.retries)
        return failedEpisode(request.index, request.taskId, steps, faults, lost, (performance.now() - began) / 1000);
      const pause = retryDelay(options.retryPause ?? RETRY_PAUSE_MS, faults.length - 1, request.index);
      await pauseBeforeRetry(pause, options.signal);
    }
  }
}
