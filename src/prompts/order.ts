/**
 * The order in which a judgment shows its two candidates: seeded, independent of everything but (seed, index), balanced.
 */
import { createHash } from "node:crypto";

/**
 * Whether the expert's action is shown first.
 *
 * Pairs 2k and 2k+1 get opposite orders, and a hash of (seed, k) says which: any even number of pairs in a row from an
 * even index is balanced exactly, and no pair's order depends on how many there are. All samples of a group share it.
 *
 * @param seed Any integer, e.g. the run's seed; another one for another epoch.
 * @param index Position of the pair in its file, >= 0.
 */
export function expertFirst(seed: number | bigint, index: number): boolean {
  const digest = createHash("sha256")
    .update(`order:${seed}:${Math.floor(index / 2)}`)
    .digest();
  const bit = (digest[0] ?? 0) & 1;
  return (bit ^ (index & 1)) === 1;
}
