/** The client against a server in another process, as a trainer meets it: episodes, then an end and a sudden one. */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import type { Environment } from "../../../src/environments/environment.js";
import { OpenEnvProvider } from "../../../src/environments/openenv/provider.js";
import { openEnvironment } from "../../../src/environments/registry.js";

const build = resolve(import.meta.dirname, "../../../dist");
const built = existsSync(join(build, "environments/openenv/openenv.js"));
if (!built) console.warn("The server process of OpenEnv's tests is skipped: there is no build (npm run build:ts).");

const children: ChildProcess[] = [];
afterEach(async () => {
  for (const child of children.splice(0)) {
    if (child.exitCode !== null || child.signalCode !== null) continue;
    const gone = new Promise((done) => child.once("exit", done));
    child.kill("SIGKILL");
    await gone;
  }
}, 60_000);

async function start(port = 0): Promise<{ child: ChildProcess; url: string }> {
  const child = spawn(process.execPath, [join(import.meta.dirname, "server-process.mjs"), build, String(port)], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  children.push(child);
  const url = await new Promise<string>((found, failed) => {
    child.stdout?.setEncoding("utf8").on("data", (text: string) => found(text.trim()));
    child.once("exit", (code) => failed(new Error(`the server ended with ${code}`)));
  });
  return { child, url };
}

describe.skipIf(!built)("an OpenEnv server in another process", { timeout: 120_000 }, () => {
  /** Plays the expert; gives back what was seen. */
  async function play(environment: Environment, task: string): Promise<string[]> {
    const seen = [(await environment.reset(task)).observation];
    for (let i = 0; i < 100; i++) {
      const action = await environment.expertAction();
      if (action === null) break;
      const outcome = await environment.step(action);
      seen.push(outcome.observation, String(outcome.success));
      if (outcome.terminated || outcome.truncated) break;
    }
    return seen;
  }

  it("plays the very episodes of the environment in this one, several at once", async () => {
    const local = await openEnvironment("household", {});
    const panel = await local.panel(local.panelNames[0] ?? "");
    const tasks = panel.tasks.slice(0, 4);
    const { url } = await start();
    const remote = await OpenEnvProvider.open({ url, panels: { same: tasks }, stepLimit: 200 });
    try {
      const played = await Promise.all(tasks.map(async (task) => play(await remote.create(), task)));
      for (const [i, task] of tasks.entries()) {
        const environment = await local.create();
        expect(played[i]).toEqual(await play(environment, task));
        expect(played[i]?.at(-1)).toBe("true");
        await environment.close();
      }
    } finally {
      await remote.close();
      await local.close();
    }
  });

  it("is told to end, is killed, and comes back", async () => {
    const { child, url } = await start();
    const port = Number(new URL(url).port);
    const remote = await OpenEnvProvider.open({ url });
    try {
      const environment = await remote.create();
      await environment.reset("seed:0");
      const ended = new Promise((done) => child.once("exit", done));
      child.kill("SIGTERM");
      expect(await ended).toBe(0);
      await expect(environment.step("look")).rejects.toMatchObject({ code: "ENVIRONMENT_LOST", retryable: true });
      await expect(environment.reset("seed:0")).rejects.toMatchObject({ code: "ENVIRONMENT_LOST" });

      const second = await start(port);
      await environment.reset("seed:0");
      second.child.kill("SIGKILL");
      await expect(environment.step("look")).rejects.toMatchObject({ code: "ENVIRONMENT_LOST" });

      await start(port);
      await environment.reset("seed:0");
      expect((await environment.step("look")).observation).not.toBe("");
    } finally {
      await remote.close();
    }
  });
});
