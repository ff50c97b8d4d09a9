/**
 * WebShop's goals: human instructions or synthetic ones, their price bounds, their shuffled order.
 */
import type { AttributeEntry, Product } from "./catalog.js";
import { badData } from "./json-records.js";
import type { PythonRandom } from "./python-random.js";
import { compareCodePoints, stripCharacter } from "./python-text.js";

export interface Goal {
  readonly asin: string;
  readonly category: string;
  readonly query: string;
  readonly name: string;
  readonly productCategory: string;
  /** What the shopper asks for, with the price clause. */
  readonly instructionText: string;
  readonly attributes: readonly string[];
  /** Upper bound of the price in dollars; 1,000,000 stands for none. */
  readonly priceUpper: number;
  /** Wanted option values: a list for human goals, name to value for synthetic ones. */
  readonly options: readonly string[] | ReadonlyMap<string, string>;
  /** Share in a draw of a random goal. */
  readonly weight: number;
}

/** A human instruction for a product. */
export interface HumanInstruction {
  readonly instruction: string;
  readonly attributes: readonly string[];
  readonly options: readonly string[];
}

const GOAL_ORDER_SEED = 233;
const NO_BOUND = 1_000_000;
const PRICE_STEPS = Array.from({ length: 99 }, (_, i) => 10 * (i + 1));

/**
 * Goals of the human instructions. An instruction without attributes makes no goal (and draws no price bound).
 * Draws the bounds from `random` in the order of products and instructions.
 */
export function humanGoals(
  products: readonly Product[],
  prices: ReadonlyMap<string, number>,
  instructions: ReadonlyMap<string, readonly HumanInstruction[]>,
  random: PythonRandom,
): Goal[] {
  const goals: Goal[] = [];
  for (const product of products) {
    for (const { instruction, attributes, options } of instructions.get(product.asin) ?? []) {
      if (attributes.length === 0) continue;
      const bound = drawBound(prices.get(product.asin)!, random);
      const instructionText = stripCharacter(instruction, ".") + bound.text;
      goals.push({ ...ofProduct(product), instructionText, attributes, priceUpper: bound.upper, options, weight: 1 });
    }
  }
  return goals;
}

/**
 * Synthetic goals: for each product with an instruction one goal per combination of its option values, all with one
 * price bound. The weight is the mean of 1 / (goals with the attribute) over the goal's attributes.
 *
 * @param path names the attribute file in errors.
 */
export function syntheticGoals(
  products: readonly Product[],
  prices: ReadonlyMap<string, number>,
  entries: ReadonlyMap<string, AttributeEntry>,
  random: PythonRandom,
  path: string,
): Goal[] {
  const goals: Goal[] = [];
  const counts = new Map<string, number>();
  for (const product of products) {
    const entry = entries.get(product.asin);
    if (entry === undefined) throw badData(path, `product ${product.asin} has no entry, which synthetic goals need`);
    if (entry.instruction === null) continue;
    const attributes = entry.instructionAttributes;
    if (attributes.length === 0) throw badData(path, `the instruction of ${product.asin} has no attributes`);
    const bound = drawBound(prices.get(product.asin)!, random);
    for (const options of combinations(product.options)) {
      const clause = [...options].map(([name, value]) => `${name}: ${value}`).join(", and ");
      const instructionText = `${entry.instruction}${clause === "" ? "" : ` with ${clause}`}${bound.text}`;
      goals.push({ ...ofProduct(product), instructionText, attributes, priceUpper: bound.upper, options, weight: 0 });
      for (const attribute of attributes) counts.set(attribute, (counts.get(attribute) ?? 0) + 1);
    }
  }
  return goals.map((goal) => {
    const sum = goal.attributes.reduce((total, attribute) => total + 1 / counts.get(attribute)!, 0);
    return { ...goal, weight: sum / goal.attributes.length };
  });
}

/** Brings goals into WebShop's order: the same for every price seed, since the generator is seeded anew for it. */
export function orderGoals(goals: Goal[], random: PythonRandom): Goal[] {
  random.seed(GOAL_ORDER_SEED);
  random.shuffle(goals);
  return goals;
}

/** Index of a goal drawn with the goals' weights, as `reset()` without a session number draws it. */
export function drawGoalIndex(goals: readonly Goal[], random: PythonRandom): number {
  const upper: number[] = [];
  let sum = 0;
  for (const goal of goals) {
    sum += goal.weight;
    upper.push(sum);
  }
  const position = random.uniform(0, sum);
  // The original bisects the sums with a 0 in front, so goal 0 is never drawn (position 0 aside) and the last one
  // gets its share; kept as it is.
  let low = 0;
  let high = upper.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (position < upper[middle]!) high = middle;
    else low = middle + 1;
  }
  return Math.min(low + 1, goals.length - 1);
}

function ofProduct({ asin, category, query, name, productCategory }: Product) {
  return { asin, category, query, name, productCategory };
}

/** The larger of two different picks among the first four multiples of 10 above the price; none from 980 dollars up. */
function drawBound(price: number, random: PythonRandom): { upper: number; text: string } {
  const above = PRICE_STEPS.filter((step) => step > price).slice(0, 4);
  if (above.length < 2) return { upper: NO_BOUND, text: "" };
  const upper = Math.max(...random.sample(above, 2));
  return { upper, text: `, and price lower than ${upper.toFixed(2)} dollars` };
}

/** Every combination of option values, names sorted, the last name changing fastest. */
function combinations(options: ReadonlyMap<string, readonly string[]>): ReadonlyMap<string, string>[] {
  const names = [...options.keys()].sort(compareCodePoints);
  return names.reduce<ReadonlyMap<string, string>[]>(
    (rows, name) => rows.flatMap((row) => options.get(name)!.map((value) => new Map([...row, [name, value]]))),
    [new Map()],
  );
}
