/**
 * Waiting with an end: every wait on an environment has a deadline and a name.
 */
import { EnvironmentError } from "../environments/environment.js";

/**
 * Calls an environment: whatever goes wrong, but for the caller's own abort, is an {@link EnvironmentError}.
 */
export async function callEnvironment<T>(
  what: string,
  milliseconds: number | null,
  signal: AbortSignal | undefined,
  run: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  try {
    return await withDeadline(what, milliseconds, signal, run);
  } catch (cause) {
    signal?.throwIfAborted();
    throw asEnvironmentError(cause);
  }
}

/** Any fault of an environment as an {@link EnvironmentError}: what it throws untyped is a failure of its own. */
export function asEnvironmentError(cause: unknown): EnvironmentError {
  if (cause instanceof EnvironmentError) return cause;
  const message = cause instanceof Error ? cause.message : String(cause);
  return new EnvironmentError("ENVIRONMENT_FAILED", `The environment threw: ${message.replace(/\.$/, "")}.`, {
    hint: "Its stack is in `cause`; --debug shows it.",
    cause,
  });
}

/**
 * Runs something that may hang.
 *
 * @param what Names the wait in the error, e.g. `reset of task 3`.
 * @param milliseconds Deadline; null waits for ever.
 * @param run Gets a signal that aborts at the deadline or with the caller's own signal.
 * @throws EnvironmentError `ENVIRONMENT_TIMEOUT` (retryable), the caller's abort reason, or what `run` throws.
 */
export async function withDeadline<T>(
  what: string,
  milliseconds: number | null,
  signal: AbortSignal | undefined,
  run: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  signal?.throwIfAborted();
  const controller = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  let onAbort: (() => void) | undefined;
  // Something that ignores its signal must not hold the caller up: the race is decided here, not by `run`.
  const stop = new Promise<never>((_, reject) => {
    if (milliseconds !== null) {
      timer = setTimeout(() => {
        const error = new EnvironmentError("ENVIRONMENT_TIMEOUT", `${what} took longer than ${milliseconds} ms.`, {
          hint: "Raise the environment's time limit if it is only slow.",
        });
        controller.abort(error);
        reject(error);
      }, milliseconds);
    }
    onAbort = () => {
      controller.abort(signal?.reason);
      reject(signal?.reason);
    };
    signal?.addEventListener("abort", onAbort, { once: true });
  });
  try {
    return await Promise.race([run(controller.signal), stop]);
  } finally {
    clearTimeout(timer);
    if (onAbort !== undefined) signal?.removeEventListener("abort", onAbort);
  }
}
