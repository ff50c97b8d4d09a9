import { existsSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { gzipSync } from "node:zlib";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import {
  emptyImportReport,
  type ImportOptions,
  readTaskIds,
  readTrajectories,
} from "../../src/data/trajectories/import.js";
import { replayTrajectories } from "../../src/data/trajectories/replay.js";
import { parseReply } from "../../src/data/trajectories/reply.js";
import { type Trajectory, trajectorySchema } from "../../src/data/trajectory.js";
import { DATA_INDEX_COUNT, dataIndexTask } from "../../src/environments/scienceworld/tasks.js";
import { ActError } from "../../src/errors.js";
import { toyProvider } from "../environments/toy.js";

const shared = resolve(import.meta.dirname, "../../../shared/envs");
const present = existsSync(shared);
if (!present) console.warn(`Published episodes are skipped: there is no ${shared}.`);

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "act-import-"));
});
afterEach(async () => {
  await rm(folder, { recursive: true, force: true });
});

async function read(path: string, options: ImportOptions = {}): Promise<Trajectory[]> {
  const all: Trajectory[] = [];
  for await (const trajectory of readTrajectories(path, options)) {
    // Whatever comes out fits the schema.
    expect(trajectorySchema.parse(trajectory)).toEqual(trajectory);
    all.push(trajectory);
  }
  return all;
}

async function write(name: string, content: unknown): Promise<string> {
  const path = join(folder, name);
  await writeFile(path, typeof content === "string" ? content : JSON.stringify(content));
  return path;
}

const human = (value: string, loss: boolean | null = null) => ({ from: "human", value, loss });
const gpt = (value: string, loss: boolean | null = true) => ({ from: "gpt", value, loss });
const ROOM = "You are in the middle of a room. Looking quickly around you, you see a desk 1.";
const alfworld = {
  item_id: "alfworld_7",
  conversations: [
    human("Interact with a household."),
    gpt("OK.", false),
    human(`${ROOM}\nYour task is to: put a mug in desk.\nAVAILABLE ACTIONS: go to desk 1,inventory,look`),
    gpt("Thought:\nI go.\n\nAction:\ngo to desk 1"),
    human("On the desk 1, you see nothing."),
    gpt("Action: look</s>"),
  ],
};

describe("replies", () => {
  it("are taken apart in each notation", () => {
    for (const [text, thought, action] of [
      ["Thought: I see.\nAction: go to desk 1", "I see.", "go to desk 1"],
      ["Thought:\nI see.\nTwice.\n\nAction:\ngo to desk 1\n", "I see.\nTwice.", "go to desk 1"],
      ["THOUGHT: x\nACTION: search[a: b]", "x", "search[a: b]"],
      ["Action: look\nObservation: hm", null, "look"],
      ["Thought: Action: is a word here\nAction: look", "Action: is a word here", "look"],
      ["Action: first\nThought: no\nAction: second", "Action: first\nThought: no", "second"],
      ["<think>a\nb</think><action>open door</action>", "a\nb", "open door"],
      ['{"thought":"t","action":"look"}', "t", "look"],
      ["OK.", "OK.", null],
      ["Action:", null, null],
      ["", null, null],
    ] as const)
      expect(parseReply(text), text).toEqual({ thought, action });
  });

  it("never carry a line end or an empty text, whatever is in them", () => {
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom(...'Action: Thought<>/{}"\n x') }), (text) => {
        const { thought, action } = parseReply(text);
        for (const part of [thought, action]) expect(part === null || part.trim() !== "").toBe(true);
        expect(parseReply(`Thought: ${text.replace(/\n/g, " ")}\nAction: go`).action).toBe("go");
      }),
    );
  });
});

describe("importing episodes", () => {
  it("reads AgentTraj-L: prelude, goal, listed actions, thoughts", async () => {
    const [episode, ...rest] = await read(await write("a.json", [alfworld]));
    expect(rest).toEqual([]);
    expect(episode).toEqual({
      format: "act-trainer/trajectory@1",
      id: "alfworld_7",
      environment: "alfworld",
      environment_version: null,
      task_id: "alfworld_7",
      category: null,
      task: "put a mug in desk",
      steps: [
        {
          observation: ROOM,
          thought: "I go.",
          action: "go to desk 1",
          admissible: { actions: ["go to desk 1", "inventory", "look"], patterns: [] },
        },
        { observation: "On the desk 1, you see nothing.", thought: null, action: "look", admissible: null },
      ],
      final_observation: null,
      success: null,
      score: null,
      source: "a.json",
    });
  });

  it("reads the same episode from every layout", async () => {
    const expected = await read(await write("a.json", [alfworld]), { source: "s" });
    const other = { ...alfworld, item_id: "alfworld_8" };
    for (const [name, content] of [
      ["lines.jsonl", `${JSON.stringify(alfworld)}\n${JSON.stringify(other)}\n`],
      ["one.jsonl", JSON.stringify(alfworld)],
      ["pretty.json", JSON.stringify([alfworld], null, 2)],
      ["object.json", JSON.stringify(alfworld, null, 1)],
      ["named.json", JSON.stringify({ alfworld_7: alfworld.conversations }, null, 1)],
    ] as const) {
      const path = await write(name, content);
      expect((await read(path, { source: "s" }))[0], name).toEqual(expected[0]);
      await writeFile(`${path}.gz`, gzipSync(content));
      expect((await read(`${path}.gz`, { source: "s" }))[0], `${name}.gz`).toEqual(expected[0]);
    }
  });

  it("reads ETO: no loss marks, observations with a label, a game file", async () => {
    const path = await write("eto.json", [
      {
        id: "x",
        game_file: "json_2.1.1/train/put/trial_1/game.tw-pddl",
        conversations: [
          { from: "human", value: "Interact with a household." },
          { from: "gpt", value: "OK" },
          { from: "human", value: `Observation: ${ROOM}\nYour task is to: put a mug in desk.` },
          { from: "gpt", value: "Thought: hm.\nAction: look" },
          { from: "human", value: "Observation: You are facing nothing." },
        ],
        reward: 1,
      },
    ]);
    expect(await read(path)).toMatchObject([
      {
        task_id: "json_2.1.1/train/put/trial_1/game.tw-pddl",
        task: "put a mug in desk",
        steps: [{ observation: ROOM, thought: "hm.", action: "look" }],
        final_observation: "You are facing nothing.",
        success: true,
        score: 1,
      },
    ]);
  });

  it("reads role/content messages, with and without tool calls", async () => {
    const call = (action: string) => [
      { type: "function", function: { name: "act", arguments: JSON.stringify({ action }) } },
    ];
    const path = await write("m.jsonl", {
      id: 3,
      messages: [
        { role: "system", content: "You are an agent." },
        { role: "user", content: `${ROOM}\nYour task is to: put a mug in desk.` },
        { role: "assistant", content: "I look.", tool_calls: call("look") },
        { role: "tool", content: "Nothing." },
        { role: "assistant", content: null, tool_calls: call("inventory") },
        { role: "tool", content: "You carry nothing." },
        { role: "agent", content: "", tool_calls: call("Task succeeded.") },
      ],
    });
    expect(await read(path)).toMatchObject([
      {
        id: "3",
        success: true,
        steps: [
          { thought: "I look.", action: "look" },
          { observation: "Nothing.", thought: null, action: "inventory" },
        ],
        final_observation: "You carry nothing.",
      },
    ]);
  });

  it("names tasks as the environments do", async () => {
    const episode = (item_id: string, first: string) => ({
      item_id,
      conversations: [human(first), gpt("Action: look")],
    });
    const room = "Your task is to boil water.\nThis room is called the hallway.";
    const path = await write("ids.json", [
      episode("sciworld_31", room),
      episode("sciworld_boil_4", room),
      episode("sciworld_99999", room),
      episode("webshop_6", "WebShop [SEP] Instruction: [SEP] i want a mug [SEP] Search"),
      episode("alfworld_1", ROOM),
    ]);
    const taskIds = new Map([["alfworld_1", "put/trial_1"]]);
    const episodes = await read(path, { taskIds });
    expect(episodes.map((e) => e.task_id)).toEqual(["melt/1", "boil/4", "sciworld_99999", "human/6", "put/trial_1"]);
    expect(episodes.slice(0, 4).map((e) => e.task)).toEqual([
      "Your task is to boil water.",
      "Your task is to boil water.",
      "Your task is to boil water.",
      "i want a mug",
    ]);
    expect(episodes[0]?.steps[0]?.observation).toBe("This room is called the hallway.");
    expect([DATA_INDEX_COUNT, dataIndexTask(4638), dataIndexTask(4639)]).toEqual([
      4639,
      "identify-life-stages-2/9",
      null,
    ]);
  });

  it("gives repeated ids others than those that are there", async () => {
    const named = (id: string) => ({ ...alfworld, item_id: id });
    const path = await write("repeated.json", ["alfworld_7", "alfworld_7#2", "alfworld_7", "alfworld_7"].map(named));
    const ids = (await read(path)).map((e) => e.id);
    expect(ids).toEqual(["alfworld_7", "alfworld_7#2", "alfworld_7#3", "alfworld_7#4"]);
  });

  it("counts what it cannot use, with the reason, and gives repeated ids their own", async () => {
    const path = await write("mixed.json", [
      alfworld,
      { item_id: "alfworld_9", conversations: null },
      { ...alfworld, conversations: alfworld.conversations.slice(0, 3) },
      { ...alfworld, conversations: [...alfworld.conversations, human("?"), gpt("I give up.")] },
      { item_id: "other_1", conversations: [human("Hi"), gpt("Action: wave")] },
      { item_id: "alfworld_2", conversations: [{ from: "narrator", value: "x" }] },
      { item_id: "alfworld_3", dialogue: [] },
      alfworld,
    ]);
    const report = emptyImportReport();
    const episodes = await read(path, { report });
    expect(episodes.map((e) => e.id)).toEqual(["alfworld_7", "alfworld_7#2"]);
    expect(report).toMatchObject({ records: 8, imported: 2 });
    expect(report.skipped.map(({ where }) => where)).toEqual([2, 3, 4, 5, 6, 7].map((i) => `${path}, item ${i}`));
    const reasons = report.skipped.map(({ reason }) => reason);
    expect(reasons[0]).toMatch(/no conversation/);
    expect(reasons[1]).toMatch(/no turn of the agent names an action/);
    expect(reasons[2]).toMatch(/in the middle names no action/);
    expect(reasons[3]).toMatch(/option `environment`/);
    expect(reasons[4]).toMatch(/"narrator"/);
    expect((await read(path, { environment: "greeting" })).length).toBe(3);
  });

  it("refuses files that are no episodes at all", async () => {
    const code = "DATA_BAD_RECORD";
    await expect(read(await write("n.json", [{ a: 1 }, { b: 2 }]))).rejects.toMatchObject({ code });
    await expect(read(await write("t.json", [alfworld]), { format: "trajectory" })).rejects.toMatchObject({ code });
    await expect(read(await write("t.json", [alfworld]), { format: "scienceworld-gold" })).rejects.toMatchObject({
      code,
    });
    await expect(read(await write("x.json", "[1, 2"))).rejects.toMatchObject({ code: "DATA_BAD_JSON" });
    await expect(read(await write("x.jsonl", '{"turns": 1}\n{"a":\n'))).rejects.toMatchObject({
      code: "DATA_BAD_JSON",
    });
    await expect(read(join(folder, "none.json"))).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
    expect(await read(await write("empty.jsonl", ""))).toEqual([]);
  });

  it("ends each of 500 random files in episodes or a typed error", { timeout: 120_000 }, async () => {
    const turn = fc.record(
      {
        from: fc.oneof(fc.constantFrom("human", "gpt", "system", "x"), fc.jsonValue()),
        value: fc.oneof(fc.constantFrom("Action: go", "Thought: a", "Your task is to: b"), fc.jsonValue()),
        role: fc.constantFrom("user", "assistant"),
        content: fc.oneof(fc.constantFrom("Action: go", ROOM), fc.constant(null)),
      },
      { requiredKeys: [] },
    );
    const record = fc.oneof(
      fc.record(
        {
          item_id: fc.oneof(fc.constantFrom("alfworld_1", "sciworld_2", "webshop_3"), fc.jsonValue()),
          conversations: fc.array(turn),
        },
        { requiredKeys: [] },
      ),
      fc.array(turn),
      fc.jsonValue(),
    );
    for (const value of fc.sample(fc.oneof(record, fc.array(record)), { numRuns: 500, seed: 3 })) {
      try {
        await read(await write("random.json", value));
      } catch (error) {
        expect(error).toBeInstanceOf(ActError);
      }
    }
  });
});

describe.skipIf(!present)("published episodes", () => {
  async function counted(path: string, options: ImportOptions = {}) {
    const report = emptyImportReport();
    const episodes = await read(join(shared, path), { ...options, report });
    const steps = episodes.reduce((sum, e) => sum + e.steps.length, 0);
    return { episodes, report, steps };
  }

  it("are read from every file at hand", async () => {
    const science = await counted("trajectories/scienceworld_gold_conversations.jsonl");
    expect([science.episodes.length, science.report.skipped.length]).toEqual([60, 0]);
    expect(science.episodes[0]).toMatchObject({
      environment: "scienceworld",
      task_id: "boil/0",
      score: 1,
      success: true,
    });
    expect(science.episodes[1]?.task_id).toBe("boil/0/easy");
    expect(science.episodes[0]?.steps[0]).toMatchObject({ action: "open door to kitchen" });
    expect(science.episodes[0]?.steps[0]?.observation).toMatch(/^This room is called the hallway\./);

    const houses = await counted("trajectories/alfworld_react_conversations.jsonl");
    expect([houses.episodes.length, houses.report.skipped.length]).toEqual([17, 0]);
    expect(houses.episodes[0]).toMatchObject({
      environment: "alfworld",
      task: "put some spraybottle on toilet",
      final_observation: "You put the spraybottle 2 in/on the toilet 1.",
    });

    const shops = await counted("trajectories/webshop_react_success_conversations.jsonl");
    expect([shops.episodes.length, shops.report.skipped.length]).toEqual([179, 0]);
    expect(shops.episodes[0]).toMatchObject({
      task_id: "human/1",
      task: "i want a noise cancelling cosycost usb microphone, and price lower than 50.00 dollars",
      success: true,
    });

    const react = await counted("webshop/react_episodes.jsonl");
    expect([react.episodes.length + react.report.skipped.length, react.report.records]).toEqual([500, 500]);
    const mean = react.episodes.reduce((sum, e) => sum + (e.score ?? 0), 0) / 500;
    expect(mean).toBeCloseTo(0.638, 3);
    expect(react.episodes.filter((e) => e.success).length).toBe(179);

    const gold = await counted("scienceworld/gold_episodes.jsonl");
    expect([gold.episodes.length, gold.steps]).toEqual([150, 5987]);
    expect(gold.episodes.filter((e) => e.success).length).toBe(147);

    const prompts = await counted("alfworld/demonstrations/react_alfworld_3prompts.json");
    expect([prompts.episodes.length, prompts.report.skipped.length]).toEqual([36, 0]);
    expect(prompts.episodes[0]).toMatchObject({ id: "react_put_0", task: "put some spraybottle on toilet" });
    expect(prompts.episodes[0]?.steps[0]?.thought).toMatch(/^To solve the task.*\nFirst I need to find/s);

    for (const name of ["pure", "react", "plan_first"]) {
      const bench = await counted(`alfworld/demonstrations/agentbench_alfworld_multiturn_${name}.json`);
      expect([bench.episodes.length, bench.report.skipped.length], name).toEqual([6, 0]);
      expect(bench.episodes.every((e) => e.success === true && e.task !== "" && e.environment === "alfworld")).toBe(
        true,
      );
    }
  });

  it("agree where the same episode was published in two shapes", async () => {
    const prompts = (await counted("alfworld/demonstrations/react_alfworld_3prompts.json")).episodes;
    const conversations = (await counted("trajectories/alfworld_react_conversations.jsonl")).episodes;
    const actions = (e: Trajectory | undefined): string[] => e?.steps.map((step) => step.action) ?? [];
    for (const episode of conversations) {
      const same = prompts.find((p) => `alfworld_${p.id}` === episode.id);
      expect(actions(episode), episode.id).toEqual(actions(same));
    }
  });

  it("find their ALFWorld games through AgentGym's lists", async () => {
    const ids = await readTaskIds(join(shared, "alfworld/game_lists/agentgym_mappings_test.json"));
    expect(ids.size).toBe(200);
    expect(ids.get("alfworld_2420")).toBe(
      "pick_cool_then_place_in_recep-Mug-None-CoffeeMachine-23/trial_T20190908_143209_571893",
    );
    await expect(readTaskIds(join(shared, "alfworld/game_lists/agentbench_dev.json"))).rejects.toMatchObject({
      code: "DATA_BAD_RECORD",
    });
  });
});

describe("replaying trajectories", () => {
  const step = (observation: string, action: string) => ({ observation, thought: null, action, admissible: null });
  const counting: Trajectory = {
    format: "act-trainer/trajectory@1",
    id: "c",
    environment: "toy",
    environment_version: null,
    task_id: "t1",
    category: null,
    task: "count to 3 in t1",
    steps: [
      step("The counter shows 0.", "add"),
      step("The counter shows 1.\n", "add"),
      step("The counter shows 2.", "add"),
    ],
    final_observation: "The counter shows 3.",
    success: true,
    score: 1,
    source: "test",
  };

  it("counts exact steps and episodes, and says where they differ", async () => {
    const other: Trajectory = {
      ...counting,
      id: "d",
      steps: [step("The counter shows 0.", "add"), step("The counter shows 7.", "stare")],
      final_observation: null,
      success: true,
      score: null,
    };
    const early: Trajectory = { ...counting, id: "e", steps: [...counting.steps, step("The counter shows 3.", "add")] };
    const absent: Trajectory = { ...counting, id: "f", task_id: "nowhere" };
    const broken: Trajectory = { ...counting, id: "g", steps: [step("The counter shows 0.", "break")] };
    const report = await replayTrajectories([counting, other, early, absent, broken], toyProvider(), {
      concurrency: 2,
    });
    expect(report).toMatchObject({ episodes: 5, steps: 13, exactEpisodes: 1, playedEpisodes: 1 });
    expect(report.exact).toBe(3 + 0 + 2);
    expect(report.mismatches).toEqual([
      { episode: "d", step: 0, field: "observation", expected: "The counter shows 7.", got: "The counter shows 1." },
      { episode: "d", step: 1, field: "success", expected: true, got: false },
      { episode: "e", step: 2, field: "terminated", expected: false, got: true },
    ]);
    expect(report.failed.map(({ id, reason }) => `${id} ${reason.split(":")[0]}`)).toEqual([
      "f ENVIRONMENT_UNKNOWN_TASK",
      "g ENVIRONMENT_LOST",
    ]);
  });
});
