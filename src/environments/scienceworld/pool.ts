/**
 * A bounded set of simulators, lent one episode at a time.
 *
 * Never more than `maxProcesses` JVMs live at once, counting those that are starting or ending. A simulator that broke,
 * or that has played its share of episodes, is ended before its place is given on; as long as there are environments to
 * serve, its successor is started ahead of being asked for.
 */
import { EnvironmentError } from "../environment.js";
import { withDeadline } from "./connection.js";

/** What the pool needs of a simulator. */
export interface PooledSimulator {
  readonly usable: boolean;
  /** Episodes begun. */
  readonly episodes: number;
  healthy(deadlineMs: number): Promise<boolean>;
  stop(): Promise<void>;
}

export interface PoolOptions<S extends PooledSimulator> {
  readonly maxProcesses: number;
  /** Episodes after which a simulator is ended. 1: each episode has a fresh JVM, which makes it exactly repeatable. */
  readonly episodesPerProcess: number;
  /** Longest wait for a free simulator, in milliseconds. */
  readonly acquireMs: number;
  readonly start: (signal?: AbortSignal) => Promise<S>;
}

/** Counts since the pool began. */
export interface PoolStatistics {
  readonly started: number;
  /** Ended as planned. */
  readonly recycled: number;
  /** Ended because they broke, hung or died. */
  readonly lost: number;
  /** Lent now. */
  readonly lent: number;
  /** Ready or starting ahead. */
  readonly idle: number;
}

/** How long a simulator that waited may take to answer. */
const HEALTH_MS = 2000;

export class SimulatorPool<S extends PooledSimulator> {
  readonly #options: PoolOptions<S>;
  readonly #idle: Promise<S>[] = [];
  readonly #lent = new Set<S>();
  readonly #ending = new Set<Promise<void>>();
  readonly #waiting: (() => void)[] = [];
  readonly #closing = new AbortController();
  /** Places taken: lent, being started for a caller, or ending. */
  #taken = 0;
  #users = 0;
  #started = 0;
  #recycled = 0;
  #lost = 0;

  constructor(options: PoolOptions<S>) {
    this.#options = options;
  }

  /** Tells the pool of an environment that will ask for simulators; the return value takes it back. */
  register(): () => void {
    this.#users++;
    let registered = true;
    return () => {
      if (registered) this.#users--;
      registered = false;
    };
  }

  get statistics(): PoolStatistics {
    return {
      started: this.#started,
      recycled: this.#recycled,
      lost: this.#lost,
      lent: this.#lent.size,
      idle: this.#idle.length,
    };
  }

  /** Simulators that are lent now. */
  get lent(): readonly S[] {
    return [...this.#lent];
  }

  /**
   * A healthy simulator, for one episode.
   *
   * @throws EnvironmentError `ENVIRONMENT_CAPACITY` when none came free in time, `ENVIRONMENT_CLOSED`, or what starting
   *   one threw.
   */
  async acquire(signal?: AbortSignal): Promise<S> {
    await this.#takePlace(signal);
    try {
      const simulator = await this.#ready(signal);
      if (this.#closing.signal.aborted) {
        await simulator.stop();
        throw closed();
      }
      this.#lent.add(simulator);
      return simulator;
    } catch (error) {
      this.#givePlace();
      throw error;
    }
  }

  /** Takes a simulator back. Does not wait for it to end; the place is given on once it has. */
  release(simulator: S): void {
    if (!this.#lent.delete(simulator)) return;
    const reusable = simulator.usable && simulator.episodes < this.#options.episodesPerProcess;
    if (reusable && !this.#closing.signal.aborted) {
      this.#idle.push(Promise.resolve(simulator));
      this.#givePlace();
      return;
    }
    if (simulator.usable) this.#recycled++;
    else this.#lost++;
    const ending = simulator.stop().finally(() => {
      this.#ending.delete(ending);
      this.#givePlace();
      this.#startAhead();
    });
    this.#ending.add(ending);
  }

  /** Ends every simulator, lent ones too, and waits until they are gone. Safe to call twice. */
  async close(): Promise<void> {
    this.#closing.abort(closed());
    for (const wake of this.#waiting.splice(0)) wake();
    const lent = [...this.#lent].map((simulator) => simulator.stop());
    const idle = this.#idle.splice(0).map((promise) =>
      promise.then(
        (simulator) => simulator.stop(),
        () => undefined,
      ),
    );
    await Promise.all([...lent, ...idle, ...this.#ending]);
  }

  async #takePlace(signal: AbortSignal | undefined): Promise<void> {
    this.#throwIfClosed();
    signal?.throwIfAborted();
    if (this.#taken < this.#options.maxProcesses) {
      this.#taken++;
      return;
    }
    let wake: () => void = () => undefined;
    // A place that is given on stays taken: it changes hands.
    const woken = new Promise<void>((resolve) => {
      wake = resolve;
    });
    this.#waiting.push(wake);
    try {
      await withDeadline(woken, { deadlineMs: this.#options.acquireMs, signal }, "waiting for a simulator");
    } catch (error) {
      const position = this.#waiting.indexOf(wake);
      if (position >= 0) this.#waiting.splice(position, 1);
      // Woken in the same turn as the deadline: the place is ours and has to go on.
      else this.#givePlace();
      if (!(error instanceof EnvironmentError) || error.code !== "ENVIRONMENT_TIMEOUT") throw error;
      const { maxProcesses, acquireMs } = this.#options;
      throw new EnvironmentError(
        "ENVIRONMENT_CAPACITY",
        `All ${maxProcesses} simulators stayed busy for ${acquireMs} ms.`,
        { hint: "Raise `maxProcesses`, or run fewer episodes at once." },
      );
    }
    this.#throwIfClosed();
  }

  #givePlace(): void {
    const wake = this.#waiting.shift();
    if (wake === undefined) this.#taken--;
    else wake();
  }

  async #ready(signal: AbortSignal | undefined): Promise<S> {
    for (let waiting = this.#idle.shift(); waiting !== undefined; waiting = this.#idle.shift()) {
      const simulator = await this.#await(waiting, signal);
      if (simulator === null) continue;
      if (await simulator.healthy(HEALTH_MS)) return simulator;
      this.#lost++;
      await simulator.stop();
    }
    return this.#start(signal);
  }

  /** A simulator that was started ahead; null when it did not start (the caller's own start tells why). */
  async #await(starting: Promise<S>, signal: AbortSignal | undefined): Promise<S | null> {
    let onAbort: (() => void) | undefined;
    const aborted = new Promise<"aborted">((resolve) => {
      onAbort = () => resolve("aborted");
      signal?.addEventListener("abort", onAbort, { once: true });
    });
    const outcome = await Promise.race([starting.catch(() => null), aborted]);
    if (onAbort !== undefined) signal?.removeEventListener("abort", onAbort);
    if (outcome !== "aborted") return outcome;
    this.#idle.unshift(starting);
    throw signal?.reason;
  }

  async #start(signal: AbortSignal | undefined): Promise<S> {
    const both = signal === undefined ? this.#closing.signal : AbortSignal.any([signal, this.#closing.signal]);
    const simulator = await this.#options.start(both);
    this.#started++;
    return simulator;
  }

  #startAhead(): void {
    const wanted = Math.min(this.#users, this.#options.maxProcesses);
    if (this.#closing.signal.aborted || this.#taken + this.#idle.length >= wanted) return;
    const starting = this.#start(undefined);
    // Whoever takes it out of the list sees the fault; nobody may.
    starting.catch(() => undefined);
    this.#idle.push(starting);
  }

  #throwIfClosed(): void {
    if (this.#closing.signal.aborted) throw closed();
  }
}

function closed(): EnvironmentError {
  return new EnvironmentError("ENVIRONMENT_CLOSED", "The ScienceWorld provider is closed.", {
    hint: "Open another with `ScienceWorldProvider.open`.",
  });
}
