/**
 * CPython's `random` module (3.8), as far as WebShop draws from it.
 *
 * WebShop's prices, price bounds, goal order and random listings come from this generator, so its stream has to be
 * the same number for number: MT19937 (Matsumoto and Nishimura 1998, `init_by_array` seeding), 53-bit doubles, and
 * CPython's ways of turning them into choices.
 */
import { EnvironmentError } from "../environment.js";

const STATE_WORDS = 624;
const SHIFT_WORDS = 397;

export class PythonRandom {
  readonly #state = new Uint32Array(STATE_WORDS);
  #index = STATE_WORDS;

  /** @param seed an integer; like CPython, only its absolute value counts. */
  constructor(seed: number) {
    this.seed(seed);
  }

  /** Starts the stream of `random.seed(seed)`. Throws {@link EnvironmentError} unless `seed` is a safe integer. */
  seed(seed: number): void {
    if (!Number.isSafeInteger(seed)) {
      throw new EnvironmentError("ENVIRONMENT_BAD_OPTIONS", `Expected a safe integer for \`seed\`, got ${seed}.`);
    }
    const key: number[] = [];
    for (let rest = BigInt(Math.abs(seed)); rest > 0n; rest >>= 32n) key.push(Number(rest & 0xffffffffn));
    if (key.length === 0) key.push(0);
    this.#seedByArray(key);
  }

  #seedByArray(key: readonly number[]): void {
    const mt = this.#state;
    mt[0] = 19650218;
    for (let i = 1; i < STATE_WORDS; i++) {
      const previous = mt[i - 1]! ^ (mt[i - 1]! >>> 30);
      mt[i] = Math.imul(1812433253, previous) + i;
    }
    let i = 1;
    let j = 0;
    for (let k = Math.max(STATE_WORDS, key.length); k > 0; k--) {
      const previous = mt[i - 1]! ^ (mt[i - 1]! >>> 30);
      mt[i] = (mt[i]! ^ Math.imul(previous, 1664525)) + key[j]! + j;
      if (++i >= STATE_WORDS) {
        mt[0] = mt[STATE_WORDS - 1]!;
        i = 1;
      }
      if (++j >= key.length) j = 0;
    }
    for (let k = STATE_WORDS - 1; k > 0; k--) {
      const previous = mt[i - 1]! ^ (mt[i - 1]! >>> 30);
      mt[i] = (mt[i]! ^ Math.imul(previous, 1566083941)) - i;
      if (++i >= STATE_WORDS) {
        mt[0] = mt[STATE_WORDS - 1]!;
        i = 1;
      }
    }
    mt[0] = 0x80000000;
    this.#index = STATE_WORDS;
  }

  #regenerate(): void {
    const mt = this.#state;
    for (let k = 0; k < STATE_WORDS; k++) {
      const y = (mt[k]! & 0x80000000) | (mt[(k + 1) % STATE_WORDS]! & 0x7fffffff);
      mt[k] = mt[(k + SHIFT_WORDS) % STATE_WORDS]! ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    this.#index = 0;
  }

  #uint32(): number {
    if (this.#index >= STATE_WORDS) this.#regenerate();
    let y = this.#state[this.#index++]!;
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  /** A double in [0, 1) with 53 random bits. */
  random(): number {
    const high = this.#uint32() >>> 5;
    const low = this.#uint32() >>> 6;
    return (high * 67108864 + low) / 9007199254740992;
  }

  /** A double between `a` and `b`: a + (b - a) * random(). */
  uniform(a: number, b: number): number {
    return a + (b - a) * this.random();
  }

  /** An integer in [0, n), n from 1 to 2^32 - 1: draws of just enough bits until one is below n. */
  below(n: number): number {
    const bits = 32 - Math.clz32(n);
    let draw = this.#uint32() >>> (32 - bits);
    while (draw >= n) draw = this.#uint32() >>> (32 - bits);
    return draw;
  }

  /** Shuffles in place (Fisher-Yates from the end). */
  shuffle<T>(items: T[]): void {
    for (let i = items.length - 1; i > 0; i--) {
      const j = this.below(i + 1);
      [items[i], items[j]] = [items[j]!, items[i]!];
    }
  }

  /**
   * `k` different elements in the order drawn. CPython keeps a pool for small populations and a set of taken indices
   * for large ones; the two consume the stream differently, so its choice between them (sample's `setsize`) is kept.
   *
   * Throws {@link RangeError} when `k` is more than there are.
   */
  sample<T>(population: readonly T[], k: number): T[] {
    const n = population.length;
    if (k > n) throw new RangeError("Sample larger than population or is negative");
    const setSize = 21 + (k > 5 ? 4 ** Math.ceil(Math.log(k * 3) / Math.log(4)) : 0);
    const result: T[] = [];
    if (n <= setSize) {
      const pool = [...population];
      for (let i = 0; i < k; i++) {
        const j = this.below(n - i);
        result.push(pool[j]!);
        pool[j] = pool[n - i - 1]!;
      }
      return result;
    }
    const taken = new Set<number>();
    while (taken.size < k) {
      const j = this.below(n);
      if (taken.has(j)) continue;
      taken.add(j);
      result.push(population[j]!);
    }
    return result;
  }

  /** `k` elements drawn with replacement. */
  choices<T>(population: readonly T[], k: number): T[] {
    return Array.from({ length: k }, () => population[Math.floor(this.random() * population.length)]!);
  }
}
