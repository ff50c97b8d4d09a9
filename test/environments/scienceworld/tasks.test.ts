import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { ETO_STEP_LIMITS, etoVariations } from "../../../src/environments/scienceworld/eto_split.js";
import {
  formatTaskId,
  parseTaskId,
  SHORT_TASKS,
  shortVariations,
  splitRange,
  TASKS,
} from "../../../src/environments/scienceworld/tasks.js";
import { recordings } from "./live.js";

describe("ScienceWorld tasks", () => {
  it("number what was published", () => {
    const count = (split: "train" | "dev" | "test"): number =>
      TASKS.reduce((sum, task) => sum + splitRange(task, split)[1] - splitRange(task, split)[0], 0);
    expect(TASKS.length).toBe(30);
    expect([count("train"), count("dev"), count("test")]).toEqual([3592, 1796, 1819]);
    expect(TASKS.reduce((sum, task) => sum + task.variations, 0)).toBe(7207);
  });

  it.skipIf(recordings === null)("have the ranges the simulator gave", () => {
    interface Row {
      readonly task_id: string;
      readonly task_name: string;
      readonly variations: number;
      readonly train: { readonly range: [number, number] };
      readonly dev: { readonly range: [number, number] };
      readonly test: { readonly range: [number, number] };
    }
    const rows = JSON.parse(readFileSync(join(recordings ?? "", "tasks_and_splits.json"), "utf8")) as Row[];
    expect(TASKS).toEqual(
      rows.map((row) => ({ paperId: row.task_id, name: row.task_name, variations: row.variations })),
    );
    for (const [i, row] of rows.entries())
      for (const split of ["train", "dev", "test"] as const) {
        const [first, end] = splitRange(TASKS[i] ?? expect.unreachable(), split);
        expect([first, end - 1]).toEqual(row[split].range);
      }
  });

  it("have ids that read back, and refuse everything else", () => {
    const id = formatTaskId("boil", 21, "easy");
    expect(id).toBe("boil/21/easy");
    expect(parseTaskId(id)).toMatchObject({ task: { paperId: "1-1" }, variation: 21, simplifications: "easy" });
    expect(parseTaskId("boil/0")).toMatchObject({ simplifications: "" });
    for (const bad of [
      "",
      "boil",
      "boil/",
      "boil/30",
      "boil/-1",
      "boil/01",
      "boil/1.0",
      "cook/1",
      "boil/1/hard",
      "boil/1/easy/x",
    ])
      expect(() => parseTaskId(bad), bad).toThrow(expect.objectContaining({ code: "ENVIRONMENT_UNKNOWN_TASK" }));
    expect(() => parseTaskId("test-conductivity/1/openDoors,noElectricalAction")).toThrow(/electricity/);
  });
});

describe("The short tasks", () => {
  it("come in turn, each at different variations all over its split", () => {
    for (const [split, count] of [["train", 40] as const, ["dev", 10] as const, ["test", 10] as const]) {
      const panel = shortVariations(split);
      expect(panel.map(({ task }) => task)).toEqual(Array.from({ length: count }, () => SHORT_TASKS).flat());
      expect(new Set(panel.map(({ task, variation }) => `${task}/${variation}`)).size).toBe(panel.length);
      for (const name of SHORT_TASKS) {
        const [first, end] = splitRange(TASKS.find((task) => task.name === name) ?? expect.unreachable(), split);
        const all = panel.filter(({ task }) => task === name).map(({ variation }) => variation);
        expect(all.filter((variation) => variation < first || variation >= end)).toEqual([]);
        // A first part is spread too: about as much of it in the lower half of the split as in the upper.
        const lower = all.slice(0, count / 2).filter((variation) => variation < (first + end) / 2);
        expect(Math.abs(lower.length - count / 4)).toBeLessThanOrEqual(1);
      }
    }
  });
});

describe("ETO's split", () => {
  it("has the published sizes, also where they overlap", () => {
    const lists = (["train", "dev", "test"] as const).map((split) =>
      etoVariations(split).map(({ task, variation }) => formatTaskId(task, variation, "easy")),
    );
    expect(lists.map((list) => list.length)).toEqual([1483, 194, 211]);
    for (const list of lists) {
      expect(new Set(list).size).toBe(list.length);
      for (const id of list) parseTaskId(id);
    }
    const [train = [], dev = [], test = []] = lists;
    // As published: 54 of the 194 development variations are training variations too. The test ones are apart.
    expect(dev.filter((id) => train.includes(id)).length).toBe(54);
    expect(test.filter((id) => train.includes(id) || dev.includes(id))).toEqual([]);
    expect(lists[0]).toContain("test-conductivity/412/easy");
    expect(lists[1]).toContain("measure-melting-point-known-substance/326/easy");
    expect(lists[2]?.slice(0, 2)).toEqual(["boil/21/easy", "boil/22/easy"]);
  });

  it("has a limit for each of its 24 tasks", () => {
    const tasks = new Set(etoVariations("train").map(({ task }) => task));
    expect(Object.keys(ETO_STEP_LIMITS).sort()).toEqual([...tasks].sort());
    expect(Math.min(...Object.values(ETO_STEP_LIMITS))).toBe(10);
    expect(Math.max(...Object.values(ETO_STEP_LIMITS))).toBe(120);
  });
});
