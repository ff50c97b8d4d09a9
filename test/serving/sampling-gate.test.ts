import { describe, expect, it } from "vitest";
import { SamplingGate } from "../../src/serving/sampling-gate.js";

/** Something that runs until it is told to end. */
function work(log: string[], name: string): { run: () => Promise<string>; end: () => void } {
  let end: () => void = () => undefined;
  const over = new Promise<void>((resolve) => {
    end = resolve;
  });
  const run = async (): Promise<string> => {
    log.push(`${name} begins`);
    await over;
    log.push(`${name} ends`);
    return name;
  };
  return { run, end };
}
const tick = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 5));

describe("the sampling gate", () => {
  it("lets samplers run side by side, updates alone and ahead of later samplers", async () => {
    const gate = new SamplingGate();
    const log: string[] = [];
    const [a, b, update, c, second] = ["a", "b", "update", "c", "second"].map((name) => work(log, name)) as [
      ReturnType<typeof work>,
      ReturnType<typeof work>,
      ReturnType<typeof work>,
      ReturnType<typeof work>,
      ReturnType<typeof work>,
    ];
    const all = [gate.sample(a.run), gate.sample(b.run), gate.update(update.run), gate.sample(c.run)];
    await tick();
    expect(log).toEqual(["a begins", "b begins"]);
    a.end();
    await tick();
    expect(log).toEqual(["a begins", "b begins", "a ends"]);
    b.end();
    await tick();
    expect(log.slice(3)).toEqual(["b ends", "update begins"]);
    all.push(gate.update(second.run));
    update.end();
    await tick();
    expect(log.slice(5)).toEqual(["update ends", "second begins"]);
    second.end();
    await tick();
    expect(log.slice(7)).toEqual(["second ends", "c begins"]);
    c.end();
    expect(await Promise.all(all)).toEqual(["a", "b", "update", "c", "second"]);
    expect(gate.pausedMilliseconds).toBeGreaterThan(5);
  });

  it("goes on after work that fails", async () => {
    const gate = new SamplingGate();
    const fail = async (): Promise<never> => {
      throw new Error("broken");
    };
    await expect(gate.sample(fail)).rejects.toThrow("broken");
    await expect(gate.update(fail)).rejects.toThrow("broken");
    expect(await gate.sample(async () => 1)).toBe(1);
    expect(await gate.update(async () => 2)).toBe(2);
  });

  it("ends the wait of a sampler that is aborted, and only its", async () => {
    const gate = new SamplingGate();
    const log: string[] = [];
    const update = work(log, "update");
    const updating = gate.update(update.run);
    await tick();
    const controller = new AbortController();
    const aborted = gate.sample(async () => log.push("aborted runs"), controller.signal);
    const waiting = gate.sample(async () => log.push("waiting runs"));
    controller.abort(new Error("gone"));
    await expect(aborted).rejects.toThrow("gone");
    update.end();
    await Promise.all([updating, waiting]);
    expect(log).toEqual(["update begins", "update ends", "waiting runs"]);
    await expect(gate.sample(async () => 1, controller.signal)).rejects.toThrow("gone");
  });
});
