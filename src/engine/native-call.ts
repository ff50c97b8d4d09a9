/** The one place where errors of the native boundary become errors of this package. */
import { ActError } from "../errors.js";
import { EngineError, isEngineErrorCode } from "./errors.js";

/** Runs a call of the native boundary; what it throws or rejects with becomes an {@link EngineError}. */
export async function nativeCall<T>(call: () => T | Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (cause) {
    throw engineError(cause);
  }
}

/** {@link nativeCall} for the few calls that answer at once. */
export function nativeCallSync<T>(call: () => T): T {
  try {
    return call();
  } catch (cause) {
    throw engineError(cause);
  }
}

function engineError(cause: unknown): ActError {
  if (cause instanceof ActError) return cause;
  const code = cause instanceof Error && "code" in cause ? cause.code : undefined;
  const message = cause instanceof Error ? cause.message : String(cause);
  if (isEngineErrorCode(code)) {
    const hint = HINTS[code];
    const [, problem = message, advice = ""] = hint === undefined ? (WITH_ADVICE.exec(message) ?? []) : [];
    return new EngineError(code, problem, { cause, hint: hint ?? advice });
  }
  if (code === "FILE_FAILED") return new ActError("FILE_FAILED", message, { cause });
  return new EngineError("INTERNAL", `The native addon failed in an unforeseen way: ${message}`, { cause });
}

/** A native message says in its first sentence what is wrong, then what to do. */
const WITH_ADVICE = /^(.*?\.) (\p{Lu}.*)$/su;

/** Next steps that the native side, which knows no options by their JavaScript names, leaves to this one. */
const HINTS: Readonly<Record<string, string>> = {
  CACHE_TOO_SMALL: "Raise `cacheTokens`, or ask for fewer new tokens.",
  OUT_OF_MEMORY:
    "Lower `cacheTokens` or `maxBatchTokens`, or set `recompute`; `Engine.plan` says what an engine takes.",
  THREADS: "Lower `threads`, or raise the limit of processes (`ulimit -u`, a container's limit of pids).",
  DISPOSED: "Make a new engine.",
  MODEL_TENSORS: "Download or save the model folder again.",
  TOKEN_OUT_OF_RANGE: "Encode with the tokenizer of this model's own folder.",
  UNKNOWN_TENSOR: "The engine's `tensors()` lists the names.",
};

/**
 * A call that a signal can end: `start` begins it and returns its id, `cancel` ends it by that id. Rejects with the
 * signal's reason where the abort came in time; a call that was done all the same gives its result.
 */
export async function abortable<T>(
  signal: AbortSignal | undefined,
  start: () => { id: number; done: Promise<T> },
  cancel: (id: number) => void,
): Promise<T> {
  signal?.throwIfAborted();
  const { id, done } = nativeCallSync(start);
  const onAbort = (): void => cancel(id);
  signal?.addEventListener("abort", onAbort, { once: true });
  try {
    return await nativeCall(() => done);
  } catch (error) {
    if (error instanceof EngineError && error.code === "ABORTED") signal?.throwIfAborted();
    throw error;
  } finally {
    signal?.removeEventListener("abort", onAbort);
  }
}
