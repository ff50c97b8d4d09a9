import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import { parseAction } from "../../src/environments/webshop/action.js";
import { PythonRandom } from "../../src/environments/webshop/python-random.js";
import { WebShopSession } from "../../src/environments/webshop/session.js";
import { type WebShopProvider, webshopProvider } from "../../src/environments/webshop/webshop.js";

/** Texts in which brackets, line ends and real action words come up often. */
const actionLike = fc
  .array(
    fc.oneof(
      fc.constantFrom("[", "]", "\n", "\r", "\u2028", "search", "click", "click[", "]]", "<r>", "<c>", "<a>", " "),
      fc.constantFrom("buy now", "Back to Search", "next >", "< prev", "features", "m000shopa0", "black", "small"),
      fc.string({ maxLength: 3 }),
    ),
    { maxLength: 8 },
  )
  .map((parts) => parts.join(""));

describe("action grammar", () => {
  test("equals Python's re.match of (.+)\\[(.+)\\]", () => {
    // The reference: Python's dot excludes the line feed only, and match() is anchored at the start alone.
    const reference = /^([^\n]+)\[([^\n]+)\]/;
    fc.assert(
      fc.property(actionLike, (text) => {
        const match = reference.exec(text);
        const expected =
          match === null ? { name: text, argument: null } : { name: match[1]!, argument: match[2]!.toLowerCase() };
        expect(parseAction(text)).toEqual(expected);
      }),
      { numRuns: 5000 },
    );
  });

  test("recorded oddities", () => {
    expect(parseAction("click[buy now] please")).toEqual({ name: "click", argument: "buy now" });
    expect(parseAction("click[Back to Search]]")).toEqual({ name: "click", argument: "back to search]" });
    expect(parseAction("click[]")).toEqual({ name: "click[]", argument: null });
    expect(parseAction("[a]")).toEqual({ name: "[a]", argument: null });
    expect(parseAction("search[a\nb]")).toEqual({ name: "search[a\nb]", argument: null });
  });

  test("time grows with the length, not its square", () => {
    const started = performance.now();
    parseAction("[".repeat(2_000_000));
    parseAction(`${"[]".repeat(1_000_000)}\n`);
    // The expression above would try every pair of brackets: hours.
    expect(performance.now() - started).toBeLessThan(1_000);
  });
});

describe("sessions under arbitrary actions", () => {
  let provider: WebShopProvider;
  beforeAll(async () => {
    provider = await webshopProvider();
  });

  test("never throw, show the same page after what is not accepted, and list only what works", () => {
    const { shop } = provider;
    const listed = fc.nat().map((n) => n);
    fc.assert(
      fc.property(
        fc.nat({ max: shop.goals.length - 1 }),
        fc.array(fc.oneof(actionLike, listed), { maxLength: 20 }),
        (goal, moves) => {
          const session = new WebShopSession(shop, shop.goals[goal]!, {
            id: String(goal),
            showAttributes: true,
            random: new PythonRandom(goal),
          });
          for (const move of moves) {
            const { clickables } = session;
            const label = typeof move === "number" ? clickables[move % Math.max(1, clickables.length)] : undefined;
            const action = typeof move === "string" ? move : `click[${label ?? "search"}]`;
            const before = session.text;
            const result = session.step(action);
            if (!result.accepted) expect(session.text).toBe(before);
            expect(result.error === null || !result.accepted).toBe(true);
            expect(result.reward).toBeGreaterThanOrEqual(0);
            expect(result.reward).toBeLessThanOrEqual(1);
            expect(result.done).toBe(session.pageKind === "done" && result.accepted);
          }
        },
      ),
      { numRuns: 300 },
    );
  });
});
