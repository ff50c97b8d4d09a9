import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { memberKeys, splitRecords } from "../../src/environments/webshop/json-records.js";
import {
  dictRepr,
  floatRepr,
  jinjaJson,
  roundHalfEven,
  stringRepr,
  strip,
} from "../../src/environments/webshop/python-text.js";
import { webshopProvider } from "../../src/environments/webshop/webshop.js";

const ROOT = mkdtempSync(join(tmpdir(), "webshop-"));
afterAll(() => rmSync(ROOT, { recursive: true, force: true }));

const PRODUCT = {
  asin: "A1",
  name: "Plain Cotton Shirt",
  full_description: "A shirt.",
  small_description: ["Soft. "],
  pricing: "$1,234.50 - $2,000.00",
  product_category: "Clothing › Shirts",
  customization_options: { "10": [{ value: "A/B" }], Color: [{ value: " Dark Red ", image: null }], "2": null },
  category: "fashion",
  query: " Shirts ",
};

function folder(files: Record<string, unknown>): string {
  const path = mkdtempSync(join(ROOT, "data-"));
  for (const [name, content] of Object.entries(files)) {
    writeFileSync(join(path, name), typeof content === "string" ? content : JSON.stringify(content));
  }
  return path;
}

const HUMAN = { A1: [{ instruction: "...a shirt.", instruction_attributes: ["cotton"], instruction_options: [] }] };
const good = (changes: Record<string, unknown> = {}) =>
  folder({ "items_shuffle.json": [PRODUCT], "items_ins_v2.json": {}, "items_human_ins.json": HUMAN, ...changes });

describe("loading", () => {
  test("fields are read as the original reads them", async () => {
    const text =
      `[{"asin":"nan"},${JSON.stringify(PRODUCT).replace('"10":', '"Size":[],"10":')},${JSON.stringify(PRODUCT)}]`.replace(
        '{"asin":"nan"}',
        JSON.stringify({ ...PRODUCT, asin: "nan" }),
      );
    const { shop } = await webshopProvider({ data: good({ "items_shuffle.json": text }) });
    expect(shop.products).toHaveLength(1);
    const [product] = shop.products;
    expect(product).toMatchObject({ query: "shirts", pricing: [1234.5, 2000], priceTag: "$1234.5 to $2000.0" });
    expect(product!.attributes).toEqual(["DUMMY_ATTR"]);
    // Python keeps the file's order of keys that JavaScript would move to the front.
    expect([...product!.options]).toEqual([
      ["size", []],
      ["10", ["a | b"]],
      ["color", ["dark red"]],
    ]);
    expect(shop.goals).toMatchObject([{ instructionText: "a shirt", priceUpper: 1_000_000, attributes: ["cotton"] }]);
  });

  test("Python's NaN in a field that is not read", async () => {
    const text = JSON.stringify([{ ...PRODUCT, name: "NaN shirt", rating: 0 }]).replace('"rating":0', '"rating":NaN');
    const { shop } = await webshopProvider({ data: good({ "items_shuffle.json": text }) });
    expect(shop.products[0]!.name).toBe("NaN shirt");
  });

  const broken: [name: string, files: Record<string, unknown>, message: RegExp][] = [
    ["no array", { "items_shuffle.json": {} }, /expected one array of objects/],
    ["cut off", { "items_shuffle.json": JSON.stringify([PRODUCT]).slice(0, -9) }, /ends inside the array, after 0/],
    ["not JSON inside", { "items_shuffle.json": "[{nope}]" }, /element 0 is not valid JSON/],
    ["two arrays", { "items_shuffle.json": "[] []" }, /expected one array/],
    ["empty", { "items_shuffle.json": "[]" }, /at least one product/],
    [
      "number for a text",
      { "items_shuffle.json": [{ ...PRODUCT, name: 3 }] },
      /a string for `name` of product 0, got 3/,
    ],
    ["price without dollars", { "items_shuffle.json": [{ ...PRODUCT, pricing: "12" }] }, /`pricing` of product 0/],
    [
      "option without value",
      { "items_shuffle.json": [{ ...PRODUCT, customization_options: { a: [{}] } }] },
      /options\.a/,
    ],
    ["attributes", { "items_ins_v2.json": { A1: { attributes: "x" } } }, /a list of texts for `A1.attributes`/],
    ["attributes not JSON", { "items_ins_v2.json": "{" }, /not valid JSON/],
    ["human instructions", { "items_human_ins.json": { A1: {} } }, /a list for `A1`/],
  ];
  test.each(broken)("%s", async (_, files, message) => {
    const failure = expect(webshopProvider({ data: good(files) })).rejects;
    await failure.toMatchObject({ code: "ENVIRONMENT_BAD_DATA", retryable: false });
    await expect(webshopProvider({ data: good(files) })).rejects.toThrow(message);
  });

  test("missing or doubtful files", async () => {
    await expect(webshopProvider({ data: join(ROOT, "absent") })).rejects.toMatchObject({
      code: "ENVIRONMENT_BAD_DATA",
    });
    await expect(
      webshopProvider({ data: folder({ "items_shuffle.json": [PRODUCT], "items_ins_v2.json": {} }) }),
    ).rejects.toThrow(/Human goals need/);
    await expect(webshopProvider({ data: good({ "products.json": [] }) })).rejects.toMatchObject({
      code: "ENVIRONMENT_BAD_OPTIONS",
    });
    await expect(webshopProvider({ data: good(), goals: "synthetic" })).rejects.toThrow(/A1 has no entry/);
  });
});

describe("JSON records", () => {
  test("any array of objects, in pieces of any size", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.dictionary(fc.string(), fc.jsonValue())),
        fc.integer({ min: 1, max: 40 }),
        async (array, size) => {
          const bytes = Buffer.from(JSON.stringify(array, null, size % 3));
          const pieces = Array.from({ length: Math.ceil(bytes.length / size) }, (_, i) =>
            bytes.subarray(i * size, (i + 1) * size),
          );
          const values: unknown[] = [];
          for await (const { value } of splitRecords("test", pieces)) values.push(value);
          expect(values).toEqual(JSON.parse(bytes.toString()));
        },
      ),
    );
  });

  test("bytes of any kind end in a typed error or in objects", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.oneof(
          fc.uint8Array(),
          fc.string({ unit: fc.constantFrom(...'[]{}",:\\ a1') }).map((s) => Buffer.from(s)),
        ),
        async (bytes) => {
          try {
            for await (const { value } of splitRecords("test", [Buffer.from(bytes)]))
              expect(typeof value).toBe("object");
          } catch (error) {
            expect(error).toMatchObject({ code: "ENVIRONMENT_BAD_DATA" });
          }
        },
      ),
      { numRuns: 2000 },
    );
  });

  test("keys of a member in the order of the text", () => {
    expect(memberKeys('{"x":{"9":1},"o":{"b":{"z":1},"10":[{"q":2}],"2":"a:{","b":3},"y":1}', "o")).toEqual([
      "b",
      "10",
      "2",
    ]);
  });
});

describe("Python's texts", () => {
  test("floats", () => {
    const cases: [number, string][] = [
      [1, "1.0"],
      [0, "0.0"],
      [-0, "-0.0"],
      [2 / 3, "0.6666666666666666"],
      [877.8, "877.8"],
      [1e15, "1000000000000000.0"],
      [1e16, "1e+16"],
      [1.5e22, "1.5e+22"],
      [0.0001, "0.0001"],
      [0.00001, "1e-05"],
      [1.25e-7, "1.25e-07"],
    ];
    for (const [x, text] of cases) expect(floatRepr(x)).toBe(text);
    expect([0.5, 1.5, 2.5, 2.4999, -0.5].map(roundHalfEven)).toEqual([0, 2, 2, 2, 0]);
  });

  test("strings", () => {
    expect(stringRepr("it's")).toBe(`"it's"`);
    expect(stringRepr(`a'b"c\\`)).toBe(`'a\\'b"c\\\\'`);
    expect(stringRepr("\u00a0\n\u200b\ud83d\ude00\u{e0001}é")).toBe("'\\xa0\\n\\u200b\ud83d\ude00\\U000e0001é'");
    expect(
      dictRepr(
        new Map([
          ["b", "1"],
          ["a", "x"],
        ]),
      ),
    ).toBe("{'b': '1', 'a': 'x'}");
    expect(
      jinjaJson(
        new Map([
          ["b", "<é>"],
          ["a", "'&"],
        ]),
      ),
    ).toBe('{"a": "\\u0027\\u0026", "b": "\\u003c\\u00e9\\u003e"}');
    expect(strip("\u3000\u00a0 a b\x1f\u2029")).toBe("a b");
    expect(strip("\ufeffa")).toBe("\ufeffa");
  });
});
