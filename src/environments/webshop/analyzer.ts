/**
 * The analysis chain that WebShop's index was built with (Anserini's default for English): standard tokenizer,
 * possessive 's off, lower case, stop words out, Porter stemmer.
 */
import { porterStem } from "./porter-stemmer.js";
import { tokenize } from "./tokenizer.js";

/** Lucene's English stop words. */
const STOP_WORDS: ReadonlySet<string> = new Set(
  (
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they " +
    "this to was will with"
  ).split(" "),
);

const POSSESSIVE = /['\u2019\uff07][sS]$/;
const stems = new Map<string, string>();
const STEMS_KEPT = 200_000;

/** The index terms of a text, in order, with repeats. */
export function analyze(text: string): string[] {
  const terms: string[] = [];
  for (const token of tokenize(text)) {
    const word = lowerCase(token.replace(POSSESSIVE, ""));
    if (!STOP_WORDS.has(word)) terms.push(stem(word));
  }
  return terms;
}

/** Lower case one code point at a time, as Lucene does it: no final sigma, and U+0130 becomes a plain i. */
function lowerCase(word: string): string {
  if (/^[\0-\x7f]*$/.test(word)) return word.toLowerCase();
  let out = "";
  for (const character of word) out += character === "\u0130" ? "i" : character.toLowerCase();
  return out;
}

/** The stemmer with its answers kept: a catalogue repeats a small vocabulary over and over. */
function stem(word: string): string {
  let known = stems.get(word);
  if (known === undefined) {
    known = porterStem(word);
    if (stems.size >= STEMS_KEPT) stems.clear();
    stems.set(word, known);
  }
  return known;
}
