import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { canonicalizeAction, resolveAction } from "../../src/prompts/action-text.js";
import { expertFirst } from "../../src/prompts/order.js";
import type { DecisionState } from "../../src/prompts/state.js";
import { actionPrompt, context, judgmentPrompt, type PromptTemplate } from "../../src/prompts/template.js";
import { compactTemplate, promptNames, promptTemplate, standardTemplate } from "../../src/prompts/templates.js";

const state: DecisionState = {
  task: "put a clean mug in coffeemachine",
  observation: "On the sinkbasin 1, you see a mug 1.",
  history: [
    { observation: "You are in the middle of a room.", action: "go to shelf 1" },
    { observation: "On the shelf 1,\nyou see nothing.", action: "go to drawer 1" },
    { observation: "The drawer 1 is closed.", action: "go to sinkbasin 1" },
  ],
  step: 3,
  admissible: { actions: ["take mug 1 from sinkbasin 1", "look"], patterns: ["^search\\[.+\\]$"] },
};
const candidates = { first: "look", second: "take mug 1 from sinkbasin 1" };

describe("standard prompt", () => {
  it("shows the task, the last two decisions, the present and what can be done", () => {
    expect(actionPrompt(standardTemplate, state)).toMatchInlineSnapshot(`
      "You are an agent that completes tasks in a text environment, one action at a time.
      Your task: put a clean mug in coffeemachine
      You have taken 3 action(s) so far. The last 2, oldest first:
      [Observation 2] On the shelf 1,
      you see nothing.
      [Action 2] go to drawer 1
      [Observation 3] The drawer 1 is closed.
      [Action 3] go to sinkbasin 1
      You are now at step 4. Current observation: On the sinkbasin 1, you see a mug 1.
      Admissible actions: ['take mug 1 from sinkbasin 1', 'look', 'search[...]']

      Choose the next action. First reason step by step about the situation inside <think></think>, then give exactly one admissible action inside <action></action>."
    `);
  });

  it("asks for a judgment over the very same context", () => {
    expect(
      judgmentPrompt(standardTemplate, state, candidates).slice(context(standardTemplate, state).length),
    ).toMatchInlineSnapshot(`
        "
        Two actions are proposed for this step.
        Action 1: look
        Action 2: take mug 1 from sinkbasin 1

        Which action is better for the task? First reason step by step inside <think></think>, then copy the better action exactly inside <action></action>."
      `);
  });
});

describe("compact prompt", () => {
  it("is short, a line an observation, and keeps the first one in sight", () => {
    expect(actionPrompt(compactTemplate, state, { historyLength: 1 })).toMatchInlineSnapshot(`
      "goal: put a clean mug in coffeemachine
      see: You are in the middle of a room.
      see: The drawer 1 is closed.
      do: go to sinkbasin 1
      see: On the sinkbasin 1, you see a mug 1.
      next?
      "
    `);
    expect(
      judgmentPrompt(compactTemplate, state, candidates, { historyLength: 0, listAdmissible: true }),
    ).toMatchInlineSnapshot(`
        "goal: put a clean mug in coffeemachine
        see: You are in the middle of a room.
        see: On the sinkbasin 1, you see a mug 1.
        can: take mug 1 from sinkbasin 1; look; search[...]
        1: look
        2: take mug 1 from sinkbasin 1
        better?
        "
      `);
  });

  it("does not pass the oldest known observation off as the first", () => {
    const partial = { ...state, step: 7 };
    expect(context(compactTemplate, partial, { historyLength: 1 })).not.toContain("middle of a room");
  });

  it("grows at its end only, as long as the window holds the whole history", () => {
    for (let step = 0; step < state.history.length; step++) {
      const at = (n: number): DecisionState => ({
        ...state,
        step: n,
        history: state.history.slice(0, n),
        observation: state.history[n]?.observation ?? state.observation,
      });
      const now = context(compactTemplate, at(step));
      expect(context(compactTemplate, at(step + 1)).startsWith(now)).toBe(true);
    }
  });
});

describe("every template", () => {
  const templates = promptNames.map((name) => promptTemplate(name));
  const word = fc.string({ maxLength: 20 });
  const states: fc.Arbitrary<DecisionState> = fc
    .record({
      task: word,
      observation: word,
      history: fc.array(fc.record({ observation: word, action: word }), { maxLength: 6 }),
      earlier: fc.nat(3),
      admissible: fc.option(fc.record({ actions: fc.array(word), patterns: fc.constant([]) })),
    })
    .map(({ earlier, ...rest }) => ({ ...rest, step: rest.history.length + earlier }));

  it("gives action and judgment prompts one prefix: the context", () => {
    fc.assert(
      fc.property(fc.constantFrom(...templates), states, word, word, (template, s, first, second) => {
        const shared = context(template, s);
        expect(actionPrompt(template, s).startsWith(shared)).toBe(true);
        expect(judgmentPrompt(template, s, { first, second }).startsWith(shared)).toBe(true);
      }),
    );
  });

  it("writes values as they are: braces and dollars mean nothing", () => {
    for (const template of templates) {
      const odd = { ...state, task: "{observation} $& {task}", observation: "{admissible}{nothing}" };
      const text = actionPrompt(template, odd);
      expect(text).toContain("{observation} $& {task}");
      expect(text).toContain("{admissible}{nothing}");
    }
  });

  it("has a wording without reasoning, and one for answers by number", () => {
    for (const template of templates) {
      const texts = [
        actionPrompt(template, state),
        actionPrompt(template, state, { reasoning: false }),
        judgmentPrompt(template, state, candidates),
        judgmentPrompt(template, state, candidates, { reasoning: false }),
        judgmentPrompt(template, state, candidates, { indexAnswers: true }),
        judgmentPrompt(template, state, candidates, { indexAnswers: true, reasoning: false }),
      ];
      expect(new Set(texts).size).toBe(texts.length);
    }
  });
});

describe("templates", () => {
  it("are found by name only", () => {
    expect(() => promptTemplate("verbose")).toThrowError(expect.objectContaining({ code: "PROMPT_UNKNOWN" }));
  });

  it("fail on a placeholder that their section lacks, and on a bad window", () => {
    const broken: PromptTemplate = { ...standardTemplate, head: "{goal}" };
    expect(() => actionPrompt(broken, state)).toThrowError(expect.objectContaining({ code: "PROMPT_BAD_TEMPLATE" }));
    expect(() => actionPrompt(standardTemplate, state, { historyLength: -1 })).toThrowError(
      expect.objectContaining({ code: "PROMPT_BAD_OPTIONS" }),
    );
  });
});

describe("canonicalizeAction", () => {
  it("trims, lowers and collapses", () => {
    expect(canonicalizeAction("  Go\tTO  \n shelf\u00a01 ")).toBe("go to shelf 1");
  });

  it("is idempotent", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), (text) => {
        const once = canonicalizeAction(text);
        expect(canonicalizeAction(once)).toBe(once);
      }),
      { numRuns: 500 },
    );
  });
});

describe("resolveAction", () => {
  const admissible = { actions: ["Go North", "click[Buy Now]", "look"], patterns: ["^search\\[.+\\]$"] };

  it("gives the environment's spelling back", () => {
    expect(resolveAction(" go  north ", admissible)).toBe("Go North");
    expect(resolveAction("CLICK[buy now]", admissible)).toBe("click[Buy Now]");
    expect(resolveAction(" search[Red Shoes] ", admissible)).toBe("search[Red Shoes]");
    expect(resolveAction("Search[red  shoes]", admissible)).toBe("search[red shoes]");
    expect(resolveAction("go south", admissible)).toBeNull();
  });

  it("prefers the exact spelling where two share a canonical form", () => {
    expect(resolveAction("GO", { actions: ["go", "GO"], patterns: [] })).toBe("GO");
  });
});

describe("expertFirst", () => {
  it("balances every pair of neighbors, for any seed", () => {
    fc.assert(
      fc.property(fc.integer(), fc.nat(1e6), (seed, k) => {
        expect(expertFirst(seed, 2 * k)).not.toBe(expertFirst(seed, 2 * k + 1));
      }),
    );
  });

  it("depends on the seed and looks like a coin within the even positions", () => {
    const flips = (seed: number): boolean[] => Array.from({ length: 1000 }, (_, k) => expertFirst(seed, 2 * k));
    const heads = flips(1).filter(Boolean).length;
    // 5 standard deviations of a fair coin
    expect(Math.abs(heads - 500)).toBeLessThan(5 * Math.sqrt(250));
    expect(flips(1)).not.toEqual(flips(2));
    expect(flips(1)).toEqual(flips(1));
  });
});
