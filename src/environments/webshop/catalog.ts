/**
 * WebShop's products: the fields of a raw product that pages, search, goals and reward use, read as the original
 * loader reads them.
 */
import type { Hash } from "node:crypto";
import { describe } from "../../errors.js";
import { badData, jsonRecords, memberKeys } from "./json-records.js";
import type { PythonRandom } from "./python-random.js";
import { floatRepr, strip } from "./python-text.js";

export interface Product {
  /** Identifier, at most ten characters. */
  readonly asin: string;
  /** One of five departments, e.g. `beauty`. */
  readonly category: string;
  /** The shop search that the product was found by, lower case, e.g. `women's pumps`. */
  readonly query: string;
  readonly name: string;
  /** Path of categories with `›` between. */
  readonly productCategory: string;
  readonly description: string;
  readonly bulletPoints: readonly string[];
  /** One price, or the lower and upper end of a range, in dollars; 100.0 where the shop gave none. */
  readonly pricing: readonly [number] | readonly [number, number];
  /** How pages show the price, e.g. `$16.82 to $35.0`. */
  readonly priceTag: string;
  /** Option name (lower case) to its values (lower case), both in the order of the file. */
  readonly options: ReadonlyMap<string, readonly string[]>;
  /** Short phrases that describe it, `["DUMMY_ATTR"]` where the attribute file has none. */
  readonly attributes: readonly string[];
}

/** What the attribute file says of a product. */
export interface AttributeEntry {
  readonly attributes: readonly string[] | undefined;
  /** Text of the synthetic goal without options and price, null where the product has none. */
  readonly instruction: string | null;
  readonly instructionAttributes: readonly string[];
}

const NO_PRICE = 100;
const NO_ATTRIBUTES: readonly string[] = ["DUMMY_ATTR"];

/** All products of a raw product file (`items_shuffle*.json`), without repeats, in file order. */
export async function readProducts(
  path: string,
  attributes: ReadonlyMap<string, AttributeEntry>,
  options: { readonly numProducts?: number | undefined; readonly hash?: Hash } = {},
): Promise<Product[]> {
  const products: Product[] = [];
  const asins = new Set<string>();
  let index = 0;
  for await (const { value, text } of jsonRecords(path, options.hash)) {
    // The rest is still read: the hash is the whole file's.
    if (index < (options.numProducts ?? Number.POSITIVE_INFINITY)) {
      const raw = new RawProduct(path, index, value, text);
      const asin = raw.string("asin");
      if (asin !== "nan" && asin.length <= 10 && !asins.has(asin)) {
        asins.add(asin);
        products.push(toProduct(raw, asin, attributes.get(asin)?.attributes ?? NO_ATTRIBUTES));
      }
    }
    index++;
  }
  if (products.length === 0) throw badData(path, "expected at least one product, got none");
  return products;
}

function toProduct(raw: RawProduct, asin: string, attributes: readonly string[]): Product {
  const { pricing, priceTag } = parsePricing(raw);
  return {
    asin,
    category: raw.string("category"),
    query: strip(raw.string("query").toLowerCase()),
    name: raw.string("name"),
    productCategory: raw.string("product_category"),
    description: raw.string("full_description"),
    bulletPoints: raw.strings("small_description"),
    pricing,
    priceTag,
    options: raw.options(),
    attributes,
  };
}

function parsePricing(raw: RawProduct): Pick<Product, "pricing" | "priceTag"> {
  const text = raw.optionalString("pricing");
  if (text === "") return { pricing: [NO_PRICE], priceTag: `$${floatRepr(NO_PRICE)}` };
  const amounts = text
    .split("$")
    .slice(1)
    .map((part) => part.replace(/[^\d.]/g, ""));
  if (amounts.length === 0 || amounts.some((amount) => !/^(?:\d+\.?\d*|\.\d+)$/.test(amount))) {
    throw raw.wrong("pricing", 'an amount such as "$12.50" or "$12.50 to $20.00"', text);
  }
  const [low, high] = amounts.map(Number) as [number, number?];
  if (high === undefined) return { pricing: [low], priceTag: `$${floatRepr(low)}` };
  return { pricing: [low, high], priceTag: `$${floatRepr(low)} to $${floatRepr(high)}` };
}

/** A product as the file has it, with checked access. */
class RawProduct {
  constructor(
    readonly path: string,
    readonly index: number,
    readonly value: Record<string, unknown>,
    readonly text: string,
  ) {}

  wrong(key: string, expected: string, got: unknown): Error {
    return badData(this.path, `expected ${expected} for \`${key}\` of product ${this.index}, got ${describe(got)}`);
  }

  string(key: string): string {
    const value = this.value[key];
    if (typeof value !== "string") throw this.wrong(key, "a string", value);
    return value;
  }

  optionalString(key: string): string {
    const value = this.value[key];
    return value === undefined || value === null ? "" : this.string(key);
  }

  /** A string, or a list of strings. */
  strings(key: string): string[] {
    const value = this.value[key];
    const list = Array.isArray(value) ? value : [value];
    if (!list.every((item) => typeof item === "string")) throw this.wrong(key, "a string or a list of strings", value);
    return list;
  }

  options(): ReadonlyMap<string, readonly string[]> {
    const value = this.value.customization_options;
    const options = new Map<string, readonly string[]>();
    // An empty string or null stands for "no options" in the files.
    if (value === undefined || value === null || value === "") return options;
    if (typeof value !== "object" || Array.isArray(value)) {
      throw this.wrong("customization_options", "an object", value);
    }
    const contents = value as Record<string, unknown>;
    const names = Object.keys(contents);
    const inOrder = names.some((name) => /^\d+$/.test(name)) ? memberKeys(this.text, "customization_options") : names;
    for (const name of inOrder) {
      const items = contents[name];
      if (items === null) continue;
      if (!Array.isArray(items)) throw this.wrong(`customization_options.${name}`, "a list", items);
      options.set(
        name.toLowerCase(),
        items.map((item: { value?: unknown } | null) => {
          const text = item?.value;
          if (typeof text !== "string") throw this.wrong(`customization_options.${name}`, "values of text", item);
          return strip(text).replaceAll("/", " | ").toLowerCase();
        }),
      );
    }
    return options;
  }
}

/**
 * The price of each product in product order: its own, or for a range one uniform draw from it. Drawn before
 * anything else from `random`, as the original does when it loads.
 */
export function drawPrices(products: readonly Product[], random: PythonRandom): Map<string, number> {
  return new Map(
    products.map(({ asin, pricing }) => [asin, pricing.length === 1 ? pricing[0] : random.uniform(...pricing)]),
  );
}
