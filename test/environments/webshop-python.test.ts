/** Texts as CPython writes, strips, takes apart and compares them; test/fixtures/webshop/python_texts.py made the cases. */
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { describe, expect, test } from "vitest";
import { stripCommand } from "../../src/environments/textworld/texts.js";
import { parseAction } from "../../src/environments/webshop/action.js";
import { dictRepr, floatRepr, jsonDumps, stringRepr, strip } from "../../src/environments/webshop/python-text.js";
import { tokenSetRatio } from "../../src/environments/webshop/text-match.js";

interface Cases {
  readonly token_set_ratio: readonly (readonly [a: string, b: string, score: number])[];
  readonly strings: readonly (readonly [text: string, repr: string, json: string, dictionary: string])[];
  readonly floats: readonly string[];
  readonly actions: readonly (readonly [action: string, name: string, argument: string | null, stripped: string])[];
}

const file = resolve(import.meta.dirname, "../fixtures/webshop/python_texts.json");
const cases = JSON.parse(readFileSync(file, "utf8")) as Cases;

describe("random texts come out as in CPython", () => {
  test("similarity of two texts", () => {
    const got = cases.token_set_ratio.map(([a, b]) => [a, b, tokenSetRatio(a, b)]);
    expect(got).toEqual(cases.token_set_ratio);
    expect(new Set(got.map(([, , score]) => score)).size).toBeGreaterThan(50);
  });

  test("strings and dictionaries, as repr and as JSON", () => {
    for (const [text, repr, json, dictionary] of cases.strings) {
      const entries = new Map([[text, `é${text}`]]);
      expect([stringRepr(text), jsonDumps(entries), dictRepr(entries)]).toEqual([repr, json, dictionary]);
    }
  });

  test("floats", () => {
    expect(cases.floats.map((text) => floatRepr(Number(text)))).toEqual(cases.floats);
  });

  test("actions and white space around them", () => {
    for (const [action, name, argument, stripped] of cases.actions) {
      expect(parseAction(action), JSON.stringify(action)).toEqual({ name, argument });
      expect([strip(action), stripCommand(action)]).toEqual([stripped, stripped]);
    }
    expect(cases.actions.filter(([, , argument]) => argument !== null).length).toBeGreaterThan(50);
  });
});
