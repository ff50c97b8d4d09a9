import { describe, expect, it } from "vitest";
import { type PooledSimulator, SimulatorPool } from "../../../src/environments/scienceworld/pool.js";

/** A simulator that only counts. */
class Fake implements PooledSimulator {
  static live = 0;
  static most = 0;
  usable = true;
  answers = true;
  episodes = 0;
  stopped = 0;

  constructor() {
    Fake.live++;
    Fake.most = Math.max(Fake.most, Fake.live);
  }

  async healthy(): Promise<boolean> {
    return this.usable && this.answers;
  }

  async stop(): Promise<void> {
    if (this.stopped++ > 0) return;
    this.usable = false;
    await sleep(2);
    Fake.live--;
  }
}

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

function pool(
  options: { maxProcesses?: number; episodesPerProcess?: number; acquireMs?: number; failures?: number } = {},
): { pool: SimulatorPool<Fake>; started: Fake[] } {
  Fake.live = 0;
  Fake.most = 0;
  let failures = options.failures ?? 0;
  const started: Fake[] = [];
  const made = new SimulatorPool<Fake>({
    maxProcesses: options.maxProcesses ?? 2,
    episodesPerProcess: options.episodesPerProcess ?? 1,
    acquireMs: options.acquireMs ?? 1000,
    start: async (signal) => {
      await sleep(1);
      signal?.throwIfAborted();
      if (failures-- > 0) throw new Error("does not start");
      const fake = new Fake();
      started.push(fake);
      return fake;
    },
  });
  return { pool: made, started };
}

describe("the pool of simulators", () => {
  it("keeps its bound with many more users than places, and serves them all", async () => {
    const { pool: p, started } = pool({ maxProcesses: 3, episodesPerProcess: 2 });
    let served = 0;
    await Promise.all(
      Array.from({ length: 12 }, async (_, user) => {
        const unregister = p.register();
        for (let round = 0; round < 5; round++) {
          const fake = await p.acquire();
          expect(fake.usable).toBe(true);
          expect(++fake.episodes).toBeLessThanOrEqual(2);
          await sleep((user + round) % 3);
          // Every seventh episode breaks its simulator.
          if ((user * 5 + round) % 7 === 0) fake.usable = false;
          served++;
          p.release(fake);
        }
        unregister();
      }),
    );
    expect(served).toBe(60);
    expect(Fake.most).toBeLessThanOrEqual(3);
    await p.close();
    expect(Fake.live).toBe(0);
    expect(started.every((fake) => fake.stopped > 0)).toBe(true);
    expect(p.statistics).toMatchObject({ lost: 9, lent: 0, idle: 0 });
  });

  it("gives a simulator back until it has played its share", async () => {
    const { pool: p, started } = pool({ episodesPerProcess: 3 });
    for (let i = 0; i < 6; i++) {
      const fake = await p.acquire();
      fake.episodes++;
      p.release(fake);
    }
    expect(started.length).toBe(2);
    expect(started.map((fake) => fake.episodes)).toEqual([3, 3]);
    await p.close();
    expect(p.statistics).toMatchObject({ started: 2, recycled: 2, lost: 0 });
  });

  it("starts the successor ahead while somebody will ask for it, and not otherwise", async () => {
    const { pool: p, started } = pool({ maxProcesses: 1 });
    const unregister = p.register();
    const first = await p.acquire();
    first.episodes++;
    p.release(first);
    await sleep(20);
    expect(started.length).toBe(2);
    const second = await p.acquire();
    expect(second).toBe(started[1]);
    unregister();
    second.episodes++;
    p.release(second);
    await sleep(20);
    expect(started.length).toBe(2);
    expect(Fake.most).toBe(1);
    await p.close();
  });

  it("throws away a simulator that does not answer when it is wanted again", async () => {
    const { pool: p, started } = pool({ episodesPerProcess: 5 });
    const first = await p.acquire();
    p.release(first);
    first.answers = false;
    expect(await p.acquire()).toBe(started[1]);
    expect(first.stopped).toBe(1);
    expect(p.statistics.lost).toBe(1);
    await p.close();
  });

  it("says so when no place comes free in time, and serves the next who asks", async () => {
    const { pool: p } = pool({ maxProcesses: 1, acquireMs: 20 });
    const held = await p.acquire();
    await expect(p.acquire()).rejects.toMatchObject({ code: "ENVIRONMENT_CAPACITY", retryable: true });
    p.release(held);
    const next = await p.acquire();
    expect(next.usable).toBe(true);
    await p.close();
  });

  it("lets a waiting caller go when its signal aborts, without losing the place", async () => {
    const { pool: p } = pool({ maxProcesses: 1 });
    const held = await p.acquire();
    const abort = new AbortController();
    const waiting = p.acquire(abort.signal);
    abort.abort(new Error("enough"));
    await expect(waiting).rejects.toThrow("enough");
    p.release(held);
    expect((await p.acquire()).usable).toBe(true);
    await p.close();
  });

  it("reports a start that fails and recovers with the next", async () => {
    const { pool: p } = pool({ maxProcesses: 1, failures: 1 });
    await expect(p.acquire()).rejects.toThrow("does not start");
    expect((await p.acquire()).usable).toBe(true);
    await p.close();
  });

  it("ends everything on close: lent, idle and waiting", async () => {
    const { pool: p, started } = pool({ maxProcesses: 2, episodesPerProcess: 9 });
    await p.acquire();
    p.release(await p.acquire());
    await p.acquire();
    const waiting = p.acquire();
    const outcome = expect(waiting).rejects.toMatchObject({ code: "ENVIRONMENT_CLOSED" });
    await p.close();
    await outcome;
    await p.close();
    await expect(p.acquire()).rejects.toMatchObject({ code: "ENVIRONMENT_CLOSED" });
    expect(started.every((fake) => fake.stopped > 0)).toBe(true);
    expect(Fake.live).toBe(0);
  });
});
