/**
 * Figures of a judge from its verdicts on pairs, every pair asked in both orders.
 */
import type { JudgmentRecord, PairRecord } from "../data/records.js";
import { canonicalizeAction } from "../prompts/action-text.js";
import { wilson } from "./statistics.js";
import type { JudgmentResult } from "./summary.js";

/**
 * - `inadmissible`: the environment would not accept it;
 * - `near-miss`: same first word as the expert's action (the same verb with another object);
 * - `other`: everything else.
 */
export type AlternativeKind = "inadmissible" | "near-miss" | "other";

/** Kind of a pair's alternative. One whose admissibility is not known is `near-miss` or `other`. */
export function alternativeKind(pair: PairRecord): AlternativeKind {
  if (pair.alternative_admissible === false) return "inadmissible";
  const verb = (action: string): string | undefined => canonicalizeAction(action).split(/[ [(]/u)[0];
  return verb(pair.alternative) === verb(pair.expert_action) ? "near-miss" : "other";
}

/**
 * Accuracy, position bias and swap consistency.
 *
 * Accuracy is over all verdicts (two a pair). Its interval is Wilson's over pairs, not verdicts: the two verdicts on a
 * pair are not independent, so the effective number is taken to be that of the pairs.
 *
 * @param judgments Two for each pair, one an order; those of other pairs are ignored.
 * @param seconds Wall-clock of judging.
 */
export function judgmentResult(
  pairs: readonly PairRecord[],
  judgments: readonly JudgmentRecord[],
  seconds: number,
): JudgmentResult {
  const byPair = new Map<string, JudgmentRecord[]>();
  for (const judgment of judgments) byPair.set(judgment.pair_id, [...(byPair.get(judgment.pair_id) ?? []), judgment]);
  const asked = pairs.filter((pair) => byPair.get(pair.id)?.length === 2);
  const all = asked.flatMap((pair) => byPair.get(pair.id) ?? []);
  const right = all.filter((j) => j.picked === "expert").length;
  const consistent = asked.filter((pair) => {
    const [one, other] = byPair.get(pair.id) ?? [];
    return one?.picked === other?.picked && (one?.picked === "expert" || one?.picked === "alternative");
  }).length;
  const kinds: Record<string, { pairs: number; accuracy: number }> = {};
  for (const kind of ["inadmissible", "near-miss", "other"] as const) {
    const inside = asked.filter((pair) => alternativeKind(pair) === kind);
    if (inside.length === 0) continue;
    const verdicts = inside.flatMap((pair) => byPair.get(pair.id) ?? []);
    const accuracy = verdicts.filter((j) => j.picked === "expert").length / verdicts.length;
    kinds[kind] = { pairs: inside.length, accuracy };
  }
  const accuracy = share(right, all.length);
  return {
    accuracy,
    ...interval(accuracy, asked.length),
    consistency: share(consistent, asked.length),
    first_share: firstShare(all),
    malformed: share(all.filter((j) => j.picked === "malformed").length, all.length),
    truncated: share(all.filter((j) => j.truncated).length, all.length),
    pairs: asked.length,
    by_alternative: kinds,
    seconds,
  };
}

/**
 * Results of several seeds as one: shares weighted by pairs, the interval over all pairs.
 *
 * @param judgments Those the results are of, all seeds' together: how many picks a seed made is not in its result.
 */
export function poolJudgments(
  results: readonly JudgmentResult[],
  judgments: readonly JudgmentRecord[],
): JudgmentResult {
  const pairs = results.reduce((sum, r) => sum + r.pairs, 0);
  const weighted = (of: (result: JudgmentResult) => number): number =>
    share(
      results.reduce((sum, r) => sum + of(r) * r.pairs, 0),
      pairs,
    );
  const accuracy = weighted((r) => r.accuracy);
  const kinds: Record<string, { pairs: number; accuracy: number }> = {};
  for (const kind of new Set(results.flatMap((r) => Object.keys(r.by_alternative)))) {
    const of = results.map((r) => r.by_alternative[kind]).filter((k) => k !== undefined);
    const count = of.reduce((sum, k) => sum + k.pairs, 0);
    kinds[kind] = { pairs: count, accuracy: of.reduce((sum, k) => sum + k.accuracy * k.pairs, 0) / count };
  }
  return {
    accuracy,
    ...interval(accuracy, pairs),
    consistency: weighted((r) => r.consistency),
    first_share: firstShare(judgments),
    malformed: weighted((r) => r.malformed),
    truncated: weighted((r) => r.truncated),
    pairs,
    by_alternative: kinds,
    seconds: results.reduce((sum, r) => sum + r.seconds, 0),
  };
}

/** Share of picks that fell on the action shown first; 0.5 where nothing was picked. */
function firstShare(judgments: readonly JudgmentRecord[]): number {
  const picks = judgments.filter((j) => j.picked === "expert" || j.picked === "alternative");
  const first = picks.filter((j) => (j.picked === "expert") === j.expert_first).length;
  return picks.length === 0 ? 0.5 : first / picks.length;
}

function interval(accuracy: number, pairs: number): { low: number; high: number } {
  const { low, high } = wilson(Math.round(accuracy * pairs), pairs);
  return { low: Math.min(low, accuracy), high: Math.max(high, accuracy) };
}

/** A share of nothing is 0. */
function share(part: number, whole: number): number {
  return whole === 0 ? 0 : part / whole;
}
