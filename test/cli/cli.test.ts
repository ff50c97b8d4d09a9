/** The built command line as a user runs it. Needs `npm run build`. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { loadAddon } from "../../src/engine/addon.js";
import { summarySchema } from "../../src/evaluation/summary.js";
import { tinyModelFolder } from "../stages/tiny-model.js";
import { cli, main, PATIENCE, type Result } from "./command.js";

const folder = mkdtempSync(join(tmpdir(), "act-cli-"));

/** An answer as it comes; what a test reads of it, it checks. */
// biome-ignore lint/suspicious/noExplicitAny: JSON of any shape, asserted on field by field
type Json = any;

const jsonLines = (text: string): Json[] =>
  text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line));

let model: string;
beforeAll(async () => {
  model = await tinyModelFolder();
});

describe("errors", () => {
  it.each([
    [["frobnicate"], 2, "CLI_UNKNOWN_COMMAND", ""],
    [["evalute"], 2, "Did you mean `evaluate`?", ""],
    [["generate"], 2, "--model", ""],
    [["generate", "--modle", "m"], 2, "unknown option '--modle'\n(Did you mean --model?)", ""],
    [["generate", "--model", "nowhere"], 3, "FILE_NOT_FOUND", ""],
    [["generate", "--model", "nowhere", "--temperature", "hot"], 2, "Expected a number >= 0", ""],
    [["run", "nowhere.yaml"], 3, "FILE_NOT_FOUND", ""],
    [["resume", "nowhere"], 3, "RUN_NOT_FOUND", ""],
    [
      ["collect", "--environment", "houshold", "--panel", "x", "--out", join(folder, "e1")],
      2,
      "ENVIRONMENT_UNKNOWN",
      "",
    ],
    [
      ["collect", "--environment", "household", "--panel", "x", "--out", join(folder, "e2")],
      2,
      "ENVIRONMENT_UNKNOWN_PANEL",
      "",
    ],
    [
      ["collect", "--environment", "household", "--panel", "train", "--out", join(folder, "e3"), "--set", "task=1"],
      2,
      "Did you mean `tasks`?",
      "",
    ],
    [["judge", "--model", "m", "--out", join(folder, "e4")], 2, "pairs", ""],
    [
      ["collect", "--environment", "household", "--panel", "trian", "--out", join(folder, "e5")],
      2,
      'stages.collect.panel: household has no panel "trian". Did you mean `train`?',
      "",
    ],
    [
      [
        ...["evaluate", "--model", "m", "--environment", "household", "--out", join(folder, "e6")],
        ...["--panel", "in=test-in", "--panel", "in=test-out"],
      ],
      2,
      "CLI_BAD_FLAG",
      "",
    ],
    [["reinforce", "--model", "m", "--form", "foo", "--out", join(folder, "e7")], 2, "one of states, episodes", ""],
  ])("%j", (args, status, text) => {
    const result = cli(args);
    expect(result.stderr).toContain(text);
    expect(result.stderr).not.toMatch(/^\s+at /mu);
    expect(result.status).toBe(status);
  });

  it("shows the stack with --debug", () => {
    expect(cli(["resume", "nowhere", "--debug"]).stderr).toMatch(/^\s+at /mu);
  });

  it("ends well for help and version", () => {
    expect(cli(["--help"])).toMatchObject({ status: 0, stdout: expect.stringContaining("judge") });
    expect(cli(["judge", "--help"])).toMatchObject({ status: 0, stdout: expect.stringContaining("--group-size") });
    expect(cli(["--version"])).toMatchObject({ status: 0, stdout: expect.stringMatching(/^\d+\.\d+\.\d+/u) });
  });
});

describe("generate and score", () => {
  const prompts = Array.from({ length: 24 }, (_, i) => ({ messages: [{ role: "user", content: `go to shelf ${i}` }] }));
  const input = `${prompts.map((p) => JSON.stringify(p)).join("\n")}\n`;
  const generate = (...flags: string[]): Result =>
    cli(["generate", "--model", model, "--max-new-tokens", "8", ...flags], input);

  it("answers in the order of the input, whatever runs at once, and scores to the same bits", () => {
    const one = generate("--concurrency", "1", "--threads", "1");
    const many = generate("--concurrency", "24", "--threads", "2");
    expect(many.stdout).toBe(one.stdout);
    expect(generate("--seed", "1").stdout).not.toBe(one.stdout);
    const answers = jsonLines(one.stdout);
    expect(answers).toHaveLength(24);
    for (const a of answers) {
      expect(Object.keys(a)).toEqual(["prompt_ids", "ids", "text", "logprobs", "finish_reason"]);
      expect(a.logprobs).toHaveLength(a.ids.length);
    }
    const scored = cli(
      ["score", "--model", model],
      answers.map((a) => `${JSON.stringify({ ids: [...a.prompt_ids, ...a.ids] })}\n`).join(""),
    );
    jsonLines(scored.stdout).forEach((s, i) => {
      const answer = answers[i];
      expect(s.logprobs.slice(answer.prompt_ids.length - 1)).toEqual(answer.logprobs);
      expect(s.sum).toBeCloseTo(
        s.logprobs.reduce((x: number, y: number) => x + y, 0),
        9,
      );
    });
  });

  it("answers bad lines with errors and goes on", () => {
    const lines = [
      "not json",
      "",
      '{"ids": [1, 999999]}',
      '{"ids": []}',
      '{"text": "a", "ids": [1]}',
      '{"text": "a", "temprature": 1}',
      '{"text": "a", "temperature": -1, "id": "cold"}',
      '{"ids": [1, 2], "stop": [""], "id": "stopless"}',
      '{"messages": [{"role": "user", "content": "<|im_end|>"}], "id": "control"}',
      '{"ids": [1, 2], "stop": "x", "id": "last"}',
      "[1]",
    ];
    const result = cli(["generate", "--model", model, "--max-new-tokens", "2"], lines.join("\n"));
    expect(result.status).toBe(0);
    const answers = jsonLines(result.stdout);
    expect(answers.map((a) => a.error?.code ?? a.id)).toEqual([
      "DATA_BAD_JSON",
      "TOKEN_OUT_OF_RANGE",
      "CONFIG_BAD_VALUE",
      "CONFIG_BAD_VALUE",
      "CONFIG_UNKNOWN_KEY",
      "CONFIG_BAD_VALUE",
      "CONFIG_BAD_VALUE",
      "TEMPLATE_CONTROL_TOKEN",
      "last",
      "CONFIG_BAD_VALUE",
    ]);
    expect(answers.map((a) => a.line)).toEqual([1, 3, 4, 5, 6, 7, 8, 9, undefined, 11]);
    expect(answers.map((a) => a.id)).toEqual([
      ...new Array(5).fill(undefined),
      ...["cold", "stopless", "control", "last", undefined],
    ]);
    expect(answers[5]?.error.message).toContain("line: Expected a number >= 0 for `temperature`, got -1.");
    expect(answers[7]?.error.hint).toContain("give the whole prompt as `text`");
    expect(answers[4]?.error.hint).toContain("temperature");
    const scored = jsonLines(cli(["score", "--model", model], '{"ids":[5]}\n{"messages":[]}\n').stdout);
    expect(scored[0]).toEqual({ ids: [5], logprobs: [], sum: 0 });
    expect(scored[1]?.error.code).toBe("CONFIG_UNKNOWN_KEY");
  });

  it("ends a completion at a stop text, and leaves the stop token out of the text", () => {
    const answers = jsonLines(generate("--temperature", "1").stdout);
    for (const a of answers) if (a.finish_reason === "stop") expect(a.text).not.toContain("<|im_end|>");
  });

  it("stops on Ctrl-C with status 130, waiting for input or not", async () => {
    const child = spawn(process.execPath, [main, "generate", "--model", model, "--max-new-tokens", "2"]);
    child.stdin.write(`${JSON.stringify(prompts[0])}\n`);
    await once(child.stdout, "data");
    child.kill("SIGINT");
    const [code] = await once(child, "exit");
    expect(code).toBe(130);
  });
});

/** A recipe of every kind of stage on a tiny model: minutes of a real run in seconds. */
function recipe(): string {
  const file = join(folder, "small.yaml");
  const short = "sampling: { maxNewTokens: 8 }, optimizer: { learningRate: 0.01 }, steps: 4, batch: 4, groupSize: 3";
  writeFileSync(
    file,
    `name: small
models: { base: { path: ${model} } }
environments: { house: { name: household } }
engine: { dtype: fp32, threads: 1 }
prompt: { template: compact, reasoning: false, history: 2 }
stages:
  expert: { stage: collect, environment: house, panel: test-in, tasks: 3 }
  warm: { stage: imitate, model: base, expert: expert, steps: 24, batch: 4, optimizer: { learningRate: 0.02 }, checkpoint: { every: 5 } }
  pairs: { stage: pair, model: warm, expert: expert, draws: 12, sampling: { maxNewTokens: 12, temperature: 1.5 } }
  act: { stage: judge, model: warm, pairs: pairs, ${short}, checkpoint: { every: 1 } }
  rl: { stage: reinforce, model: act, expert: expert, ${short}, objective: { name: rloo } }
  before: &assess { stage: assess, model: warm, pairs: pairs, sampling: { maxNewTokens: 8 } }
  after: { <<: *assess, model: act }
  evalBase: &evaluate { stage: evaluate, model: base, environment: house, panels: { in_distribution: test-in }, tasks: 3, stepLimit: 2, sampling: { maxNewTokens: 8 } }
  evalAct: { <<: *evaluate, model: rl }
summary:
  policies: { initial: evalBase, act: evalAct }
  judge: { before: before, after: after }
  comparisons: [{ left: initial, right: act }]
`,
  );
  return file;
}

/** Everything a run leaves that must not depend on the clock. */
function outputs(run: string): Record<string, string> {
  const files = [
    "expert/expert.jsonl",
    "pairs/pairs.jsonl",
    "before/judgments.jsonl",
    "after/judgments.jsonl",
    "evalBase/episodes.in_distribution.jsonl",
    "evalAct/episodes.in_distribution.jsonl",
    ...["warm", "act", "rl"].flatMap((s) => [
      `${s}/metrics.jsonl`,
      `${s}/samples.jsonl`,
      `${s}/model/model.safetensors`,
    ]),
  ];
  return Object.fromEntries(files.map((f) => [f, readFileSync(join(run, "stages", f)).toString("base64")]));
}

/** Waits for a text on a child's stderr, which stays open. */
function sees(child: ChildProcess, text: string): Promise<void> {
  return new Promise((resolve, reject) => {
    let seen = "";
    child.stderr?.on("data", (chunk) => {
      seen += String(chunk);
      if (seen.includes(text)) resolve();
    });
    child.on("exit", () => reject(new Error(`ended without ${text}: ${seen}`)));
  });
}

describe("run and resume", { timeout: PATIENCE }, () => {
  let whole: Record<string, string>;
  let file: string;

  it("runs a recipe to its summary and its page", () => {
    file = recipe();
    const run = join(folder, "whole");
    const result = cli(["run", file, "--run", run]);
    expect(result.stderr).not.toContain("error");
    expect(result.status).toBe(0);
    expect(result.stdout).toContain("in distribution");
    whole = outputs(run);
    const summary = summarySchema.parse(JSON.parse(readFileSync(join(run, "summary.json"), "utf8")));
    expect(summary.policies.act?.in_distribution).toMatchObject({ episodes: 3, panel: "household/test-in@1" });
    expect(summary.judge.before?.pairs).toBeGreaterThan(0);
    expect(summary.comparisons).toHaveLength(1);
    const page = readFileSync(join(run, "report.html"), "utf8");
    expect(page).toContain("<svg");
    // Nothing to load: no address but the page's own.
    expect(page).not.toMatch(/(?:src|href)=|@import|url\(/u);
    expect(JSON.parse(cli(["status", run]).stdout)).toMatchObject({ status: "complete" });
    expect(cli(["run", file, "--run", run])).toMatchObject({
      status: 2,
      stderr: expect.stringContaining("RUN_EXISTS"),
    });
  });

  it("takes dtype, threads and seed as flags, and checks all stages before the first", () => {
    const check = (...flags: string[]): Result => cli(["run", file, "--check", ...flags]);
    const flags = ["--dtype", "bf16", "--threads", "2", "--seed", "7"];
    expect(JSON.parse(check(...flags).stdout)).toMatchObject({ engine: { dtype: "bf16", threads: 2 }, seeds: [7] });
    expect(check("--dtype", "fp61")).toMatchObject({
      status: 2,
      stderr: expect.stringContaining("Expected one of fp32, bf16"),
    });
    const run = join(folder, "unchecked");
    const wrong = ["--set", "stages.evalAct.panels.in_distribution=test"];
    for (const result of [check(...wrong), cli(["run", file, "--run", run, ...wrong])])
      expect(result).toMatchObject({ status: 2, stderr: expect.stringContaining("stages.evalAct.panels") });
    expect(existsSync(run)).toBe(false);
  });

  it("keeps finished stages on resume, and runs again what a changed recipe changes", () => {
    const run = join(folder, "whole");
    const same = cli(["resume", run]);
    expect(same.status).toBe(0);
    expect(same.stderr.match(/finished before/gu)).toHaveLength(9);
    expect(outputs(run)).toEqual(whole);
    const changed = cli(["resume", run, "--recipe", file, "--set", "stages.warm.steps=25"]);
    expect(changed.status).toBe(0);
    const kept = changed.stderr.split("\n").filter((line) => line.includes("finished before"));
    expect(kept.map((line) => line.split(" ")[0])).toEqual(["expert", "evalBase"]);
  });

  it("is stopped by Ctrl-C with status 130 and goes on to the same bytes", async () => {
    const run = join(folder, "stopped");
    const child = spawn(process.execPath, [main, "run", file, "--run", run], { stdio: ["ignore", "ignore", "pipe"] });
    await sees(child, "pairs  done");
    child.kill("SIGINT");
    const [code] = await once(child, "exit");
    expect(code).toBe(130);
    expect(JSON.parse(cli(["status", run]).stdout)).toMatchObject({ status: "interrupted" });
    expect(existsSync(join(run, "lock.json"))).toBe(false);
    expect(cli(["resume", run]).status).toBe(0);
    expect(outputs(run)).toEqual(whole);
  });

  it("survives kill -9 in the middle of anything, to the same bytes", async () => {
    const run = join(folder, "killed");
    let args = ["run", file, "--run", run];
    // Killed whenever the next stage has begun: in the middle of training, sampling, writing.
    for (const seen of ["expert  done", "warm  ", "pairs  ", "act  ", "rl  ", "evalBase  "]) {
      const child = spawn(process.execPath, [main, ...args], { stdio: ["ignore", "ignore", "pipe"] });
      await sees(child, seen);
      child.kill("SIGKILL");
      await once(child, "exit");
      args = ["resume", run];
    }
    expect(cli(args).status).toBe(0);
    expect(outputs(run)).toEqual(whole);
  });

  it("ends typed when the disk is full, leaves no half file, and goes on when there is room", () => {
    const run = join(folder, "full");
    // A limit on file sizes stands for a full disk: writes fail in the middle. 96 blocks of 1 KiB hold expert.jsonl, not
    // the model.
    const limited = `ulimit -f 96; exec "$0" "$@"`;
    const args = ["-c", limited, process.execPath, main, "run", file, "--run", run];
    const result = spawnSync("bash", args, { encoding: "utf8" });
    expect(result.stderr).toContain("FILE_NO_SPACE");
    expect(result.status).toBe(3);
    const status = JSON.parse(cli(["status", run]).stdout);
    expect(status).toMatchObject({ status: "failed", error: { code: "FILE_NO_SPACE" } });
    expect(existsSync(join(run, "stages/warm/model"))).toBe(false);
    expect(readdirSync(join(run, "stages/warm/checkpoints")).filter((name) => !name.startsWith("."))).toEqual([]);
    expect(cli(["resume", run]).status).toBe(0);
    expect(outputs(run)).toEqual(whole);
  });

  it("lets one process at a time into a run", async () => {
    const run = join(folder, "locked");
    const child = spawn(process.execPath, [main, "run", file, "--run", run], { stdio: ["ignore", "ignore", "pipe"] });
    await sees(child, "expert  done");
    const second = cli(["resume", run]);
    child.kill("SIGKILL");
    await once(child, "exit");
    expect(second).toMatchObject({ status: 3, stderr: expect.stringContaining("RUN_LOCKED") });
  });
});

describe("single stages", () => {
  it("print what they made", () => {
    const out = join(folder, "experts");
    const args = ["collect", "--environment", "household", "--panel", "test-out", "--tasks", "2", "--out", out];
    const [answer] = jsonLines(cli([...args, "--env", "wording=put"]).stdout);
    expect(answer).toMatchObject({ output: join(out, "stages/collect/expert.jsonl"), result: { solved: 2 } });
    expect(readFileSync(answer?.output, "utf8")).toContain('"household/test-out@1+put"');
    const eval_ = cli([
      ...["evaluate", "--model", model, "--environment", "household", "--panel", "in=test-in", "--panel", "test-out"],
      ...["--tasks", "1", "--step-limit", "1", "--out", join(folder, "eval"), "--set", "sampling.maxNewTokens=4"],
      ...["--set", "prompt.template=compact"],
    ]);
    expect(Object.keys(jsonLines(eval_.stdout)[0]?.result)).toEqual(["in", "test-out"]);
  });
});

describe("plan and doctor", () => {
  it("name threads that the system refuses, and live", () => {
    // Stacks of 1 GB each in 60 GB of addresses: some fifty threads.
    const limited = `ulimit -s 1000000; ulimit -v 60000000; exec "$0" "$@"`;
    const args = [main, "plan", "--model", model, "--threads", "200"];
    const result = spawnSync("bash", ["-c", limited, process.execPath, ...args], { encoding: "utf8" });
    expect(result).toMatchObject({ status: 5, stderr: expect.stringMatching(/error THREADS: .* of the 199 threads/u) });
  });

  const sets = loadAddon().instructionSets();
  const missing = ["avx2", "avx512", "avx512vnni", "avx512bf16", "amx"].find((set) => !sets.includes(set));
  it.skipIf(missing === undefined)("name an instruction set that this processor lacks", () => {
    const result = cli(["plan", "--model", model, "--instruction-set", missing ?? ""]);
    expect(result).toMatchObject({ status: 5, stderr: expect.stringContaining("DEVICE_NOT_FOUND") });
  });

  it("say what is needed and what is there", () => {
    expect(JSON.parse(cli(["plan", "--model", model, "--training", "--json"]).stdout).bytes.total).toBeGreaterThan(0);
    const lora = ["--training", "--seed", "1", "--set", "lora.rank=2", "--set", "lora.alpha=4", "--json"];
    const full = JSON.parse(cli(["plan", "--model", model, "--training", "--json"]).stdout).bytes.optimizer;
    expect(JSON.parse(cli(["plan", "--model", model, ...lora]).stdout).bytes.optimizer).toBeLessThan(full);
    expect(cli(["plan", "--model", model, "--memory-limit", "1000"])).toMatchObject({
      status: 5,
      stderr: expect.stringContaining("MEMORY_PLAN"),
    });
    const doctor = cli(["doctor", "--json"]);
    expect(doctor.status).toBe(0);
    expect(JSON.parse(doctor.stdout).checks.map((c: { name: string }) => c.name)).toContain("engine");
  });
});
