/**
 * A small tagger that picks the nouns and proper nouns out of product titles, in place of the original's spaCy model.
 *
 * A linear classifier decides word by word, left to right, from the word, its neighbours, their shapes and the two
 * decisions before. Its weights are an averaged perceptron's (Collins 2002), trained by
 * `assets/webshop/train-noun-tagger.mjs` on what spaCy said of titles outside the 1,000-product set; the agreement on
 * the titles inside is stated in docs/environments/webshop.md.
 */
import { readFileSync } from "node:fs";
import { assetPath } from "./assets.js";
import { badData, unreadable } from "./json-records.js";
import type { NounsOf } from "./reward.js";
import { titleTokens } from "./title-tokens.js";

/** What was decided on an earlier word; `-` stands before the first. */
export type Decision = "-" | "0" | "1";

/** Names of the features of a word that are on. The trainer uses this too, so names in the weight file fit. */
export function nounFeatures(words: readonly string[], at: number, last: Decision, secondLast: Decision): string[] {
  const word = words[at]!;
  const lower = word.toLowerCase();
  const before = words[at - 1]?.toLowerCase() ?? "^";
  const after = words[at + 1]?.toLowerCase() ?? "$";
  const shape = wordShape(word);
  const shapeAfter = wordShape(words[at + 1] ?? "$");
  const suffix = lower.slice(-3);
  return [
    "bias",
    `w ${lower}`,
    `w-1 ${before}`,
    `w-2 ${words[at - 2]?.toLowerCase() ?? "^"}`,
    `w+1 ${after}`,
    `w+2 ${words[at + 2]?.toLowerCase() ?? "$"}`,
    `prefix ${lower.slice(0, 3)}`,
    `suffix2 ${lower.slice(-2)}`,
    `suffix3 ${suffix}`,
    `suffix4 ${lower.slice(-4)}`,
    `suffix3-1 ${before.slice(-3)}`,
    `suffix3+1 ${after.slice(-3)}`,
    `shape ${shape}`,
    `shape-1 ${wordShape(words[at - 1] ?? "^")}`,
    `shape+1 ${shapeAfter}`,
    `shape,+1 ${shape} ${shapeAfter}`,
    `shape,suffix3 ${shape} ${suffix}`,
    `w,shape ${lower} ${shape}`,
    `w,w+1 ${lower} ${after}`,
    `w-1,w ${before} ${lower}`,
    `last ${last}`,
    `last2 ${secondLast}${last}`,
    `last,w ${last} ${lower}`,
    `last,shape ${last} ${shape}`,
  ];
}

/** `SheIn` is `XxXx`, `1080P` is `dX`, `USB` is `XX`; at most six characters. */
function wordShape(word: string): string {
  return word
    .replace(/\p{Lu}+/gu, (run) => (run.length > 1 ? "XX" : "X"))
    .replace(/\p{Ll}+/gu, "x")
    .replace(/[0-9]+/g, "d")
    .slice(0, 6);
}

/** The nouns of a title under a table of weights, lower case, in order, with repeats. */
export function tagNouns(title: string, weights: ReadonlyMap<string, number>): string[] {
  const words = titleTokens(title);
  const nouns: string[] = [];
  let last: Decision = "-";
  let secondLast: Decision = "-";
  words.forEach((word, at) => {
    let score = 0;
    for (const feature of nounFeatures(words, at, last, secondLast)) score += weights.get(feature) ?? 0;
    secondLast = last;
    last = score > 0 ? "1" : "0";
    if (score > 0) nouns.push(word.toLowerCase());
  });
  return nouns;
}

/** The tagger with the weights that come with the package. Throws {@link EnvironmentError} when they are damaged. */
export function loadNounTagger(): NounsOf {
  const path = assetPath("noun-tagger.json");
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (cause) {
    throw unreadable(path, cause);
  }
  const weights = new Map(Object.entries(parseWeights(path, text)));
  return (title) => tagNouns(title, weights);
}

function parseWeights(path: string, text: string): Record<string, number> {
  try {
    return (JSON.parse(text) as { weights: Record<string, number> }).weights;
  } catch (cause) {
    throw badData(path, "not valid JSON", cause);
  }
}
