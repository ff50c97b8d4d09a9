/**
 * The pause before an episode is started again after a fault of its environment: a server that is down for seconds must
 * not use up the attempts within milliseconds, and episodes that fell together must not come back together.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { z } from "zod";
import { deriveSeed, randomBits } from "./random.js";

/** Default of `retryPause`. */
export const RETRY_PAUSE_MS = 1000;

/** Keys of every stage that plays episodes. */
export const retryShape = {
  retries: z.number().int().min(0).default(3).describe("new attempts after a retryable fault of the environment"),
  retryPause: z
    .number()
    .min(0)
    .default(RETRY_PAUSE_MS)
    .describe("milliseconds before the first new attempt at most; each later one waits four times as long"),
};

const GROWTH = 4;
const LONGEST_MS = 60_000;

/**
 * Length of a pause: exponential, with the upper half of it drawn (equal jitter).
 *
 * @param first Longest first pause, in milliseconds.
 * @param attempt New attempts before this one, 0 for the first.
 * @param episode Names the draw: the same episode and attempt pause equally long in every run.
 */
export function retryDelay(first: number, attempt: number, episode: number | string): number {
  const longest = Math.min(first * GROWTH ** attempt, LONGEST_MS);
  const drawn = Number(randomBits(deriveSeed(0, "retry", episode), attempt) >> 11n) / 2 ** 53;
  return (longest * (1 + drawn)) / 2;
}

/** Waits. @throws The signal's reason as soon as it aborts. */
export async function pauseBeforeRetry(milliseconds: number, signal: AbortSignal): Promise<void> {
  await sleep(milliseconds, undefined, { signal }).catch(() => undefined);
  signal.throwIfAborted();
}
