/**
 * A summary as a table for a terminal.
 */
import type { PanelResult, Summary } from "../evaluation/summary.js";

/** Lines of the table, and what belongs below it. */
export function summaryTable(summary: Summary): string {
  const panels = [...new Set(Object.values(summary.policies).flatMap((p) => Object.keys(p)))];
  const parts: string[] = [];
  if (panels.length > 0) {
    const rows = Object.entries(summary.policies).map(([policy, results]) => [
      policy,
      ...panels.map((panel) => {
        const r = results[panel];
        if (r === undefined) return "-";
        return `${percent(r.rate)} [${percent(r.low)}, ${percent(r.high)}]  ${r.successes}/${r.episodes}`;
      }),
    ]);
    parts.push(grid(["success", ...panels.map((p) => p.replaceAll("_", " "))], rows));
  }
  const results = Object.values(summary.policies).flatMap((p) => Object.values(p));
  // Where an episode is either won or worth nothing, the score says the same as the success.
  if (results.some((r) => Math.abs(r.score - r.rate) > 1e-9)) {
    const rows = Object.entries(summary.policies).map(([policy, of]) => [
      policy,
      ...panels.map((panel) => (of[panel] === undefined ? "-" : scoreText(of[panel]))),
    ]);
    parts.push(grid(["mean score", ...panels.map((p) => p.replaceAll("_", " "))], rows));
  }
  const judge = Object.entries(summary.judge).map(([when, j]) => [
    when,
    percent(j.accuracy),
    percent(j.consistency),
    percent(j.first_share),
    percent(j.malformed),
    String(j.pairs),
  ]);
  if (judge.length > 0)
    parts.push(grid(["judge", "accuracy", "consistency", "first picked", "malformed", "pairs"], judge));
  const comparisons = summary.comparisons.map((c) => [
    `${c.right} - ${c.left}`,
    c.panel.replaceAll("_", " "),
    `${signed(c.difference)} [${signed(c.low)}, ${signed(c.high)}]`,
    c.p < 0.001 ? "< 0.001" : c.p.toFixed(3),
    String(c.pairs),
  ]);
  if (comparisons.length > 0) parts.push(grid(["difference", "panel", "95% interval", "p", "tasks"], comparisons));
  const leftOut = failedEnvironments(summary);
  if (leftOut.length > 0) parts.push(leftOut.join("\n"));
  const seeds = summary.seeds.length === 1 ? "1 seed" : `${summary.seeds.length} seeds`;
  parts.push(
    `${seeds}, 95% intervals (Wilson; scores: bootstrap; differences: paired bootstrap, exact McNemar test). ` +
      `${Math.round(summary.seconds)} s on ${summary.machine}, commit ${summary.commit.slice(0, 12)}.`,
  );
  return parts.join("\n\n");
}

/** A line for each panel from which episodes are missing: their environments failed, which is not the policy's doing. */
export function failedEnvironments(summary: Summary): string[] {
  return Object.entries(summary.policies).flatMap(([policy, results]) =>
    Object.entries(results).flatMap(([panel, r]) => {
      const { environment_failed: failed, episodes } = r;
      if (failed === 0) return [];
      return [
        `${policy}, ${panel.replaceAll("_", " ")}: the environment failed in ${failed} of ${failed + episodes} episodes, ` +
          `which are left out; \`fault\` in episodes.${panel}.jsonl says how.`,
      ];
    }),
  );
}

/** `0.43 [0.31, 0.55]` */
export function scoreText({ score, score_low, score_high }: PanelResult): string {
  const interval =
    score_low === undefined || score_high === undefined ? "" : ` [${score_low.toFixed(2)}, ${score_high.toFixed(2)}]`;
  return score.toFixed(2) + interval;
}

/** `62.1%` */
export function percent(share: number): string {
  return `${(100 * share).toFixed(1)}%`;
}

/** `+4.3` percentage points. */
export function signed(share: number): string {
  return `${share < 0 ? "-" : "+"}${Math.abs(100 * share).toFixed(1)}`;
}

/** Columns as wide as their widest cell. */
function grid(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((title, c) => Math.max(title.length, ...rows.map((row) => row[c]?.length ?? 0)));
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, c) => cell.padEnd(widths[c] ?? 0))
      .join("  ")
      .trimEnd();
  return [line(head), widths.map((w) => "-".repeat(w)).join("  "), ...rows.map(line)].join("\n");
}
