/** The environments a server has made, by number, and what the last call on each answered. */
import type { AdmissibleActions, Environment, EnvironmentProvider, EpisodeStart, Transition } from "../environment.js";
import { Refused } from "../pydantic/http.js";
import type { ScienceWorldEnvironment } from "../scienceworld/environment.js";
import type { Inspection } from "../scienceworld/simulator.js";

/** A fault that is answered with status 200 and `{"error": text}`. */
export class Told extends Error {}

/** ScienceWorld's environment; others have no such calls. */
type Inspectable = Pick<ScienceWorldEnvironment, "inspect">;

/** One environment. */
export interface Room {
  readonly id: number;
  readonly environment: Environment;
  /** Null before the first reset. */
  start: EpisodeStart | null;
  taskId: string;
  observation: string;
  reward: number;
  score: number;
  done: boolean;
  deleted: boolean;
  /** Ends with the last call on this number. */
  tail: Promise<unknown>;
}

export class Rooms {
  readonly #provider: EnvironmentProvider;
  readonly #items: readonly string[];
  readonly #most: number | null;
  readonly #rooms = new Map<number, Room>();
  #next = 0;

  constructor(provider: EnvironmentProvider, items: readonly string[], most: number | null) {
    this.#provider = provider;
    this.#items = items;
    this.#most = most;
  }

  get open(): number {
    return [...this.#rooms.values()].filter((room) => !room.deleted).length;
  }

  /** Numbers of the open ones. */
  get ids(): number[] {
    return [...this.#rooms.values()].filter((room) => !room.deleted).map((room) => room.id);
  }

  /** A new environment; numbers are never used twice. Throws Refused 503. */
  async make(): Promise<Room> {
    if (this.#most !== null && this.open >= this.#most) throw new Refused(503, { detail: "Service Unavailable" });
    const id = this.#next++;
    const environment = await this.#provider.create();
    const room: Room = {
      id,
      environment,
      start: null,
      taskId: "",
      observation: "",
      reward: 0,
      score: 0,
      done: false,
      deleted: false,
      tail: Promise.resolve(),
    };
    this.#rooms.set(id, room);
    return room;
  }

  /** @throws Told for a number that was never given out, or was closed. */
  find(id: number): Room {
    const room = this.#rooms.get(id);
    if (room === undefined) throw new Told(`The id ${id} is not valid.`);
    if (room.deleted) throw new Told(`The task with environment ${id} has been deleted.`);
    return room;
  }

  /** The room of an episode that runs, or was not yet begun. Throws Told after its end. */
  running(id: number): Room {
    const room = this.find(id);
    if (room.done) throw new Told(`The task with environment ${id} has finished.`);
    return room;
  }

  /** Begins an item's episode; numbers below zero count from the end, as Python's lists do. */
  async reset(room: Room, item: number): Promise<EpisodeStart> {
    const taskId = this.#items.at(item < -this.#items.length ? this.#items.length : item);
    if (taskId === undefined) throw new Told("list index out of range");
    const start = await this.#told(() => room.environment.reset(taskId));
    room.start = start;
    room.taskId = taskId;
    room.observation = start.observation;
    room.reward = 0;
    room.score = 0;
    room.done = false;
    return start;
  }

  async step(room: Room, action: string): Promise<Transition> {
    const outcome = await this.#told(() => room.environment.step(action));
    room.observation = outcome.observation;
    room.reward = outcome.reward;
    room.score = outcome.score;
    room.done = outcome.terminated || outcome.truncated;
    return outcome;
  }

  async admissible(room: Room): Promise<AdmissibleActions> {
    const listed = await this.#told(() => room.environment.admissibleActions());
    return listed ?? { actions: [], patterns: [] };
  }

  /** What a simulator tells beside its episode, or null where the environment has nothing more to tell. */
  async inspect(room: Room): Promise<Inspection | null> {
    const { environment } = room;
    return "inspect" in environment ? this.#told(() => (environment as Inspectable).inspect()) : null;
  }

  /** Ends an environment. Returns whether there was one. */
  async end(id: number): Promise<boolean> {
    const room = this.#rooms.get(id);
    if (room === undefined || room.deleted) return false;
    room.deleted = true;
    await room.environment.close();
    return true;
  }

  /** Runs a call on a room after those before it. */
  queued<T>(room: Room, call: () => Promise<T>): Promise<T> {
    const result = room.tail.then(call);
    room.tail = result.catch(() => undefined);
    return result;
  }

  async close(): Promise<void> {
    for (const room of this.#rooms.values()) {
      await room.tail;
      await this.end(room.id);
    }
  }

  /** A fault of the environment as a text, with its code in front. */
  async #told<T>(call: () => Promise<T>): Promise<T> {
    try {
      return await call();
    } catch (error) {
      const code = error instanceof Error && "code" in error ? `[${String(error.code)}] ` : "";
      throw new Told(`${code}${error instanceof Error ? error.message : String(error)}`);
    }
  }
}
