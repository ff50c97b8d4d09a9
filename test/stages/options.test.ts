import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { z } from "zod";
import { keysAt, nearest } from "../../src/schema-issues.js";
import { parseOptions } from "../../src/stages/options.js";
import { learningRateFactor, scheduleSchema } from "../../src/stages/schedule.js";

const schema = z.strictObject({
  batch: z.number().int().min(1).default(4),
  nested: z.strictObject({ depth: z.number().default(1) }).prefault({}),
  list: z.array(z.strictObject({ item: z.string() })).default([]),
  named: z.record(z.string(), z.strictObject({ path: z.string() })).default({}),
  either: z.union([z.string(), z.strictObject({ choice: z.number() })]).optional(),
  shape: z.enum(["constant", "linear"]).nullable().optional(),
  share: z.number().gt(0).max(1).optional(),
  word: z
    .string()
    .regex(/^[a-z]+$/u, "lower-case letters")
    .optional(),
  needed: z.string(),
});

describe("parseOptions", () => {
  it("fills in defaults at every depth", () => {
    expect(parseOptions(schema, { needed: "x" }, "here")).toEqual({
      batch: 4,
      nested: { depth: 1 },
      list: [],
      named: {},
      needed: "x",
    });
  });

  it.each([
    [{ needed: "x", batsh: 1 }, "CONFIG_UNKNOWN_KEY", "here: Unknown key `batsh`. Did you mean `batch`?"],
    [
      { needed: "x", nested: { dept: 1 } },
      "CONFIG_UNKNOWN_KEY",
      "here: Unknown key `nested.dept`. Did you mean `depth`?",
    ],
    [{ needed: "x", list: [{ itme: "a" }] }, "CONFIG_UNKNOWN_KEY", "Did you mean `item`?"],
    [{ needed: "x", named: { a: { pat: "a" } } }, "CONFIG_UNKNOWN_KEY", "Did you mean `path`?"],
    [{ needed: "x", either: { choise: 1 } }, "CONFIG_UNKNOWN_KEY", "Did you mean `choice`?"],
    [
      { needed: "x", zzzzzzzz: 1 },
      "CONFIG_UNKNOWN_KEY",
      "Valid keys: batch, nested, list, named, either, shape, share, word, needed.",
    ],
    [{}, "CONFIG_MISSING_KEY", "here: `needed` is required. Give a text."],
    [
      { needed: "x", batch: 0 },
      "CONFIG_BAD_VALUE",
      "here: Expected an integer >= 1 for `batch`, got 0. Give an integer >= 1, or leave it out for the default, 4.",
    ],
    [{ needed: "x", batch: null }, "CONFIG_BAD_VALUE", "here: Expected an integer >= 1 for `batch`, got null."],
    [
      { needed: "x", batch: 2 ** 60 },
      "CONFIG_BAD_VALUE",
      "Expected an integer from 1 to 9007199254740991 for `batch`, got 1152921504606847000.",
    ],
    [{ needed: "x", nested: { depth: "a" } }, "CONFIG_BAD_VALUE", 'Expected a number for `nested.depth`, got "a".'],
    [{ needed: "x", either: { choice: "a" } }, "CONFIG_BAD_VALUE", "Expected a number for `either.choice`"],
    [{ needed: "x", either: 1 }, "CONFIG_BAD_VALUE", "Expected a text or an object for `either`, got 1."],
    [{ needed: "x", shape: "liner" }, "CONFIG_BAD_VALUE", 'got "liner". Did you mean `linear`?'],
    [
      { needed: "x", shape: 3 },
      "CONFIG_BAD_VALUE",
      "Expected one of constant, linear or null for `shape`, got 3. Give one of constant, linear or null, or leave it out.",
    ],
    [{ needed: "x", share: 0 }, "CONFIG_BAD_VALUE", "Expected a number > 0 and <= 1 for `share`, got 0."],
    [{ needed: "x", word: "A1" }, "CONFIG_BAD_VALUE", 'Expected lower-case letters for `word`, got "A1".'],
    [{ needed: "x", named: [] }, "CONFIG_BAD_VALUE", "Expected an object for `named`, got an array of 0."],
    ["text", "CONFIG_BAD_VALUE", 'here: Expected an object, got "text". Give an object.'],
  ])("refuses %j", (value, code, text) => {
    expect(() => parseOptions(schema, value, "here")).toThrowError(
      expect.objectContaining({ code, message: expect.stringContaining(text) }) as Error,
    );
  });

  it("throws typed errors whatever it is given", () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        try {
          parseOptions(schema, value, "here");
        } catch (error) {
          expect(error).toMatchObject({
            code: expect.stringMatching(/^CONFIG_/u),
            hint: expect.stringMatching(/./u),
          });
        }
      }),
    );
  });
});

describe("nearest", () => {
  it("finds a slip of the pen and nothing far off", () => {
    expect(nearest("learingRate", ["learningRate", "batch"])).toBe("learningRate");
    expect(nearest("Batch", ["batch"])).toBe("batch");
    expect(nearest("temperature", ["seed", "batch"])).toBeNull();
  });

  it("knows the keys at a path", () => {
    expect(keysAt(schema, ["nested"])).toEqual(["depth"]);
    expect(keysAt(schema, ["named", "any"])).toEqual(["path"]);
    expect(keysAt(schema, ["nowhere"])).toEqual([]);
  });
});

describe("learningRateFactor", () => {
  const factors = (settings: object, steps: number): number[] =>
    Array.from({ length: steps }, (_, step) => learningRateFactor(scheduleSchema.parse(settings), step, steps));

  it("warms up, then keeps its shape down to the floor", () => {
    expect(factors({ kind: "constant", warmup: 2 }, 4)).toEqual([0.5, 1, 1, 1]);
    expect(factors({ kind: "linear", warmup: 0, floor: 0 }, 5)).toEqual([1, 0.75, 0.5, 0.25, 0]);
    const cosine = factors({ kind: "cosine", warmup: 0, floor: 0.1 }, 5);
    expect(cosine[0]).toBe(1);
    expect(cosine[2]).toBeCloseTo(0.55, 12);
    expect(cosine[4]).toBeCloseTo(0.1, 12);
    // A share of all steps: 3 % of 100.
    expect(factors({}, 100).slice(0, 4)).toEqual([1 / 3, 2 / 3, 1, 1]);
  });

  it("is a factor, and never rises after warm-up", () => {
    const settings = fc.record({
      kind: fc.constantFrom("constant", "linear", "cosine"),
      warmup: fc.oneof(fc.double({ min: 0, max: 0.99, noNaN: true }), fc.integer({ min: 0, max: 50 })),
      floor: fc.double({ min: 0, max: 1, noNaN: true }),
    });
    fc.assert(
      fc.property(settings, fc.integer({ min: 1, max: 60 }), (given, steps) => {
        const all = factors(given, steps);
        const warmup = given.warmup < 1 ? Math.round(given.warmup * steps) : given.warmup;
        for (const [i, x] of all.entries()) {
          expect(x).toBeGreaterThanOrEqual(0);
          expect(x).toBeLessThanOrEqual(1);
          if (i > warmup) expect(x).toBeLessThanOrEqual((all[i - 1] as number) + 1e-12);
        }
      }),
    );
  });
});
