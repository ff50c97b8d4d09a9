/** Builds a {@link Shop} from data files, in the order in which the original loads and draws. */

import { EnvironmentError } from "../environment.js";
import { drawPrices, readProducts } from "./catalog.js";
import { newDataHash, readAttributes, readHumanInstructions, type WebShopFiles } from "./data-files.js";
import { type Goal, humanGoals, orderGoals, syntheticGoals } from "./goals.js";
import { PythonRandom } from "./python-random.js";
import type { NounsOf } from "./reward.js";
import { Shop } from "./shop.js";

export type GoalKind = "human" | "synthetic";

export interface LoadOptions {
  readonly goals: GoalKind;
  /**
   * Seed of the prices of products with a price range and of all price bounds. The original leaves these draws
   * unseeded, so its prices and bounds differ from run to run; the order of the goals does not.
   */
  readonly priceSeed: number;
  readonly nounsOf: NounsOf;
  /** Only the first so many products of the file, as the original's small settings do. */
  readonly numProducts?: number | undefined;
}

/** Reads the files and draws prices, then price bounds, then the goal order. Throws {@link EnvironmentError}. */
export async function loadShop(files: WebShopFiles, options: LoadOptions): Promise<Shop> {
  const hash = newDataHash();
  const attributes = await readAttributes(files.attributes, hash);
  const products = await readProducts(files.products, attributes, { numProducts: options.numProducts, hash });
  const random = new PythonRandom(options.priceSeed);
  const prices = drawPrices(products, random);
  let goals: Goal[];
  if (options.goals === "synthetic") goals = syntheticGoals(products, prices, attributes, random, files.attributes);
  else {
    if (files.humanInstructions === undefined) {
      throw new EnvironmentError(
        "ENVIRONMENT_BAD_DATA",
        `Human goals need a file of human instructions (items_human_ins.json) beside ${files.products}.`,
        { hint: 'Add the file, or use `goals: "synthetic"`.' },
      );
    }
    goals = humanGoals(products, prices, await readHumanInstructions(files.humanInstructions, hash), random);
  }
  return new Shop({
    products,
    prices,
    goals: orderGoals(goals, random),
    nounsOf: options.nounsOf,
    dataHash: hash.digest("hex"),
  });
}
