/** One environment of an AgentGym server, named by a number there. */
import type { z } from "zod";
import { describeIssues } from "../../data/trajectory.js";
import {
  type AdmissibleActions,
  assertAction,
  type Environment,
  EnvironmentError,
  type EpisodeStart,
  type Transition,
} from "../environment.js";
import { isObject } from "../pydantic/fields.js";
import type { Ask, Dialect } from "./dialects.js";
import { BUSY_HINT, callServer } from "./http.js";
import type { AgentGymSettings } from "./provider.js";

interface Episode {
  steps: number;
  /** What the last answer listed; null where it lists none. */
  admissible: AdmissibleActions | null;
}

/** Longest wait for the end of an environment that is given up. */
const GOODBYE_MS = 2000;

/** Faults after which the number names nothing usable on the server, or something in an unknown state. */
const ABANDON = new Set(["ENVIRONMENT_LOST", "ENVIRONMENT_TIMEOUT", "ENVIRONMENT_PROTOCOL", "ENVIRONMENT_FAILED"]);

export class AgentGymEnvironment implements Environment {
  readonly #settings: AgentGymSettings;
  readonly #dialect: Dialect;
  readonly #onClose: () => void;
  /** Number on the server; null until the first reset, and after a fault. */
  #id: number | null = null;
  #episode: Episode | null = null;
  #closed = false;

  constructor(settings: AgentGymSettings, dialect: Dialect, onClose: () => void) {
    this.#settings = settings;
    this.#dialect = dialect;
    this.#onClose = onClose;
  }

  /** {@inheritDoc Environment.reset} The task is an item's number. Makes a new environment on the server after a fault. */
  async reset(taskId: string, options: { readonly signal?: AbortSignal } = {}): Promise<EpisodeStart> {
    this.#checkOpen();
    this.#episode = null;
    if (!/^(0|[1-9]\d{0,8})$/.test(taskId))
      throw new EnvironmentError(
        "ENVIRONMENT_UNKNOWN_TASK",
        `Expected an item's number, got ${JSON.stringify(taskId)}.`,
        { hint: 'Take tasks from `provider.panel(name)`, e.g. "31".' },
      );
    return this.#guard(async () => {
      const ask = this.#ask(options.signal);
      this.#id ??= await this.#dialect.create(ask);
      const { start, admissible } = await this.#dialect.reset(ask, this.#id, Number(taskId));
      this.#episode = { steps: 0, admissible };
      return start;
    });
  }

  /** {@inheritDoc Environment.step} Never sent twice. */
  async step(action: string, options: { readonly signal?: AbortSignal } = {}): Promise<Transition> {
    assertAction(action);
    const { id, episode } = this.#running();
    const outcome = await this.#guard(() => this.#dialect.step(this.#ask(options.signal), id, action));
    episode.steps++;
    episode.admissible = outcome.admissible;
    const truncated = outcome.truncated || (!outcome.done && episode.steps >= this.#settings.stepLimit);
    if (outcome.done || truncated) this.#episode = null;
    const { observation, reward, score, success, accepted } = outcome;
    return { observation, reward, score, success, terminated: outcome.done && !truncated, truncated, accepted };
  }

  async admissibleActions(): Promise<AdmissibleActions | null> {
    const { id, episode } = this.#running();
    episode.admissible ??= await this.#guard(() => this.#dialect.admissible(this.#ask(undefined), id));
    return episode.admissible;
  }

  /** The servers have no expert. */
  async expertAction(): Promise<null> {
    this.#running();
    return null;
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#episode = null;
    await this.#abandon();
    this.#onClose();
  }

  #ask(signal: AbortSignal | undefined, deadlineMs?: number): Ask {
    const { url, deadlines, retries, maxReplyBytes } = this.#settings;
    return async <T>(call: Parameters<Ask>[0], schema: z.ZodType<T>): Promise<T> => {
      const limit = deadlineMs ?? (call.slow === true ? deadlines.resetMs : deadlines.stepMs);
      const answer = await callServer(url, { ...call, deadlineMs: limit, signal }, { retries, maxReplyBytes });
      const where = `${call.method} ${call.path}`;
      if (answer.status !== 200) throw refusedBy(where, answer.status, answer.text);
      // Faults come as success, with nothing but an `error`.
      if (isObject(answer.body) && typeof answer.body.error === "string" && Object.keys(answer.body).length === 1)
        throw saidBy(where, answer.body.error);
      const result = schema.safeParse(answer.body);
      if (result.success) return result.data;
      throw new EnvironmentError(
        "ENVIRONMENT_PROTOCOL",
        `${where}: the answer does not fit (${describeIssues(result.error).replace(/\.$/, "")}): ${answer.text.slice(0, 80)}`,
        { hint: "Check that `kind` is the server's." },
      );
    };
  }

  /** Any fault ends the episode; most also end the environment on the server. */
  async #guard<T>(run: () => Promise<T>): Promise<T> {
    try {
      return await run();
    } catch (error) {
      this.#episode = null;
      // A cancelled call may still be running there: two at once on one number are not kept apart.
      if (!(error instanceof EnvironmentError) || ABANDON.has(error.code)) void this.#abandon();
      throw error;
    }
  }

  /** Ends the environment on the server, where that has such a call; its answer changes nothing. */
  async #abandon(): Promise<void> {
    const id = this.#id;
    this.#id = null;
    if (id === null || this.#dialect.close === null) return;
    await this.#dialect.close(this.#ask(undefined, GOODBYE_MS), id).catch(() => undefined);
  }

  #running(): { id: number; episode: Episode } {
    this.#checkOpen();
    if (this.#id === null || this.#episode === null)
      throw new EnvironmentError("ENVIRONMENT_NO_EPISODE", "There is no running episode.", {
        hint: "Call reset first.",
      });
    return { id: this.#id, episode: this.#episode };
  }

  #checkOpen(): void {
    if (this.#closed)
      throw new EnvironmentError("ENVIRONMENT_CLOSED", "The environment is closed.", {
        hint: "Make another with `provider.create()`.",
      });
  }
}

function refusedBy(where: string, status: number, text: string): EnvironmentError {
  const told = `${where}: status ${status}: ${text.slice(0, 200)}`;
  if (status === 429) return new EnvironmentError("ENVIRONMENT_CAPACITY", told, { hint: BUSY_HINT });
  if (status >= 500) return new EnvironmentError("ENVIRONMENT_FAILED", told, { hint: "Look in the server's log." });
  return new EnvironmentError("ENVIRONMENT_PROTOCOL", told, { hint: "Check that `kind` is the server's." });
}

/** What the servers' error texts mean. */
function saidBy(where: string, text: string): EnvironmentError {
  const told = `${where}: ${text.slice(0, 400)}`;
  if (/has finished/.test(text))
    return new EnvironmentError("ENVIRONMENT_NO_EPISODE", told, { hint: "Call reset first." });
  if (/is not valid|has been deleted/.test(text))
    return new EnvironmentError("ENVIRONMENT_LOST", told, { hint: "The next reset makes another." });
  if (/index out of range/.test(text))
    return new EnvironmentError("ENVIRONMENT_UNKNOWN_TASK", told, {
      hint: "Name only items that the server has in `panels`.",
    });
  if (/connect to the Java server/.test(text))
    return new EnvironmentError("ENVIRONMENT_LOST", told, { hint: "Start the AgentGym server again." });
  // Our own server puts the code of the fault in front of its text.
  const own = /^\[(ENVIRONMENT_(?:LOST|TIMEOUT|CAPACITY|UNKNOWN_TASK))\] /.exec(text)?.[1];
  if (own !== undefined) return new EnvironmentError(own as "ENVIRONMENT_LOST", told);
  return new EnvironmentError("ENVIRONMENT_FAILED", told, { hint: "Look in the server's log." });
}
