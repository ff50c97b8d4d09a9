/** Rollouts against environment servers in processes of their own, which are killed in the middle. */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { AgentGymProvider } from "../../src/environments/agentgym/provider.js";
import type { EnvironmentProvider } from "../../src/environments/environment.js";
import { OpenEnvProvider } from "../../src/environments/openenv/provider.js";
import { openEnvironment } from "../../src/environments/registry.js";
import { episodeForm } from "../../src/rollouts/form.js";
import { countOutcomes, rollout } from "../../src/rollouts/rollout.js";
import { ScriptedPolicy, testDialogue } from "./scripted.js";

const build = resolve(import.meta.dirname, "../../dist");
const built = existsSync(join(build, "environments/registry.js"));
if (!built) console.warn("Rollouts against server processes are skipped: there is no build (npm run build:ts).");

const children: ChildProcess[] = [];

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = new Promise((done) => child.once("exit", done));
  child.kill("SIGKILL");
  await gone;
}

afterEach(async () => {
  await Promise.all(children.splice(0).map(end));
}, 60_000);

/** Starts `environments/<protocol>/server-process.mjs`, which serves the household environment. */
async function start(protocol: string, port = 0): Promise<{ child: ChildProcess; url: string }> {
  const script = join(import.meta.dirname, `../environments/${protocol}/server-process.mjs`);
  const child = spawn(process.execPath, [script, build, String(port)], { stdio: ["ignore", "pipe", "inherit"] });
  children.push(child);
  const url = await new Promise<string>((found, failed) => {
    child.stdout?.setEncoding("utf8").on("data", (text: string) => found(text.trim()));
    child.once("exit", (code) => failed(new Error(`the server ended with ${code}`)));
  });
  return { child, url };
}

/** A client of a server, and its names for the first tasks of the household's first panel. */
async function connect(protocol: string, url: string, tasks: readonly string[]): Promise<Connected> {
  if (protocol === "agentgym")
    return { provider: await AgentGymProvider.open({ url, kind: "alfworld" }), tasks: tasks.map((_, i) => `${i}`) };
  return { provider: await OpenEnvProvider.open({ url, panels: { same: [...tasks] } }), tasks };
}

interface Connected {
  readonly provider: EnvironmentProvider;
  readonly tasks: readonly string[];
}

describe.skipIf(!built).each(["openenv", "agentgym"])(
  "a server of %s in another process",
  { timeout: 180_000 },
  (protocol) => {
    it("plays what the environment in this one plays", async () => {
      const local = await openEnvironment("household");
      const panel = await local.panel(local.panelNames[0] ?? "");
      const { url } = await start(protocol);
      const { provider, tasks } = await connect(protocol, url, panel.tasks.slice(0, 3));
      try {
        await Promise.all(
          tasks.map(async (task, i) => {
            const [here, there] = await Promise.all([local.create(), provider.create()]);
            const known = await here.reset(panel.tasks[i] ?? "");
            const told = await there.reset(task);
            expect(told.task).toBe(known.task);
            expect(told.observation).toBe(known.observation);
            expect(await there.admissibleActions()).toEqual(await here.admissibleActions());
            for (let over = false; !over; ) {
              const action = (await here.expertAction()) ?? expect.unreachable("the expert is stuck");
              const [mine, theirs] = await Promise.all([here.step(action), there.step(action)]);
              expect(theirs).toEqual(mine);
              over = mine.terminated;
            }
            await Promise.all([here.close(), there.close()]);
          }),
        );
      } finally {
        await Promise.all([provider.close(), local.close()]);
      }
    });

    it("is killed during a rollout, which counts the loss, goes on with the next and trains on none of it", async () => {
      const local = await openEnvironment("household");
      const known = (await local.panel(local.panelNames[0] ?? "")).tasks.slice(0, 4);
      await local.close();
      let server = await start(protocol);
      const port = Number(new URL(server.url).port);
      const { provider: remote, tasks } = await connect(protocol, server.url, known);
      let recovering: Promise<unknown> = Promise.resolve();
      const provider: EnvironmentProvider = {
        ...{ name: remote.name, version: remote.version, stepLimit: 4, panelNames: remote.panelNames },
        panel: (name) => remote.panel(name),
        create: () => recovering.then(() => remote.create()),
        close: () => remote.close(),
      };
      const dialogue = await testDialogue();
      let replies = 0;
      const policy = new ScriptedPolicy(dialogue, () => {
        // In the middle of the second episode; the signal is there before the next action is sent.
        if (++replies === 6) server.child.kill("SIGKILL");
        return "<action>look</action>";
      });
      try {
        const episodes = await rollout(
          tasks.map((taskId, index) => ({ index, taskId })),
          {
            policy,
            provider,
            form: episodeForm("per-step", dialogue),
            sampling: { maxNewTokens: 64 },
            seed: 1n,
            stepLimit: 4,
            timeLimit: null,
            environmentTimeLimit: 60_000,
            admissible: false,
            malformedLimit: null,
            concurrency: 1,
            retries: 0,
            onEpisode: ({ outcome }) => {
              if (outcome !== "environment_failed") return;
              recovering = end(server.child).then(async () => {
                server = await start(protocol, port);
              });
            },
          },
        );
        expect(episodes.map((e) => e.outcome)).toEqual(["truncated", "environment_failed", "truncated", "truncated"]);
        expect(episodes[1]?.faults).toEqual([
          { code: "ENVIRONMENT_LOST", message: expect.stringMatching(/./), steps: expect.any(Number) },
        ]);
        expect(countOutcomes(episodes)).toMatchObject({ truncated: 3, environment_failed: 1, faults: 1 });
      } finally {
        await remote.close();
      }
    });
  },
);
