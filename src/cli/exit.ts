/**
 * How a command ends: exit codes, and errors as people read them.
 */
import { ActError } from "../errors.js";

/** Exit codes, documented in docs/cli.md. */
export const EXIT = {
  ok: 0,
  /** A check that the command makes did not hold, e.g. a replay with mismatches. */
  failed: 1,
  /** Bad flags, configuration or input files. */
  usage: 2,
  /** Files or disk. */
  file: 3,
  /** The environment failed. */
  environment: 4,
  /** The engine failed or a model cannot be used. */
  engine: 5,
  /** Training stopped itself: a threshold, or numbers that are not finite. */
  training: 6,
  /** A fault of this program. */
  internal: 70,
  /** Ended by Ctrl-C or SIGTERM. */
  interrupted: 130,
} as const;

const BY_PREFIX: readonly (readonly [string, number])[] = [
  ["CONFIG_", EXIT.usage],
  ["DATA_", EXIT.usage],
  ["BAD_ARGUMENT", EXIT.usage],
  ["CLI_", EXIT.usage],
  ["OBJECTIVE_", EXIT.usage],
  ["PROMPT_", EXIT.usage],
  ["REWARD_", EXIT.usage],
  ["RECIPE_", EXIT.usage],
  ["RUN_EXISTS", EXIT.usage],
  ["STAGE_NO_DATA", EXIT.usage],
  ["SERVE_", EXIT.usage],
  ["ENVIRONMENT_UNKNOWN", EXIT.usage],
  ["ENVIRONMENT_BAD", EXIT.usage],
  ["ENVIRONMENT_", EXIT.environment],
  ["FILE_", EXIT.file],
  ["RUN_", EXIT.file],
  ["TRAINING_", EXIT.training],
];

/** Exit code for what a command threw. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof Error && error.name === "AbortError") return EXIT.interrupted;
  if (!(error instanceof ActError)) return EXIT.internal;
  if (error.code === "INTERRUPTED") return EXIT.interrupted;
  // Every other typed error comes from the model, its files or the engine.
  return BY_PREFIX.find(([prefix]) => error.code.startsWith(prefix))?.[1] ?? EXIT.engine;
}

/** An error for a terminal: code, message with hint; the stack and its causes only when asked for. */
export function errorText(error: unknown, debug: boolean): string {
  if (error instanceof ActError && !debug) return `error ${error.code}: ${error.message}`;
  if (debug) return stackText(error);
  const message = error instanceof Error ? error.message : String(error);
  return `error INTERNAL: ${message} Run again with --debug for the stack; this is a fault of act-trainer.`;
}

function stackText(error: unknown): string {
  const parts: string[] = [];
  for (let at: unknown = error; at !== undefined && at !== null && parts.length < 8; ) {
    parts.push(at instanceof Error ? (at.stack ?? at.message) : String(at));
    at = at instanceof Error ? at.cause : undefined;
  }
  return parts.join("\ncaused by ");
}

/** Ends a command from the keyboard or from outside. */
export class InterruptedError extends ActError {
  override readonly name = "InterruptedError";

  constructor(signal: string) {
    super("INTERRUPTED", `Stopped by ${signal}.`);
  }
}
