import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import ts from "typescript";
import { describe, expect, it, vi } from "vitest";
import type { Policy } from "../../src/engine/policy.js";
import { OpenEnvProvider } from "../../src/environments/openenv/openenv.js";
import { Dialogue, promptSchema } from "../../src/rollouts/dialogue.js";
import type { Episode } from "../../src/rollouts/episode.js";
import { ChatTemplate } from "../../src/tokens/chat-template.js";
import { Tokenizer } from "../../src/tokens/tokenizer.js";
import { ScriptedPolicy, serveScript, TOKENIZER } from "../serving/scripted-policy.js";
import { tinyModelFolder } from "../stages/tiny-model.js";

// The example imports the package by its name; here that is the sources, not whatever was built last.
vi.mock("act-trainer", () => import("../../src/index.js"));

const root = join(import.meta.dirname, "../..");
const execute = promisify(execFile);
/** Runs an example as a user would. */
async function example(name: string, ...args: string[]): Promise<string> {
  const { stdout } = await execute(process.execPath, [join("examples", name), ...args], { cwd: root });
  return stdout;
}

describe("examples/custom-environment.mjs", () => {
  const text = readFileSync(join(root, "examples/custom-environment.mjs"), "utf8");
  interface Module {
    playAll(policy: Policy, dialogue: Dialogue): Promise<Episode[]>;
  }
  async function load(): Promise<Module> {
    // Not a literal: the example is plain JavaScript.
    const path: string = "../../examples/custom-environment.mjs";
    return (await import(path)) as Module;
  }

  it("is an environment of less than forty lines", () => {
    const [, environment = ""] = text.split(/^\/\/ --- .*$/mu);
    const lines = environment.trim().split("\n");
    expect(lines.length).toBeGreaterThan(10);
    expect(lines.length).toBeLessThan(40);
  });

  it("fits the types of the package", () => {
    const file = join(root, "examples/custom-environment.mjs");
    const program = ts.createProgram([file], {
      ...{ allowJs: true, checkJs: true, noEmit: true, skipLibCheck: true, types: ["node"], strict: true },
      ...{
        module: ts.ModuleKind.NodeNext,
        target: ts.ScriptTarget.ES2022,
        lib: ["lib.es2023.d.ts", "lib.esnext.disposable.d.ts"],
      },
      ...{ baseUrl: root, paths: { "act-trainer": ["src/index.ts"] }, noImplicitAny: false },
    });
    const source = program.getSourceFile(file);
    const found = program.getSemanticDiagnostics(source);
    expect(found.map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, " "))).toEqual([]);
  }, 180_000);

  it("is played by a policy that halves the range, and by one that says nothing", async () => {
    const { playAll } = await load();
    const tokenizer = await Tokenizer.load(TOKENIZER);
    const dialogue = new Dialogue(await ChatTemplate.load(tokenizer), promptSchema.parse({ reasoning: false }));
    const halving = new ScriptedPolicy(tokenizer, async (prompt) => {
      const [low = 0, high = 0] = [...prompt.matchAll(/between (\d+) and (\d+)/gu)].at(-1)?.slice(1).map(Number) ?? [];
      return [...(await tokenizer.encode(`<action>guess ${Math.floor((low + high) / 2)}</action>`)), 2];
    });
    const won = await playAll(halving, dialogue);
    expect(won).toHaveLength(20);
    expect(won.map(({ outcome, score }) => [outcome, score])).toEqual(won.map(() => ["success", 1]));
    expect(Math.max(...won.map(({ steps }) => steps.length))).toBeLessThanOrEqual(5);
    expect(won.every(({ transcript }) => transcript !== null && transcript.length > 0)).toBe(true);

    const silent = new ScriptedPolicy(tokenizer, async () => [2]);
    const lost = await playAll(silent, dialogue);
    expect(lost.map(({ outcome, truncation }) => [outcome, truncation])).toEqual(
      lost.map(() => ["truncated", "stop_condition"]),
    );
  });

  const built =
    existsSync(join(root, "dist/index.js")) && existsSync(join(root, "build/native/Release/act_addon.node"));
  if (!built) console.warn("examples/custom-environment.mjs is not run as a program: the package is not built.");
  it.skipIf(!built)(
    "runs as a program over a model folder",
    async () => {
      const counts = JSON.parse(await example("custom-environment.mjs", await tinyModelFolder()));
      expect(counts.success + counts.failure + counts.truncated).toBe(20);
      expect(counts.environment_failed).toBe(0);
    },
    120_000,
  );
});

describe.skipIf(!existsSync(join(root, "dist/index.js")))("examples/environment-server.mjs", () => {
  it("serves the environment of one's own, expert included, to whoever speaks the protocol", async () => {
    const child = spawn(process.execPath, ["examples/environment-server.mjs", "0"], { cwd: root });
    const failed: string[] = [];
    child.stderr.setEncoding("utf8").on("data", (text: string) => failed.push(text));
    const exited = once(child, "exit");
    try {
      const url = await Promise.race([
        once(child.stdout.setEncoding("utf8"), "data").then(([text]) => String(text).trim()),
        exited.then(() => expect.unreachable(failed.join(""))),
      ]);
      const provider = await OpenEnvProvider.open({ url, panels: { all: ["number/7", "number/20"] } });
      const environment = await provider.create();
      for (const [task, guesses] of [
        ["number/7", ["guess 10", "guess 5", "guess 7"]],
        ["number/20", ["guess 10", "guess 15", "guess 18", "guess 19", "guess 20"]],
      ] as const) {
        expect(await environment.reset(task)).toMatchObject({
          task: "guess the number",
          observation: "It is between 1 and 20.",
        });
        expect(await environment.step("guess 21")).toMatchObject({ accepted: false, observation: "Guess a number." });
        for (const guess of guesses) {
          expect(await environment.expertAction()).toBe(guess);
          const { success, reward } = await environment.step(guess);
          expect([success, reward]).toEqual(guess === guesses.at(-1) ? [true, 1] : [false, 0]);
        }
      }
      await environment.close();
      await provider.close();
    } finally {
      child.kill("SIGTERM");
    }
    // Its server closed, nothing keeps it.
    expect(await exited).toEqual([0, null]);
  }, 120_000);
});

describe("examples/agent-over-http.mjs", () => {
  it("plays through the endpoint and posts its rewards", async () => {
    const doors = ["red", "blue", "green", "black"];
    // Opens the doors in order, half of the time after an answer that names none.
    const { server, errors, tokenizer } = await serveScript(
      (prompt, { seed }) => {
        const tried = prompt.split("Nothing behind").length - 1;
        if (BigInt(seed) % 2n === 0n && !prompt.includes("Name a door.")) return "hm";
        return `I open the ${doors[tried]} door`;
      },
      { apiKey: "sesame", episodes: { groupSize: 6 } },
    );
    try {
      const args = ["--url", `${server.url}/v1`, "--key", "sesame", "--rounds", "3", "--group-size", "6"];
      const lines = (await example("agent-over-http.mjs", ...args))
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line));
      expect(errors).toEqual([]);
      const groups = await server.episodes.takeGroups(3);
      expect(server.episodes.counts).toMatchObject({ opened: 18, finished: 18, separateTurns: 0, lostTurns: 0 });
      for (const [round, { episodes, group }] of groups.entries()) {
        expect(episodes).toHaveLength(6);
        const rewards = episodes.map(({ reward }) => reward ?? Number.NaN);
        expect(lines[round].mean).toBeCloseTo(rewards.reduce((a, b) => a + b) / 6, 12);
        expect(group.samples.map(({ reward }) => reward)).toEqual(rewards);
        for (const { recorded, outcome, reward } of episodes) {
          // The lamp is behind the door of the round's number: found at that turn, or one later, or not in three.
          const text = await tokenizer.decode(recorded.transcripts[0]?.tokens() ?? []);
          const hesitated = text.includes("Name a door.");
          const turn = round + Number(hesitated);
          expect(outcome).toBe(turn < 3 ? "success" : "failure");
          expect(reward).toBeCloseTo((turn < 3 ? 1 / 2 ** turn : 0) - (hesitated ? 0.1 : 0), 12);
          expect(recorded.turns).toBe(Math.min(3, turn + 1));
          expect(recorded.transcripts).toHaveLength(1);
        }
      }
    } finally {
      await server.close();
    }
  });
});
