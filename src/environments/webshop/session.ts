/**
 * One shopper's session: which page is shown, what a search or a click leads to, what the purchase earns.
 *
 * This is the original's behaviour without anything taken away, so a session goes on after a purchase, and an action
 * on which the original raises leaves the page as it is, but may already have changed the state behind it.
 */
import { parseAction } from "./action.js";
import type { Product } from "./catalog.js";
import type { Goal } from "./goals.js";
import {
  type Clickable,
  donePage,
  itemPage,
  type Page,
  type PageKind,
  plainText,
  resultsPage,
  richText,
  searchPage,
  TABS,
  tabPage,
  withoutInstruction,
} from "./pages.js";
import type { PythonRandom } from "./python-random.js";
import { dictRepr, jsonDumps, stringRepr } from "./python-text.js";
import { type RewardParts, reward } from "./reward.js";
import { PAGE_SIZE, PythonFault, type Shop } from "./shop.js";

const BASE_URL = "http://127.0.0.1:3000";
/** Kinds of page by a piece of their URL, in the order in which the original looks for them. */
const URL_MARKS = ["search_results", "item_page", "item_sub_page", "done"] as const;

/** What a session remembers between pages. */
export interface SessionState {
  readonly keywords: readonly string[] | null;
  /** Number of the page of results, from 1; can go below 1 through misleading keywords. */
  readonly page: number | null;
  readonly asin: string | null;
  /** Chosen option values by option name, in the order of the first choice. */
  readonly options: ReadonlyMap<string, string>;
}

export interface StepResult {
  readonly reward: number;
  readonly done: boolean;
  /** The action was understood and led to a page. */
  readonly accepted: boolean;
  /** What the original raises, e.g. `KeyError: None`; null where it does not. */
  readonly error: string | null;
}

const NOTHING_DONE: StepResult = { reward: 0, done: false, accepted: false, error: null };

export class WebShopSession {
  readonly goal: Goal;
  /** Of the last purchase, null before the first. */
  purchase: RewardParts | null = null;
  readonly #shop: Shop;
  readonly #id: string;
  readonly #showAttributes: boolean;
  readonly #random: PythonRandom;
  #state: { keywords: string[] | null; page: number | null; asin: string | null; options: Map<string, string> };
  #visited = new Set<string>();
  #page: Page;
  #url: string;

  /**
   * @param id as it stands in URLs; the original uses the goal's index.
   * @param random draws the listing of a `<r>` search.
   */
  constructor(
    shop: Shop,
    goal: Goal,
    options: { readonly id: string; readonly showAttributes: boolean; readonly random: PythonRandom },
  ) {
    this.#shop = shop;
    this.goal = goal;
    this.#id = options.id;
    this.#showAttributes = options.showAttributes;
    this.#random = options.random;
    this.#state = { keywords: null, page: null, asin: null, options: new Map() };
    this.#page = searchPage(goal.instructionText);
    this.#url = `${BASE_URL}/${this.#id}`;
  }

  get state(): SessionState {
    return this.#state;
  }

  get url(): string {
    return this.#url;
  }

  get pageKind(): PageKind {
    return this.#page.kind;
  }

  get hasSearchBar(): boolean {
    return this.#page.hasSearchBar;
  }

  /** Labels of what can be clicked, in the original's order. */
  get clickables(): string[] {
    return [...this.#page.clickables.keys()];
  }

  /** The page in the original's mode `text`. */
  get text(): string {
    return plainText(this.#page);
  }

  /** The page in the original's mode `text_rich`. */
  get richText(): string {
    return richText(this.#page, this.#url, this.#visited);
  }

  /** The page in either mode, with or without the instruction that stands on every page. */
  show(mode: "text" | "text_rich", instruction: "keep" | "drop"): string {
    const page = instruction === "keep" ? this.#page : withoutInstruction(this.#page);
    return mode === "text" ? plainText(page) : richText(page, this.#url, this.#visited);
  }

  /** Carries out an action in the grammar of {@link parseAction}. */
  step(action: string): StepResult {
    const { name, argument } = parseAction(action);
    try {
      if (name === "search" && argument !== null) {
        this.#showResults(argument.split(" "), 1);
        return { ...NOTHING_DONE, accepted: true };
      }
      const clickable = name === "click" && argument !== null ? this.#page.clickables.get(argument) : undefined;
      if (argument === null || clickable === undefined || argument === "search") return NOTHING_DONE;
      return this.#click(argument, clickable);
    } catch (error) {
      if (!(error instanceof PythonFault)) throw error;
      return { ...NOTHING_DONE, error: error.message };
    }
  }

  #click(label: string, clickable: Clickable): StepResult {
    const accepted = { ...NOTHING_DONE, accepted: true };
    if (label === "buy now") return { ...accepted, reward: this.#buy(), done: true };
    if (label === "back to search") this.#startOver();
    else if (label === "next >" && this.#urlKind() === "search_results") this.#turnPage(+1);
    else if (label === "< prev" && this.#urlKind() === "search_results") this.#turnPage(-1);
    else if (label === "< prev" && this.#urlKind() === "item_page") this.#turnPage(0);
    else if (label === "< prev" && this.#urlKind() === "item_sub_page") this.#showItem(label, clickable);
    else if (TABS.some((tab) => tab.toLowerCase() === label)) this.#showTab(label);
    else this.#showItem(label, clickable);
    return accepted;
  }

  #startOver(): void {
    this.#state = { keywords: null, page: null, asin: null, options: new Map() };
    this.#visited = new Set();
    this.#page = searchPage(this.goal.instructionText);
    this.#url = `${BASE_URL}/${this.#id}`;
  }

  /** Searches again, as the original does for every page of results. */
  #turnPage(by: number): void {
    this.#showResults(this.#keywords(), this.#state.page! + by);
  }

  #showResults(keywords: string[], page: number): void {
    // State first: a search that fails has already forgotten the product.
    this.#state = { keywords, page, asin: null, options: new Map() };
    const found = this.#shop.list(keywords, this.#random);
    // Python's slice: both ends of page 0 or less count from the back.
    const shown = found.slice((page - 1) * PAGE_SIZE, page * PAGE_SIZE);
    this.#page = resultsPage(this.goal.instructionText, shown, page, found.length);
    this.#url = `${BASE_URL}/search_results/${this.#id}/${keywords.join("+")}/${page}`;
  }

  #showItem(label: string, clickable: Clickable): void {
    if (clickable.kind === "link") {
      this.#state.asin = label.toUpperCase();
      this.#visited.add(this.#state.asin);
    } else if (clickable.kind === "option") {
      this.#state.options.set(clickable.name.toLowerCase(), label);
    }
    const product = this.#product();
    this.#page = itemPage(this.goal.instructionText, product, this.#showAttributes);
    this.#url = `${this.#itemUrl("item_page", product)}/${jsonDumps(this.#state.options)}`;
  }

  #showTab(label: string): void {
    const tab = TABS.find((name) => name.toLowerCase() === label)!;
    const product = this.#product();
    this.#page = tabPage(this.goal.instructionText, product, tab);
    this.#url = `${this.#itemUrl("item_sub_page", product)}/${tab}/${dictRepr(this.#state.options)}`;
  }

  #buy(): number {
    const product = this.#product();
    const options = this.#state.options;
    const price = this.#shop.prices.get(product.asin)!;
    this.purchase = reward(product, this.goal, price, [...options.values()], this.#shop.nounsOf);
    this.#page = donePage(product.asin, options, this.purchase.total);
    this.#url = `${BASE_URL}/done/${this.#id}/${product.asin}/${dictRepr(options)}`;
    return this.purchase.total;
  }

  #itemUrl(kind: string, product: Product): string {
    return `${BASE_URL}/${kind}/${this.#id}/${product.asin}/${this.#keywords().join("+")}/${this.#state.page}`;
  }

  /** The kind of page that the URL names: keywords in it can mislead, as in the original. */
  #urlKind(): string {
    return URL_MARKS.find((mark) => this.#url.includes(mark)) ?? "";
  }

  /** The open product; a failed search may have closed it behind the page. */
  #product(): Product {
    const { asin } = this.#state;
    const product = asin === null ? undefined : this.#shop.product(asin);
    if (product !== undefined) return product;
    throw new PythonFault(`KeyError: ${asin === null ? "None" : stringRepr(asin)}`);
  }

  #keywords(): string[] {
    const { keywords } = this.#state;
    // Only the search page forgets keywords, and nothing on it leads here.
    if (keywords === null) throw new Error("A page beyond the search page has keywords.");
    return keywords;
  }
}
