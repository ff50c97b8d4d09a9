/**
 * The real simulator. By default a few minutes: short tasks and the gold paths of the first test variations of all 30 tasks;
 * `SCIENCEWORLD_LONG=1` also replays all 150 recorded episodes, which takes several minutes more.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import type { Environment } from "../../../src/environments/environment.js";
import { ScienceWorldEnvironment } from "../../../src/environments/scienceworld/environment.js";
import { SimulatorPool } from "../../../src/environments/scienceworld/pool.js";
import { ScienceWorldProvider } from "../../../src/environments/scienceworld/provider.js";
import { goldEpisodeSchema, replayScienceWorld } from "../../../src/environments/scienceworld/replay.js";
import { Simulator } from "../../../src/environments/scienceworld/simulator.js";
import { liveJar, recordings } from "./live.js";

const long = process.env.SCIENCEWORLD_LONG === "1";

/** Plays the expert to the end. */
async function playExpert(environment: Environment, taskId: string): Promise<{ score: number; steps: number }> {
  await environment.reset(taskId);
  for (let steps = 1; ; steps++) {
    const action = await environment.expertAction();
    if (action === null) throw new Error(`${taskId}: the expert has no action at step ${steps}`);
    const { score, success, terminated, truncated } = await environment.step(action);
    if (terminated || truncated) {
      expect(success).toBe(score === 1);
      return { score, steps };
    }
  }
}

/** Whether a process is still there. */
function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

// Starting a JVM takes a second of CPU time; a crowded machine makes half a minute of it.
describe.skipIf(liveJar === null)("the ScienceWorld simulator", { timeout: 600_000 }, () => {
  let provider: ScienceWorldProvider;
  let environment: Environment;
  beforeAll(async () => {
    provider = await ScienceWorldProvider.open({ jar: liveJar ?? "", maxProcesses: 2, stepLimit: 250 });
  });
  afterAll(async () => {
    await provider.close();
  }, 60_000);
  afterEach(async () => {
    await environment?.close();
  });

  it("plays an episode: goal, observations, scores, admissible actions, success", async () => {
    environment = await provider.create();
    await expect(environment.step("look around")).rejects.toMatchObject({ code: "ENVIRONMENT_NO_EPISODE" });
    const start = await environment.reset("find-living-thing/225");
    expect(start.category).toBe("find-living-thing");
    expect(start.task).toMatch(/^Your task is to find a\(n\) living thing\./);
    expect(start.observation).toMatch(/^This room is called the /);

    const admissible = await environment.admissibleActions();
    expect(admissible?.patterns).toEqual([]);
    expect(admissible?.actions.length).toBeGreaterThan(100);
    expect(new Set(admissible?.actions).size).toBe(admissible?.actions.length);
    const first = admissible?.actions.find((action) => action.startsWith("open door"));
    const opened = await environment.step(first ?? expect.unreachable("no door to open"));
    expect(opened).toMatchObject({ observation: "The door is now open.", accepted: true, terminated: false });
    // The reward is in points: the difference of the rounded score.
    expect(opened.reward).toBe(Math.round(100 * opened.score));

    const nonsense = await environment.step("sing a song\nloudly");
    expect(nonsense).toMatchObject({ observation: "No known action matches that input.", accepted: false, reward: 0 });

    const failed = await environment.step("focus on air");
    expect(failed).toMatchObject({ score: -1, success: false, terminated: true, truncated: false });
    expect(opened.reward + failed.reward).toBe(-100);
    await expect(environment.step("look around")).rejects.toMatchObject({ code: "ENVIRONMENT_NO_EPISODE" });

    const { score, steps } = await playExpert(environment, "lifespan-longest-lived/93");
    expect(score).toBe(1);
    expect(steps).toBeGreaterThan(2);
    await expect(environment.reset("find-living-thing/300")).rejects.toMatchObject({
      code: "ENVIRONMENT_UNKNOWN_TASK",
    });
  });

  it("says nothing as expert once the path was left", async () => {
    environment = await provider.create();
    await environment.reset("lifespan-longest-lived/93");
    const action = await environment.expertAction();
    expect(action).not.toBe(null);
    await environment.step("look around");
    expect(await environment.expertAction()).toBe(null);
    // Asked for too late: the path of a state that is gone.
    await environment.reset("lifespan-longest-lived/93");
    await environment.step(action ?? "");
    expect(await environment.expertAction()).toBe(null);
  });

  it("offers the numbers after an ambiguous request", async () => {
    environment = await provider.create();
    await environment.reset("mendelian-genetics-known-plant/0");
    for (const action of ["open door to greenhouse", "go to greenhouse", "pick up seed jar"])
      await environment.step(action);
    const asked = await environment.step("move pea seed in seed jar to flower pot 3");
    expect(asked.observation).toMatch(/^Ambiguous request:/);
    expect(asked.accepted).toBe(false);
    const offered = await environment.admissibleActions();
    expect(offered?.actions.slice(0, 2)).toEqual(["0", "1"]);
    expect((await environment.step("0")).accepted).toBe(true);
    expect((await environment.admissibleActions())?.actions.length).toBeGreaterThan(2);
  });

  it("ends episodes at their limits, counted in actions, moves or time", async () => {
    const limits = await ScienceWorldProvider.open({ jar: liveJar ?? "", maxProcesses: 1, stepLimit: 2 });
    const moves = await ScienceWorldProvider.open({
      jar: liveJar ?? "",
      maxProcesses: 1,
      stepLimit: 2,
      limitCounts: "moves",
    });
    const timed = await ScienceWorldProvider.open({ jar: liveJar ?? "", maxProcesses: 1, episodeMs: 1 });
    try {
      environment = await limits.create();
      await environment.reset("boil/0");
      expect(await environment.step("look around")).toMatchObject({ truncated: false });
      expect(await environment.step("look around")).toMatchObject({ truncated: true, terminated: false });
      await expect(environment.step("look around")).rejects.toMatchObject({ code: "ENVIRONMENT_NO_EPISODE" });
      await environment.close();

      environment = await moves.create();
      await environment.reset("boil/0");
      // Looking costs no move; `wait1` costs two.
      for (let i = 0; i < 5; i++) expect(await environment.step("look around")).toMatchObject({ truncated: false });
      expect(await environment.step("wait1")).toMatchObject({ truncated: false });
      expect(await environment.step("wait1")).toMatchObject({ truncated: true });
      await environment.close();

      environment = await timed.create();
      await environment.reset("boil/0");
      expect(await environment.step("look around")).toMatchObject({ truncated: true });
    } finally {
      await Promise.all([limits.close(), moves.close(), timed.close()]);
    }
  });

  it("ends typed when its JVM is killed, and plays on with another", async () => {
    environment = await provider.create();
    await environment.reset("boil/0");
    const [pid] = provider.processIds;
    const step = environment.step("wait");
    process.kill(pid ?? expect.unreachable("no JVM"), "SIGKILL");
    await expect(step).rejects.toMatchObject({
      code: "ENVIRONMENT_LOST",
      message: expect.stringContaining("SIGKILL"),
      retryable: true,
    });
    await expect(environment.step("wait")).rejects.toMatchObject({ code: "ENVIRONMENT_NO_EPISODE" });
    await environment.reset("boil/0");
    expect((await environment.step("look around")).accepted).toBe(true);
    expect(provider.statistics.lost).toBe(1);
  });

  it("ends a call that hangs at its deadline, and plays on with another JVM", async () => {
    const hasty = await ScienceWorldProvider.open({
      jar: liveJar ?? "",
      maxProcesses: 1,
      deadlines: { callMs: 3000 },
    });
    try {
      environment = await hasty.create();
      await environment.reset("boil/0");
      const pid = hasty.processIds[0] ?? expect.unreachable("no JVM");
      process.kill(pid, "SIGSTOP");
      const started = performance.now();
      await expect(environment.step("look around")).rejects.toMatchObject({ code: "ENVIRONMENT_TIMEOUT" });
      expect(performance.now() - started).toBeLessThan(6000);
      await vi.waitFor(() => expect(alive(pid)).toBe(false), 5000);
      await environment.reset("boil/0");
      expect((await environment.step("look around")).accepted).toBe(true);
    } finally {
      await hasty.close();
    }
  });

  it("ends typed when the JVM runs out of heap, naming the setting, and plays on", async () => {
    const heaps = [20, 256];
    const deadlines = { startMs: 60_000, loadMs: 60_000, goldMs: 60_000, callMs: 60_000 };
    const pool = new SimulatorPool({
      maxProcesses: 1,
      episodesPerProcess: 1,
      acquireMs: 60_000,
      start: (signal) =>
        Simulator.start({ java: "java", jar: liveJar ?? "", heapMb: heaps.shift() ?? 256 }, deadlines, signal),
    });
    try {
      environment = new ScienceWorldEnvironment(pool, {
        stepLimit: () => 100,
        limitCounts: "actions",
        episodeMs: null,
        goldPath: "on-demand",
      });
      await expect(environment.reset("boil/0")).rejects.toMatchObject({
        code: "ENVIRONMENT_LOST",
        message: expect.stringMatching(/heap of 20 MiB.*`heapMb`/),
      });
      await environment.reset("boil/0");
      expect((await environment.step("look around")).accepted).toBe(true);
      expect(pool.statistics).toMatchObject({ started: 2, lost: 1 });
    } finally {
      await pool.close();
    }
  });

  it("stops waiting when its signal aborts, and leaves no JVM behind on close", async () => {
    const own = await ScienceWorldProvider.open({ jar: liveJar ?? "", maxProcesses: 1 });
    environment = await own.create();
    const abort = new AbortController();
    const reset = environment.reset("boil/0", { signal: abort.signal });
    setTimeout(() => abort.abort(new Error("enough")), 50);
    await expect(reset).rejects.toThrow("enough");
    await environment.reset("boil/0");
    const pids = own.processIds;
    expect(pids.length).toBe(1);
    await own.close();
    expect(pids.filter(alive)).toEqual([]);
    await expect(environment.step("look around")).rejects.toMatchObject({ code: /ENVIRONMENT_(LOST|CLOSED)/ });
    await expect(environment.reset("boil/0")).rejects.toMatchObject({ code: "ENVIRONMENT_CLOSED" });
  });

  it.skipIf(recordings === null)("replays recorded episodes exactly", { timeout: 7_200_000 }, async () => {
    const seen = new Set<string>();
    const report = await replayScienceWorld({
      jar: liveJar ?? "",
      episodes: join(recordings ?? "", "gold_episodes.jsonl"),
      // The first short one of each kind; all of them in the long run.
      filter: (episode) => {
        if (long) return true;
        const kind = `${episode.split}${episode.simplification}`;
        if (episode.steps.length > 8 || episode.split === "dev" || seen.size === 3 || seen.has(kind)) return false;
        seen.add(kind);
        return true;
      },
    });
    expect(report.mismatches).toEqual([]);
    expect(report.exact).toBe(report.steps);
    expect(report.episodes).toBe(long ? 150 : 3);
    if (long) expect(report.steps).toBe(5987);
  });

  it.skipIf(recordings === null)("reports a difference by episode, step and field", async () => {
    const report = await replayScienceWorld({
      jar: liveJar ?? "",
      episodes: join(import.meta.dirname, "../../fixtures/scienceworld/altered_episode.jsonl"),
    });
    expect(report).toMatchObject({ episodes: 1, steps: 3, exact: 2 });
    expect(report.mismatches).toEqual([
      expect.objectContaining({ episode: "lifespan-longest-lived/93/easy", step: 1, field: "observation" }),
    ]);
    expect(report.mismatches[0]?.got).toBe("You move to the outside.");
  });

  it("reaches 100 with the gold paths of 30 tasks", { timeout: 7_200_000 }, async () => {
    const experts = await ScienceWorldProvider.open({
      jar: liveJar ?? "",
      maxProcesses: 2,
      stepLimit: 250,
      goldPath: "at-reset",
    });
    try {
      const panel = await experts.panel("test-first");
      expect(panel.tasks.length).toBe(30);
      const scores = new Map<string, number>();
      const queue = panel.tasks.values();
      const worker = async (): Promise<void> => {
        const own = await experts.create();
        for (const task of queue) scores.set(task, (await playExpert(own, task)).score);
        await own.close();
      };
      await Promise.all([worker(), worker()]);
      expect(Object.fromEntries(scores)).toEqual(Object.fromEntries(panel.tasks.map((task) => [task, 1])));
    } finally {
      await experts.close();
    }
  });

  it.skipIf(recordings === null)("spends less than a tenth of its steps on the protocol", async () => {
    const lines = readFileSync(join(recordings ?? "", "gold_episodes.jsonl"), "utf8")
      .trim()
      .split("\n");
    const recorded = lines.map((line) => goldEpisodeSchema.parse(JSON.parse(line)));
    const episode = recorded.find((e) => e.task === "boil" && e.split === "test") ?? expect.unreachable();
    const deadlines = { startMs: 60_000, loadMs: 60_000, goldMs: 60_000, callMs: 60_000 };
    const simulator = await Simulator.start({ java: "java", jar: liveJar ?? "", heapMb: 256 }, deadlines);
    const time = async (run: () => Promise<unknown>): Promise<number> => {
      const start = performance.now();
      await run();
      return performance.now() - start;
    };
    try {
      await simulator.load(episode.task, episode.variation, episode.simplification, false);
      const steps: number[] = [];
      for (const { action } of episode.steps) steps.push(await time(() => simulator.step(action)));
      // A step is four round trips. Of an empty one the fastest counts: what else the machine does is not the protocol's.
      const empty: number[] = [];
      for (let i = 0; i < 200; i++) empty.push(await time(() => simulator.healthy(60_000)));
      const mean = steps.reduce((sum, ms) => sum + ms, 0) / steps.length;
      expect(steps.length).toBeGreaterThan(30);
      expect((4 * Math.min(...empty)) / mean).toBeLessThan(0.1);
    } finally {
      await simulator.stop();
    }
  });
});

describe("the ScienceWorld provider's options", () => {
  const code = "ENVIRONMENT_BAD_OPTIONS";

  it("are checked before anything starts", async () => {
    await expect(ScienceWorldProvider.open({ jar: "/nowhere/scienceworld.jar" })).rejects.toMatchObject({ code });
    await expect(ScienceWorldProvider.open({ jars: "x" } as never)).rejects.toMatchObject({
      code,
      message: expect.stringContaining("jars"),
    });
    for (const bad of [
      { simplifications: "hard" },
      { simplifications: "noElectricalAction" },
      { stepLimit: { cook: 3 } },
      { stepLimit: 0 },
      { deadlines: { stepMs: 1 } as never },
    ])
      await expect(ScienceWorldProvider.open({ jar: import.meta.filename, ...bad })).rejects.toMatchObject({ code });
  });

  it("give panels with fixed content, and name those there are", async () => {
    // Any file is enough for panels: only its hash is needed.
    const provider = await ScienceWorldProvider.open({ jar: import.meta.filename, stepLimit: "eto" });
    expect(provider.stepLimit).toBe(120);
    expect(provider.version).toMatch(/^jar-[0-9a-f]{12}\+1\.untyped$/);
    const sizes = await Promise.all(provider.panelNames.map(async (name) => (await provider.panel(name)).tasks.length));
    expect(sizes).toEqual([3592, 1796, 1819, 30, 280, 70, 70, 1483, 194, 211]);
    const easy = await ScienceWorldProvider.open({ jar: import.meta.filename, simplifications: "easy" });
    expect((await easy.panel("test")).hash).not.toBe((await provider.panel("test")).hash);
    expect((await easy.panel("eto-test")).hash).toBe((await provider.panel("eto-test")).hash);
    await expect(provider.panel("valid")).rejects.toMatchObject({
      code: "ENVIRONMENT_UNKNOWN_PANEL",
      message: expect.stringContaining("eto-test"),
    });
    await expect((await provider.create()).reset("boil/99")).rejects.toMatchObject({
      code: "ENVIRONMENT_UNKNOWN_TASK",
    });
  });

  it("name a Java that cannot be run", async () => {
    const provider = await ScienceWorldProvider.open({ jar: import.meta.filename, java: "/nowhere/java" });
    const environment = await provider.create();
    await expect(environment.reset("boil/0")).rejects.toMatchObject({ code });
    await provider.close();
  });
});
