/** `act-trainer serve`, run in this process over a tiny model. */
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { registerServe } from "../../src/cli/commands/serve.js";
import { loadAddon } from "../../src/engine/addon.js";
import { tinyModelFolder } from "../stages/tiny-model.js";

function addonFault(): string | null {
  try {
    loadAddon();
    return null;
  } catch (cause) {
    return String(cause);
  }
}
const fault = addonFault();
if (fault !== null) console.warn(`Tests of \`act-trainer serve\` are skipped: ${fault}`);

/** Runs the command; what it writes to standard output comes back line by line. */
function run(...argv: string[]): {
  readonly done: Promise<unknown>;
  readonly line: (index: number) => Promise<Record<string, string>>;
  readonly stop: (reason?: Error) => void;
  readonly code: () => number | null;
} {
  const output: string[] = [];
  vi.spyOn(process.stdout, "write").mockImplementation((text) => {
    output.push(String(text));
    return true;
  });
  vi.spyOn(process.stderr, "write").mockImplementation(() => true);
  const controller = new AbortController();
  const program = new Command().exitOverride();
  let code: number | null = null;
  registerServe(program, { signal: controller.signal }, (result) => {
    code = result;
  });
  const done = program.parseAsync(["serve", ...argv], { from: "user" });
  done.catch(() => undefined);
  const line = async (index: number): Promise<Record<string, string>> => {
    await Promise.race([
      expect.poll(() => output.join("").split("\n").length, { timeout: 20_000 }).toBeGreaterThan(index + 1),
      done.then(() => undefined),
    ]);
    return JSON.parse(output.join("").split("\n")[index] ?? "") as Record<string, string>;
  };
  return { done, line, stop: (reason = new Error("stop")) => controller.abort(reason), code: () => code };
}

async function send(url: string, path: string, body: unknown): Promise<Record<string, unknown>> {
  const response = await fetch(`${url}${path}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  return (await response.json()) as Record<string, unknown>;
}

describe.skipIf(fault !== null)("act-trainer serve", () => {
  let model: string;
  const folder = mkdtempSync(join(tmpdir(), "act-serve-command-"));
  const engine = ["--threads", "1", "--cache-tokens", "2048", "--max-batch-tokens", "512", "--max-sequences", "8"];
  beforeAll(async () => {
    model = await tinyModelFolder();
  });
  afterEach(() => {
    vi.restoreAllMocks();
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  it("serves until it is stopped", async () => {
    const command = run("--model", model, "--port", "0", "--model-name", "tiny", ...engine);
    const { url = "", model: name } = await command.line(0);
    expect(name).toBe("tiny");
    const answer = await send(url, "/chat/completions", { messages: [{ role: "user", content: "x" }], max_tokens: 3 });
    expect(answer).toMatchObject({ model: "tiny", usage: { completion_tokens: expect.any(Number) } });
    command.stop();
    await command.done;
    expect(command.code()).toBe(0);
    await expect(fetch(`${url}/models`)).rejects.toThrow();
  });

  it("trains on what is played, goes on after a stop, and writes the model", async () => {
    const out = join(folder, "run");
    const settings = ["--steps", "2", "--batch", "1", "--group-size", "2", "--set", "optimizer.learningRate=0.001"];
    const objective = ["--set", "objective.name=rloo", "--set", "objective.truncation=zero"];
    const argv = ["--model", model, "--port", "0", "--train", out, ...settings, ...objective, ...engine];
    let episodes = 0;
    const step = async (url: string): Promise<void> => {
      const group = `${episodes}`;
      for (const reward of [0, 1]) {
        const metadata = { episode_id: `e${episodes++}`, group };
        await send(url, "/completions", { prompt: "x", max_tokens: 50, stop: ["e", "a", " "], metadata });
        await send(url, "/act/rewards", { episode_id: metadata.episode_id, reward });
      }
    };
    const steps = (): number => {
      const file = join(out, "stages", "serve", "metrics.jsonl");
      return existsSync(file) ? readFileSync(file, "utf8").split("\n").length - 1 : 0;
    };
    const first = run(...argv);
    await step((await first.line(0)).url ?? "");
    await expect.poll(steps, { timeout: 20_000 }).toBe(1);
    first.stop();
    await expect(first.done).rejects.toThrow("stop");
    vi.restoreAllMocks();

    const other = run(...argv, "--batch", "2");
    await expect(other.done).rejects.toMatchObject({ code: "RUN_EXISTS" });
    vi.restoreAllMocks();

    const second = run(...argv);
    await step((await second.line(0)).url ?? "");
    await second.done;
    expect(second.code()).toBe(0);
    expect(steps()).toBe(2);
    const { output = "" } = await second.line(1);
    expect(existsSync(join(output, "model.safetensors"))).toBe(true);
    vi.restoreAllMocks();
    await expect(run(...argv).done).rejects.toMatchObject({ code: "RUN_EXISTS" });
  });

  it("refuses flags that mean nothing here", async () => {
    await expect(run("--model", model, "--steps", "3").done).rejects.toMatchObject({ code: "CLI_BAD_FLAG" });
    await expect(run("--model", model, "--train", join(folder, "x")).done).rejects.toMatchObject({
      code: "CONFIG_MISSING_KEY",
    });
    await expect(run("--model", model, "--port", "99999").done).rejects.toMatchObject({ code: "CONFIG_BAD_VALUE" });
  });
});
