/**
 * Intervals and tests for shares of successes.
 */
import { invalid } from "../errors.js";
import { randomBelow } from "../rollouts/random.js";

/** Two-sided 95% quantile of the normal distribution. */
const Z95 = 1.959963984540054;

/** A range with its ends. */
export interface Interval {
  readonly low: number;
  readonly high: number;
}

/**
 * Wilson's 95% score interval of a share (Wilson 1927, doi:10.1080/01621459.1927.10502953):
 *
 *   (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)
 *
 * Contains the share itself; for n = 0 it is [0, 1].
 */
export function wilson(successes: number, n: number): Interval {
  if (!(Number.isInteger(n) && n >= 0)) throw invalid("BAD_ARGUMENT", "n", "a count", n);
  if (!(Number.isInteger(successes) && successes >= 0 && successes <= n))
    throw invalid("BAD_ARGUMENT", "successes", `a count of at most ${n}`, successes);
  if (n === 0) return { low: 0, high: 1 };
  const p = successes / n;
  const z2 = Z95 * Z95;
  const center = p + z2 / (2 * n);
  const spread = Z95 * Math.sqrt((p * (1 - p)) / n + z2 / (4 * n * n));
  const scale = 1 + z2 / n;
  // Rounding may put a bound of 0 or 1 a hair on the wrong side of the share.
  return {
    low: successes === 0 ? 0 : Math.min(p, (center - spread) / scale),
    high: successes === n ? 1 : Math.max(p, (center + spread) / scale),
  };
}

/**
 * Exact two-sided McNemar test of paired outcomes (McNemar 1947): under equal success, each of the b + c pairs that
 * differ falls either way with probability 1/2, so
 *
 *   p = min(1, 2 * P[Binomial(b + c, 1/2) <= min(b, c)])
 *
 * @param onlyLeft Pairs where only the left policy succeeds (b).
 * @param onlyRight Pairs where only the right policy succeeds (c).
 */
export function mcnemar(onlyLeft: number, onlyRight: number): number {
  const n = onlyLeft + onlyRight;
  const k = Math.min(onlyLeft, onlyRight);
  if (n === 0) return 1;
  // Sum of C(n, i) / 2^n in logarithms: 2^n leaves the doubles at n = 1024.
  let logTerm = -n * Math.LN2;
  let sum = Math.exp(logTerm);
  for (let i = 1; i <= k; i++) {
    logTerm += Math.log((n - i + 1) / i);
    sum += Math.exp(logTerm);
  }
  return Math.min(1, 2 * sum);
}

/**
 * 95% percentile bootstrap interval of the mean (Efron 1979), e.g. of paired score differences.
 *
 * @param values At least one.
 * @param seed Same seed, same interval.
 * @param draws Resamples.
 */
export function bootstrapMean(values: readonly number[], seed: bigint, draws = 2000): Interval & { mean: number } {
  const n = values.length;
  if (n === 0) throw invalid("BAD_ARGUMENT", "values", "at least one value", values);
  const means = new Float64Array(draws);
  for (let d = 0; d < draws; d++) {
    let sum = 0;
    for (let i = 0; i < n; i++) sum += values[randomBelow(seed, d * n + i, n)] as number;
    means[d] = sum / n;
  }
  means.sort();
  const at = (q: number): number => means[Math.min(draws - 1, Math.max(0, Math.round(q * (draws - 1))))] as number;
  return { mean: mean(values), low: at(0.025), high: at(0.975) };
}

/** Arithmetic mean; NaN of nothing. */
export function mean(values: readonly number[]): number {
  let sum = 0;
  for (const v of values) sum += v;
  return sum / values.length;
}

/** Sample standard deviation (N - 1); 0 for fewer than two values. */
export function standardDeviation(values: readonly number[]): number {
  if (values.length < 2) return 0;
  const m = mean(values);
  let sum = 0;
  for (const v of values) sum += (v - m) * (v - m);
  return Math.sqrt(sum / (values.length - 1));
}
