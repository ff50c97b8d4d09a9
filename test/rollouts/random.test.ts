import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { horizonAt } from "../../src/rollouts/horizon.js";
import { BlockOrder, deriveSeed, EpochOrder, permutation, randomBelow, streamOf } from "../../src/rollouts/random.js";

describe("streamOf", () => {
  it("never shares a stream, nor one of the thousand behind it", () => {
    const seen = new Set<bigint>();
    for (const index of [0, 1, 2, 2 ** 32 - 1])
      for (const step of [0, 1, 16383]) for (const attempt of [0, 1, 255]) seen.add(streamOf(index, step, attempt));
    expect(seen.size).toBe(36);
    for (const stream of seen) {
      expect(stream % 1024n).toBe(0n);
      expect(stream < 1n << 64n).toBe(true);
    }
  });

  it("refuses what does not fit", () => {
    expect(() => streamOf(2 ** 32)).toThrowError(/index/u);
    expect(() => streamOf(0, 16384)).toThrowError(/step/u);
    expect(() => streamOf(0, 0, 256)).toThrowError(/attempt/u);
    expect(() => streamOf(-1)).toThrowError(/index/u);
  });
});

describe("permutation", () => {
  it("holds every number once and depends on the seed", () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }), fc.integer({ min: 1, max: 300 }), (seed, n) => {
        const order = permutation(seed, n);
        expect([...order].sort((a, b) => a - b)).toEqual(Array.from({ length: n }, (_, i) => i));
        expect(permutation(seed, n)).toEqual(order);
      }),
    );
    expect(permutation(1n, 50)).not.toEqual(permutation(2n, 50));
  });

  it("is even: every item comes first about as often", () => {
    const counts = new Array<number>(6).fill(0);
    for (let seed = 0; seed < 6000; seed++) {
      const first = permutation(deriveSeed(seed, "test"), 6)[0] as number;
      counts[first] = (counts[first] as number) + 1;
    }
    // Chi-squared with 5 degrees of freedom: above 20.5 once in a thousand.
    const chi = counts.reduce((sum, c) => sum + (c - 1000) ** 2 / 1000, 0);
    expect(chi).toBeLessThan(20.5);
  });
});

describe("randomBelow", () => {
  it("stays in range", () => {
    fc.assert(
      fc.property(
        fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
        fc.nat(),
        fc.integer({ min: 1, max: 1e9 }),
        (seed, counter, n) => {
          const x = randomBelow(seed, counter, n);
          expect(Number.isInteger(x) && x >= 0 && x < n).toBe(true);
        },
      ),
    );
  });
});

describe("EpochOrder", () => {
  it("passes over all items once an epoch, in another order each time, from any cursor", () => {
    const order = new EpochOrder(5n, 20);
    const epochs = [0, 1, 2].map((e) => Array.from({ length: 20 }, (_, i) => order.at(e * 20 + i)));
    for (const [e, epoch] of epochs.entries()) {
      expect(new Set(epoch.map((x) => x.index)).size).toBe(20);
      expect(epoch.every((x) => x.epoch === e)).toBe(true);
    }
    expect(epochs[0]?.map((x) => x.index)).not.toEqual(epochs[1]?.map((x) => x.index));
    expect(new EpochOrder(5n, 20).at(33)).toEqual(epochs[1]?.[13]);
  });
});

describe("BlockOrder", () => {
  it("keeps the items of a block together, in order, every item once an epoch", () => {
    const blocks = [[0, 1, 2], [3], [4, 5]];
    const order = new BlockOrder(3n, blocks);
    const epoch = Array.from({ length: 6 }, (_, i) => order.at(i).index);
    expect([...epoch].sort((a, b) => a - b)).toEqual([0, 1, 2, 3, 4, 5]);
    expect(epoch.join(",")).toMatch(/0,1,2/u);
    expect(epoch.join(",")).toMatch(/4,5/u);
    expect(new BlockOrder(3n, blocks).at(10)).toEqual(order.at(10));
  });
});

describe("horizonAt", () => {
  const schedule = [
    { fromStep: 0, stepLimit: 5 },
    { fromStep: 10, stepLimit: 20 },
  ];

  it("grows at the steps it says", () => {
    expect([0, 9, 10, 999].map((step) => horizonAt(schedule, step))).toEqual([5, 5, 20, 20]);
  });

  it("refuses a schedule that begins late or goes back", () => {
    expect(() => horizonAt([{ fromStep: 1, stepLimit: 5 }], 1)).toThrowError(/fromStep/u);
    expect(() => horizonAt([...schedule, { fromStep: 10, stepLimit: 30 }], 1)).toThrowError(/fromStep/u);
  });
});
