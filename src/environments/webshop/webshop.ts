/** The WebShop environment: the original's pages, search, goals and reward, from its own product files. */
import { createHash } from "node:crypto";
import { z } from "zod";
import { EnvironmentError, type EnvironmentProvider, type Panel } from "../environment.js";
import { parseEnvironmentOptions } from "../options.js";
import { assetPath } from "./assets.js";
import { findWebShopFiles, type WebShopFiles } from "./data-files.js";
import { badData } from "./json-records.js";
import { loadShop } from "./load-shop.js";
import { loadNounTagger } from "./noun-tagger.js";
import { readRecordedNouns } from "./recorded-nouns.js";
import { goalRecord } from "./replay.js";
import type { Shop } from "./shop.js";
import { WebShopEnvironment } from "./webshop-environment.js";

const FILES = z.strictObject({
  products: z.string().min(1),
  attributes: z.string().min(1),
  humanInstructions: z.string().min(1).optional(),
  nouns: z.string().min(1).optional(),
});

const OPTIONS = z.strictObject({
  /** Folder of the original's files, or the files by name; null for the made-up shop of a hundred products. */
  data: z
    .union([z.string().min(1), FILES])
    .nullable()
    .default(null),
  /** Human instructions (the published benchmark) or synthetic ones. */
  goals: z.enum(["human", "synthetic"]).default("human"),
  /** Seed of drawn prices and price bounds, which the original leaves to chance. */
  priceSeed: z.int().default(101),
  /** Only the first so many products of the file; null for all. */
  numProducts: z.int().min(1).nullable().default(null),
  /** Title nouns by the built-in tagger, or from the recorded table among the files. */
  nouns: z.enum(["tagger", "recorded"]).default("tagger"),
  /** Whether item pages have the Attributes tab. */
  showAttributes: z.boolean().default(false),
  /** The original's observation modes. */
  observation: z.enum(["text", "text_rich"]).default("text"),
  /** Whether pages repeat the instruction, as the original's do. */
  instruction: z.enum(["keep", "drop"]).default("keep"),
  /** Which goals make which panel; null: `published` from 1,501 goals on, else `quarters`. */
  split: z.enum(["published", "quarters"]).nullable().default(null),
  /** Steps after which an episode is truncated. */
  stepLimit: z.int().min(1).default(15),
});

/** Options of the WebShop environment; all have defaults. */
export type WebShopOptions = z.input<typeof OPTIONS>;
export type WebShopSettings = z.output<typeof OPTIONS>;

/** Version of pages, rules, rewards, tagger weights and the order of goals. */
export const WEBSHOP_VERSION = "1";

/** Hashes of the made-up shop's files as this version has them. */
const MADE_UP_DATA_HASHES = {
  human: "40c79ffb96166b09b99d61d9a879ffd85a1f8e0a638964e87e3da0acaa726ae1",
  synthetic: "5d27974c727b41c6558acf2a74fcd56be465dd0daaf52de6b6d66159abdb81c3",
} as const;

const PANEL_NAMES = ["test", "dev", "train"] as const;
type PanelName = (typeof PANEL_NAMES)[number];
const PUBLISHED_TEST = 500;
const PUBLISHED_DEV = 1_500;

export interface WebShopProvider extends EnvironmentProvider {
  /** The loaded shop: products, goals, search, prices. */
  readonly shop: Shop;
  create(): Promise<WebShopEnvironment>;
}

/**
 * The names of the panels, the options checked and the shop's files found. Loads nothing.
 *
 * @throws EnvironmentError with code `ENVIRONMENT_BAD_OPTIONS` or `ENVIRONMENT_BAD_DATA`.
 */
export function webshopPanelNames(options: WebShopOptions): readonly string[] {
  filesOf(parseEnvironmentOptions(OPTIONS, options, "WebShop").data);
  return PANEL_NAMES;
}

function filesOf(data: WebShopSettings["data"]): WebShopFiles {
  return data === null || typeof data === "string" ? findWebShopFiles(data ?? assetPath("data")) : data;
}

/**
 * Loads a shop and gives a provider over its goals. Task ids are `human/<n>` or `synthetic/<n>` with the goal's place
 * in WebShop's order. Panels: `test`, `dev`, `train`; with the split `published` goals 0 to 499, 500 to 1,499 and the
 * rest, with `quarters` the first quarter, the second, and the rest.
 *
 * @throws EnvironmentError with code `ENVIRONMENT_BAD_OPTIONS` or `ENVIRONMENT_BAD_DATA`.
 */
export async function webshopProvider(options: WebShopOptions = {}): Promise<WebShopProvider> {
  const settings = parseEnvironmentOptions(OPTIONS, options, "WebShop");
  const { data } = settings;
  const files = filesOf(data);
  const nounsOf = settings.nouns === "tagger" ? loadNounTagger() : await readRecordedNouns(nounFile(files));
  const shop = await loadShop(files, {
    goals: settings.goals,
    priceSeed: settings.priceSeed,
    nounsOf,
    numProducts: settings.numProducts ?? undefined,
  });
  if (data === null && shop.dataHash !== MADE_UP_DATA_HASHES[settings.goals]) {
    throw badData(assetPath("data"), `the made-up shop has changed, its hash is ${shop.dataHash}`);
  }
  return {
    name: "webshop",
    version: WEBSHOP_VERSION,
    stepLimit: settings.stepLimit,
    panelNames: PANEL_NAMES,
    shop,
    panel: async (name) => panelOf(name, shop, settings),
    create: async () => new WebShopEnvironment(shop, settings),
    close: async () => {},
  };
}

function panelOf(name: string, shop: Shop, settings: WebShopSettings): Panel {
  const panel = PANEL_NAMES.find((known) => known === name);
  if (panel === undefined) {
    throw new EnvironmentError("ENVIRONMENT_UNKNOWN_PANEL", `The WebShop environment has no panel "${name}".`, {
      hint: `Panels: ${PANEL_NAMES.join(", ")}.`,
    });
  }
  const count = shop.goals.length;
  const split = settings.split ?? (count > PUBLISHED_DEV ? "published" : "quarters");
  const [from, to] = panelRange(panel, split, count);
  const goals = shop.goals.slice(from, to);
  const content = {
    version: WEBSHOP_VERSION,
    data: shop.dataHash,
    priceSeed: settings.priceSeed,
    numProducts: settings.numProducts,
    nouns: settings.nouns,
    goals: goals.map(goalRecord),
  };
  return {
    id: `webshop/${settings.goals}-${panel}${split === "quarters" ? "-quarters" : ""}@${WEBSHOP_VERSION}`,
    tasks: goals.map((_, i) => `${settings.goals}/${from + i}`),
    hash: createHash("sha256").update(JSON.stringify(content)).digest("hex"),
  };
}

function panelRange(panel: PanelName, split: "published" | "quarters", count: number): [from: number, to: number] {
  const quarter = Math.floor(count / 4);
  const [testEnd, devEnd] = split === "published" ? [PUBLISHED_TEST, PUBLISHED_DEV] : [quarter, 2 * quarter];
  if (panel === "test") return [0, Math.min(testEnd, count)];
  return panel === "dev" ? [Math.min(testEnd, count), Math.min(devEnd, count)] : [Math.min(devEnd, count), count];
}

function nounFile(files: z.output<typeof FILES> | WebShopFiles): string {
  if (files.nouns !== undefined) return files.nouns;
  throw new EnvironmentError("ENVIRONMENT_BAD_OPTIONS", "There is no table of recorded title nouns among the files.", {
    hint: 'Use `nouns: "tagger"`, or add title_nouns.jsonl.gz to the folder.',
  });
}
