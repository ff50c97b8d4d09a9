/**
 * WebShop's reward (Yao et al. 2022, section 3 and appendix A.5):
 *
 * r = r_type * (matched attributes + matched options + [price <= bound]) / (attributes + options + 1).
 */
import type { Product } from "./catalog.js";
import type { Goal } from "./goals.js";
import { colorOfPair, normalizeColor } from "./option-color.js";
import { stringRepr, strip } from "./python-text.js";
import { tokenSetRatio } from "./text-match.js";

/** The nouns and proper nouns of a title, lower case, in order, with repeats. */
export type NounsOf = (title: string) => readonly string[];

export interface TypeReward {
  /** 1, 0.5, 0.1 or 0. */
  readonly rType: number;
  readonly queryMatch: boolean;
  readonly categoryMatch: boolean;
  /** Different nouns that both titles have / all nouns of the goal's title; 0.2 where that has none. */
  readonly titleScore: number;
}

export interface RewardParts {
  /** The reward, 0 to 1. */
  readonly total: number;
  readonly type: TypeReward;
  /** Share of the goal's attributes that the product has. */
  readonly rAttribute: number;
  readonly attributeMatches: number;
  /** Share of the goal's options that were chosen, null where the goal has none. */
  readonly rOption: number | null;
  readonly optionMatches: number;
  readonly rPrice: boolean;
  /** Weights of attributes, options and price in the reward. */
  readonly weights: { readonly attributes: number; readonly options: number; readonly price: number };
}

/** Scores above this count as a match. */
const MATCH_ABOVE = 85;

/**
 * The reward for buying a product at a price with the given option values.
 *
 * Throws {@link RangeError} for a goal with a price bound of 0 or below, where the original fails too.
 */
export function reward(
  product: Product,
  goal: Goal,
  price: number,
  chosenOptions: readonly string[],
  nounsOf: NounsOf,
): RewardParts {
  const type = typeReward(product, goal, nounsOf);
  const attributeMatches = matchedAttributes(product, goal);
  const optionMatches = matchedOptions(chosenOptions, goal);
  if (!(goal.priceUpper > 0)) throw new RangeError("unsupported operand type(s) for +: 'int' and 'NoneType'");
  const rPrice = price <= goal.priceUpper;
  const attributes = goal.attributes.length;
  const options = optionCount(goal);
  const all = attributes + options + 1;
  return {
    total: ((attributeMatches + optionMatches + Number(rPrice)) / all) * type.rType,
    type,
    rAttribute: attributeMatches / attributes,
    attributeMatches,
    rOption: options === 0 ? null : optionMatches / options,
    optionMatches,
    rPrice,
    weights: { attributes: attributes / all, options: options / all, price: 1 / all },
  };
}

/** How many options a goal wants. */
export function optionCount(goal: Goal): number {
  return isPairs(goal.options) ? goal.options.size : goal.options.length;
}

/** Whether the bought product is of the wanted kind. */
export function typeReward(product: Product, goal: Goal, nounsOf: NounsOf): TypeReward {
  const queryMatch = product.query === goal.query;
  const levels = categoryLevels(product.productCategory);
  const common = [...categoryLevels(goal.productCategory)].filter((level) => levels.has(level));
  const categoryMatch = common.length >= 2;

  const wanted = nounsOf(goal.name);
  const bought = new Set(nounsOf(product.name));
  const shared = new Set(wanted.filter((noun) => bought.has(noun)));
  const titleScore = wanted.length === 0 ? 0.2 : shared.size / wanted.length;

  let rType = queryMatch || categoryMatch || titleScore > 0.2 ? 1 : 0.5;
  if (titleScore < 0.1) rType = 0.1;
  if (titleScore === 0) rType = 0;
  return { rType, queryMatch, categoryMatch, titleScore };
}

function categoryLevels(path: string): Set<string> {
  return new Set(path.split("\u203a").map(strip));
}

/** How many of the goal's attributes the product has, by its attribute list or anywhere in its texts. */
export function matchedAttributes(product: Product, goal: Goal): number {
  const texts = [product.name, product.bulletPoints.join(" "), product.description];
  let lowered: string[] | null = null;
  return goal.attributes.filter((wanted) => {
    if (product.attributes.some((attribute) => tokenSetRatio(attribute, wanted) > MATCH_ABOVE)) return true;
    lowered ??= texts.map((text) => text.toLowerCase());
    return lowered.some((text) => text.includes(wanted));
  }).length;
}

/** How many of the goal's options some chosen value matches. */
export function matchedOptions(chosenOptions: readonly string[], goal: Goal): number {
  const chosen = chosenOptions.map(normalizeColor);
  return wantedOptions(goal).filter((wanted) => chosen.some((value) => tokenSetRatio(value, wanted) > MATCH_ABOVE))
    .length;
}

/** Whether a chosen value matches a wanted option as {@link wantedOptions} gives it. */
export function optionMatched(chosen: string, wanted: string): boolean {
  return tokenSetRatio(normalizeColor(chosen), wanted) > MATCH_ABOVE;
}

/** The texts that chosen values are compared with, one for each wanted option. */
export function wantedOptions(goal: Goal): string[] {
  if (!isPairs(goal.options)) return goal.options.map(normalizeColor);
  // The original compares with Python's repr of the pair, so the option's name joins the words.
  return [...goal.options].map(
    ([name, value]) => colorOfPair(name, value) ?? `(${stringRepr(name)}, ${stringRepr(value)})`,
  );
}

export function isPairs(options: Goal["options"]): options is ReadonlyMap<string, string> {
  return options instanceof Map;
}
