import { describe, expect, test } from "vitest";
import { findWebShopFiles } from "../../src/environments/webshop/data-files.js";
import { drawGoalIndex } from "../../src/environments/webshop/goals.js";
import { type GoalKind, loadShop } from "../../src/environments/webshop/load-shop.js";
import { PythonRandom } from "../../src/environments/webshop/python-random.js";
import { goalRecord, RECORDING_SEEDS } from "../../src/environments/webshop/replay.js";
import { hasOracle, ORACLE, oracleJson, oracleLines } from "./webshop-oracle.js";

interface RandomCases {
  cases: {
    seed: number;
    random: number[];
    "uniform_2.99_6.99": number[];
    "sample_2_of_[10,20,30,40]": number[][];
    "sample_2_of_[10,20]": number[][];
    "sample_2_of_[10,20,30]": number[][];
    shuffle_range_50: number[];
    choices_ascii_lowercase_10: string;
    sample_50_of_range_1000: number[];
  }[];
  seed_233_shuffle_range_590: number[];
  seed_233_shuffle_range_12087_first_100: number[];
  reset_without_session: { env: GoalKind; seed: number; session_id: string; goal_index: number; observation: string }[];
}

const LETTERS = [..."abcdefghijklmnopqrstuvwxyz"];
const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

function shuffled(seed: number, n: number): number[] {
  const numbers = range(n);
  new PythonRandom(seed).shuffle(numbers);
  return numbers;
}

describe.skipIf(!hasOracle)("CPython's random", () => {
  const recorded = hasOracle ? oracleJson<RandomCases>("python_random_cases.json") : ({ cases: [] } as never);

  test.each(recorded.cases)("stream after seed $seed", (c) => {
    const fresh = () => new PythonRandom(c.seed);
    const repeat = <T>(n: number, draw: (random: PythonRandom) => T): T[] => {
      const random = fresh();
      return Array.from({ length: n }, () => draw(random));
    };
    expect(repeat(c.random.length, (r) => r.random())).toEqual(c.random);
    expect(repeat(c["uniform_2.99_6.99"].length, (r) => r.uniform(2.99, 6.99))).toEqual(c["uniform_2.99_6.99"]);
    expect(repeat(8, (r) => r.sample([10, 20, 30, 40], 2))).toEqual(c["sample_2_of_[10,20,30,40]"]);
    expect(repeat(8, (r) => r.sample([10, 20], 2))).toEqual(c["sample_2_of_[10,20]"]);
    expect(repeat(8, (r) => r.sample([10, 20, 30], 2))).toEqual(c["sample_2_of_[10,20,30]"]);
    expect(shuffled(c.seed, 50)).toEqual(c.shuffle_range_50);
    expect(fresh().choices(LETTERS, 10).join("")).toBe(c.choices_ascii_lowercase_10);
    expect(fresh().sample(range(1000), 50)).toEqual(c.sample_50_of_range_1000);
  });

  test("the goal order's seed", () => {
    expect(shuffled(233, 590)).toEqual(recorded.seed_233_shuffle_range_590);
    expect(shuffled(233, 12_087).slice(0, 100)).toEqual(recorded.seed_233_shuffle_range_12087_first_100);
  });

  test("a seed and its negative give one stream, fractions are refused", () => {
    expect(new PythonRandom(-7).random()).toBe(new PythonRandom(7).random());
    expect(() => new PythonRandom(0.5)).toThrow("Expected a safe integer");
  });
});

describe.skipIf(!hasOracle).each(["human", "synthetic"] as const)("recorded %s goals", (kind) => {
  const load = () =>
    loadShop(findWebShopFiles(ORACLE), { goals: kind, priceSeed: RECORDING_SEEDS[kind], nounsOf: () => [] });

  test("prices, every goal in order, and goals drawn without a session number", async () => {
    const shop = await load();
    const prices = oracleJson<Record<GoalKind, Record<string, number>>>("product_prices.json")[kind];
    expect(Object.fromEntries(shop.prices)).toEqual(prices);
    expect(shop.goals.map(goalRecord)).toEqual(oracleLines(`goals_${kind}.jsonl.gz`));

    const draws = oracleJson<RandomCases>("python_random_cases.json").reset_without_session;
    for (const draw of draws.filter((d) => d.env === kind)) {
      const random = new PythonRandom(draw.seed);
      expect(random.choices(LETTERS, 10).join("")).toBe(draw.session_id);
      expect(drawGoalIndex(shop.goals, random)).toBe(draw.goal_index);
    }
  });
});
