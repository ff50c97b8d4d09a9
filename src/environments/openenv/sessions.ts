/** Sessions of the OpenEnv server: how many there may be, who holds them, and when they end. */
import { randomUUID } from "node:crypto";
import type { ServedEnvironment, ServedSession } from "./served.js";

/** All places are taken. */
export class CapacityReached extends Error {
  constructor(
    readonly active: number,
    readonly most: number,
  ) {
    super(`Server at capacity: ${active}/${most} sessions active. Cannot accept new connections.`);
  }
}

/** The environment could not be made. */
export class FactoryFailed extends Error {
  constructor(
    readonly factoryName: string,
    cause: unknown,
  ) {
    super(`Environment factory '${factoryName}' failed to create instance.`, { cause });
  }
}

/** One client's environment. Calls run one after the other. */
export class HeldSession {
  readonly id: string = randomUUID();
  /** Whether a socket uses it now. */
  attached = false;
  lastUsed = performance.now();
  readonly #session: ServedSession;
  #tail: Promise<unknown> = Promise.resolve();

  constructor(session: ServedSession) {
    this.#session = session;
  }

  /** Runs a call after those before it. */
  run<T>(call: (session: ServedSession) => Promise<T>): Promise<T> {
    const result = this.#tail.then(() => call(this.#session));
    this.#tail = result.catch(() => undefined);
    this.lastUsed = performance.now();
    return result;
  }
}

export class Sessions {
  readonly #environment: ServedEnvironment;
  readonly #most: number;
  readonly #held = new Map<string, HeldSession>();
  readonly #ending = new Set<Promise<void>>();
  readonly #reaper: NodeJS.Timeout | null;
  /** Sessions that hold a place, those being made or ended too. */
  #active = 0;

  /** @param idleMs Idle sessions without a socket are ended after so many milliseconds; null: never. */
  constructor(environment: ServedEnvironment, most: number, idleMs: number | null) {
    this.#environment = environment;
    this.#most = most;
    this.#reaper = idleMs === null ? null : setInterval(() => this.#reap(idleMs), Math.max(50, idleMs / 4)).unref();
  }

  get active(): number {
    return this.#active;
  }

  /** @throws CapacityReached, FactoryFailed */
  async open(): Promise<HeldSession> {
    if (this.#active >= this.#most) throw new CapacityReached(this.#active, this.#most);
    this.#active++;
    try {
      const held = new HeldSession(await this.make());
      this.#held.set(held.id, held);
      return held;
    } catch (error) {
      this.#active--;
      throw error;
    }
  }

  /** An environment outside the count, for a single HTTP call. Throws FactoryFailed. */
  async make(): Promise<ServedSession> {
    try {
      return await this.#environment.create();
    } catch (cause) {
      throw new FactoryFailed(this.#environment.className, cause);
    }
  }

  find(id: string): HeldSession | undefined {
    return this.#held.get(id);
  }

  /**
   * Ends a session once its running call has returned; its place stays taken until then, as the original does it.
   *
   * @returns Whether there was one.
   */
  end(id: string): boolean {
    const held = this.#held.get(id);
    if (held === undefined) return false;
    this.#held.delete(id);
    const ending = held
      .run((session) => session.close())
      // Nobody is left to be told.
      .catch(() => undefined)
      .finally(() => {
        this.#active--;
        this.#ending.delete(ending);
      });
    this.#ending.add(ending);
    return true;
  }

  /** Ends all sessions and waits for their running calls. */
  async close(): Promise<void> {
    if (this.#reaper !== null) clearInterval(this.#reaper);
    for (const id of [...this.#held.keys()]) this.end(id);
    await Promise.all(this.#ending);
  }

  #reap(idleMs: number): void {
    for (const held of this.#held.values())
      if (!held.attached && performance.now() - held.lastUsed > idleMs) this.end(held.id);
  }
}
