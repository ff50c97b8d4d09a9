/**
 * Trains the weights of the title tagger (src/environments/webshop/noun-tagger.ts) and writes noun-tagger.json.
 *
 * Usage, after `npm run build:ts`: node assets/webshop/train-noun-tagger.mjs <title_nouns.jsonl.gz>
 *
 * The table holds titles with the nouns that spaCy's en_core_web_sm 3.6.0 gave them. Only titles that are not of the
 * 1,000-product set (`in_products` false) are learnt from, so that the set stays unseen for measuring.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { nounFeatures } from "../../dist/environments/webshop/noun-tagger.js";
import { titleTokens } from "../../dist/environments/webshop/title-tokens.js";

const EPOCHS = 6;
/** Averaged weights below this are left out: they triple the file for a tenth of a percent of the words. */
const SMALLEST = 1;

const [path] = process.argv.slice(2);
if (path === undefined) throw new Error("Give the path of title_nouns.jsonl.gz.");
const rows = gunzipSync(readFileSync(path))
  .toString("utf8")
  .trim()
  .split("\n")
  .map((line) => JSON.parse(line));
const titles = rows
  .filter((row) => !row.in_products)
  .map(label)
  .filter((title) => title !== null);

/** Words of a title, each with whether it is the next noun of the table; null where a noun is no word of ours. */
function label({ name, nouns }) {
  const words = titleTokens(name);
  const isNoun = words.map(() => false);
  let from = 0;
  for (const noun of nouns) {
    const at = words.findIndex((word, i) => i >= from && word.toLowerCase() === noun);
    if (at < 0) return null;
    isNoun[at] = true;
    from = at + 1;
  }
  return { words, isNoun };
}

// Averaged perceptron: `sum` holds each weight's sum over all steps up to `since`.
const weights = new Map();
let step = 0;
function change(features, by) {
  for (const feature of features) {
    const entry = weights.get(feature) ?? { value: 0, sum: 0, since: 0 };
    entry.sum += (step - entry.since) * entry.value;
    entry.since = step;
    entry.value += by;
    weights.set(feature, entry);
  }
}

let seed = 1;
function below(n) {
  seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff;
  return Math.floor((seed / 0x80000000) * n);
}

for (let epoch = 0; epoch < EPOCHS; epoch++) {
  for (let i = titles.length - 1; i > 0; i--) {
    const j = below(i + 1);
    [titles[i], titles[j]] = [titles[j], titles[i]];
  }
  let wrong = 0;
  let all = 0;
  for (const { words, isNoun } of titles) {
    let last = "-";
    let secondLast = "-";
    for (let at = 0; at < words.length; at++) {
      step++;
      all++;
      const features = nounFeatures(words, at, last, secondLast);
      const score = features.reduce((sum, feature) => sum + (weights.get(feature)?.value ?? 0), 0);
      if (score > 0 !== isNoun[at]) {
        wrong++;
        change(features, isNoun[at] ? 1 : -1);
      }
      secondLast = last;
      last = score > 0 ? "1" : "0";
    }
  }
  console.log(`epoch ${epoch + 1}: ${((100 * wrong) / all).toFixed(2)} % of ${all} words wrong`);
}

const kept = [...weights]
  .map(([feature, { value, sum, since }]) => [feature, (sum + (step - since) * value) / step])
  .filter(([, average]) => Math.abs(average) >= SMALLEST)
  .map(([feature, average]) => [feature, Math.round(average * 10) / 10])
  .sort(([a], [b]) => (a < b ? -1 : 1));
const lines = kept.map(([feature, weight]) => `${JSON.stringify(feature)}: ${weight}`).join(",\n");
writeFileSync(
  new URL("noun-tagger.json", import.meta.url),
  `{\n"about": "Weights of the title tagger, written by train-noun-tagger.mjs from titles of WebShop (MIT).",\n"weights": {\n${lines}\n}\n}\n`,
);
console.log(`${kept.length} weights of ${weights.size} from ${titles.length} titles`);
