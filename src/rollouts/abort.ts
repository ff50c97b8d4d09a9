/**
 * One AbortSignal for many waits at once.
 */
import { setMaxListeners } from "node:events";

/** A controller that follows a caller's signal until it is released. */
export interface FollowingController extends Disposable {
  readonly signal: AbortSignal;
  abort(reason: unknown): void;
}

/**
 * A controller of our own that aborts with the caller's signal.
 *
 * Many requests listen to one signal here; Node.js takes more than ten listeners for a leak and would warn about the
 * caller's. All of them are on ours, and the caller's has one, removed on dispose.
 */
export function followSignal(signal: AbortSignal | undefined): FollowingController {
  const controller = new AbortController();
  setMaxListeners(0, controller.signal);
  const onAbort = (): void => controller.abort(signal?.reason);
  if (signal?.aborted) onAbort();
  else signal?.addEventListener("abort", onAbort, { once: true });
  return {
    signal: controller.signal,
    abort: (reason) => controller.abort(reason),
    [Symbol.dispose]: () => signal?.removeEventListener("abort", onAbort),
  };
}
