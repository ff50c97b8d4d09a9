import { beforeAll, describe, expect, test } from "vitest";
import { type Product, readProducts } from "../../src/environments/webshop/catalog.js";
import { findWebShopFiles, newDataHash, readAttributes } from "../../src/environments/webshop/data-files.js";
import type { Goal } from "../../src/environments/webshop/goals.js";
import { colorOfPair, normalizeColor } from "../../src/environments/webshop/option-color.js";
import { stringRepr } from "../../src/environments/webshop/python-text.js";
import { readRecordedNouns } from "../../src/environments/webshop/recorded-nouns.js";
import { rewardInfo } from "../../src/environments/webshop/replay.js";
import {
  matchedAttributes,
  matchedOptions,
  type NounsOf,
  reward,
  typeReward,
} from "../../src/environments/webshop/reward.js";
import { fullProcess, tokenSetRatio } from "../../src/environments/webshop/text-match.js";
import { hasOracle, ORACLE, oracleLines } from "./webshop-oracle.js";

interface TextCase {
  id: string;
  fn: "token_set_ratio" | "normalize_color";
  a: string;
  b: string | [string, string];
  full_process_a: string;
  full_process_b: string;
  score: number;
  input: string | [string, string];
  output: string | [string, string];
}

interface RecordedGoal {
  asin: string;
  category: string;
  query: string;
  name: string;
  product_category: string;
  instruction_text: string;
  attributes: string[];
  price_upper: number;
  goal_options: string[] | Record<string, string>;
  weight: number;
}

interface RewardCase {
  id: string;
  product: string;
  goal: RecordedGoal;
  options: Record<string, string>;
  price: number;
  parts: {
    type: { r_type: number; query_match: boolean; category_match: boolean; title_score: number };
    num_attr_matches: number;
    num_option_matches: number;
  };
  total?: number;
  info?: Record<string, unknown>;
  error?: string;
}

function toGoal(recorded: RecordedGoal): Goal {
  return {
    asin: recorded.asin,
    category: recorded.category,
    query: recorded.query,
    name: recorded.name,
    productCategory: recorded.product_category,
    instructionText: recorded.instruction_text,
    attributes: recorded.attributes,
    priceUpper: recorded.price_upper,
    options: Array.isArray(recorded.goal_options)
      ? recorded.goal_options
      : new Map(Object.entries(recorded.goal_options)),
    weight: recorded.weight,
  };
}

describe("text match", () => {
  test("word order and repeats do not count, subsets match fully", () => {
    expect(tokenSetRatio("Light Blue blue", "blue light")).toBe(100);
    expect(tokenSetRatio("long sleeve", "long sleeve shirt")).toBe(100);
    expect(tokenSetRatio("!!!", "shirt")).toBe(0);
    expect(tokenSetRatio("cat", "dog")).toBe(0);
  });

  test("characters that are frequent in long texts anchor no match", () => {
    // 201 equal characters: difflib drops them all as anchors, so the common run behind the first letter is not found.
    expect(tokenSetRatio(`b${"a".repeat(201)}`, `c${"a".repeat(201)}`)).toBe(0);
    expect(tokenSetRatio(`b${"a".repeat(100)}`, `c${"a".repeat(100)}`)).toBe(99);
  });

  test("colours", () => {
    expect(normalizeColor("standard")).toBe("tan");
    expect(normalizeColor("Red")).toBe("Red");
    expect(colorOfPair("color", "red")).toBe("red");
    expect(colorOfPair("color", "dark red")).toBeNull();
  });
});

describe.skipIf(!hasOracle)("recorded text matches", () => {
  test("every token_set_ratio with both cleaned texts", () => {
    const cases = oracleLines<TextCase>("text_match_cases.jsonl.gz").filter((c) => c.fn === "token_set_ratio");
    expect(cases.length).toBeGreaterThan(0);
    for (const c of cases) {
      const b = typeof c.b === "string" ? c.b : `(${c.b.map(stringRepr).join(", ")})`;
      expect([fullProcess(c.a), fullProcess(b)], c.id).toEqual([c.full_process_a, c.full_process_b]);
      expect(tokenSetRatio(c.a, b), c.id).toBe(c.score);
    }
  });

  test("every normalize_color", () => {
    const cases = oracleLines<TextCase>("text_match_cases.jsonl.gz").filter((c) => c.fn === "normalize_color");
    expect(cases.length).toBeGreaterThan(0);
    for (const { id, input, output } of cases) {
      const got = typeof input === "string" ? normalizeColor(input) : (colorOfPair(...input) ?? input);
      expect(got, id).toEqual(output);
    }
  });
});

describe.skipIf(!hasOracle)("recorded rewards", () => {
  let products = new Map<string, Product>();
  let nounsOf: NounsOf = () => [];
  const cases = hasOracle ? oracleLines<RewardCase>("reward_cases.jsonl.gz") : [];

  beforeAll(async () => {
    const files = findWebShopFiles(ORACLE);
    const list = await readProducts(files.products, await readAttributes(files.attributes, newDataHash()));
    products = new Map(list.map((product) => [product.asin, product]));
    nounsOf = await readRecordedNouns(files.nouns!);
  });

  test("every total and every part", () => {
    expect(cases.length).toBeGreaterThan(0);
    for (const { id, product: asin, goal: recorded, options, price, parts, total, info, error } of cases) {
      const product = products.get(asin)!;
      const goal = toGoal(recorded);
      const chosen = Object.values(options);
      const type = typeReward(product, goal, nounsOf);
      expect(type, id).toEqual({
        rType: parts.type.r_type,
        queryMatch: parts.type.query_match,
        categoryMatch: parts.type.category_match,
        titleScore: parts.type.title_score,
      });
      expect(matchedAttributes(product, goal), id).toBe(parts.num_attr_matches);
      expect(matchedOptions(chosen, goal), id).toBe(parts.num_option_matches);
      if (error !== undefined) {
        expect(() => reward(product, goal, price, chosen, nounsOf), id).toThrow(error.replace("TypeError: ", ""));
        continue;
      }
      const got = reward(product, goal, price, chosen, nounsOf);
      expect(got.total, id).toBe(total);
      expect(rewardInfo(got), id).toEqual(info);
    }
  });
});
