import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { readRecords } from "../../src/data/records-file.js";
import type { EnvironmentProvider } from "../../src/environments/environment.js";
import { evaluate, evaluateSchema } from "../../src/stages/evaluate.js";
import { countingProvider, ScriptedPolicy, testDialogue } from "../rollouts/scripted.js";

/** Two panels of unequal size: tasks 1 to 6, and two of them. */
function twoPanels(): EnvironmentProvider {
  const provider = countingProvider();
  const few = { id: "counting/few@1", tasks: ["2", "5"], hash: "b".repeat(64) };
  return { ...provider, panel: async (name) => (name === "few" ? few : provider.panel(name)) };
}

describe("evaluate", () => {
  it("plays every task of every panel, and counts on from panel to panel", async () => {
    const dialogue = await testDialogue();
    const policy = new ScriptedPolicy(dialogue, () => "<action>go</action>");
    const progress: string[] = [];
    const { panels } = await evaluate(
      { policy, dialogue },
      { id: "scripted", weightHash: "d".repeat(64) },
      twoPanels(),
      evaluateSchema.parse({ panels: { all: "all", few: "few" }, repeats: 2, stepLimit: 4, concurrency: 1 }),
      {
        folder: await mkdtemp(join(tmpdir(), "act-evaluate-")),
        configHash: "c".repeat(64),
        onProgress: (done, total, detail) => progress.push(`${done}/${total} ${detail}`),
      },
    );
    // With four steps a task of at most four is solved.
    expect(panels.all?.result).toMatchObject({ episodes: 12, successes: 8 });
    expect(panels.few?.result).toMatchObject({ episodes: 4, successes: 2 });
    expect(progress).toEqual(Array.from({ length: 16 }, (_, i) => `${i + 1}/16 ${i < 12 ? "all" : "few"}`));
  });

  it("plays some of a panel's tasks, such as those no stage has trained on", async () => {
    const dialogue = await testDialogue();
    const policy = new ScriptedPolicy(dialogue, () => "<action>go</action>");
    const play = async (range: { offset: number; tasks?: number }) => {
      const { panels } = await evaluate(
        { policy, dialogue },
        { id: "scripted", weightHash: "d".repeat(64) },
        countingProvider(),
        evaluateSchema.parse({ panels: { all: "all" }, stepLimit: 4, ...range }),
        { folder: await mkdtemp(join(tmpdir(), "act-evaluate-")), configHash: "c".repeat(64) },
      );
      return (await readRecords(panels.all?.file as string, "episodes")).records.map((r) => r.task_id);
    };
    expect(await play({ offset: 3, tasks: 2 })).toEqual(["4", "5"]);
    expect(await play({ offset: 4 })).toEqual(["5", "6"]);
    await expect(play({ offset: 6 })).rejects.toMatchObject({ code: "STAGE_NO_DATA" });
  });
});
