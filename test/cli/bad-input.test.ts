/**
 * What users do wrong, and what machines do to them: each ends in one typed line, with its exit status, and leaves no
 * half-written file. Needs `npm run build`.
 *
 * Where the other items of bad input are tested:
 *   hostile, truncated, oversized, mis-shaped safetensors   test/engine/safetensors.test.ts
 *   config against tensors, NaN in weights                  test/engine/model-folder.test.ts, engine.test.ts
 *   unknown keys                                            test/recipes/recipe.test.ts, test/stages/options.test.ts
 *   missing or damaged tokenizer                            test/tokens/tokenizer.test.ts
 *   long prompts, ids out of the vocabulary, bad options    test/engine/bad-input.test.ts
 *   dispose and abort in the middle of every call           test/engine/lifecycle.test.ts
 *   adapters                                                test/engine/adapters.test.ts
 *   resume after kill -9, Ctrl-C, a file-size limit         test/cli/cli.test.ts
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { tinyModelFolder } from "../stages/tiny-model.js";
import { cli, main, PATIENCE, type Result } from "./command.js";

const folder = mkdtempSync(join(tmpdir(), "act-bad-"));
function shell(script: string, ...args: string[]): Result {
  return spawnSync("bash", ["-c", script, process.execPath, main, ...args], { encoding: "utf8", timeout: PATIENCE });
}

/** Code and message; never a stack. */
function expectTyped(result: Result, status: number, text: string): void {
  expect(result.stderr).toContain(text);
  expect(result.stderr).not.toMatch(/^\s+at |node:/mu);
  expect(result.status).toBe(status);
}

let model: string;
beforeAll(async () => {
  model = await tinyModelFolder();
});

describe("generate and score", { timeout: PATIENCE }, () => {
  const generate = (input: string | Buffer, ...flags: string[]): Result =>
    cli(["generate", "--model", model, "--max-new-tokens", "2", ...flags], input);

  it("answers bytes that are no text, marks at the beginning, and ids that no engine has, and goes on", () => {
    const lines = [
      Buffer.from('\uFEFF{"ids":[1],"id":"mark"}'),
      Buffer.concat([Buffer.from('{"text":"'), Buffer.from([0xff, 0xfe]), Buffer.from('"}')]),
      Buffer.from('{"ids":[4294967297]}'),
      Buffer.from('{"ids":[1],"stop_token_ids":[4294967297]}'),
      Buffer.from('{"ids":[1],"seed":-1}'),
      Buffer.from('{"ids":[1],"id":"last"}'),
    ];
    const result = generate(Buffer.concat(lines.flatMap((line) => [line, Buffer.from("\n")])));
    expect(result.status).toBe(0);
    const answers = result.stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(answers.map((a) => a.error?.code ?? a.id)).toEqual([
      ...["mark", "DATA_BAD_ENCODING", "CONFIG_BAD_VALUE", "CONFIG_BAD_VALUE", "CONFIG_BAD_VALUE", "last"],
    ]);
  });

  it("skips a line that no memory should be spent on", () => {
    const huge = Buffer.alloc(65 * 2 ** 20, "a");
    const answers = generate(Buffer.concat([huge, Buffer.from('\n{"ids":[1],"id":"last"}\n')]))
      .stdout.trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(answers.map((a) => a.error?.code ?? a.id)).toEqual(["DATA_LINE_TOO_LONG", "last"]);
  });

  it("ends well and without a word when whoever reads has gone", () => {
    const lines = Array.from({ length: 400 }, () => '{"ids":[1]}').join("\n");
    writeFileSync(join(folder, "many.jsonl"), lines);
    const result = shell(
      `"$0" "$1" generate --model "$2" --max-new-tokens 2 --input "$3" | head -n 1; echo "\${PIPESTATUS[0]}"`,
      model,
      join(folder, "many.jsonl"),
    );
    expect(result.stdout.trim().split("\n").at(-1)).toBe("0");
    expect(result.stderr).toBe("");
  });

  it.skipIf(!existsSync("/dev/full"))("says so when standard output has no room", () => {
    writeFileSync(join(folder, "one.jsonl"), '{"ids":[1]}\n');
    const args = [model, join(folder, "one.jsonl")];
    expectTyped(shell(`"$0" "$1" generate --model "$2" --input "$3" > /dev/full`, ...args), 3, "FILE_NO_SPACE");
    expectTyped(shell(`"$0" "$1" plan --model "$2" > /dev/full`, ...args), 3, "FILE_NO_SPACE");
  });

  it("refuses paths before the model is loaded", () => {
    const args = ["score", "--model", "nowhere"];
    expectTyped(cli([...args, "--input", join(folder, "none")]), 3, "FILE_NOT_FOUND");
    expectTyped(cli([...args, "--output", folder]), 3, "FILE_NOT_A_FILE");
    expectTyped(cli([...args, "--output", join(folder, "none", "x")]), 3, "FILE_NOT_FOUND");
    expectTyped(cli(["score", "--model", model, "--input", folder]), 3, "FILE_NOT_A_FILE");
  });

  it("writes to a pipe as it is, and through a link", () => {
    const pipe = join(folder, "pipe");
    const copy = join(folder, "copy");
    expect(spawnSync("mkfifo", [pipe]).status).toBe(0);
    const args = [model, pipe, copy];
    const script = `cat "$3" > "$4" & echo '{"ids":[1]}' | "$0" "$1" score --model "$2" --output "$3"; wait`;
    expect(shell(script, ...args).stderr).toBe("");
    expect(statSync(pipe).isFIFO()).toBe(true);
    expect(JSON.parse(readFileSync(copy, "utf8"))).toMatchObject({ ids: [1] });
    const link = join(folder, "link");
    symlinkSync(copy, link);
    expect(cli(["score", "--model", model, "--output", link], '{"ids":[2]}\n')).toMatchObject({ status: 0 });
    expect(lstatSync(link).isSymbolicLink()).toBe(true);
    expect(JSON.parse(readFileSync(copy, "utf8"))).toMatchObject({ ids: [2] });
  });

  it("scores what generate takes: lines longer than a forward pass of sampling", () => {
    const ids = Array.from({ length: 2500 }, (_, i) => 1 + (i % 50));
    const answer = JSON.parse(cli(["score", "--model", model], `${JSON.stringify({ ids })}\n`).stdout);
    expect(answer.logprobs).toHaveLength(2499);
    const capped = cli(["score", "--model", model, "--max-batch-tokens", "256"], `${JSON.stringify({ ids })}\n`);
    expect(JSON.parse(capped.stdout).error).toMatchObject({ code: "BATCH_TOO_LARGE" });
  });

  it("writes an output file whole, or not at all", async () => {
    const output = join(folder, "answers.jsonl");
    expect(generate('{"ids":[1]}\n{"ids":[2]}\n', "--output", output)).toMatchObject({ status: 0, stdout: "" });
    expect(readFileSync(output, "utf8").trim().split("\n")).toHaveLength(2);
    rmSync(output);
    const child = spawn(process.execPath, [main, "generate", "--model", model, "--output", output], {
      stdio: ["pipe", "ignore", "pipe"],
    });
    child.stdin?.write('{"ids":[1]}\n');
    await until(() => readdirSync(folder).some((name) => name.startsWith(".answers.jsonl")));
    await sleep(500);
    child.kill("SIGINT");
    expect((await once(child, "exit"))[0]).toBe(130);
    expect(readdirSync(folder).filter((name) => name.includes("answers.jsonl"))).toEqual([]);
  });
});

async function until(holds: () => boolean): Promise<void> {
  const end = performance.now() + PATIENCE / 4;
  while (!holds()) {
    if (performance.now() > end) throw new Error(`Never came true: ${holds}`);
    await sleep(2);
  }
}

/** Waits for a text on a child's stderr. */
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

/** A recipe that trains: experts, then imitation with a checkpoint at every step. */
function recipe(): string {
  const file = join(folder, "train.yaml");
  writeFileSync(
    file,
    `name: train
models: { base: { path: ${model} } }
environments: { house: { name: household } }
engine: { dtype: fp32, threads: 1 }
prompt: { template: compact, reasoning: false, history: 2 }
stages:
  expert: { stage: collect, environment: house, panel: test-in, tasks: 2 }
  warm: { stage: imitate, model: base, expert: expert, steps: 30, batch: 4, checkpoint: { every: 1 } }
`,
  );
  return file;
}

/** What a run of it leaves, without what depends on the clock. */
function outputs(run: string): Record<string, string> {
  const files = ["expert/expert.jsonl", "warm/metrics.jsonl", "warm/samples.jsonl", "warm/model/model.safetensors"];
  return Object.fromEntries(files.map((f) => [f, readFileSync(join(run, "stages", f)).toString("base64")]));
}

describe("runs", { timeout: PATIENCE }, () => {
  let whole: Record<string, string>;
  let file: string;
  beforeAll(() => {
    file = recipe();
    const run = join(folder, "whole");
    expect(cli(["run", file, "--run", run])).toMatchObject({ status: 0 });
    whole = outputs(run);
  }, PATIENCE);

  it("refuse keys that are no keys, folders that are files, and settings without a recipe", () => {
    expectTyped(cli(["run", file, "--check", "--set", "__proto__.x=1"]), 2, "CONFIG_BAD_VALUE");
    expectTyped(cli(["run", file, "--check", "--set", "stages.warm.constructor.x=1"]), 2, "CONFIG_BAD_VALUE");
    expectTyped(cli(["run", file, "--run", file]), 3, "FILE_NOT_A_FOLDER");
    expectTyped(cli(["run", file, "--run", join(file, "below")]), 3, "FILE_NOT_A_FILE");
    expectTyped(cli(["resume", join(folder, "whole"), "--set", "stages.warm.steps=3"]), 2, "CLI_BAD_FLAG");
  });

  // There `mkdir` with `recursive` tries for ever.
  it.skipIf(!existsSync("/proc/self"))("refuse a folder in a file system that takes no names", () => {
    expectTyped(cli(["run", file, "--run", "/proc/act-trainer/run"]), 3, "FILE_NOT_FOUND");
  });

  it("end at once on a second Ctrl-C, and go on to the same bytes", async () => {
    const run = join(folder, "twice");
    const child = spawn(process.execPath, [main, "run", file, "--run", run], { stdio: ["ignore", "ignore", "pipe"] });
    await sees(child, "warm  ");
    child.kill("SIGINT");
    child.kill("SIGINT");
    expect((await once(child, "exit"))[0]).toBe(130);
    expect(cli(["resume", run]).status).toBe(0);
    expect(outputs(run)).toEqual(whole);
  });

  it("survive kill -9 in the middle of writing a checkpoint, to the same bytes", async () => {
    const run = join(folder, "killed");
    const checkpoints = join(run, "stages/warm/checkpoints");
    const half = (): boolean => existsSync(checkpoints) && readdirSync(checkpoints).some((n) => n.startsWith(".step-"));
    for (const args of [
      ["run", file, "--run", run],
      ["resume", run],
    ]) {
      const child = spawn(process.execPath, [main, ...args], { stdio: "ignore" });
      // The second round waits for a checkpoint of its own: the leftovers of the first are removed when it begins.
      if (args[0] === "resume") await until(() => child.exitCode !== null || !half());
      await until(() => child.exitCode !== null || half());
      child.kill("SIGKILL");
      if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
    }
    expect(existsSync(join(run, "stages/warm/model"))).toBe(false);
    expect(cli(["resume", run]).status).toBe(0);
    expect(outputs(run)).toEqual(whole);
  });

  it("go on where they were moved to", async () => {
    const run = join(folder, "here");
    const child = spawn(process.execPath, [main, "run", file, "--run", run], { stdio: ["ignore", "ignore", "pipe"] });
    await sees(child, "warm  ");
    child.kill("SIGKILL");
    await once(child, "exit");
    const moved = join(folder, "there");
    renameSync(run, moved);
    const result = cli(["resume", moved]);
    expect(result.status).toBe(0);
    expect(result.stderr).toContain("finished before");
    expect(outputs(moved)).toEqual(whole);
    expect(existsSync(run)).toBe(false);
  });

  it("do not mind a clock that jumps", () => {
    const jumping = `const now = Date.now; Date.now = () => now() + 1e11 * Math.sin(now());
      const D = Date; globalThis.Date = class extends D { constructor(...a) { a.length ? super(...a) : super(D.now()); } };`;
    const run = join(folder, "clock");
    const args = ["--import", `data:text/javascript,${encodeURIComponent(jumping)}`, main, "run", file, "--run", run];
    const result = spawnSync(process.execPath, args, { encoding: "utf8", timeout: PATIENCE });
    expect(result.status).toBe(0);
    expect(outputs(run)).toEqual(whole);
    const { seconds } = JSON.parse(readFileSync(join(run, "run.json"), "utf8"));
    expect(seconds).toBeGreaterThan(0);
    expect(seconds).toBeLessThan(PATIENCE / 1000);
  });

  const disk = join(folder, "disk");
  mkdirSync(disk);
  const mounted = spawnSync("mount", ["-t", "tmpfs", "-o", "size=600k", "tmpfs", disk]).status === 0;
  if (!mounted) console.warn("A disk that is full is not tested: this user may not mount a small one.");
  // Also where the test itself was left out.
  afterAll(() => void (mounted && spawnSync("umount", [disk])));
  it.skipIf(!mounted)("end typed on a disk that is full, and go on when there is room", () => {
    const run = join(disk, "run");
    const result = cli(["run", file, "--run", run]);
    expectTyped(result, 3, "FILE_NO_SPACE");
    const left = readdirSync(disk, { recursive: true, encoding: "utf8" });
    expect(left.filter((name) => name.endsWith(".tmp"))).toEqual([]);
    expect(left.filter((name) => /warm\/model(\/|$)/u.test(name))).toEqual([]);
    expect(spawnSync("mount", ["-o", "remount,size=64m", disk]).status).toBe(0);
    expect(cli(["resume", run]).status).toBe(0);
    expect(outputs(run)).toEqual(whole);
  });

  // Root may write everywhere: the command runs as nobody.
  const root = process.getuid?.() === 0;
  const nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
  const able = !root || spawnSync("setpriv", [...nobody, process.execPath, main, "--version"]).status === 0;
  if (!able) console.warn("Folders without permission are not tested: root cannot become another user here.");
  it.skipIf(!able)("say what may not be written, and touch nothing", () => {
    const as = (args: readonly string[]): Result => {
      const command = root
        ? ["setpriv", ...nobody, process.execPath, main, ...args]
        : [process.execPath, main, ...args];
      return spawnSync(command[0] as string, command.slice(1), { encoding: "utf8", timeout: PATIENCE });
    };
    chmodSync(folder, 0o755);
    const shut = join(folder, "shut");
    mkdirSync(shut, { mode: 0o555 });
    chmodSync(shut, 0o555);
    const args = ["collect", "--environment", "household", "--panel", "test-in", "--tasks", "1"];
    expectTyped(as([...args, "--out", join(shut, "run")]), 3, "FILE_NO_PERMISSION");
    expect(readdirSync(shut)).toEqual([]);
    const run = join(folder, "fixed");
    cpSync(join(folder, "whole"), run, { recursive: true });
    for (const name of ["", ...readdirSync(run, { recursive: true, encoding: "utf8" })])
      chmodSync(join(run, name), existsSync(join(run, name, ".")) ? 0o555 : 0o444);
    const before = readFileSync(join(run, "run.json"), "utf8");
    expectTyped(as(["resume", run]), 3, "FILE_NO_PERMISSION");
    expect(readFileSync(join(run, "run.json"), "utf8")).toBe(before);
    expect(as(["status", run])).toMatchObject({ status: 0, stderr: "" });
    expectTyped(as(["generate", "--model", model, "--output", join(shut, "x")]), 3, "FILE_NO_PERMISSION");
  });
});

describe("a folder that is not ours", { timeout: PATIENCE }, () => {
  const collect = ["collect", "--environment", "household", "--panel", "test-in", "--tasks", "1"];

  it("keeps its files, whatever their names, also with --overwrite", () => {
    const out = join(folder, "theirs");
    mkdirSync(out);
    writeFileSync(join(out, "run.json"), "x");
    writeFileSync(join(out, "p.txt"), "precious");
    expectTyped(cli([...collect, "--out", out, "--overwrite"]), 3, "RUN_NOT_A_RUN");
    expect(readdirSync(out).sort()).toEqual(["p.txt", "run.json"]);
  });

  it("is told from a run of ours that was damaged, or has nothing to work on", () => {
    const out = join(folder, "ours");
    expectTyped(cli([...collect, "--offset", "3000", "--out", out]), 2, "STAGE_NO_DATA");
    writeFileSync(join(out, "run.json"), "");
    expectTyped(cli([...collect, "--out", out]), 2, "RUN_EXISTS");
    expect(cli([...collect, "--out", out, "--overwrite"]).status).toBe(0);
  });
});
