/**
 * Where words meet tokens: states become prompts, completions become text, experts' answers become targets.
 */
import { z } from "zod";
import type { Completion } from "../engine/policy.js";
import type { DecisionState } from "../prompts/state.js";
import { actionPrompt, type Candidates, judgmentPrompt, type PromptTemplate } from "../prompts/template.js";
import { promptNames, promptTemplate } from "../prompts/templates.js";
import type { ChatMessage, ChatTemplate } from "../tokens/chat-template.js";

/** Settings of prompts, the same for every stage that a model goes through. */
export const promptSchema = z.strictObject({
  template: z.enum(promptNames).default("standard").describe("wording of the prompts"),
  history: z
    .number()
    .int()
    .min(0)
    .nullable()
    .optional()
    .describe("past decisions shown; null: all; default: the template's"),
  listAdmissible: z.boolean().optional().describe("list the admissible actions; default: the template's"),
  reasoning: z.boolean().default(true).describe("ask for reasoning before the action"),
  judgeReasoning: z.boolean().optional().describe("ask for reasoning before a verdict; default: as `reasoning`"),
  indexAnswers: z.boolean().default(false).describe("verdicts name the number of an action instead of its text"),
  system: z.string().nullable().default(null).describe("system message before every prompt"),
});
/** See {@link promptSchema}. */
export type PromptSettings = z.infer<typeof promptSchema>;

/** Prompts, targets and texts of one model. Immutable; calls may run side by side. */
export class Dialogue {
  readonly chat: ChatTemplate;
  readonly template: PromptTemplate;
  readonly settings: PromptSettings;

  constructor(chat: ChatTemplate, settings: PromptSettings) {
    this.chat = chat;
    this.settings = settings;
    this.template = promptTemplate(settings.template);
  }

  /** Tokens that end a reply. */
  get stopTokens(): readonly number[] {
    return this.chat.stopTokens;
  }

  /** Whether prompts list admissible actions. */
  get listsAdmissible(): boolean {
    return this.settings.listAdmissible ?? this.template.listAdmissible;
  }

  /** Text of the user's message that asks for an action. */
  actionText(state: DecisionState): string {
    return actionPrompt(this.template, state, this.#options(this.settings.reasoning));
  }

  /**
   * Text of the user's message of a later turn, where the conversation already holds the task and what went before.
   */
  nextTurnText(state: DecisionState): string {
    const template = { ...this.template, head: "", keepFirstObservation: false };
    return actionPrompt(template, state, { ...this.#options(this.settings.reasoning), historyLength: 0 });
  }

  /** Text of the user's message that asks which of two actions is better. */
  judgmentText(state: DecisionState, candidates: Candidates): string {
    return judgmentPrompt(this.template, state, candidates, {
      ...this.#options(this.settings.judgeReasoning ?? this.settings.reasoning),
      indexAnswers: this.settings.indexAnswers,
    });
  }

  /** The conversation a user's message begins. */
  messages(user: string): ChatMessage[] {
    const { system } = this.settings;
    return [
      ...(system === null ? [] : [{ role: "system", content: system } as const]),
      { role: "user", content: user },
    ];
  }

  /** Tokens of the prompt that asks for an action. */
  async actionPrompt(state: DecisionState): Promise<Int32Array> {
    return this.chat.encode(this.messages(this.actionText(state)));
  }

  /** Tokens of the prompt that asks for a verdict. */
  async judgmentPrompt(state: DecisionState, candidates: Candidates): Promise<Int32Array> {
    return this.chat.encode(this.messages(this.judgmentText(state, candidates)));
  }

  /**
   * Tokens of an answer as the model should give it, with the token that ends its turn.
   *
   * @param thought Words before the action; null writes none.
   */
  async target(thought: string | null, action: string): Promise<Int32Array> {
    const text = this.targetText(thought, action);
    const tokens = await this.chat.tokenizer.encode(text);
    const end = this.chat.endOfTurn ?? this.chat.tokenizer.eosTokens[0];
    return end === undefined ? tokens : Int32Array.from([...tokens, end]);
  }

  /** Text of an answer: `<think>thought</think><action>action</action>`. */
  targetText(thought: string | null, action: string): string {
    const answer = `<action>${action}</action>`;
    const opened = this.#opensThinking();
    if (thought === null) return opened ? `</think>${answer}` : answer;
    return `${opened ? "" : "<think>"}${thought}</think>${answer}`;
  }

  /**
   * Text of a completion, without control tokens: neither the stop token that ended it nor others, sampled or spelled
   * out. A reply becomes part of later prompts, where they would be refused.
   */
  async text(completion: Pick<Completion, "tokens" | "finishReason">): Promise<string> {
    const { tokens, finishReason } = completion;
    const last = tokens.at(-1);
    const ended = finishReason === "stop" && last !== undefined && this.stopTokens.includes(last);
    const { tokenizer } = this.chat;
    let text = await tokenizer.decode(ended ? tokens.subarray(0, -1) : tokens, { skipSpecialTokens: true });
    const spelled = (): string | undefined => [...tokenizer.specialTokens.keys()].find((token) => text.includes(token));
    for (let token = spelled(); token !== undefined; token = spelled()) text = text.replaceAll(token, "");
    return this.#opensThinking() ? `<think>${text}` : text;
  }

  /** Some chat templates begin the assistant's turn with `<think>`: the reply then starts inside it. */
  #opensThinking(): boolean {
    this.#opens ??= this.chat.render(this.messages("x")).trimEnd().endsWith("<think>");
    return this.#opens;
  }
  #opens: boolean | null = null;

  #options(reasoning: boolean): { historyLength?: number | null; listAdmissible?: boolean; reasoning: boolean } {
    const { history, listAdmissible } = this.settings;
    return {
      reasoning,
      ...(history === undefined ? {} : { historyLength: history }),
      ...(listAdmissible === undefined ? {} : { listAdmissible: listAdmissible }),
    };
  }
}
