// What guessing ahead gains: the bundled model plays household games without and with `draftTokens`, in turn, each run
// a process of its own. The episodes have to be the same, line by line.
//
//   npm run build && node bench/drafts.mjs [--drafts N,N] [--rounds N] [--tasks N] [--model DIR]
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const path = (name) => fileURLToPath(new URL(`../${name}`, import.meta.url));
const { values } = parseArgs({
  options: {
    drafts: { type: "string", default: "0,6" },
    rounds: { type: "string", default: "3" },
    tasks: { type: "string", default: "140" },
    model: { type: "string", default: path("models/household-tiny") },
  },
});
const drafts = values.drafts.split(",").map(Number);
const folder = mkdtempSync(join(tmpdir(), "act-drafts-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));

/** Seconds of one evaluation with engine and environment ready, and its episodes. */
function play(draftTokens) {
  const settings = {
    "sampling.temperature": 0.4,
    "sampling.maxNewTokens": 48,
    "prompt.template": "compact",
    "prompt.history": null,
    "engine.maxSequences": 256,
    "engine.cacheTokens": 131072,
    "engine.maxBatchTokens": 4096,
    "engine.draftTokens": draftTokens,
  };
  const inputs = ["--model", values.model, "--environment", "household", "--panel", "test-in", "--tasks", values.tasks];
  const run = ["--concurrency", "64", "--out", folder, "--overwrite"];
  const set = Object.entries(settings).flatMap(([key, value]) => ["--set", `${key}=${value}`]);
  const command = [path("dist/cli/main.js"), "evaluate", ...inputs, ...run, ...set];
  const stdout = execFileSync(process.execPath, command, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
  const { result } = JSON.parse(stdout.trim().split("\n").at(-1));
  // The first line says, among other things, how the run was configured.
  const episodes = readFileSync(join(folder, "stages/evaluate/episodes.test-in.jsonl"), "utf8").split("\n").slice(1);
  return { seconds: result["test-in"].seconds, episodes: episodes.join("\n") };
}

const seconds = new Map(drafts.map((draftTokens) => [draftTokens, []]));
let expected;
for (let round = 0; round < Number(values.rounds); round++) {
  for (const draftTokens of drafts) {
    const played = play(draftTokens);
    expected ??= played.episodes;
    if (played.episodes !== expected) throw new Error(`With draftTokens ${draftTokens} the episodes are others.`);
    seconds.get(draftTokens).push(played.seconds);
  }
}
for (const [draftTokens, times] of seconds) {
  times.sort((a, b) => a - b);
  const shown = times.map((time) => time.toFixed(1)).join(", ");
  console.log(`draftTokens ${draftTokens}: median ${times[times.length >> 1].toFixed(1)} s of ${shown}`);
}
