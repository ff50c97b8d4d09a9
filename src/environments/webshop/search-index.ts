/**
 * Lucene's BM25 ranking over the products, with Anserini's settings: k1 = 0.9, b = 0.4, query terms joined by OR and
 * weighted by how often the query has them, ties in the order of asins.
 *
 * score(t, d) = w - w / (1 + tf * n(d)), w = count(t) * ln(1 + (N - df + 0.5) / (df + 0.5)),
 * n(d) = 1 / (k1 * (1 - b + b * dl / avgdl)).
 *
 * The order of close results depends on Lucene's roundings, so they are all here: 32-bit floats at each step, summed
 * in 64 bits, and document lengths that have gone through Lucene's one-byte code.
 */
import { analyze } from "./analyzer.js";
import type { Product } from "./catalog.js";
import { compareCodePoints } from "./python-text.js";

const K1 = Math.fround(0.9);
const B = Math.fround(0.4);
const f32 = Math.fround;

export interface SearchHit {
  /** Position of the product in the list that the index was built from. */
  readonly index: number;
  /** BM25 score as a 32-bit float. */
  readonly score: number;
}

/** The text of a product that is searched: title, description, first bullet and options, in lower case. */
export function indexedText(product: Product): string {
  const options = [...product.options].map(([name, values]) => `${name}: ${values.join(", ")}`).join(", and ");
  return [product.name, product.description, product.bulletPoints[0] ?? "", options].join(" ").toLowerCase();
}

export class SearchIndex {
  /** Number of index terms of each document. */
  readonly lengths: Int32Array;
  readonly #terms = new Map<string, number>();
  /** Postings of term t are at [#starts[t], #starts[t + 1]). */
  readonly #starts: Uint32Array;
  readonly #documents: Int32Array;
  readonly #frequencies: Uint16Array;
  /** n(d) of each document. */
  readonly #norms: Float32Array;
  /** Place of each document when asins are sorted. */
  readonly #asinRank: Int32Array;
  readonly #scores: Float64Array;

  constructor(products: readonly Product[]) {
    const count = products.length;
    this.lengths = new Int32Array(count);
    const pairs = new GrowingPairs();
    let totalLength = 0;
    const documentStarts = new Uint32Array(count + 1);
    products.forEach((product, document) => {
      const terms = analyze(indexedText(product));
      this.lengths[document] = terms.length;
      totalLength += terms.length;
      const frequencies = new Map<number, number>();
      for (const term of terms) {
        let id = this.#terms.get(term);
        if (id === undefined) {
          id = this.#terms.size;
          this.#terms.set(term, id);
        }
        frequencies.set(id, (frequencies.get(id) ?? 0) + 1);
      }
      for (const [id, frequency] of frequencies) pairs.push(id, frequency);
      documentStarts[document + 1] = pairs.length;
    });

    // From "terms of each document" to "documents of each term" by a counting sort, which keeps documents in order.
    this.#starts = new Uint32Array(this.#terms.size + 1);
    for (let i = 0; i < pairs.length; i++) this.#starts[pairs.ids[i]! + 1]!++;
    for (let t = 0; t < this.#terms.size; t++) this.#starts[t + 1]! += this.#starts[t]!;
    this.#documents = new Int32Array(pairs.length);
    this.#frequencies = new Uint16Array(pairs.length);
    const next = this.#starts.slice();
    for (let document = 0; document < count; document++) {
      for (let i = documentStarts[document]!; i < documentStarts[document + 1]!; i++) {
        const at = next[pairs.ids[i]!]!++;
        this.#documents[at] = document;
        this.#frequencies[at] = pairs.counts[i]!;
      }
    }

    const averageLength = f32(totalLength / count);
    this.#norms = Float32Array.from(this.lengths, (length) =>
      f32(1 / f32(K1 * f32(f32(1 - B) + f32(f32(B * decodeLength(encodeLength(length))) / averageLength)))),
    );
    this.#asinRank = new Int32Array(count);
    const byAsin = Array.from(products.keys()).sort((a, b) => compareCodePoints(products[a]!.asin, products[b]!.asin));
    byAsin.forEach((document, rank) => {
      this.#asinRank[document] = rank;
    });
    this.#scores = new Float64Array(count);
  }

  /** The best `k` documents for a query, best first; none for a query without index terms. */
  search(query: string, k: number): SearchHit[] {
    const counts = new Map<number, number>();
    for (const term of analyze(query)) {
      const id = this.#terms.get(term);
      if (id !== undefined) counts.set(id, (counts.get(id) ?? 0) + 1);
    }
    const scores = this.#scores;
    const touched: number[] = [];
    for (const [id, count] of counts) {
      const start = this.#starts[id]!;
      const end = this.#starts[id + 1]!;
      const frequency = end - start;
      const idf = f32(Math.log(1 + (scores.length - frequency + 0.5) / (frequency + 0.5)));
      const weight = f32(count * idf);
      for (let i = start; i < end; i++) {
        const document = this.#documents[i]!;
        if (scores[document] === 0) touched.push(document);
        scores[document]! += f32(weight - f32(weight / f32(1 + f32(this.#frequencies[i]! * this.#norms[document]!))));
      }
    }
    const best = new BestHits(k, this.#asinRank);
    for (const document of touched) {
      best.offer(document, f32(scores[document]!));
      scores[document] = 0;
    }
    return best.hits;
  }
}

/** The k best hits seen so far, in order. */
class BestHits {
  readonly hits: SearchHit[] = [];

  constructor(
    readonly k: number,
    readonly asinRank: Int32Array,
  ) {}

  offer(index: number, score: number): void {
    const hits = this.hits;
    if (hits.length === this.k && !this.#before(index, score, hits[this.k - 1]!)) return;
    let low = 0;
    let high = hits.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#before(index, score, hits[middle]!)) high = middle;
      else low = middle + 1;
    }
    hits.splice(low, 0, { index, score });
    if (hits.length > this.k) hits.pop();
  }

  #before(index: number, score: number, other: SearchHit): boolean {
    return score > other.score || (score === other.score && this.asinRank[index]! < this.asinRank[other.index]!);
  }
}

/** Two growing columns: term ids and counts. */
class GrowingPairs {
  ids = new Uint32Array(1 << 16);
  counts = new Uint16Array(1 << 16);
  length = 0;

  push(id: number, count: number): void {
    if (this.length === this.ids.length) {
      const ids = new Uint32Array(this.length * 2);
      const counts = new Uint16Array(this.length * 2);
      ids.set(this.ids);
      counts.set(this.counts);
      this.ids = ids;
      this.counts = counts;
    }
    this.ids[this.length] = id;
    // From some thousand repeats on, a 32-bit score no longer changes with the count.
    this.counts[this.length++] = Math.min(count, 0xffff);
  }
}

// Lucene's SmallFloat.intToByte4: lengths below 24 are exact, above that three bits after the leading one are kept.
const EXACT_LENGTHS = 24;

/** Lucene's one-byte code of a document length, 0 to 255. */
export function encodeLength(length: number): number {
  if (length < EXACT_LENGTHS) return length;
  const rest = length - EXACT_LENGTHS;
  const bits = 32 - Math.clz32(rest);
  if (bits < 4) return EXACT_LENGTHS + rest;
  const shift = bits - 4;
  return EXACT_LENGTHS + (((rest >>> shift) & 7) | ((shift + 1) << 3));
}

/** The length that a code stands for. */
export function decodeLength(code: number): number {
  if (code < EXACT_LENGTHS) return code;
  const rest = code - EXACT_LENGTHS;
  const shift = (rest >>> 3) - 1;
  return EXACT_LENGTHS + (shift < 0 ? rest : ((rest & 7) | 8) * 2 ** shift);
}
