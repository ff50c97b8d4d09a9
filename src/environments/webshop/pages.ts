/**
 * WebShop's pages as lists of text nodes, and the two ways the environment shows them as text.
 *
 * The original renders HTML templates and reads the text nodes back; what follows from that (white space, empty
 * nodes) is kept: see {@link push}.
 */
import type { Product } from "./catalog.js";
import { floatRepr, jinjaJson, strip } from "./python-text.js";

/** What a node is inside of. */
type NodeKind = "text" | "instruction" | "button" | "link" | "option";

/** Which kind of page it is. */
export type PageKind = "search" | "results" | "item" | "tab" | "done";

interface PageNode {
  readonly kind: NodeKind;
  readonly text: string;
}

/** Something that can be clicked. */
export type Clickable =
  | { readonly kind: "button" }
  | { readonly kind: "link" }
  /** @property name of the option whose value this is. */
  | { readonly kind: "option"; readonly name: string };

export interface Page {
  readonly kind: PageKind;
  readonly nodes: readonly PageNode[];
  readonly hasSearchBar: boolean;
  /** By label, in the order in which the environment lists them. */
  readonly clickables: ReadonlyMap<string, Clickable>;
}

/** Tabs of an item page, as labelled. */
export const TABS = ["Description", "Features", "Reviews", "Attributes"] as const;
export type Tab = (typeof TABS)[number];

/** Collects nodes the way the original's HTML parser hands them back. */
class NodeList {
  readonly nodes: PageNode[] = [];

  push(text: string, kind: NodeKind = "text"): this {
    if (text === "") return this;
    if (!/^[ \n\t\f\r]*$/.test(text)) this.nodes.push({ kind, text });
    // The parser turns ASCII white space into one newline, which the environment then leaves out, or one space.
    else if (!text.includes("\n")) this.nodes.push({ kind, text: " " });
    return this;
  }

  toPage(kind: PageKind, options?: Product["options"]): Page {
    // Buttons first, then links, then options; a repeated label keeps its place but goes to the last one.
    const clickables = new Map<string, Clickable>();
    for (const clicked of ["button", "link"] as const) {
      for (const node of this.nodes) {
        if (node.kind === clicked) clickables.set(node.text.toLowerCase(), { kind: clicked });
      }
    }
    for (const [name, values] of options ?? []) {
      for (const value of values) clickables.set(value, { kind: "option", name });
    }
    return { kind, nodes: this.nodes, hasSearchBar: kind === "search", clickables };
  }
}

export function searchPage(instruction: string): Page {
  return new NodeList()
    .push("WebShop")
    .push("Instruction: ", "instruction")
    .push(instruction, "instruction")
    .push("Search", "button")
    .toPage("search");
}

/** @param products those of this page; @param total of all pages. */
export function resultsPage(instruction: string, products: readonly Product[], page: number, total: number): Page {
  const list = new NodeList()
    .push("Instruction:", "instruction")
    .push(instruction, "instruction")
    .push("Back to Search", "button")
    .push(`Page ${page} (Total results: ${total})`);
  if (page > 1) list.push("< Prev", "button");
  list.push("Next >", "button");
  for (const { asin, name, priceTag } of products) list.push(asin, "link").push(name).push(priceTag);
  return list.toPage("results");
}

export function itemPage(instruction: string, product: Product, showAttributes: boolean): Page {
  const list = itemHead(instruction);
  for (const [name, values] of product.options) {
    list.push(name);
    for (const value of values) list.push(value, "option");
  }
  list.push(product.name).push(`Price: ${product.priceTag}`).push("Rating: N.A.");
  for (const tab of TABS) if (tab !== "Attributes" || showAttributes) list.push(tab, "button");
  return list.push("Buy Now", "button").toPage("item", product.options);
}

export function tabPage(instruction: string, product: Product, tab: Tab): Page {
  const list = itemHead(instruction);
  if (tab === "Description") list.push(product.description);
  else if (tab === "Features") for (const bullet of product.bulletPoints) list.push(` ${bullet}`);
  else if (tab === "Attributes") {
    for (const attribute of product.attributes) list.push(` ${attribute}`);
    list.push(product.category).push(product.query).push(product.productCategory);
  }
  return list.toPage("tab"); // Reviews are always empty: the original loads none.
}

function itemHead(instruction: string): NodeList {
  return new NodeList()
    .push("Instruction:", "instruction")
    .push(instruction, "instruction")
    .push("Back to Search", "button")
    .push("< Prev", "button");
}

/** The page after the purchase. It shows the reward, but nothing of the goal: text mode passes it none. */
export function donePage(asin: string, options: ReadonlyMap<string, string>, reward: number): Page {
  const list = new NodeList().push("Thank you for shopping with us!").push("Your code: ").push("None");
  list.push(" (Paste it in your MTurk interface.)").push("Purchased").push("asin").push(asin);
  list.push("options").push(jinjaJson(options));
  for (const label of ["attrs", "category", "query", "product category"]) list.push(label).push("None");
  list.push("Target").push("asin").push("options").push("attrs").push("price upper").push("instuction text");
  list.push("category").push("product category").push("query").push("Goal ").push("None");
  list.push("Reward").push("Your score (min 0.0, max 1.0)").push(floatRepr(reward));
  return list.push("Reward Details ").push("None").toPage("done");
}

/** The page as the environment's mode `text` shows it: stripped nodes with ` [SEP] ` between. */
export function plainText(page: Page): string {
  return page.nodes.map((node) => strip(node.text)).join(" [SEP] ");
}

/** The same page without the instruction, which the original repeats on every page. */
export function withoutInstruction(page: Page): Page {
  return { ...page, nodes: page.nodes.filter((node) => node.kind !== "instruction") };
}

/**
 * The page as the environment's mode `text_rich` shows it: a line a node, clickable ones marked.
 *
 * @param url of the page: an option counts as clicked where the URL holds it in double quotes.
 * @param visited asins opened since the last search page.
 */
export function richText(page: Page, url: string, visited: ReadonlySet<string>): string {
  let lines = "";
  let clicked = "";
  for (const { kind, text } of page.nodes) {
    if (kind === "text" || kind === "instruction") lines += `${text}\n`;
    else if (kind === "button") lines += `[button] ${text} [button_]\n`;
    else if (kind === "link") lines += `\n${mark(text, visited.has(text))}\n`;
    else {
      const chosen = url.includes(`"${text}"`);
      lines += `  ${mark(text, chosen)}\n`;
      if (chosen) clicked = `You have clicked ${text}.\n${clicked}`;
    }
  }
  return clicked + lines;
}

function mark(text: string, clicked: boolean): string {
  const word = clicked ? "clicked button" : "button";
  return `[${word}] ${text} [${word}_]`;
}
