import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { canonicalizeAction } from "../../src/prompts/action-text.js";
import { parseReply } from "../../src/prompts/reply.js";

describe("parseReply", () => {
  it("reads one action after the thinking", () => {
    expect(parseReply("<think>The mug is\nthere.</think>\n<action> Take  Mug 1 </action>")).toEqual({
      ok: true,
      action: "take mug 1",
      raw: " Take  Mug 1 ",
      thought: "The mug is\nthere.",
      index: null,
    });
  });

  it("needs no thinking, unless asked to", () => {
    expect(parseReply("<action>look</action>")).toMatchObject({ ok: true, action: "look", thought: "" });
    expect(parseReply("<action>look</action>", { requireThinking: true })).toEqual({
      ok: false,
      reason: "missing_thinking",
    });
  });

  it("takes thinking that the chat template opened for thinking", () => {
    expect(parseReply("maybe <action>look</action>?</think><action>go</action>")).toMatchObject({
      ok: true,
      action: "go",
    });
  });

  it.each([
    ["look around", "no_action"],
    ["", "no_action"],
    ["<think><action>look</action></think>", "no_action"],
    ["<action>a</action><action>b</action>", "several_actions"],
    ["<action><action>a</action>", "several_actions"],
    ["<action>a</action></action>", "several_actions"],
    ["<action>look", "unclosed_action"],
    ["look</action>", "unclosed_action"],
    ["</action>look<action>", "unclosed_action"],
    ["<action> \n </action>", "empty_action"],
    ["<think>so <action>look</action>", "unfinished_thinking"],
    ["<ACTION>look</ACTION>", "no_action"],
  ])("%j is malformed: %s", (text, reason) => {
    expect(parseReply(text)).toEqual({ ok: false, reason });
  });

  it("takes an index for its candidate where asked to", () => {
    const indexOf = { first: "Go North", second: "look" };
    for (const answer of ["2", "Action 2", "action 2.", "2:", "action2"])
      expect(parseReply(`<action>${answer}</action>`, { indexOf })).toMatchObject({
        ok: true,
        action: "look",
        index: 2,
      });
    expect(parseReply("<action>1</action>", { indexOf })).toMatchObject({ action: "go north", index: 1 });
    expect(parseReply("<action>3</action>", { indexOf })).toMatchObject({ action: "3", index: null });
    expect(parseReply("<action>look</action>", { indexOf })).toMatchObject({ action: "look", index: null });
    expect(parseReply("<action>1</action>")).toMatchObject({ action: "1", index: null });
  });

  it("prefers a candidate that is itself called by a number", () => {
    expect(parseReply("<action>1</action>", { indexOf: { first: "2", second: "1" } })).toMatchObject({
      action: "1",
      index: null,
    });
  });

  const pieces = fc.constantFrom(
    "<think>",
    "</think>",
    "<action>",
    "</action>",
    "<",
    ">",
    "/",
    "look",
    " ",
    "\n",
    "1",
    "é",
  );
  const texts = fc.oneof(
    fc.string({ unit: "binary" }),
    fc.array(pieces, { maxLength: 14 }).map((parts) => parts.join("")),
  );

  it("refuses what is no text", () => {
    const refused = expect.objectContaining({ code: "BAD_ARGUMENT", message: expect.stringContaining("`text`") });
    expect(() => parseReply(undefined as unknown as string)).toThrowError(refused);
  });

  it("never throws for a text, and an action it finds is canonical and stands between the only pair of tags", () => {
    fc.assert(
      fc.property(texts, fc.boolean(), (text, requireThinking) => {
        const reply = parseReply(text, { requireThinking, indexOf: { first: "a", second: "b" } });
        if (!reply.ok) return;
        expect(text).toContain(`<action>${reply.raw}</action>`);
        expect(reply.raw).not.toMatch(/<\/?action>/u);
        if (reply.index === null) expect(reply.action).toBe(canonicalizeAction(reply.raw));
        const answer = text.slice(text.lastIndexOf("</think>") + 1);
        expect(answer.split("<action>")).toHaveLength(2);
        expect(answer.split("</action>")).toHaveLength(2);
      }),
      { numRuns: 3000 },
    );
  });

  it("finds every action that was written in the right form", () => {
    const plain = fc.string({ minLength: 1 }).filter((s) => !/[<>]/u.test(s) && s.trim() !== "");
    fc.assert(
      fc.property(fc.option(plain), plain, plain, (thought, action, rest) => {
        const text = `${thought === null ? "" : `<think>${thought}</think>`}<action>${action}</action>${rest}`;
        expect(parseReply(text)).toMatchObject({ ok: true, action: canonicalizeAction(action), raw: action });
      }),
    );
  });
});
