/** One ScienceWorld environment: a simulator is lent to it for each episode. */

import type { Transition } from "../environment.js";
import {
  type AdmissibleActions,
  assertAction,
  type Environment,
  EnvironmentError,
  type EpisodeStart,
} from "../environment.js";
import type { SimulatorPool } from "./pool.js";
import type { Inspection, Simulator } from "./simulator.js";
import { parseTaskId, type TaskId } from "./tasks.js";

/** How episodes run. */
export interface EpisodeRules {
  /** Actions (or moves) after which an episode of a task is cut off. */
  readonly stepLimit: (task: string) => number;
  /** What the limit counts; see the provider's option `limitCounts`. */
  readonly limitCounts: "actions" | "moves";
  /** Wall-clock limit of an episode in milliseconds; null for none. */
  readonly episodeMs: number | null;
  /** When the gold path is made; see the provider's option `goldPath`. */
  readonly goldPath: "on-demand" | "at-reset";
}

interface Episode {
  readonly simulator: Simulator;
  readonly id: TaskId;
  readonly start: EpisodeStart;
  readonly startedAt: number;
  actions: number;
  /** Last score in points, 0..100 or -100. */
  points: number;
  lastObservation: string;
  /** The expert's actions from the first state; null until asked for. */
  gold: readonly string[] | null;
  /** Whether every action so far was the expert's. */
  onGold: boolean;
}

/** An observation that asks which of several actions was meant, and takes only one of the numbers it lists. */
const AMBIGUOUS = "Ambiguous request:";
/** How observations of input begin that no rule of the grammar reads. */
const NOT_UNDERSTOOD = ["No known action matches that input.", "Unknown action."];

export class ScienceWorldEnvironment implements Environment {
  readonly #pool: SimulatorPool<Simulator>;
  readonly #rules: EpisodeRules;
  readonly #unregister: () => void;
  #episode: Episode | null = null;
  #closed = false;

  constructor(pool: SimulatorPool<Simulator>, rules: EpisodeRules) {
    this.#pool = pool;
    this.#rules = rules;
    this.#unregister = pool.register();
  }

  /** {@inheritDoc Environment.reset} Waits for a simulator when all are lent. */
  async reset(taskId: string, options: { readonly signal?: AbortSignal } = {}): Promise<EpisodeStart> {
    if (this.#closed)
      throw new EnvironmentError("ENVIRONMENT_CLOSED", "The environment is closed.", {
        hint: "Make another with `provider.create()`.",
      });
    this.#end();
    const id = parseTaskId(taskId);
    const { signal } = options;
    const simulator = await this.#pool.acquire(signal);
    try {
      simulator.episodes++;
      const withGold = this.#rules.goldPath === "at-reset";
      await simulator.load(id.task.name, id.variation, id.simplifications, withGold, signal);
      const task = await simulator.taskDescription(signal);
      const observation = await simulator.look(signal);
      const gold = withGold ? await simulator.goldPath(signal) : null;
      const start: EpisodeStart = { task, observation, category: id.task.name };
      this.#episode = {
        simulator,
        id,
        start,
        startedAt: performance.now(),
        actions: 0,
        points: 0,
        lastObservation: observation,
        gold,
        onGold: true,
      };
      if (this.#closed)
        throw new EnvironmentError("ENVIRONMENT_CLOSED", "The environment is closed.", {
          hint: "Make another with `provider.create()`.",
        });
      return start;
    } catch (error) {
      this.#episode = null;
      this.#pool.release(simulator);
      throw error;
    }
  }

  /**
   * {@inheritDoc Environment.step}
   *
   * The reward is in points: the difference of the rounded scores of 0 to 100, -100 less the score so far for a fatal
   * mistake. `accepted` is false for input that no rule of the simulator's grammar reads and for input that it asks
   * back about; an action that was read but had no effect is an ordinary, accepted one.
   */
  async step(action: string, options: { readonly signal?: AbortSignal } = {}): Promise<Transition> {
    assertAction(action);
    const episode = this.#running();
    const outcome = await this.#call(() => episode.simulator.step(action, options.signal));
    episode.onGold &&= episode.gold !== null && episode.gold[episode.actions] === action;
    episode.actions++;
    episode.lastObservation = outcome.observation;
    const points = Math.round(100 * outcome.score);
    const reward = points - episode.points;
    episode.points = points;
    const terminated = outcome.completed || outcome.score < 0;
    const truncated = !terminated && this.#overLimit(episode, outcome.moves);
    if (terminated || truncated) this.#end();
    return {
      observation: outcome.observation,
      reward,
      score: outcome.score,
      success: points === 100,
      terminated,
      truncated,
      accepted: ![...NOT_UNDERSTOOD, AMBIGUOUS].some((start) => outcome.observation.startsWith(start)),
    };
  }

  /** The simulator's list of actions that change something now; the offered numbers after an ambiguous request. */
  async admissibleActions(): Promise<AdmissibleActions> {
    const episode = this.#running();
    if (episode.lastObservation.startsWith(AMBIGUOUS)) {
      const numbers = [...episode.lastObservation.matchAll(/^(\d+):\t/gm)].map((match) => match[1] ?? "");
      return { actions: numbers, patterns: [] };
    }
    return { actions: await this.#call(() => episode.simulator.validActions()), patterns: [] };
  }

  /**
   * The next action of the gold path while it has been followed from the start, else null.
   *
   * A gold path holds for the state it was made in and now and then misses its goal: keep an episode of the expert only
   * when it ends with `success`.
   */
  async expertAction(): Promise<string | null> {
    const episode = this.#running();
    if (episode.gold === null && episode.actions === 0) episode.gold = await this.#call(() => this.#makeGold(episode));
    return episode.gold !== null && episode.onGold ? (episode.gold[episode.actions] ?? null) : null;
  }

  /** What the simulator tells beside the episode, for servers that pass it on. */
  async inspect(): Promise<Inspection> {
    const episode = this.#running();
    return this.#call(() => episode.simulator.inspect());
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#end();
    this.#unregister();
  }

  /** Loads the task again, this time with its path; the state the agent has seen must come back unchanged. */
  async #makeGold(episode: Episode): Promise<readonly string[]> {
    const { simulator, id, start } = episode;
    await simulator.load(id.task.name, id.variation, id.simplifications, true);
    if ((await simulator.look()) !== start.observation || (await simulator.taskDescription()) !== start.task)
      throw new EnvironmentError(
        "ENVIRONMENT_FAILED",
        `The first state of ${id.task.name}/${id.variation} changed when its gold path was made.`,
        { hint: 'Set `goldPath: "at-reset"` where the expert is needed for this task.' },
      );
    return simulator.goldPath();
  }

  #overLimit(episode: Episode, moves: number): boolean {
    const limit = this.#rules.stepLimit(episode.id.task.name);
    // The Python package ends an episode at the first move beyond the limit, not at the limit.
    const over = this.#rules.limitCounts === "moves" ? moves > limit : episode.actions >= limit;
    const { episodeMs } = this.#rules;
    return over || (episodeMs !== null && performance.now() - episode.startedAt > episodeMs);
  }

  /** Any fault ends the episode; the pool throws the simulator away where its state is not known. */
  async #call<T>(run: () => Promise<T>): Promise<T> {
    try {
      return await run();
    } catch (error) {
      const episode = this.#episode;
      this.#episode = null;
      if (episode !== null) this.#pool.release(episode.simulator);
      throw error;
    }
  }

  #running(): Episode {
    if (this.#closed)
      throw new EnvironmentError("ENVIRONMENT_CLOSED", "The environment is closed.", {
        hint: "Make another with `provider.create()`.",
      });
    if (this.#episode === null)
      throw new EnvironmentError("ENVIRONMENT_NO_EPISODE", "There is no running episode.", {
        hint: "Call reset first.",
      });
    return this.#episode;
  }

  #end(): void {
    const episode = this.#episode;
    this.#episode = null;
    if (episode !== null) this.#pool.release(episode.simulator);
  }
}
