import { beforeAll, describe, expect, test } from "vitest";
import { analyze } from "../../src/environments/webshop/analyzer.js";
import { type Product, readProducts } from "../../src/environments/webshop/catalog.js";
import { porterStem } from "../../src/environments/webshop/porter-stemmer.js";
import {
  decodeLength,
  encodeLength,
  indexedText,
  type SearchHit,
  SearchIndex,
} from "../../src/environments/webshop/search-index.js";
import { tokenize } from "../../src/environments/webshop/tokenizer.js";
import { hasOracle, ORACLE, oracleLines } from "./webshop-oracle.js";

describe("analysis", () => {
  test("Porter's own examples, one for each rule", () => {
    const examples =
      "caresses:caress ponies:poni ties:ti cats:cat feed:feed agreed:agre plastered:plaster bled:bled motoring:motor " +
      "sing:sing conflated:conflat troubled:troubl sized:size hopping:hop falling:fall hissing:hiss fizzed:fizz " +
      "failing:fail filing:file happy:happi sky:sky relational:relat conditional:condit valenci:valenc " +
      "digitizer:digit radicalli:radic differentli:differ vileli:vile analogousli:analog vietnamization:vietnam " +
      "predication:predic operator:oper feudalism:feudal decisiveness:decis hopefulness:hope callousness:callous " +
      "formaliti:formal sensitiviti:sensit sensibiliti:sensibl triplicate:triplic formative:form formalize:formal " +
      "electriciti:electr electrical:electr hopeful:hope goodness:good revival:reviv allowance:allow inference:infer " +
      "airliner:airlin adjustable:adjust defensible:defens irritant:irrit replacement:replac adoption:adopt " +
      "homologou:homolog communism:commun effective:effect bowdlerize:bowdler probate:probat rate:rate cease:ceas " +
      "controll:control roll:roll apology:apolog";
    for (const pair of examples.split(" ")) {
      const [word, stem] = pair.split(":") as [string, string];
      expect(porterStem(word), word).toBe(stem);
    }
  });

  test("word breaks follow UAX #29 with Lucene's additions", () => {
    expect(tokenize("a_b 3.5mm x7'4 1,000.50 o'neil u.s.a. title:x x-large")).toEqual([
      "a_b",
      "3.5mm",
      "x7'4",
      "1,000.50",
      "o'neil",
      "u.s.a",
      "title:x",
      "x",
      "large",
    ]);
    expect(tokenize("靴子 カタカナ ひら 한국어 ไทย")).toEqual(["靴", "子", "カタカナ", "ひ", "ら", "한국어", "ไทย"]);
    expect(tokenize("👨‍👩‍👧 ☎ ☆ 👍🏽 🇩🇪🇫🇷 #️⃣ ___")).toEqual(["👨‍👩‍👧", "☎", "👍🏽", "🇩🇪", "🇫🇷", "#️⃣"]);
  });

  test("tokens are cut at 255 units", () => {
    expect(tokenize("a".repeat(600)).map((token) => token.length)).toEqual([255, 255, 90]);
  });
});

describe("document lengths", () => {
  test("codes are exact below 40 and never above the length", () => {
    for (let length = 0; length < 100_000; length += 7) {
      const decoded = decodeLength(encodeLength(length));
      if (length < 40) expect(decoded).toBe(length);
      expect(decoded).toBeLessThanOrEqual(length);
      // Three bits after the leading one: at most an eighth is lost.
      expect(decoded).toBeGreaterThan(length * (7 / 8) - 1);
    }
    expect(encodeLength(2_147_483_647)).toBe(255);
  });
});

describe.skipIf(!hasOracle)("recorded analysis and searches", () => {
  let products: Product[] = [];
  let index: SearchIndex;

  beforeAll(async () => {
    products = await readProducts(`${ORACLE}/products.json`, new Map());
    index = new SearchIndex(products);
  });

  test("index terms of every recorded text", () => {
    const cases = oracleLines<{ id: string; text: string; tokens: string[] }>("analysis_cases.jsonl.gz");
    expect(cases.length).toBeGreaterThan(0);
    for (const { id, text, tokens } of cases) expect(analyze(text), id).toEqual(tokens);
  });

  test("number of terms and of different terms of every indexed product", () => {
    const documents = oracleLines<{ asin: string; length: number; unique: number }>("index_docs.jsonl");
    expect(products.map(({ asin }) => asin)).toEqual(documents.map(({ asin }) => asin));
    products.forEach((product, i) => {
      const terms = analyze(indexedText(product));
      expect([terms.length, new Set(terms).size], product.asin).toEqual([documents[i]!.length, documents[i]!.unique]);
      expect(index.lengths[i]).toBe(documents[i]!.length);
    });
  });

  test("ids, order and reported scores of every recorded search", () => {
    const cases = oracleLines<{ id: string; query: string; k: number; hits: [string, number][] }>(
      "search_cases.jsonl.gz",
    );
    expect(cases.length).toBeGreaterThan(0);
    for (const { id, query, k, hits } of cases) {
      const found = index.search(query, k);
      expect(
        found.map((hit) => products[hit.index]!.asin),
        id,
      ).toEqual(hits.map(([asin]) => asin));
      expect(reportedScores(found), id).toEqual(hits.map(([, score]) => score));
    }
  });
});

/**
 * Anserini reports scores rounded to four decimals; each that is within a float's 0.0001 of the one before counts as a
 * tie with it, and the j-th after the first of such a row loses j millionths.
 */
function reportedScores(hits: readonly SearchHit[]): number[] {
  let previous = Number.NaN;
  let repeats = 0;
  return hits.map(({ score }) => {
    const rounded = Math.fround(Math.floor(score * 1e4 + 0.5) / 1e4);
    repeats = Math.fround(previous - rounded) <= Math.fround(1e-4) ? repeats + 1 : 0;
    previous = rounded;
    return Math.fround(rounded - Math.fround(1e-6 * repeats));
  });
}
