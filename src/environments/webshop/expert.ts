/**
 * A hand-coded shopper that knows the goal as the reward sees it: it looks for words that list a product with full
 * reward, opens that product, chooses the options and buys.
 */
import { parseAction } from "./action.js";
import type { Product } from "./catalog.js";
import type { Goal } from "./goals.js";
import { PythonRandom } from "./python-random.js";
import { isPairs, optionMatched, reward, wantedOptions } from "./reward.js";
import type { WebShopSession } from "./session.js";
import { PAGE_SIZE, PythonFault, type Shop } from "./shop.js";

/** What the shopper is going to do. */
export interface PurchasePlan {
  /** What to search for. */
  readonly words: string;
  readonly product: Product;
  /** Option values to choose, by option name, in the product's order. */
  readonly options: ReadonlyMap<string, string>;
  /** The reward that this earns. */
  readonly reward: number;
}

const PRICE_CLAUSE = /, and price lower than [0-9.]+ dollars$/;

/**
 * The first way to full reward, or the best there is: searches with the instruction's words, then shorter and more
 * exact ones; among their results the goal's own product before others. Null where no search lists anything.
 */
export function planPurchase(shop: Shop, goal: Goal): PurchasePlan | null {
  let best: PurchasePlan | null = null;
  for (const words of searches(goal)) {
    const found = shop.search(words);
    const own = found.filter((product) => product.asin === goal.asin);
    for (const product of [...own, ...found]) {
      const options = chooseOptions(product, goal);
      const price = shop.prices.get(product.asin)!;
      const earned = reward(product, goal, price, [...options.values()], shop.nounsOf).total;
      if (best === null || earned > best.reward) best = { words, product, options, reward: earned };
      if (earned === 1) return best;
    }
  }
  return best;
}

/** Words to search for, without brackets and line ends, which the action grammar would read otherwise. */
function searches(goal: Goal): string[] {
  const options = isPairs(goal.options) ? [...goal.options.values()] : goal.options;
  const texts = [
    goal.instructionText.replace(PRICE_CLAUSE, ""),
    [goal.query, ...goal.attributes, ...options].join(" "),
    [goal.query, ...goal.attributes].join(" "),
    goal.query,
    goal.name,
  ];
  const words = texts.map((text) =>
    text
      .toLowerCase()
      .replace(/[[\]\s]+/g, " ")
      .trim(),
  );
  return [...new Set(words)].filter((text) => text !== "" && !text.startsWith("<"));
}

/** For each option of the product the value that meets most wishes not yet met; options that meet none stay open. */
function chooseOptions(product: Product, goal: Goal): ReadonlyMap<string, string> {
  const chosen = new Map<string, string>();
  let open = wantedOptions(goal);
  for (const [name, values] of product.options) {
    const exact = isPairs(goal.options) ? goal.options.get(name) : undefined;
    let bestValue: string | null = null;
    let bestMet: string[] = [];
    for (const value of exact !== undefined && values.includes(exact) ? [exact] : values) {
      if (parseAction(`click[${value}]`).argument !== value) continue;
      const met = open.filter((wish) => optionMatched(value, wish));
      if (met.length > bestMet.length) [bestValue, bestMet] = [value, met];
    }
    if (bestValue === null) continue;
    chosen.set(name, bestValue);
    open = open.filter((wish) => !bestMet.includes(wish));
  }
  return chosen;
}

/** The next action of a plan on whatever page the session is; null after the purchase. */
export function nextAction(shop: Shop, session: WebShopSession, plan: PurchasePlan): string | null {
  switch (session.pageKind) {
    case "search":
      return `search[${plan.words}]`;
    case "results":
      return resultsAction(shop, session, plan);
    case "item":
      return itemAction(session, plan);
    case "tab":
      // A failed search may have closed the product behind the tab.
      return session.state.asin === null ? "click[back to search]" : "click[< prev]";
    case "done":
      return null;
  }
}

function resultsAction(shop: Shop, session: WebShopSession, plan: PurchasePlan): string {
  const label = plan.product.asin.toLowerCase();
  const clickables = session.clickables;
  if (clickables.includes(label)) return `click[${label}]`;
  const { keywords, page } = session.state;
  const target = Math.floor(placeOf(shop, keywords ?? [], plan.product) / PAGE_SIZE) + 1;
  if (page === null || target < 1 || target === page) return "click[back to search]";
  if (target > page) return "click[next >]";
  return clickables.includes("< prev") ? "click[< prev]" : "click[back to search]";
}

/** Index of a product among the results of a search, below 0 where it is not among them. */
function placeOf(shop: Shop, keywords: readonly string[], product: Product): number {
  // A random listing cannot be looked at again without another draw.
  if (keywords[0] === "<r>") return -PAGE_SIZE;
  try {
    const place = shop.list(keywords, new PythonRandom(0)).indexOf(product);
    return place < 0 ? -PAGE_SIZE : place;
  } catch (error) {
    if (error instanceof PythonFault) return -PAGE_SIZE;
    throw error;
  }
}

function itemAction(session: WebShopSession, plan: PurchasePlan): string {
  const { asin, options } = session.state;
  if (asin === null) return "click[back to search]";
  if (asin !== plan.product.asin) return "click[< prev]";
  const chosen = new Set(options.values());
  // By value, not by name: a value that stands under two names is chosen under the last of them.
  const missing = [...plan.options.values()].find((value) => !chosen.has(value));
  return missing === undefined ? "click[buy now]" : `click[${missing}]`;
}
