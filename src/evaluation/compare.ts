/**
 * Two policies on the same tasks.
 */
import type { EpisodeRecord } from "../data/records.js";
import { ActError } from "../errors.js";
import { bootstrapMean, mcnemar } from "./statistics.js";
import type { ComparisonResult } from "./summary.js";

/**
 * Compares success task by task. Tasks that either policy could not play (its environment failed) are left out.
 *
 * @param left Episodes of one policy, seed by seed.
 * @param right Episodes of the other, the same number of seeds; paired by seed, task and repeat.
 * @param seed Of the bootstrap.
 * @throws ActError `CONFIG_BAD_VALUE` when they have no task in common, or not as many seeds.
 */
export function comparePolicies(
  names: { readonly left: string; readonly right: string; readonly panel: string },
  left: readonly (readonly EpisodeRecord[])[],
  right: readonly (readonly EpisodeRecord[])[],
  seed: bigint,
): ComparisonResult {
  if (left.length !== right.length)
    throw new ActError(
      "CONFIG_BAD_VALUE",
      `${names.left} was evaluated ${left.length} times on ${names.panel}, ${names.right} ${right.length} times.`,
      { hint: "Compare policies that were evaluated for the same seeds." },
    );
  const outcomes: [boolean, boolean][] = [];
  left.forEach((episodes, s) => {
    const others = new Map((right[s] ?? []).map((e) => [pairKey(e), e]));
    for (const one of episodes) {
      const other = others.get(pairKey(one));
      if (other === undefined) continue;
      if (one.outcome === "environment_failed" || other.outcome === "environment_failed") continue;
      outcomes.push([one.outcome === "success", other.outcome === "success"]);
    }
  });
  if (outcomes.length === 0)
    throw new ActError("CONFIG_BAD_VALUE", `${names.left} and ${names.right} share no task on ${names.panel}.`, {
      hint: "Compare policies that were evaluated on the same panel.",
    });
  const onlyLeft = outcomes.filter(([l, r]) => l && !r).length;
  const onlyRight = outcomes.filter(([l, r]) => r && !l).length;
  const differences = outcomes.map(([l, r]) => Number(r) - Number(l));
  const { mean, low, high } = bootstrapMean(differences, seed);
  return {
    ...names,
    pairs: outcomes.length,
    only_left: onlyLeft,
    only_right: onlyRight,
    difference: mean,
    low,
    high,
    p: mcnemar(onlyLeft, onlyRight),
  };
}

function pairKey(episode: EpisodeRecord): string {
  return JSON.stringify([episode.task_id, episode.repeat]);
}
