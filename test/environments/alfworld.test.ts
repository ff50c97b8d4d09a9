import { existsSync } from "node:fs";
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { alfworldEpisode, alfworldProvider } from "../../src/environments/alfworld/alfworld.js";
import { readLanguage, UnsupportedGame } from "../../src/environments/alfworld/domain.js";
import { compileGame, loadGame } from "../../src/environments/alfworld/game.js";
import { GrammarError, parseGrammar } from "../../src/environments/alfworld/grammar.js";
import { PddlError, parseExpression, parseProblem } from "../../src/environments/alfworld/pddl.js";
import { replayAlfworld } from "../../src/environments/alfworld/replay.js";
import { placesOf } from "../../src/environments/textworld/likely.js";
import { TextWorld } from "../../src/environments/textworld/rules.js";
import { MOVE_WORDING, PUT_WORDING } from "../../src/environments/textworld/world.js";

const shared = new URL("../../../shared/envs/alfworld/", import.meta.url).pathname;
const oracle = join(shared, "oracle");
const hasOracle = existsSync(oracle);
if (!hasOracle) console.warn("ALFWorld's recorded games are not in ../shared/envs/alfworld: their tests are skipped.");

const GAME = "games/pick_heat_then_place_in_recep";
let scratch = "";
beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), "alfworld-"));
});
afterAll(() => rm(scratch, { recursive: true, force: true }));

/** A real game file, and a place to write a changed one. */
async function realGame(): Promise<Record<string, string>> {
  const panel = await (await alfworldProvider({ root: oracle })).panel("all");
  const game = panel.tasks.find((task) => task.startsWith(GAME)) ?? "";
  return JSON.parse(await readFile(join(oracle, game, "game.tw-pddl"), "utf8"));
}
const compiled = (game: object) => compileGame(new TextEncoder().encode(JSON.stringify(game)), "changed");

describe.skipIf(!hasOracle)("traces of the original engine", () => {
  it.each([
    ["the games", oracle, "traces.jsonl.gz", 420, 15_458],
    ["the older wording", join(oracle, "put_wording"), "traces.jsonl.gz", 36, 1349],
    ["the real game", oracle, "sample_game_traces.jsonl.gz", 7, 241],
  ])("are equal at every step: %s", async (_name, games, file, episodes, steps) => {
    const report = await replayAlfworld({ games, traces: join(games, file) });
    expect(report).toEqual({ episodes, steps, exact: steps, mismatches: [] });
  });

  it("differ in what was changed, and in nothing else", async () => {
    const lines = gunzipSync(await readFile(join(oracle, "put_wording/traces.jsonl.gz")))
      .toString()
      .trim()
      .split("\n");
    const parsed = lines.map((line) => JSON.parse(line));
    const changed = parsed.findIndex((line) => line.kind === "planner");
    const trace = parsed[changed];
    trace.steps[1].obs = "You wake up.";
    trace.steps[2].admissible.reverse();
    trace.steps[2].won = "maybe";
    trace.start.admissible_sha256 = "0";
    const traces = join(scratch, "changed.jsonl");
    await writeFile(traces, parsed.map((line) => JSON.stringify(line)).join("\n"));
    const report = await replayAlfworld({ games: join(oracle, "put_wording"), traces });
    const episode = `${trace.game} planner`;
    expect(report.steps - report.exact).toBe(2);
    expect(report.mismatches.map(({ expected: _expected, got: _got, ...where }) => where)).toEqual([
      { episode, step: -1, field: "admissible_sha256" },
      { episode, step: 1, field: "obs" },
      { episode, step: 2, field: "won" },
      { episode, step: 2, field: "admissible" },
    ]);
  });

  it("are refused when they are no traces", async () => {
    const traces = join(scratch, "bad.jsonl");
    for (const text of [
      "{",
      '{"type":"trace","game":"g"}',
      '{"type":"trace","kind":"k","game":"g","steps":[{}]}',
      "3",
    ]) {
      await writeFile(traces, text);
      await expect(replayAlfworld({ games: oracle, traces })).rejects.toMatchObject({ code: "ENVIRONMENT_BAD_DATA" });
    }
    await writeFile(traces, Uint8Array.of(0x1f, 0x8b, 1, 2, 3));
    await expect(replayAlfworld({ games: oracle, traces })).rejects.toMatchObject({ code: "ENVIRONMENT_BAD_DATA" });
  });
});

describe.skipIf(!hasOracle)("ALFWorld games", () => {
  it("are solved within 50 steps by the hand-coded expert, and by their walkthroughs", async () => {
    // The real game does not say whether it can be solved, so no panel has it.
    const sample = { root: join(shared, "sample_game_single_agent"), tasks: ["."] };
    const { tasks } = await (await alfworldProvider({ root: oracle })).panel("all");
    for (const { root, tasks: ids } of [{ root: oracle, tasks }, sample]) {
      for (const task of ids) {
        const stored = (await loadGame(join(root, task, "game.tw-pddl"))).walkthrough !== null;
        for (const expert of stored ? (["handcoded", "walkthrough"] as const) : (["handcoded"] as const)) {
          const episode = await alfworldEpisode(task, { root, expert });
          let last = null;
          for (let action = episode.expertAction(); action !== null; action = episode.expertAction()) {
            last = episode.step(action);
          }
          expect(last, `${expert} ${task}`).toMatchObject({ success: true, terminated: true });
        }
      }
    }
  });

  it("lose their walkthrough with the first action that changes something else", async () => {
    const { tasks } = await (await alfworldProvider({ root: oracle })).panel("all");
    const episode = await alfworldEpisode(tasks[0] ?? "", { root: oracle });
    const first = episode.expertAction();
    episode.step("look");
    episode.step("no such command");
    expect(episode.expertAction()).toBe(first);
    episode.step(episode.admissible().find((command) => command.startsWith("go to") && command !== first) ?? "");
    expect(episode.expertAction()).toBeNull();
    expect(episode.expertIntention()).toBeNull();
  });

  it("start with the goal sentence and the room", async () => {
    const { tasks } = await (await alfworldProvider({ root: oracle })).panel("all");
    const task = tasks.find((id) => id.includes("pick_clean_then_place_in_recep-Cloth-None-CounterTop")) ?? "";
    const { start } = await alfworldEpisode(task, { root: oracle });
    expect(start.task).toMatch(/^(put a clean cloth in countertop|clean some cloth and put it in countertop)$/);
    expect(start.observation).toMatch(/^You are in the middle of a room\. Looking quickly around you, you see a /);
    expect(start.category).toBe("pick_clean_then_place_in_recep");
  });

  it("have their table of what may hold what in the expert's common sense", async () => {
    const { tasks } = await (await alfworldProvider({ root: oracle })).panel("all");
    for (const task of tasks) {
      const { world } = await loadGame(join(oracle, task, "game.tw-pddl"));
      for (const pair of world.canContain) {
        const [receptacle = "", object = ""] = pair.split(" ").map((type) => type.replace(/type$/, ""));
        expect(placesOf(object), object).toContain(receptacle);
      }
    }
  });
});

describe.skipIf(!hasOracle)("game files", () => {
  it("tell their wording by domain and grammar", async () => {
    const game = await realGame();
    expect(compiled(game).world.wording).toBe(MOVE_WORDING);
    const [old] = (await (await alfworldProvider({ root: join(oracle, "put_wording") })).panel("all")).tasks;
    const older = await loadGame(join(oracle, "put_wording", old ?? "", "game.tw-pddl"));
    expect(older.world.wording).toBe(PUT_WORDING);
  });

  it("may have been patched from 2.1.1 to 2.1.2, with the help text in place of a rule", async () => {
    const game = await realGame();
    const grammar = game.grammar ?? "";
    const start = grammar.indexOf("action help");
    const help = `action help {\n    template :: "help";\n    feedback :: "\n${MOVE_WORDING.help}";\n}\n`;
    const { world } = compiled({ ...game, grammar: grammar.slice(0, start) + help });
    expect(world.wording).toBe(MOVE_WORDING);
  });

  it.each([
    ["an action's precondition", "pddl_domain", "(cleanable ?o)", "(heatable ?o)", /action "cleanobject"/],
    ["one more action", "pddl_domain", "(:action look", "(:action jump) (:action look", /action "jump"/],
    ["a list's separator", "grammar", '", and "', '" and "', /rule "list_last_separator"/],
    ["a command", "grammar", "take {o} from {r}", "get {o} from {r}", /action "pickupobject"/],
    ["half of a wording", "grammar", "move {o} to {r}", "put {o} in/on {r}", /rule "PutObject.feedback"/],
    ["several agents", "pddl_problem", "agent1 - agent", "agent1 agent2 - agent", /2 agents/],
    ["the goal's predicate", "pddl_problem", "(isHot ?o)", "(isShiny ?o)", /"isshiny"/],
    ["the goal's variables", "pddl_problem", "(isHot ?o)", "(isHot ?x)", /\?x is not bound/],
    ["a sentence with the grammar's characters", "grammar", "Your task is to: ", "Your task is to: #1 ", /reserves/],
  ])("are refused with %s changed", async (_what, key, from, to, message) => {
    const game = await realGame();
    const text = game[key] ?? "";
    expect(text).toContain(from);
    const change = () => compiled({ ...game, [key]: text.replaceAll(from, to) });
    expect(change).toThrow(message);
    expect(change).toThrow(expect.objectContaining({ code: "ENVIRONMENT_BAD_DATA" }));
  });

  it("are refused when they belong to several agents", async () => {
    const path = join(shared, "sample_game_original/game.tw-pddl");
    await expect(loadGame(path)).rejects.toMatchObject({ code: "ENVIRONMENT_BAD_DATA" });
  });

  it("understand goals with other quantifiers and connectives", async () => {
    const game = await realGame();
    const problem = game.pddl_problem ?? "";
    const withGoal = (goal: string) =>
      new TextWorld(
        compiled({ ...game, pddl_problem: `${problem.slice(0, problem.indexOf("(:goal"))}(:goal ${goal}))` }).world,
      );
    const closed = "(forall (?r - receptacle) (imply (receptacleType ?r FridgeType) (not (opened ?r))))";
    for (const [goal, won] of [
      [closed, true],
      [`(not ${closed})`, false],
      ["(exists (?a - agent) (holdsAny ?a))", false],
      ["(or (exists (?o - object) (isSliced ?o)) (exists (?a - agent ?l - location) (atLocation ?a ?l)))", true],
      [
        "(exists (?o ?p - object ?r - receptacle) (and (inReceptacle ?o ?r) (inReceptacle ?p ?r) (not (= ?o ?p))))",
        true,
      ],
      ["()", true],
    ] as const) {
      const world = withGoal(goal);
      expect(world.won(), goal).toBe(won);
      if (goal !== closed) continue;
      world.step("go to fridge 1");
      expect(world.step("open fridge 1")).toMatchObject({ accepted: true, won: false });
      expect(world.step("close fridge 1")).toMatchObject({ won: true });
    }
  });

  it("are read or refused with a typed error when they are damaged", async () => {
    const game = await realGame();
    const bytes = new TextEncoder().encode(JSON.stringify(game));
    const cuts = fc.tuple(fc.nat({ max: bytes.length - 1 }), fc.nat({ max: 40 }), fc.uint8Array({ maxLength: 8 }));
    const property = fc.property(cuts, ([at, length, put]) => {
      const damaged = Uint8Array.of(...bytes.slice(0, at), ...put, ...bytes.slice(at + length));
      try {
        compileGame(damaged, "damaged");
      } catch (error) {
        expect(error).toMatchObject({ name: "EnvironmentError", code: "ENVIRONMENT_BAD_DATA" });
      }
    });
    fc.assert(property, { numRuns: 60 });
  });
});

describe.skipIf(!hasOracle)("ALFWorld panels", () => {
  it("are the release's splits, sorted by path, with the games left out that ALFWorld leaves out", async () => {
    const root = join(scratch, "release");
    const { tasks } = await (await alfworldProvider({ root: oracle })).panel("all");
    const [a = "", b = "", c = ""] = tasks;
    const game = await realGame();
    const put = async (to: string, from: string) => {
      await mkdir(join(root, to), { recursive: true });
      await cp(join(oracle, from, "game.tw-pddl"), join(root, to, "game.tw-pddl"));
    };
    // Written in an order that is not the sorted one.
    await put("valid_seen/z/trial_2", a);
    await put("valid_seen/z/trial_10", b);
    await put("valid_seen/a/trial_1", c);
    await put("train/x/trial_1", a);
    await put("valid_seen/pick_and_place_with_movable_recep-A-B-C-1/trial_1", a);
    await put("valid_seen/pick-AppleSliced-None-Fridge-1/trial_1", a);
    for (const [name, solvable] of Object.entries({ never: false, unknown: undefined })) {
      await mkdir(join(root, `valid_seen/${name}`), { recursive: true });
      await writeFile(join(root, `valid_seen/${name}/game.tw-pddl`), JSON.stringify({ ...game, solvable }));
    }
    const provider = await alfworldProvider({ root });
    expect(provider.panelNames).toEqual(["train", "valid_seen"]);
    const panel = await provider.panel("valid_seen");
    expect(panel.id).toBe("alfworld/valid_seen@1");
    expect(panel.tasks).toEqual(["valid_seen/a/trial_1", "valid_seen/z/trial_10", "valid_seen/z/trial_2"]);
    expect(await provider.skipped("valid_seen")).toEqual([
      { game: "valid_seen/never", reason: "not solvable" },
      { game: "valid_seen/pick-AppleSliced-None-Fridge-1/trial_1", reason: "sliced object" },
      { game: "valid_seen/pick_and_place_with_movable_recep-A-B-C-1/trial_1", reason: "movable receptacle" },
      { game: "valid_seen/unknown", reason: "solvability not stated" },
    ]);
    // The hash is of content: the same games give it again, another game in the same place does not.
    expect((await (await alfworldProvider({ root })).panel("valid_seen")).hash).toBe(panel.hash);
    await put("valid_seen/a/trial_1", b);
    expect((await (await alfworldProvider({ root })).panel("valid_seen")).hash).not.toBe(panel.hash);
  });

  it("are one panel for a folder that is no release", async () => {
    const provider = await alfworldProvider({ root: join(oracle, "games") });
    expect(provider.panelNames).toEqual(["all"]);
    const panel = await provider.panel("all");
    expect(panel.tasks).toHaveLength(60);
    const environment = await provider.create();
    await environment.reset(panel.tasks[0] ?? "");
    expect((await environment.admissibleActions()).actions).toContain("look");
  });

  it.each([
    ["a root that is not there", "ENVIRONMENT_BAD_OPTIONS", () => alfworldProvider({ root: join(oracle, "nowhere") })],
    ["no root", "ENVIRONMENT_BAD_OPTIONS", () => alfworldProvider({} as { root: string })],
    [
      "an unknown option",
      "ENVIRONMENT_BAD_OPTIONS",
      () => alfworldProvider({ root: oracle, seed: 1 } as { root: string }),
    ],
    [
      "a panel it lacks",
      "ENVIRONMENT_UNKNOWN_PANEL",
      async () => (await alfworldProvider({ root: oracle })).panel("train"),
    ],
    ["a game that is not there", "ENVIRONMENT_UNKNOWN_TASK", () => alfworldEpisode("games/none", { root: oracle })],
    ["a path that leaves the root", "ENVIRONMENT_UNKNOWN_TASK", () => alfworldEpisode("../oracle", { root: oracle })],
  ])("refuse %s with %s", async (_what, code, call) => {
    await expect(call()).rejects.toMatchObject({ code });
  });

  it("refuse a folder without games", async () => {
    const root = join(scratch, "empty");
    await mkdir(root);
    const provider = await alfworldProvider({ root });
    await expect(provider.panel("all")).rejects.toMatchObject({ code: "ENVIRONMENT_BAD_DATA" });
  });
});

describe("readers", () => {
  it("take any text or refuse it with their own error", () => {
    const pieces = fc.constantFrom(
      "(",
      ")",
      "define",
      ":goal",
      ":init",
      "(:objects a - b)",
      "and",
      "exists",
      "?x",
      "-",
      " ",
      "=",
      ";",
    );
    const texts = fc.oneof(
      fc.string(),
      fc.array(pieces, { maxLength: 30 }).map((list) => list.join(" ")),
    );
    fc.assert(
      fc.property(texts, (text) => {
        for (const [read, type] of [
          [parseExpression, PddlError],
          [parseProblem, PddlError],
          [parseGrammar, GrammarError],
        ] as const) {
          try {
            read(text);
          } catch (error) {
            expect(error).toBeInstanceOf(type);
          }
        }
        expect(() => readLanguage(text, text)).toThrow(UnsupportedGame);
      }),
      { numRuns: 300 },
    );
  });

  it("count a fact once, however often and in whatever case it is written", () => {
    const init = "(inReceptacle egg_1 table_1) (INRECEPTACLE egg_1 table_1) (inReceptacle egg_1 table_2)";
    expect(parseProblem(`(define (:init ${init}) (:goal (and)))`).facts).toEqual([
      ["inreceptacle", "egg_1", "table_1"],
      ["inreceptacle", "egg_1", "table_2"],
    ]);
  });

  it("read expressions without regard to case, comments and a parenthesis too many", () => {
    expect(parseExpression("(A (b ?C) ; (not\n d)))")).toEqual(["a", ["b", "?c"], "d"]);
  });
});
