/**
 * Random numbers as a function of (seed, counter): no generator carries state from one use to the next, so that a
 * resumed run needs only its counters, and no result depends on the order in which work happens to finish.
 */
import { createHash } from "node:crypto";
import { invalid } from "../errors.js";

const MASK = (1n << 64n) - 1n;

/** An independent 64-bit seed for a purpose: the first 8 bytes of sha256 over seed and labels. */
export function deriveSeed(seed: number | bigint, ...labels: (string | number)[]): bigint {
  const digest = createHash("sha256")
    .update(JSON.stringify([String(seed), ...labels]))
    .digest();
  return digest.readBigUInt64LE(0);
}

/**
 * Stream id of one request: no two (index, attempt, step) share a stream, nor do the completions of a request, which
 * the engine numbers from the stream upwards.
 *
 * Bits from the top: index 32, attempt 8, step 14, completion 10.
 */
export function streamOf(index: number, step = 0, attempt = 0): bigint {
  if (!Number.isInteger(index) || index < 0 || index >= 2 ** 32)
    throw invalid("BAD_ARGUMENT", "index", "an integer in [0, 2^32)", index);
  if (!Number.isInteger(step) || step < 0 || step >= 2 ** 14)
    throw invalid("BAD_ARGUMENT", "step", "an integer in [0, 16384)", step);
  if (!Number.isInteger(attempt) || attempt < 0 || attempt >= 2 ** 8)
    throw invalid("BAD_ARGUMENT", "attempt", "an integer in [0, 256)", attempt);
  return (BigInt(index) << 32n) | (BigInt(attempt) << 24n) | (BigInt(step) << 10n);
}

/** Random 64 bits number `counter` of a seed: SplitMix64 (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195). */
export function randomBits(seed: bigint, counter: number): bigint {
  let z = (seed + BigInt(counter + 1) * 0x9e3779b97f4a7c15n) & MASK;
  z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK;
  z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & MASK;
  return z ^ (z >> 31n);
}

/** A uniform integer in [0, n), number `counter` of a seed (Lemire's multiply-shift; its bias is below n / 2^64). */
export function randomBelow(seed: bigint, counter: number, n: number): number {
  return Number((randomBits(seed, counter) * BigInt(n)) >> 64n);
}

/** The numbers 0 to n-1 in a seeded random order (Fisher and Yates). */
export function permutation(seed: bigint, n: number): Uint32Array {
  const order = Uint32Array.from({ length: n }, (_, i) => i);
  for (let i = n - 1; i > 0; i--) {
    const j = randomBelow(seed, i, i + 1);
    const swap = order[i] as number;
    order[i] = order[j] as number;
    order[j] = swap;
  }
  return order;
}

/**
 * An endless seeded pass over n items: every item once an epoch, a new order each epoch.
 *
 * Item number `cursor` is a function of the seed and the cursor alone.
 */
export class EpochOrder {
  readonly #seed: bigint;
  readonly #n: number;
  #epoch = -1;
  #order: Uint32Array = new Uint32Array();

  constructor(seed: bigint, n: number) {
    if (!Number.isInteger(n) || n < 1) throw invalid("BAD_ARGUMENT", "n", "a positive number of items", n);
    this.#seed = seed;
    this.#n = n;
  }

  at(cursor: number): { readonly index: number; readonly epoch: number } {
    const epoch = Math.floor(cursor / this.#n);
    if (epoch !== this.#epoch) {
      this.#order = permutation(deriveSeed(this.#seed, "epoch", epoch), this.#n);
      this.#epoch = epoch;
    }
    return { index: this.#order[cursor % this.#n] as number, epoch };
  }
}

/**
 * An endless seeded pass over blocks of items: the blocks come in a new order each epoch, the items of a block together
 * and in their own order.
 */
export class BlockOrder {
  readonly #order: EpochOrder;
  readonly #blocks: readonly (readonly number[])[];
  readonly #n: number;
  #epoch = -1;
  #items: readonly number[] = [];

  /** @param blocks Item numbers of each block; every block has at least one. */
  constructor(seed: bigint, blocks: readonly (readonly number[])[]) {
    this.#order = new EpochOrder(seed, blocks.length);
    this.#blocks = blocks;
    this.#n = blocks.reduce((sum, block) => sum + block.length, 0);
  }

  at(cursor: number): { readonly index: number; readonly epoch: number } {
    const epoch = Math.floor(cursor / this.#n);
    if (epoch !== this.#epoch) {
      const first = epoch * this.#blocks.length;
      this.#items = this.#blocks.flatMap((_, i) => this.#blocks[this.#order.at(first + i).index] ?? []);
      this.#epoch = epoch;
    }
    return { index: this.#items[cursor % this.#n] as number, epoch };
  }
}
