/**
 * Success of a policy on a frozen panel of tasks.
 */
import type { EpisodeRecord, RecordHeader } from "../data/records.js";
import { deriveSeed } from "../rollouts/random.js";
import { bootstrapMean, wilson } from "./statistics.js";
import type { PanelResult } from "./summary.js";

/**
 * The figures of a panel.
 *
 * Episodes whose environment failed say nothing of the policy: they are counted apart and in no rate.
 *
 * @param header Of the episodes' file: names panel and environment.
 * @param episodes Of several seeds together where there are several.
 * @param seconds Wall-clock of playing them.
 */
export function panelResult(
  header: Pick<RecordHeader<"episodes">, "panel" | "environment">,
  episodes: readonly EpisodeRecord[],
  seconds: number,
): PanelResult {
  const played = episodes.filter((e) => e.outcome !== "environment_failed");
  const successes = successesOf(played);
  const replies = total(played, (e) => e.steps);
  const malformed = total(played, (e) => e.malformed);
  const categories: Record<string, { episodes: number; successes: number }> = {};
  for (const name of [...new Set(played.map((e) => e.category ?? ""))].sort()) {
    const inside = played.filter((e) => (e.category ?? "") === name);
    categories[name] = { episodes: inside.length, successes: successesOf(inside) };
  }
  const score =
    played.length === 0
      ? { mean: 0, low: 0, high: 0 }
      : bootstrapMean(
          played.map((e) => e.score),
          deriveSeed(0, "score"),
        );
  return {
    episodes: played.length,
    successes,
    rate: share(successes, played.length),
    ...wilson(successes, played.length),
    score: score.mean,
    score_low: score.low,
    score_high: score.high,
    truncated: share(played.filter((e) => e.outcome === "truncated").length, played.length),
    environment_failed: episodes.length - played.length,
    steps: share(replies, played.length),
    malformed: share(malformed, replies),
    rejected: share(
      total(played, (e) => e.rejected),
      replies - malformed,
    ),
    panel: header.panel.id,
    panel_hash: header.panel.hash,
    environment_version: header.environment.version ?? "",
    categories,
    seconds,
  };
}

function successesOf(episodes: readonly EpisodeRecord[]): number {
  return episodes.filter((e) => e.outcome === "success").length;
}

function total(episodes: readonly EpisodeRecord[], of: (episode: EpisodeRecord) => number): number {
  return episodes.reduce((sum, e) => sum + of(e), 0);
}

/** A share of nothing is 0. */
function share(part: number, whole: number): number {
  return whole === 0 ? 0 : part / whole;
}
