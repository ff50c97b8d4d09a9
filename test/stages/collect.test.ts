import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { readRecords } from "../../src/data/records-file.js";
import { parseTrajectory } from "../../src/data/trajectory.js";
import { EnvironmentError } from "../../src/environments/environment.js";
import { householdProvider } from "../../src/environments/household/household.js";
import { collect, collectSchema, expertRecordsOf } from "../../src/stages/collect.js";
import { select, selectSchema } from "../../src/stages/select.js";
import type { StageContext } from "../../src/stages/stage.js";
import { countingProvider } from "../rollouts/scripted.js";

async function context(): Promise<StageContext> {
  return { folder: await mkdtemp(join(tmpdir(), "act-stage-")), configHash: "c".repeat(64) };
}

describe("collect", () => {
  it("writes every decision of solved tasks, with its history", async () => {
    const where = await context();
    const result = await collect(countingProvider(), collectSchema.parse({ panel: "all", stepLimit: 3 }), where);
    expect(result).toMatchObject({ tasks: 6, solved: 3, unsolved: 3, environmentFailed: 0, states: 6 });
    const { header, records } = await readRecords(result.file, "expert");
    expect(header).toMatchObject({
      environment: { name: "counting" },
      panel: { id: "counting/all@1" },
      source: "expert",
    });
    expect(records.map((r) => r.id)).toEqual(["1#0", "2#0", "2#1", "3#0", "3#1", "3#2"]);
    expect(records[5]).toMatchObject({
      category: "odd",
      expert_action: "go",
      state: {
        task: "go 3 times",
        observation: "gone 2",
        step: 2,
        history: [
          { observation: "start", action: "go" },
          { observation: "gone 1", action: "go" },
        ],
        admissible: { actions: ["go", "wait", "stop"], patterns: [] },
      },
    });
  });

  it("keeps only the history asked for", async () => {
    const options = collectSchema.parse({ panel: "all", offset: 2, tasks: 1, history: 1 });
    const { records } = await readRecords((await collect(countingProvider(), options, await context())).file, "expert");
    expect(records.map((r) => r.state.history.length)).toEqual([0, 1, 1]);
    expect(records[2]?.state).toMatchObject({ step: 2, history: [{ observation: "gone 1" }] });
  });

  it("counts environments that fail, and says so when nothing is left", async () => {
    const fault = (task: string): EnvironmentError | null =>
      task === "2" ? new EnvironmentError("ENVIRONMENT_LOST", "gone") : null;
    const result = await collect(
      countingProvider({ fault }),
      collectSchema.parse({ panel: "all", retryPause: 1 }),
      await context(),
    );
    expect(result).toMatchObject({ solved: 5, environmentFailed: 1 });
    const all = countingProvider({ fault: () => new EnvironmentError("ENVIRONMENT_FAILED", "broken") });
    await expect(collect(all, collectSchema.parse({ panel: "all" }), await context())).rejects.toMatchObject({
      code: "STAGE_NO_DATA",
    });
  });

  it("takes up half-done work under the same configuration only", async () => {
    const where = await context();
    const controller = new AbortController();
    const options = collectSchema.parse({ panel: "all", concurrency: 1 });
    const stopped = collect(countingProvider(), options, {
      ...where,
      signal: controller.signal,
      onProgress: (done) => done === 3 && controller.abort(new Error("stop")),
    });
    await expect(stopped).rejects.toThrow("stop");
    const played: string[] = [];
    const watching = countingProvider({
      fault: (task) => {
        played.push(task);
        return null;
      },
    });
    const result = await collect(watching, options, where);
    expect([...new Set(played)]).toEqual(["4", "5", "6"]);
    const whole = await collect(countingProvider(), options, await context());
    expect((await readRecords(result.file, "expert")).records).toEqual(
      (await readRecords(whole.file, "expert")).records,
    );
  });

  it("records the expert's words where the environment has them", async () => {
    const options = collectSchema.parse({ panel: "train", tasks: 2 });
    const { file } = await collect(householdProvider(), options, await context());
    const { records } = await readRecords(file, "expert");
    expect(records.length).toBeGreaterThan(5);
    expect(records.every((r) => r.thought !== null && r.thought.length > 0)).toBe(true);
    expect(records.every((r) => r.state.admissible?.actions.includes(r.expert_action))).toBe(true);
  });
});

describe("select", () => {
  it("cuts a file into slices that do not overlap", async () => {
    const { file } = await collect(countingProvider(), collectSchema.parse({ panel: "all" }), await context());
    for (const order of ["file", "shuffled"] as const) {
      const slices = [];
      for (const range of [{ tasks: 2 }, { offset: 2, tasks: 3 }, { offset: 5 }]) {
        const { file: slice } = await select(file, selectSchema.parse({ order, ...range }), await context());
        slices.push([...new Set((await readRecords(slice, "expert")).records.map((r) => r.task_id))]);
      }
      expect(slices.map((s) => s.length)).toEqual([2, 3, 1]);
      expect(slices.flat().sort()).toEqual(["1", "2", "3", "4", "5", "6"]);
    }
    await expect(select(file, selectSchema.parse({ offset: 6 }), await context())).rejects.toMatchObject({
      code: "STAGE_NO_DATA",
    });
  });
});

describe("expertRecordsOf", () => {
  it("flattens a recorded episode", () => {
    const step = (observation: string, action: string) => ({ observation, thought: "so", action, admissible: null });
    const trajectory = parseTrajectory(
      {
        format: "act-trainer/trajectory@1",
        id: "e1",
        environment: "x",
        environment_version: null,
        task_id: "t1",
        category: null,
        task: "do it",
        steps: [step("a", "one"), step("b", "two")],
        final_observation: null,
        success: true,
        score: 1,
        source: "test",
      },
      "test",
    );
    expect(expertRecordsOf(trajectory)[1]).toEqual({
      id: "e1#1",
      task_id: "t1",
      category: null,
      state: {
        task: "do it",
        observation: "b",
        step: 1,
        history: [{ observation: "a", action: "one" }],
        admissible: null,
      },
      expert_action: "two",
      thought: "so",
    });
  });
});
