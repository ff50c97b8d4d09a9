/**
 * Steps a second of the ScienceWorld environment against the simulator's own, called inside its JVM.
 *
 * Usage, after `npm run build:ts`, with a JDK: node bench/scienceworld/throughput.mjs JAR EPISODES [--rounds N]
 *
 * EPISODES is a recording of gold paths (`gold_episodes.jsonl`); its test episodes without simplifications are played.
 * Each is played on both sides in a fresh JVM with the same flags, one after the other, and which side begins alternates.
 * Only the steps are timed: what is compared is a step with its score, end and moves, over the protocol and without.
 */
import { spawn, spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, dirname, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { ScienceWorldProvider } from "../../dist/environments/scienceworld/provider.js";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { rounds: { type: "string", default: "1" } },
});
const [jar, recording] = positionals;
if (jar === undefined || recording === undefined) throw new Error("Usage: throughput.mjs JAR EPISODES [--rounds N]");
const episodes = readFileSync(recording, "utf8")
  .trim()
  .split("\n")
  .map((line) => JSON.parse(line))
  .filter((episode) => episode.split === "test" && episode.simplification === "");

const folder = mkdtempSync(join(tmpdir(), "act-trainer-throughput-"));
try {
  const source = join(import.meta.dirname, "InProcess.java");
  const compiled = spawnSync("javac", ["-cp", jar, "-d", folder, source], { encoding: "utf8" });
  if (compiled.status !== 0) throw new Error(`javac: ${compiled.error ?? compiled.stderr}`);

  const totals = { ours: { steps: 0, seconds: 0 }, own: { steps: 0, seconds: 0 } };
  const ratios = [];
  for (let round = 0; round < Number(values.rounds); round++)
    for (const [i, episode] of episodes.entries()) {
      const played = {};
      for (const side of (round + i) % 2 === 0 ? ["ours", "own"] : ["own", "ours"])
        played[side] = side === "ours" ? await playOurs(episode) : await playOwn(episode);
      if (played.ours.steps !== played.own.steps) throw new Error(`${episode.task}: the two sides ended differently`);
      for (const side of ["ours", "own"]) {
        totals[side].steps += played[side].steps;
        totals[side].seconds += played[side].seconds;
      }
      ratios.push(played.own.seconds / played.ours.seconds);
    }
  ratios.sort((a, b) => a - b);
  const rate = ({ steps, seconds }) => Number((steps / seconds).toFixed(1));
  console.log(
    JSON.stringify({
      episodes: ratios.length,
      steps: totals.ours.steps,
      ours_steps_per_s: rate(totals.ours),
      own_steps_per_s: rate(totals.own),
      ratio: Number((totals.own.seconds / totals.ours.seconds).toFixed(3)),
      ratio_median_of_episodes: Number(ratios[ratios.length >> 1].toFixed(3)),
    }),
  );
} finally {
  rmSync(folder, { recursive: true, force: true });
}

/** The episode through the environment, as an agent plays it. */
async function playOurs(episode) {
  const provider = await ScienceWorldProvider.open({ jar, maxProcesses: 1, stepLimit: 1000 });
  try {
    const environment = await provider.create();
    await environment.reset(`${episode.task}/${episode.variation}`);
    let steps = 0;
    const start = performance.now();
    for (const { action } of episode.steps) {
      const { terminated } = await environment.step(action);
      steps++;
      if (terminated) break;
    }
    return { steps, seconds: (performance.now() - start) / 1000 };
  } finally {
    await provider.close();
  }
}

/** The same calls inside the JVM; the flags are those of src/environments/scienceworld/jvm.ts. */
async function playOwn(episode) {
  const actions = join(folder, "actions.txt");
  writeFileSync(actions, episode.steps.map(({ action }) => action).join("\n"));
  // The simulator writes its table of types back: each JVM gets a fresh one.
  const table = join(dirname(jar), "object_type_ids.tsv");
  if (existsSync(table)) copyFileSync(table, join(folder, "object_type_ids.tsv"));
  const flags = ["-Xmx256m", "-XX:+UseG1GC", "-XX:ActiveProcessorCount=2", "-Dfile.encoding=UTF-8"];
  const classes = [resolve(jar), folder].join(delimiter);
  const child = spawn("java", [...flags, "-cp", classes, "InProcess", episode.task, `${episode.variation}`, actions], {
    cwd: folder,
    stdio: ["ignore", "pipe", "ignore"],
  });
  let tail = "";
  for await (const chunk of child.stdout.setEncoding("utf8")) tail = (tail + chunk).slice(-200);
  const [, steps, seconds] = /own (\d+) ([\d.E-]+)\s*$/.exec(tail) ?? [];
  if (steps === undefined) throw new Error(`${episode.task}: the simulator ended early`);
  return { steps: Number(steps), seconds: Number(seconds) };
}
