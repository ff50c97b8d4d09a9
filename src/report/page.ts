/**
 * The page of a run: results, curves, judgments and episodes in one HTML file without anything to load.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { writeFileAtomic } from "../data/files.js";
import type { JudgmentRecord } from "../data/records.js";
import { readRecords } from "../data/records-file.js";
import { metricTable } from "../data/records-metrics.js";
import type { PanelResult, Summary } from "../evaluation/summary.js";
import type { Recipe } from "../recipes/recipe.js";
import type { FinishedStage } from "../recipes/runner.js";
import type { RunFolder } from "../runs/run-folder.js";
import { JUDGMENTS_FILE } from "../stages/assess.js";
import { type ExampleEpisode, examplesFile } from "../stages/evaluate.js";
import { METRICS_FILE, SAMPLES_FILE } from "../stages/training-loop.js";
import { curveSvg } from "./curve.js";
import { Html, html } from "./html.js";
import { failedEnvironments, percent, scoreText, signed } from "./table.js";

export const REPORT_FILE = "report.html";

/** Examples of each kind on the page. */
const EXAMPLES = 4;

/** Figures drawn, where a stage has them. */
const CURVES = [
  "reward/mean",
  "judge/accuracy",
  "judge/first_share",
  "judge/probe_swap_consistency",
  "imitation/loss",
  "rollout/success_share",
  "rollout/malformed_share",
  "rollout/truncated_share",
  "groups/zero_variance_share",
  "policy/entropy",
  "policy/kl",
  "optimizer/grad_norm",
] as const;

/** Writes the page of a run. @returns Its path. */
export async function writeReport(
  recipe: Recipe,
  run: RunFolder,
  finished: readonly FinishedStage[],
  summary: Summary,
): Promise<string> {
  const sections: Html[] = [resultsSection(summary)];
  for (const stage of finished) {
    sections.push(await curvesSection(stage));
    sections.push(await samplesSection(stage));
  }
  for (const [name, stage] of Object.entries(recipe.summary.judge))
    sections.push(
      await judgmentsSection(
        name,
        finished.find((f) => f.name === stage),
      ),
    );
  for (const [policy, stage] of Object.entries(recipe.summary.policies))
    sections.push(
      await episodesSection(
        policy,
        finished.find((f) => f.name === stage),
      ),
    );
  const file = join(run.path, REPORT_FILE);
  await writeFileAtomic(file, page(summary, sections).text);
  return file;
}

function page(summary: Summary, sections: readonly Html[]): Html {
  return html`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>${summary.name} - act-trainer</title><style>${new Html(STYLE)}</style></head><body>
<h1>${summary.name}</h1>
<p>${Math.round(summary.seconds)} seconds on ${summary.machine}. Commit ${summary.commit}, version ${summary.version}, seeds ${summary.seeds.join(", ")}.</p>
${sections}
</body></html>
`;
}

const STYLE = `
:root { color-scheme: light dark; --soft: #8884; --line: #1f77b4; }
@media (prefers-color-scheme: dark) { :root { --line: #6db3e8; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--soft); }
table { border-collapse: collapse; } th, td { text-align: left; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--soft); font-variant-numeric: tabular-nums; }
.curves { display: flex; flex-wrap: wrap; gap: .5rem; } figure { margin: 0; width: 300px; } figcaption { font-size: 13px; }
svg text { font-size: 10px; fill: currentColor; } .axis { fill: none; stroke: var(--soft); } .line { fill: none; stroke: var(--line); stroke-width: 1.5; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--soft); padding: .5rem .7rem; border-radius: 4px; margin: .3rem 0; font-size: 13px; }
details { margin: .5rem 0; } .good { color: #2a8a3e; } .bad { color: #c0392b; }
.bar { position: relative; width: 10rem; height: .8rem; background: var(--soft); } .bar i { position: absolute; top: 0; bottom: 0; background: var(--line); opacity: .45; } .bar b { position: absolute; top: -2px; bottom: -2px; width: 2px; background: currentColor; }
`;

function resultsSection(summary: Summary): Html {
  const rows = Object.entries(summary.policies).flatMap(([policy, panels]) =>
    Object.entries(panels).map(
      ([panel, r]) => html`<tr><td>${policy}</td><td>${panel.replaceAll("_", " ")}</td><td>${percent(r.rate)}</td>
<td>${bar(r)}</td><td>${percent(r.low)} to ${percent(r.high)}</td><td>${r.successes}/${r.episodes}</td><td>${scoreText(r)}</td><td>${r.steps.toFixed(1)}</td><td>${percent(r.malformed)}</td></tr>`,
    ),
  );
  const judges = Object.entries(summary.judge).map(
    ([
      when,
      j,
    ]) => html`<tr><td>${when}</td><td>${percent(j.accuracy)}</td><td>${percent(j.low)} to ${percent(j.high)}</td>
<td>${percent(j.consistency)}</td><td>${percent(j.first_share)}</td><td>${percent(j.malformed)}</td><td>${j.pairs}</td></tr>`,
  );
  const comparisons = summary.comparisons.map(
    (
      c,
    ) => html`<tr><td>${c.right} - ${c.left}</td><td>${c.panel.replaceAll("_", " ")}</td><td>${signed(c.difference)}</td>
<td>${signed(c.low)} to ${signed(c.high)}</td><td>${c.p.toPrecision(2)}</td><td>${c.only_right} / ${c.only_left}</td></tr>`,
  );
  return html`<h2>Results</h2>
${table(["policy", "panel", "success", "", "95% interval", "episodes", "mean score", "steps", "malformed"], rows)}
${failedEnvironments(summary).map((line) => html`<p class="bad">${line}</p>`)}
${table(["judge", "accuracy", "95% interval", "consistent in both orders", "first picked", "malformed", "pairs"], judges)}
${table(["difference (points)", "panel", "", "95% interval", "p (McNemar)", "won / lost tasks"], comparisons)}`;
}

function bar(r: PanelResult): Html {
  const width = 100 * (r.high - r.low);
  return html`<div class="bar"><i style="left:${(100 * r.low).toFixed(1)}%;width:${width.toFixed(1)}%"></i><b style="left:${(100 * r.rate).toFixed(1)}%"></b></div>`;
}

function table(head: readonly string[], rows: readonly Html[]): Html {
  if (rows.length === 0) return new Html("");
  return html`<table><thead><tr>${head.map((h) => html`<th>${h}</th>`)}</tr></thead><tbody>${rows}</tbody></table><br>`;
}

async function curvesSection(stage: FinishedStage): Promise<Html> {
  const lines = await jsonLines(join(stage.folder, METRICS_FILE));
  const curves = CURVES.map((name) => {
    const points = lines.flatMap((line) => {
      const value = line[name];
      return typeof value === "number" && typeof line.step === "number" ? [{ step: line.step, value }] : [];
    });
    const isShare = metricTable[name].unit === "1" && name !== "optimizer/grad_norm";
    return curveSvg({ title: name, points, ...(isShare ? { range: [0, 1] as const } : {}) });
  }).filter((svg) => svg.text !== "");
  if (curves.length === 0) return new Html("");
  return html`<h2>${titleOf(stage)}</h2><div class="curves">${curves}</div>`;
}

async function samplesSection(stage: FinishedStage): Promise<Html> {
  const lines = await jsonLines(join(stage.folder, SAMPLES_FILE));
  const shown = spread(lines, EXAMPLES);
  if (shown.length === 0) return new Html("");
  return html`<details><summary>What it sampled while training</summary>${shown.map((line) => {
    const { step, replies, task, observation, ...rest } = line;
    const list = Array.isArray(replies) ? replies.map(String) : [];
    return html`<h3>Step ${String(step)}</h3><p>${String(task ?? "")}</p><pre>${String(observation ?? "")}</pre>
<p>${Object.entries(rest).map(([key, value]) => `${key}: ${Array.isArray(value) ? value.join(", ") : String(value)}. `)}</p>
${list.slice(0, EXAMPLES).map((reply) => html`<pre>${reply}</pre>`)}`;
  })}</details>`;
}

async function judgmentsSection(name: string, stage: FinishedStage | undefined): Promise<Html> {
  if (stage === undefined) return new Html("");
  const { records } = await readRecords(join(stage.folder, JUDGMENTS_FILE), "judgments");
  return html`<h2>Judgments, ${name}</h2>${spread(records, EXAMPLES).map(
    (
      record: JudgmentRecord,
    ) => html`<h3 class="${record.picked === "expert" ? "good" : "bad"}">picked: ${record.picked}</h3>
<p>Pair ${record.pair_id}, the expert's action shown ${record.expert_first ? "first" : "second"}.</p><pre>${record.reply}</pre>`,
  )}`;
}

async function episodesSection(policy: string, stage: FinishedStage | undefined): Promise<Html> {
  if (stage === undefined) return new Html("");
  const panels = Object.keys((stage.file.result ?? {}) as Record<string, unknown>);
  const episodes: Html[] = [];
  for (const panel of panels)
    for (const line of (await jsonLines(join(stage.folder, examplesFile(panel)))).slice(0, EXAMPLES))
      episodes.push(episodeHtml(panel, line as unknown as ExampleEpisode));
  return html`<h2>Episodes, ${policy}</h2>${episodes}`;
}

function episodeHtml(panel: string, episode: ExampleEpisode): Html {
  const good = episode.outcome === "success";
  return html`<details><summary><span class="${good ? "good" : "bad"}">${episode.outcome}</span>, ${panel.replaceAll("_", " ")}: ${episode.task} (${episode.steps.length} steps)</summary>
${episode.steps.map((step) => html`<pre>${step.observation}</pre><pre class="${step.accepted ? "good" : "bad"}">${step.reply}</pre>`)}
<pre>${episode.final_observation}</pre></details>`;
}

function titleOf(stage: FinishedStage): string {
  return stage.seed === null ? stage.name : `${stage.name}, seed ${stage.seed}`;
}

/** `count` items spread evenly over a list. */
function spread<T>(items: readonly T[], count: number): T[] {
  if (items.length <= count) return [...items];
  return Array.from({ length: count }, (_, i) => items[Math.floor((i * (items.length - 1)) / (count - 1))] as T);
}

/** Lines of a journal; none where the stage has no such file. */
async function jsonLines(file: string): Promise<Record<string, unknown>[]> {
  const text = await readFile(file, "utf8").catch(() => "");
  return text
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}
