/**
 * What every environment is to the rest of the package: text in, text out, and a number.
 *
 * Environments know nothing of tokens, prompts or models. An environment object plays one episode at a time; a provider
 * makes as many as are asked for, so that episodes run side by side.
 */
import { ActError, describe } from "../errors.js";

/** The actions an environment accepts in its present state. */
export interface AdmissibleActions {
  /** Literal actions, in the environment's own order, without duplicates. */
  readonly actions: readonly string[];
  /** Anchored regular expressions for free-text actions, e.g. `^search\[.+\]$`. Mostly empty. */
  readonly patterns: readonly string[];
}

/** Whether an action is among the admissible ones, exactly as written or by pattern. */
export function isAdmissible(action: string, admissible: AdmissibleActions): boolean {
  return admissible.actions.includes(action) || admissible.patterns.some((p) => new RegExp(p, "u").test(action));
}

/** What an agent is told when an episode begins. */
export interface EpisodeStart {
  /** The goal in the environment's words, e.g. `put a clean mug in coffeemachine`. */
  readonly task: string;
  /** First observation, without the goal where the two can be told apart. */
  readonly observation: string;
  /** Kind of task, for break-downs in reports, e.g. `pick_clean_then_place_in_recep`. */
  readonly category: string;
}

/** What an action led to. */
export interface Transition {
  readonly observation: string;
  /** Reward of this step, in the environment's own unit. */
  readonly reward: number;
  /** Score so far, scaled so that 1 is the best possible; may be negative where the environment says so. */
  readonly score: number;
  /** The goal holds. */
  readonly success: boolean;
  /** The environment ended the episode (success or failure). */
  readonly terminated: boolean;
  /** A step or time limit ended the episode. */
  readonly truncated: boolean;
  /** The action was understood and could be carried out. */
  readonly accepted: boolean;
}

/** One episode at a time. Methods are called one after the other, never side by side. */
export interface Environment {
  /** Starts a task of this environment; ends any running episode. Throws {@link EnvironmentError}. */
  reset(taskId: string, options?: { readonly signal?: AbortSignal }): Promise<EpisodeStart>;
  /**
   * Carries out an action. Throws {@link EnvironmentError} when there is no running episode, the action is no string or the
   * simulator failed.
   */
  step(action: string, options?: { readonly signal?: AbortSignal }): Promise<Transition>;
  /** Actions of the present state, or null where the environment cannot list them. */
  admissibleActions(): Promise<AdmissibleActions | null>;
  /** The expert's action in the present state, or null where no expert knows one. */
  expertAction(): Promise<string | null>;
  /** The expert's words before that action, where it has any. Asked in the same state as {@link expertAction}. */
  expertThought?(): Promise<string | null>;
  /** Frees what the environment holds. Safe to call twice. */
  close(): Promise<void>;
}

/** A frozen, versioned list of tasks. */
export interface Panel {
  /** `<environment>/<name>@<version>`, e.g. `household/test-in@1`. */
  readonly id: string;
  /** Task ids in their fixed order. */
  readonly tasks: readonly string[];
  /** sha256 over the tasks' content (not only their names), in hex. */
  readonly hash: string;
}

/** Makes environments of one kind and knows their panels. */
export interface EnvironmentProvider {
  /** Name as in configuration files, e.g. `household`. */
  readonly name: string;
  /** Changes whenever texts, rules, rewards or the generator change. */
  readonly version: string;
  /** Steps after which an episode is truncated unless the caller says otherwise. */
  readonly stepLimit: number;
  /** Names of the panels this provider has, e.g. `["train", "test-in", "test-out"]`. */
  readonly panelNames: readonly string[];
  /** A panel by name. Throws {@link EnvironmentError} with code `ENVIRONMENT_UNKNOWN_PANEL`, naming those there are. */
  panel(name: string): Promise<Panel>;
  /** A fresh environment. */
  create(): Promise<Environment>;
  /** Frees processes and sockets shared between environments. */
  close(): Promise<void>;
}

/** Codes of {@link EnvironmentError}. */
export type EnvironmentErrorCode =
  | "ENVIRONMENT_UNKNOWN" // no environment of that name
  | "ENVIRONMENT_UNKNOWN_PANEL"
  | "ENVIRONMENT_UNKNOWN_TASK"
  | "ENVIRONMENT_BAD_OPTIONS"
  | "ENVIRONMENT_BAD_DATA" // a file that should describe tasks or products does not
  | "ENVIRONMENT_BAD_ACTION" // no text; a text that makes no sense is an ordinary action that is not accepted
  | "ENVIRONMENT_NO_EPISODE" // step before reset, or after the end
  | "ENVIRONMENT_CLOSED"
  | "ENVIRONMENT_TIMEOUT" // a deadline passed
  | "ENVIRONMENT_CAPACITY" // a server has no free slot
  | "ENVIRONMENT_PROTOCOL" // a server answered something the protocol does not allow
  | "ENVIRONMENT_LOST" // process or connection died
  | "ENVIRONMENT_FAILED"; // the simulator reported a fault of its own

/**
 * A fault of an environment, as opposed to a bad action (which is an ordinary observation).
 *
 * Rollouts count these as outcome `environment_failed`; such episodes are never trained on.
 */
export class EnvironmentError extends ActError {
  override readonly name = "EnvironmentError";
  override readonly code: EnvironmentErrorCode;
  /** Whether a fresh episode may succeed where this one failed. */
  readonly retryable: boolean;

  constructor(
    code: EnvironmentErrorCode,
    message: string,
    options: { hint?: string; cause?: unknown; retryable?: boolean } = {},
  ) {
    super(code, message, options);
    this.code = code;
    this.retryable =
      options.retryable ?? ["ENVIRONMENT_TIMEOUT", "ENVIRONMENT_CAPACITY", "ENVIRONMENT_LOST"].includes(code);
  }
}

/** For callers that no compiler checks. Throws {@link EnvironmentError} `ENVIRONMENT_BAD_ACTION`. */
export function assertAction(action: unknown): asserts action is string {
  if (typeof action === "string") return;
  throw new EnvironmentError("ENVIRONMENT_BAD_ACTION", `Expected a string for \`action\`, got ${describe(action)}.`, {
    hint: "Call step() with the action's text.",
  });
}
