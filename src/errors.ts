/**
 * Every error this package throws on purpose.
 *
 * `code` is stable and meant for programs; the message says what was being done, what was expected and what came;
 * `hint` is the next thing to try.
 */
export class ActError extends Error {
  override readonly name: string = "ActError";
  /** Stable identifier in capitals, e.g. `CONFIG_UNKNOWN_KEY`. */
  readonly code: string;
  /** The next thing to try, as one sentence. Empty where the message already says it. */
  readonly hint: string;

  constructor(code: string, message: string, options: { hint?: string; cause?: unknown } = {}) {
    const hint = options.hint ?? "";
    super(hint === "" ? message : `${message} ${hint}`, options.cause === undefined ? {} : { cause: options.cause });
    this.code = code;
    this.hint = hint;
  }

  /** The message without the hint at its end. */
  get problem(): string {
    return this.hint === "" ? this.message : this.message.slice(0, -this.hint.length - 1);
  }
}

/** The one wording of every argument error: expected X for `key`, got Y. */
export function invalid(code: string, key: string, expected: string, got: unknown, hint?: string): ActError {
  const message = `Expected ${expected} for \`${key}\`, got ${describe(got)}.`;
  return hint === undefined ? new ActError(code, message) : new ActError(code, message, { hint });
}

/** A short, safe rendering of any value for an error message. */
export function describe(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value.length > 80 ? `${value.slice(0, 77)}...` : value);
  if (value === null || ["undefined", "number", "boolean", "bigint"].includes(typeof value)) return String(value);
  if (Array.isArray(value)) return `an array of ${value.length}`;
  if (typeof value !== "object") return typeof value;
  const keys = Object.keys(value);
  return keys.length === 0 ? "an object without keys" : `an object with keys ${keys.slice(0, 6).join(", ")}`;
}

/** Throws the signal's reason when it is aborted; the one way this package reacts to an AbortSignal between awaits. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  signal?.throwIfAborted();
}
