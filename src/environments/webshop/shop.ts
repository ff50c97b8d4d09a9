/** A loaded shop: everything that sessions share and nothing that they change. */
import type { Product } from "./catalog.js";
import type { Goal } from "./goals.js";
import type { PythonRandom } from "./python-random.js";
import { strip } from "./python-text.js";
import type { NounsOf } from "./reward.js";
import { SearchIndex } from "./search-index.js";

/** Results of a search at most, and products on a page of results. */
export const SEARCH_LIMIT = 50;
export const PAGE_SIZE = 10;

/** A fault that the original's Python code raises, as `Type: message`. */
export class PythonFault extends Error {
  override readonly name = "PythonFault";
}

export class Shop {
  readonly products: readonly Product[];
  /** What each product costs: drawn once where the product has a range. */
  readonly prices: ReadonlyMap<string, number>;
  /** In WebShop's order; the index is the session number. */
  readonly goals: readonly Goal[];
  readonly index: SearchIndex;
  /** sha256 over the files that the shop was read from, in hex. */
  readonly dataHash: string;
  readonly #byAsin: ReadonlyMap<string, Product>;
  readonly #nounsOf: NounsOf;
  readonly #nouns = new Map<string, readonly string[]>();

  constructor(parts: {
    products: readonly Product[];
    prices: ReadonlyMap<string, number>;
    goals: readonly Goal[];
    nounsOf: NounsOf;
    dataHash: string;
  }) {
    this.products = parts.products;
    this.prices = parts.prices;
    this.goals = parts.goals;
    this.dataHash = parts.dataHash;
    this.index = new SearchIndex(parts.products);
    this.#byAsin = new Map(parts.products.map((product) => [product.asin, product]));
    this.#nounsOf = parts.nounsOf;
  }

  product(asin: string): Product | undefined {
    return this.#byAsin.get(asin);
  }

  /** Nouns of a title, each title tagged once. */
  readonly nounsOf: NounsOf = (title) => {
    let nouns = this.#nouns.get(title);
    if (nouns === undefined) {
      nouns = this.#nounsOf(title);
      this.#nouns.set(title, nouns);
    }
    return nouns;
  };

  /**
   * The products that a search lists. Besides words the first keyword can be `<r>` (50 at random), `<q>` (those of
   * exactly this shop query) or `<c>` (those of a department); the last two know no limit.
   *
   * Throws {@link PythonFault} where the original fails: `<a>`, `<c>` without a department, `<r>` in a small shop.
   */
  list(keywords: readonly string[], random: PythonRandom): readonly Product[] {
    switch (keywords[0]) {
      case "<r>":
        if (this.products.length < SEARCH_LIMIT) {
          throw new PythonFault("ValueError: Sample larger than population or is negative");
        }
        return random.sample(this.products, SEARCH_LIMIT);
      case "<a>":
        throw new PythonFault("TypeError: 'NoneType' object is not subscriptable");
      case "<c>": {
        const department = keywords[1];
        if (department === undefined) throw new PythonFault("IndexError: list index out of range");
        return this.products.filter((product) => product.category === strip(department));
      }
      case "<q>": {
        const query = strip(keywords.slice(1).join(" "));
        return this.products.filter((product) => product.query === query);
      }
      default:
        return this.search(keywords.join(" "));
    }
  }

  /** The best {@link SEARCH_LIMIT} products for some words. */
  search(words: string): readonly Product[] {
    return this.index.search(words, SEARCH_LIMIT).map((hit) => this.products[hit.index]!);
  }
}
