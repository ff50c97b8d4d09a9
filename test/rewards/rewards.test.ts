import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parseReply } from "../../src/prompts/reply.js";
import { actionReward, type RewardWeights } from "../../src/rewards/action.js";
import { episodeReward } from "../../src/rewards/episode.js";
import { overlongPenalty, shapeReward } from "../../src/rewards/length.js";

const admissible = { actions: ["go to shelf 1", "look"], patterns: ["^search\\[.+\\]$"] };
const reply = (action: string) => parseReply(`<think>hm</think><action>${action}</action>`);

describe("actionReward", () => {
  it.each([
    ["take mug 1", { reward: 1, kind: "exact" }],
    ["  TAKE  mug 1", { reward: 1, kind: "exact" }],
    ["Look", { reward: 0.1, kind: "admissible" }],
    ["search[Red mug]", { reward: 0.1, kind: "admissible" }],
    ["fly", { reward: 0, kind: "other" }],
    ["search[]", { reward: 0, kind: "other" }],
  ])("%j", (action, want) => {
    expect(actionReward(reply(action), "Take mug 1", admissible)).toEqual(want);
  });

  it("punishes missing and malformed tags", () => {
    for (const text of [
      "take mug 1",
      "<action>take mug 1",
      "<action></action>",
      "<action>a</action><action>b</action>",
    ])
      expect(actionReward(parseReply(text), "take mug 1", admissible)).toEqual({ reward: -0.5, kind: "malformed" });
  });

  it("calls nothing admissible where the environment cannot say", () => {
    expect(actionReward(reply("look"), "take mug 1", null)).toEqual({ reward: 0, kind: "other" });
  });

  it("uses the stage's weights", () => {
    const weights: RewardWeights = { exact: 2, admissible: 0, other: -1, malformed: -3 };
    expect(actionReward(reply("take mug 1"), "take mug 1", admissible, weights).reward).toBe(2);
    expect(actionReward(reply("look"), "take mug 1", admissible, weights).reward).toBe(0);
    expect(actionReward(reply("fly"), "take mug 1", admissible, weights).reward).toBe(-1);
    expect(actionReward(parseReply(""), "take mug 1", admissible, weights).reward).toBe(-3);
  });

  it("judges a verdict by index as the candidate it names", () => {
    const verdict = parseReply("<action>2</action>", { indexOf: { first: "look", second: "take mug 1" } });
    expect(actionReward(verdict, "take mug 1", admissible)).toEqual({ reward: 1, kind: "exact" });
  });

  it("gives one of four values to any text", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), (text) => {
        expect([1, 0.1, 0, -0.5]).toContain(actionReward(parseReply(text), "look", admissible).reward);
      }),
    );
  });
});

describe("overlongPenalty", () => {
  const shaping = { maxLength: 20480, cacheLength: 4096 };
  it.each([
    [0, 0],
    [16384, 0],
    [18432, -0.5],
    [20480, -1],
    [20481, -1],
  ])("at %d tokens: %d", (length, want) => {
    expect(overlongPenalty(length, shaping)).toBe(want);
  });

  it("never grows with length", () => {
    fc.assert(
      fc.property(fc.nat(100), fc.nat(100), fc.integer({ min: 1, max: 60 }), (a, b, cacheLength) => {
        const at = (length: number): number => overlongPenalty(length, { maxLength: 60, cacheLength });
        expect(at(Math.max(a, b))).toBeLessThanOrEqual(at(Math.min(a, b)));
      }),
    );
  });

  it("refuses a cache longer than the limit", () => {
    expect(() => overlongPenalty(1, { maxLength: 4, cacheLength: 5 })).toThrowError(
      expect.objectContaining({ code: "REWARD_BAD_OPTIONS" }),
    );
  });
});

describe("shapeReward", () => {
  const base = { truncationPenalty: -0.5, overlong: null };
  const cut = { length: 9, truncated: true };

  it("treats a truncated completion as its policy says, whatever its text earned", () => {
    expect(shapeReward(1, cut, { ...base, truncation: "drop" })).toEqual({ reward: 0, dropped: true });
    expect(shapeReward(1, cut, { ...base, truncation: "zero" })).toEqual({ reward: 0, dropped: false });
    expect(shapeReward(1, cut, { ...base, truncation: "penalize" })).toEqual({ reward: -0.5, dropped: false });
    expect(shapeReward(0.1, cut, { ...base, truncation: "keep" })).toEqual({ reward: 0.1, dropped: false });
  });

  it("adds the overlong penalty", () => {
    const overlong = { maxLength: 10, cacheLength: 4 };
    expect(shapeReward(1, { length: 8, truncated: false }, { ...base, overlong, truncation: "drop" }).reward).toBe(0.5);
    expect(shapeReward(1, cut, { ...base, overlong, truncation: "zero" }).reward).toBe(-0.75);
  });
});

describe("episodeReward", () => {
  it("is the scaled outcome less the invalid actions", () => {
    const facts = { success: true, score: 0.4, totalReward: 0.75, invalidActions: 3 };
    expect(episodeReward(facts)).toBe(1 - 0.1 * 3);
    expect(episodeReward(facts, { source: "score", scale: 10, invalidActionPenalty: 0 })).toBe(4);
    expect(episodeReward(facts, { source: "return", scale: 2, invalidActionPenalty: 0.25 })).toBe(0.75);
    expect(episodeReward({ success: false, score: -1, totalReward: 3, invalidActions: 0 })).toBe(0);
  });
});
