/** One environment behind an OpenEnv server: a socket, which is a session, which is an environment there. */
import { describe } from "../../errors.js";
import {
  type AdmissibleActions,
  assertAction,
  type Environment,
  EnvironmentError,
  type EpisodeStart,
  type Transition,
} from "../environment.js";
import { isObject } from "../pydantic/fields.js";
import type { OpenEnvSettings } from "./provider.js";
import { ActionRefused, OpenEnvSocket, type RemoteObservation } from "./socket.js";

interface Episode {
  steps: number;
  /** Sum of rewards, for servers that do not tell a score. */
  total: number;
  lastText: string;
}

/** Fields in which text environments are known to put what the agent sees. */
const TEXT_FIELDS = ["text", "prompt", "message"];
/** First pause before another try for a free session, in milliseconds; doubled each time up to a second. */
const FIRST_PAUSE_MS = 50;

export class OpenEnvEnvironment implements Environment {
  readonly #settings: OpenEnvSettings;
  readonly #actionField: string;
  readonly #onClose: () => void;
  #socket: OpenEnvSocket | null = null;
  #episode: Episode | null = null;
  #closed = false;

  constructor(settings: OpenEnvSettings, actionField: string, onClose: () => void) {
    this.#settings = settings;
    this.#actionField = actionField;
    this.#onClose = onClose;
  }

  /**
   * {@inheritDoc Environment.reset}
   *
   * Opens a new connection where the last one broke; a reset begins anew in any case, so it is safe to send again. A
   * server without a free session is asked again until `capacityMs` have passed.
   */
  async reset(taskId: string, options: { readonly signal?: AbortSignal } = {}): Promise<EpisodeStart> {
    if (this.#closed)
      throw new EnvironmentError("ENVIRONMENT_CLOSED", "The environment is closed.", {
        hint: "Make another with `provider.create()`.",
      });
    this.#episode = null;
    const { signal } = options;
    const data = { ...this.#settings.reset, ...resetOf(taskId) };
    const start = performance.now();
    for (let pause = FIRST_PAUSE_MS, reused = this.#socket?.usable === true; ; pause = Math.min(1000, 2 * pause)) {
      try {
        const outcome = await this.#reset(data, signal);
        const text = this.#textOf(outcome);
        this.#episode = { steps: 0, total: 0, lastText: text };
        const { task, category } = outcome.observation;
        return {
          task: typeof task === "string" ? task : "",
          observation: text,
          category: typeof category === "string" ? category : "",
        };
      } catch (error) {
        if (!(error instanceof EnvironmentError)) throw error;
        // The server may have closed an idle connection; that says nothing of the task.
        if (error.code === "ENVIRONMENT_LOST" && reused) {
          reused = false;
          continue;
        }
        const waited = performance.now() - start;
        if (error.code !== "ENVIRONMENT_CAPACITY" || waited + pause > this.#settings.deadlines.capacityMs) throw error;
        await sleep(pause, signal);
      }
    }
  }

  /**
   * {@inheritDoc Environment.step}
   *
   * An action that the server refuses as malformed is an ordinary transition with `accepted` false. A step is never
   * sent twice.
   */
  async step(action: string, options: { readonly signal?: AbortSignal } = {}): Promise<Transition> {
    assertAction(action);
    const { episode, socket } = this.#running();
    let outcome: RemoteObservation;
    try {
      outcome = await socket.step(this.#actionOf(action), this.#settings.deadlines.stepMs, options.signal);
    } catch (error) {
      if (error instanceof ActionRefused) return this.#refused(episode, error);
      this.#episode = null;
      throw error;
    }
    const reward = Number(outcome.reward ?? 0);
    episode.steps++;
    episode.total += reward;
    const { score, success, truncated, accepted } = outcome.observation;
    const text = this.#textOf(outcome);
    episode.lastText = text;
    const cut = outcome.done ? truncated === true : episode.steps >= this.#settings.stepLimit;
    if (outcome.done || cut) this.#episode = null;
    return {
      observation: text,
      reward,
      score: typeof score === "number" ? score : Math.min(1, episode.total),
      success: typeof success === "boolean" ? success : outcome.done && episode.total >= this.#settings.successReward,
      terminated: outcome.done && !cut,
      truncated: cut,
      accepted: typeof accepted === "boolean" ? accepted : true,
    };
  }

  /** What the server's state says of them, as ours does; null from other servers. */
  async admissibleActions(): Promise<AdmissibleActions | null> {
    const { admissible } = await this.#state();
    if (!isObject(admissible)) return null;
    const { actions, patterns } = admissible;
    if (!isStrings(actions) || !isStrings(patterns)) return null;
    return { actions, patterns };
  }

  /** What the server's state says, as ours does when told to; null from other servers. */
  async expertAction(): Promise<string | null> {
    const { expert_action: action } = await this.#state();
    return typeof action === "string" ? action : null;
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#episode = null;
    const socket = this.#socket;
    this.#socket = null;
    await socket?.close();
    this.#onClose();
  }

  async #reset(data: Readonly<Record<string, unknown>>, signal: AbortSignal | undefined): Promise<RemoteObservation> {
    const { deadlines, maxReplyBytes, url } = this.#settings;
    if (this.#socket?.usable !== true) {
      const address = `${url.replace(/^http/, "ws").replace(/\/(ws)?$/, "")}/ws`;
      this.#socket = await OpenEnvSocket.connect(address, { connectMs: deadlines.connectMs, maxReplyBytes }, signal);
    }
    try {
      return await this.#socket.reset(data, deadlines.resetMs, signal);
    } catch (error) {
      if (error instanceof ActionRefused)
        throw new EnvironmentError("ENVIRONMENT_PROTOCOL", `The server refused the reset: ${error.message}`, {
          hint: "Correct the fields of the task, or of the option `reset`.",
        });
      throw error;
    }
  }

  async #state(): Promise<Readonly<Record<string, unknown>>> {
    const { socket } = this.#running();
    try {
      return await socket.state(this.#settings.deadlines.stepMs);
    } catch (error) {
      this.#episode = null;
      if (error instanceof ActionRefused)
        throw new EnvironmentError("ENVIRONMENT_PROTOCOL", `The server refused to tell its state: ${error.message}`);
      throw error;
    }
  }

  #refused(episode: Episode, error: ActionRefused): Transition {
    episode.steps++;
    const truncated = episode.steps >= this.#settings.stepLimit;
    if (truncated) this.#episode = null;
    return {
      observation: error.message,
      reward: 0,
      score: Math.min(1, episode.total),
      success: false,
      terminated: false,
      truncated,
      accepted: false,
    };
  }

  /** The agent's text as an action: a JSON object as it is, anything else in the one text field. */
  #actionOf(text: string): Readonly<Record<string, unknown>> {
    if (text.trimStart().startsWith("{"))
      try {
        const value: unknown = JSON.parse(text);
        if (isObject(value)) return value;
      } catch {
        // Not JSON: text like any other.
      }
    return { [this.#actionField]: text };
  }

  #textOf(outcome: RemoteObservation): string {
    const { observationField } = this.#settings;
    const { observation } = outcome;
    if (observationField !== null) {
      const value = observation[observationField];
      if (typeof value === "string") return value;
      throw new EnvironmentError(
        "ENVIRONMENT_PROTOCOL",
        `The observation has no text in \`${observationField}\`, only the fields ${Object.keys(observation).join(", ")}.`,
        { hint: "Check `observationField`." },
      );
    }
    for (const field of TEXT_FIELDS) {
      const value = observation[field];
      if (typeof value === "string") return value;
    }
    const { metadata: _, ...rest } = observation;
    return JSON.stringify(rest);
  }

  #running(): { episode: Episode; socket: OpenEnvSocket } {
    if (this.#closed)
      throw new EnvironmentError("ENVIRONMENT_CLOSED", "The environment is closed.", {
        hint: "Make another with `provider.create()`.",
      });
    if (this.#episode === null || this.#socket === null)
      throw new EnvironmentError("ENVIRONMENT_NO_EPISODE", "There is no running episode.", {
        hint: "Call reset first.",
      });
    return { episode: this.#episode, socket: this.#socket };
  }
}

function resetOf(taskId: string): Readonly<Record<string, unknown>> {
  const seed = /^seed:(\d+)$/.exec(taskId);
  if (seed !== null) return { seed: Number(seed[1]) };
  if (!taskId.startsWith("{")) return { task_id: taskId };
  try {
    const value: unknown = JSON.parse(taskId);
    if (isObject(value)) return value;
  } catch {
    // Falls through to the one error below.
  }
  throw new EnvironmentError(
    "ENVIRONMENT_UNKNOWN_TASK",
    `Expected a JSON object for a task that begins with a brace, got ${describe(taskId)}.`,
    { hint: 'Write the fields of the reset, e.g. {"seed": 7}.' },
  );
}

function isStrings(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((item) => typeof item === "string");
}

async function sleep(ms: number, signal: AbortSignal | undefined): Promise<void> {
  signal?.throwIfAborted();
  let timer: NodeJS.Timeout | undefined;
  let onAbort: () => void = () => undefined;
  try {
    await new Promise<void>((resolve, reject) => {
      timer = setTimeout(resolve, ms);
      onAbort = () => reject(signal?.reason);
      signal?.addEventListener("abort", onAbort, { once: true });
    });
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", onAbort);
  }
}
