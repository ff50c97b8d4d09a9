import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { bootstrapMean, mcnemar, standardDeviation, wilson } from "../../src/evaluation/statistics.js";

describe("wilson", () => {
  it("is where the score test turns: (p - x)^2 = z^2 x (1 - x) / n", () => {
    for (const [k, n] of [
      [15, 20],
      [1, 140],
      [133, 134],
    ] as const)
      for (const x of Object.values(wilson(k, n)))
        expect((k / n - x) ** 2).toBeCloseTo((1.959963984540054 ** 2 * x * (1 - x)) / n, 12);
  });

  it("contains the share, stays in [0, 1] and is symmetric", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 5000 }), fc.double({ min: 0, max: 1, noNaN: true }), (n, share) => {
        const k = Math.round(share * n);
        const { low, high } = wilson(k, n);
        expect(low).toBeGreaterThanOrEqual(0);
        expect(high).toBeLessThanOrEqual(1);
        expect(low).toBeLessThanOrEqual(k / n);
        expect(high).toBeGreaterThanOrEqual(k / n);
        expect(wilson(n - k, n).low).toBeCloseTo(1 - high, 12);
      }),
    );
  });

  it("knows nothing of nothing, and refuses what is no count", () => {
    expect(wilson(0, 0)).toEqual({ low: 0, high: 1 });
    expect(() => wilson(3, 2)).toThrowError(/successes/u);
    expect(() => wilson(1.5, 2)).toThrowError(/successes/u);
  });
});

describe("mcnemar", () => {
  it("is the exact binomial test", () => {
    // scipy.stats.binomtest(k, n).pvalue
    expect(mcnemar(10, 2)).toBeCloseTo(0.03857421875, 12);
    expect(mcnemar(3, 3)).toBe(1);
    expect(mcnemar(0, 5)).toBeCloseTo(0.0625, 12);
    expect(mcnemar(0, 0)).toBe(1);
    expect(mcnemar(700, 800)).toBeGreaterThan(0.005);
    expect(mcnemar(700, 800)).toBeLessThan(0.02);
  });
});

describe("bootstrapMean", () => {
  it("repeats, covers the mean and narrows with more values", () => {
    const values = Array.from({ length: 50 }, (_, i) => (i % 5 === 0 ? 1 : 0));
    const one = bootstrapMean(values, 1n);
    expect(bootstrapMean(values, 1n)).toEqual(one);
    expect(one.mean).toBe(0.2);
    expect(one.low).toBeLessThan(0.2);
    expect(one.high).toBeGreaterThan(0.2);
    // Normal approximation: 1.96 * 0.4 / sqrt(50) = 0.11.
    expect(one.high - one.low).toBeGreaterThan(0.16);
    expect(one.high - one.low).toBeLessThan(0.28);
    const many = bootstrapMean([...values, ...values, ...values, ...values], 1n);
    expect(many.high - many.low).toBeLessThan(one.high - one.low);
  });

  it("is a point for equal values, and an error for none", () => {
    expect(bootstrapMean([2, 2, 2], 0n)).toEqual({ mean: 2, low: 2, high: 2 });
    expect(() => bootstrapMean([], 0n)).toThrowError(/values/u);
  });
});

describe("standardDeviation", () => {
  it("is the sample's", () => {
    expect(standardDeviation([2, 4, 4, 4, 5, 5, 7, 9])).toBeCloseTo(2.138089935, 9);
    expect(standardDeviation([1])).toBe(0);
  });
});
