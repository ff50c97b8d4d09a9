/** Random integers that are the same on every machine: xoshiro128** seeded by the sha256 of a text. */
import { createHash } from "node:crypto";

/** A stream of random integers. Uses no floating-point arithmetic. */
export class IntegerRandom {
  private readonly state: Uint32Array;

  /** Equal seeds give equal streams. */
  constructor(seed: string) {
    const digest = createHash("sha256").update(seed).digest();
    this.state = Uint32Array.from([0, 4, 8, 12], (at) => digest.readUInt32LE(at));
  }

  /** The next integer of 0 ... 2^32 - 1 (Blackman and Vigna, "Scrambled linear pseudorandom number generators"). */
  next(): number {
    const s = this.state;
    const [s0 = 0, s1 = 0, s2 = 0, s3 = 0] = s;
    const result = Math.imul(rotateLeft(Math.imul(s1, 5), 7), 9) >>> 0;
    const shifted = s1 << 9;
    const t2 = s2 ^ s0;
    const t3 = s3 ^ s1;
    s[1] = s1 ^ t2;
    s[0] = s0 ^ t3;
    s[2] = t2 ^ shifted;
    s[3] = rotateLeft(t3, 11);
    return result;
  }

  /** An integer of 0 ... n - 1, each equally likely; 1 <= n <= 2^32. */
  below(n: number): number {
    // Values of the last, incomplete cycle would favor small results.
    const limit = 2 ** 32 - (2 ** 32 % n);
    let value = this.next();
    while (value >= limit) value = this.next();
    return value % n;
  }

  /** An integer of low ... high, both included. */
  between(low: number, high: number): number {
    return low + this.below(high - low + 1);
  }

  /** True in `percent` of 100 cases. */
  chance(percent: number): boolean {
    return this.below(100) < percent;
  }

  /** An element of a non-empty list. */
  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)] as T;
  }

  /** A copy in random order (Fisher and Yates). */
  shuffle<T>(list: readonly T[]): T[] {
    const shuffled = [...list];
    for (let i = shuffled.length - 1; i > 0; i--) {
      const j = this.below(i + 1);
      [shuffled[i], shuffled[j]] = [shuffled[j] as T, shuffled[i] as T];
    }
    return shuffled;
  }
}

function rotateLeft(x: number, by: number): number {
  return (x << by) | (x >>> (32 - by));
}
