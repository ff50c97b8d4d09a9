/**
 * A recipe in a run folder, with progress on stderr, the table on stdout, and the run's status kept.
 */
import { join } from "node:path";
import { ActError } from "../errors.js";
import { checkRecipe } from "../recipes/check.js";
import { parseResolvedRecipe, type Recipe } from "../recipes/recipe.js";
import { type FinishedStage, type RunEvents, runStages, type StageEvent } from "../recipes/runner.js";
import { summarize } from "../recipes/summarize.js";
import { writeReport } from "../report/page.js";
import { summaryTable } from "../report/table.js";
import { RunFolder } from "../runs/run-folder.js";
import { EXIT, InterruptedError } from "./exit.js";
import { duration, Progress } from "./progress.js";

/** Starts a run; see `act-trainer run`. @returns Exit code. */
export async function startRun(
  recipe: Recipe,
  folder: string,
  overwrite: boolean,
  signal: AbortSignal,
): Promise<number> {
  // Before an earlier run is removed.
  await checkRecipe(recipe);
  await using run = await RunFolder.create(folder, recipe.name, recipe, overwrite);
  return (await carryOn(recipe, run, signal)).code;
}

/** Goes on with a run; see `act-trainer resume`. @param recipe Replaces the run's own. @returns Exit code. */
export async function resumeRun(folder: string, recipe: Recipe | null, signal: AbortSignal): Promise<number> {
  // Not checked as a new run's recipe is: what finished stages needed may be gone.
  await using run = await RunFolder.open(folder);
  if (recipe !== null) await run.writeConfig(recipe);
  const current = recipe ?? parseResolvedRecipe(await run.readConfig(), run.path);
  return (await carryOn(current, run, signal)).code;
}

/** Runs all stages of an open run, then writes summary and report. */
export async function carryOn(
  recipe: Recipe,
  run: RunFolder,
  signal: AbortSignal,
): Promise<{ readonly code: number; readonly finished: readonly FinishedStage[] }> {
  const progress = new Progress();
  try {
    const finished = await runStages(recipe, run, eventsOf(progress, recipe), signal);
    progress.end();
    const { policies, judge } = recipe.summary;
    if (Object.keys(policies).length + Object.keys(judge).length > 0) {
      const summary = await summarize(recipe, run, finished);
      const page = await writeReport(recipe, run, finished, summary);
      await run.update("complete");
      process.stdout.write(`\n${summaryTable(summary)}\n\n`);
      progress.line(`summary  ${join(run.path, "summary.json")}\nreport   ${page}`);
    } else await run.update("complete");
    return { code: EXIT.ok, finished };
  } catch (cause) {
    progress.end();
    const stopped = signal.aborted || cause instanceof InterruptedError;
    const code = cause instanceof ActError ? cause.code : "INTERNAL";
    const message = cause instanceof Error ? cause.message : String(cause);
    // The run's own error is the one to report, also when its status cannot be written.
    await run.update(stopped ? "interrupted" : "failed", { code, message }).catch(() => undefined);
    if (stopped) progress.line(`Go on with: act-trainer resume ${run.path}`);
    throw cause;
  }
}

function eventsOf(progress: Progress, recipe: Recipe): RunEvents {
  let label = "";
  let started = false;
  return {
    onStage: (event) => {
      label = labelOf(event, recipe);
      started = false;
      if (event.state === "started") progress.start(label, null);
      else {
        progress.end();
        const verb = event.state === "skipped" ? "kept, finished before" : "done";
        progress.line(`${label}  ${verb} in ${duration(event.seconds)}${resultText(event.result)}`);
      }
    },
    onProgress: (done, total, detail) => {
      if (!started) progress.start(label, total);
      started = true;
      progress.update(done, detail);
    },
    onNote: (text) => progress.line(`${label}  ${text}`),
  };
}

function labelOf(event: StageEvent, recipe: Recipe): string {
  return event.seed === null || recipe.seeds.length === 1 ? event.name : `${event.name} (seed ${event.seed})`;
}

/** Scalars of a result on one line. */
function resultText(result: unknown): string {
  if (result === null || typeof result !== "object") return "";
  const flat = Object.entries(result).flatMap(([key, value]) => {
    if (typeof value === "number") return [`${key} ${Number.isInteger(value) ? value : value.toFixed(3)}`];
    if (value !== null && typeof value === "object" && "rate" in value)
      return [`${key} ${Number(value.rate).toFixed(3)}`];
    return [];
  });
  return flat.length === 0 ? "" : `: ${flat.slice(0, 8).join(", ")}`;
}
