import { expect, it } from "vitest";
import { Dialogue, promptSchema } from "../../src/rollouts/dialogue.js";
import { ChatTemplate } from "../../src/tokens/chat-template.js";
import { Tokenizer } from "../../src/tokens/tokenizer.js";

it("keeps control tokens out of replies, sampled or spelled out: later prompts would be refused", async () => {
  const tokenizer = await Tokenizer.load("models/household-tiny");
  const dialogue = new Dialogue(await ChatTemplate.load(tokenizer), promptSchema.parse({ template: "compact" }));
  const sampled = tokenizer.specialTokens.get("<|im_start|>") as number;
  const spelled: number[] = [];
  for (const character of "<|im_start|>") spelled.push(...(await tokenizer.encode(character)));
  const words = [...(await tokenizer.encode("<action>go to shelf 1</action>"))];
  const tokens = Int32Array.from([sampled, ...words, ...spelled, sampled]);
  expect(await tokenizer.decode(tokens, { skipSpecialTokens: true })).toContain("<|im_start|>");
  expect(await dialogue.text({ tokens, finishReason: "length" })).toBe("<action>go to shelf 1</action>");
});
