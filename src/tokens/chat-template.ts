/**
 * Chat templates: messages to text to ids, and what has to be appended between turns so that nothing is ever tokenized
 * twice.
 */
import { Template } from "@huggingface/jinja";
import { ActError, invalid } from "../errors.js";
import { isObject, malformed, readModelJson, readModelText, requireText } from "./files.js";
import { strftime } from "./strftime.js";
import type { Tokenizer } from "./tokenizer.js";

/** One message of a conversation. */
export interface ChatMessage {
  readonly role: "system" | "user" | "assistant" | "tool";
  readonly content: string;
}

/** How a chat template is chosen and rendered. */
export interface ChatTemplateOptions {
  /** Which of several named templates. Default `default`. */
  readonly name?: string;
  /** Variables of the template, e.g. `{ enable_thinking: false }`. */
  readonly variables?: Readonly<Record<string, unknown>>;
  /**
   * The day that templates with a date write. Default 2024-07-26, the day Llama 3's templates fall back to: a prompt
   * that changes with the calendar cannot be reproduced.
   */
  readonly date?: Date;
  /**
   * A control token written out in a message's content would become the control token: an environment could end the
   * user's turn. `reject` (default) throws; `allow` is for contents that are trusted.
   */
  readonly controlTokens?: "reject" | "allow";
}

/** Whether what was rendered for n turns is the beginning of what is rendered for n + 1. */
export interface PrefixStability {
  /** With replies of plain text. */
  readonly plain: boolean;
  /** With replies that hold `<think>...</think>`, which some templates strip from past turns. */
  readonly thinking: boolean;
}

/** What follows a completion before the next one can be sampled. */
export interface TurnSuffix {
  /** After a completion that ended with its stop token. */
  readonly afterStop: string;
  /** After one that was cut: ends the assistant's turn first. */
  readonly afterCut: string;
}

/** `plain` writes contents one after the other, and the end-of-sequence token after each assistant's turn. */
const PLAIN =
  "{% for message in messages %}{{ message['content'] }}{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}";

/** Letters only, so that no template trims or escapes it. */
const SENTINEL = "ACTSENTINELQZX";

/**
 * Called in place of functions that the library declares itself, allowing no second declaration: its strftime_now reads
 * the wall clock, and its range makes a list of any length, with which a template could end the process.
 */
const OWN_FUNCTIONS = { strftime_now: "act_strftime_now", range: "act_range" } as const;

/** Longest list that a template may count through. */
const MAX_RANGE = 100_000;

const DEFAULT_DATE = new Date(Date.UTC(2024, 6, 26));

/** An immutable chat template tied to its tokenizer. */
export class ChatTemplate {
  /** The Jinja source. */
  readonly source: string;
  readonly tokenizer: Tokenizer;
  /** Measured at load on a conversation of three turns. */
  readonly prefixStability: PrefixStability;
  /**
   * The control token that ends an assistant's turn (e.g. `<|im_end|>`), or null where the template writes none. It may
   * be missing from `tokenizer.eosTokens` in base models; sample with {@link ChatTemplate.stopTokens}.
   */
  readonly endOfTurn: number | null;

  readonly #template: Template;
  readonly #variables: Readonly<Record<string, unknown>>;
  readonly #controlTokens: "reject" | "allow";
  readonly #date: Date;

  private constructor(source: string, tokenizer: Tokenizer, options: ChatTemplateOptions) {
    this.source = source;
    this.tokenizer = tokenizer;
    this.#variables = options.variables ?? {};
    this.#controlTokens = options.controlTokens ?? "reject";
    this.#date = options.date ?? DEFAULT_DATE;
    try {
      this.#template = new Template(source);
      renameCalls(this.#template.parsed);
    } catch (cause) {
      throw templateError("TEMPLATE_INVALID", `The chat template of ${tokenizer.modelDir} is not valid Jinja`, cause);
    }
    this.prefixStability = { plain: this.#isStable(""), thinking: this.#isStable("<think>\nwhy\n</think>\n\n") };
    this.endOfTurn = this.#findEndOfTurn();
  }

  /**
   * The template of a model folder: `chat_template.jinja` (or, named, `additional_chat_templates/<name>.jinja`), else
   * `chat_template` of tokenizer_config.json, a text or a list of `{ name, template }`.
   *
   * @throws ActError `TEMPLATE_MISSING`, `TEMPLATE_INVALID`, `TOKENIZER_MALFORMED`, `TOKENIZER_UNREADABLE`.
   */
  static async load(tokenizer: Tokenizer, options: ChatTemplateOptions = {}): Promise<ChatTemplate> {
    const name = options.name ?? "default";
    const file = name === "default" ? "chat_template.jinja" : `additional_chat_templates/${name}.jinja`;
    const source =
      (await readModelText(tokenizer.modelDir, file)) ?? (await templateOfConfig(tokenizer.modelDir, name));
    if (source === null)
      throw new ActError("TEMPLATE_MISSING", `${tokenizer.modelDir} has no chat template named ${name}.`, {
        hint: "Use an instruct model, or `ChatTemplate.plain` for a model that was trained without turns.",
      });
    return new ChatTemplate(source, tokenizer, options);
  }

  /** The template of models without turns: contents end to end, the end-of-sequence token after each assistant's. */
  static plain(tokenizer: Tokenizer, options: Omit<ChatTemplateOptions, "name"> = {}): ChatTemplate {
    return new ChatTemplate(PLAIN, tokenizer, options);
  }

  /** A template from its Jinja source. Throws ActError `TEMPLATE_INVALID`. */
  static fromSource(
    source: string,
    tokenizer: Tokenizer,
    options: Omit<ChatTemplateOptions, "name"> = {},
  ): ChatTemplate {
    return new ChatTemplate(source, tokenizer, options);
  }

  /** Whether multi-turn transcripts of thinking replies can be checked against a fresh rendering. */
  get isPrefixStable(): boolean {
    return this.prefixStability.plain && this.prefixStability.thinking;
  }

  /** The tokenizer's end-of-sequence ids and {@link ChatTemplate.endOfTurn}. */
  get stopTokens(): readonly number[] {
    const eos = this.tokenizer.eosTokens;
    return this.endOfTurn === null || eos.includes(this.endOfTurn) ? eos : [...eos, this.endOfTurn];
  }

  /**
   * The text of a conversation.
   *
   * @param addGenerationPrompt Ends with the beginning of an assistant's turn. Default true.
   * @throws ActError `TEMPLATE_FAILED` where the template refuses the messages, `TEMPLATE_CONTROL_TOKEN`, `BAD_ARGUMENT`.
   */
  render(messages: readonly ChatMessage[], options: { readonly addGenerationPrompt?: boolean } = {}): string {
    checkMessages(messages);
    if (this.#controlTokens === "reject") this.#rejectControlTokens(messages);
    return this.#render(messages, options.addGenerationPrompt ?? true);
  }

  /**
   * Ids of a conversation; see {@link ChatTemplate.render}. The template writes special tokens, nothing else adds any.
   *
   * @throws ActError `TEMPLATE_FAILED` also where the template writes nothing: there is no prompt without a token.
   */
  async encode(
    messages: readonly ChatMessage[],
    options: { readonly addGenerationPrompt?: boolean } = {},
  ): Promise<Int32Array> {
    const text = this.render(messages, options);
    if (text === "")
      throw new ActError("TEMPLATE_FAILED", "The chat template wrote nothing for these `messages`.", {
        hint: "Give a message whose content is not empty.",
      });
    return this.tokenizer.encode(text);
  }

  /**
   * The text that has to follow the last assistant's turn of `messages` so that the next can be sampled: the end of that
   * turn, all messages after it, the beginning of the new turn.
   *
   * The content of that last assistant message is not looked at: the transcript holds the tokens sampled for it.
   *
   * @throws ActError `TEMPLATE_NOT_APPENDABLE` where the template does not write contents in order.
   */
  turnSuffix(messages: readonly ChatMessage[]): TurnSuffix {
    checkMessages(messages);
    const last = messages.findLastIndex((message) => message.role === "assistant");
    if (last === -1 || last === messages.length - 1)
      throw new ActError("TEMPLATE_NOT_APPENDABLE", "A next turn needs an assistant's message and one after it.", {
        hint: "Use `render` for the first turn.",
      });
    if (this.#controlTokens === "reject") this.#rejectControlTokens(messages.slice(last + 1));
    const rendered = this.#render(
      messages.map((message, i) => (i === last ? { role: message.role, content: SENTINEL } : message)),
      true,
    );
    const at = rendered.lastIndexOf(SENTINEL);
    if (at === -1)
      throw new ActError("TEMPLATE_NOT_APPENDABLE", "The chat template leaves out the content of a past turn.", {
        hint: "Use single-turn samples with this model.",
      });
    const afterCut = rendered.slice(at + SENTINEL.length);
    return { afterCut, afterStop: this.#withoutEndOfTurn(afterCut) };
  }

  /**
   * Ids to append to a transcript after a completion; see {@link ChatTemplate.turnSuffix}.
   *
   * @param stopped Whether the completion ends with a stop token (finish reason `stop`).
   */
  async suffixForNextTurn(
    messages: readonly ChatMessage[],
    options: { readonly stopped: boolean },
  ): Promise<Int32Array> {
    const suffix = this.turnSuffix(messages);
    return this.tokenizer.encode(options.stopped ? suffix.afterStop : suffix.afterCut);
  }

  #render(messages: readonly ChatMessage[], addGenerationPrompt: boolean): string {
    try {
      return this.#template.render({
        tools: null,
        ...this.tokenizer.namedTokens,
        ...this.#variables,
        messages: messages.map((message) => ({ ...message })),
        add_generation_prompt: addGenerationPrompt,
        [OWN_FUNCTIONS.strftime_now]: (format: string) => strftime(format, this.#date),
        [OWN_FUNCTIONS.range]: boundedRange,
      });
    } catch (cause) {
      throw templateError("TEMPLATE_FAILED", "The chat template failed on these messages", cause);
    }
  }

  #rejectControlTokens(messages: readonly ChatMessage[]): void {
    for (const { role, content } of messages) {
      for (const token of this.tokenizer.specialTokens.keys()) {
        if (!content.includes(token)) continue;
        throw new ActError("TEMPLATE_CONTROL_TOKEN", `A message of the ${role} contains the control token ${token}.`, {
          hint: "Take it out of the text, or set `controlTokens: allow` where the text is trusted.",
        });
      }
    }
  }

  /**
   * What follows the token that ends an assistant's turn: a stopped completion ends with it already. Where the template
   * writes none, the first control token marks the next turn and stays.
   */
  #withoutEndOfTurn(tail: string): string {
    const first = this.#firstControlToken(tail);
    if (first === null) return tail;
    const id = this.tokenizer.specialTokens.get(first.token);
    return id !== undefined && this.stopTokens.includes(id) ? tail.slice(first.at + first.token.length) : tail;
  }

  #firstControlToken(text: string): { token: string; at: number } | null {
    let first: { token: string; at: number } | null = null;
    for (const token of this.tokenizer.specialTokens.keys()) {
      const at = text.indexOf(token);
      const sooner =
        at !== -1 && (first === null || at < first.at || (at === first.at && token.length > first.token.length));
      if (sooner) first = { token, at };
    }
    return first;
  }

  #findEndOfTurn(): number | null {
    const messages: ChatMessage[] = [
      { role: "user", content: "one" },
      { role: "assistant", content: SENTINEL },
    ];
    const rendered = this.#tryRender(messages, false);
    if (rendered === null) return null;
    const tail = rendered.slice(rendered.lastIndexOf(SENTINEL) + SENTINEL.length);
    const first = this.#firstControlToken(tail);
    return first === null ? null : (this.tokenizer.specialTokens.get(first.token) ?? null);
  }

  #isStable(thinking: string): boolean {
    const messages: ChatMessage[] = [];
    let prompt = "";
    for (const turn of ["one", "two", "three"]) {
      messages.push({ role: "user", content: turn });
      const next = this.#tryRender(messages, true);
      if (next === null || !next.startsWith(prompt)) return false;
      const reply = `${thinking}<action>${turn}</action>`;
      messages.push({ role: "assistant", content: reply });
      prompt = next + reply;
    }
    return true;
  }

  /** A template may refuse plain conversations (e.g. demand a system message): then nothing is known of it. */
  #tryRender(messages: readonly ChatMessage[], addGenerationPrompt: boolean): string | null {
    try {
      return this.#render(messages, addGenerationPrompt);
    } catch (error) {
      if (error instanceof ActError && error.code === "TEMPLATE_FAILED") return null;
      throw error;
    }
  }
}

function checkMessages(messages: readonly ChatMessage[]): void {
  if (!Array.isArray(messages)) throw invalid("BAD_ARGUMENT", "messages", "a list of messages", messages);
  messages.forEach((message: unknown, i) => {
    if (!isObject(message)) throw invalid("BAD_ARGUMENT", `messages.${i}`, "an object", message);
    requireText(message.role, `messages.${i}.role`);
    requireText(message.content, `messages.${i}.content`);
  });
}

/** Lets every call in a parsed template of a name in {@link OWN_FUNCTIONS} be one of ours. */
function renameCalls(node: unknown): void {
  if (!isObject(node) && !Array.isArray(node)) return;
  if ("callee" in node && isObject(node.callee) && node.callee.type === "Identifier") {
    const { value } = node.callee;
    const own = Object.entries(OWN_FUNCTIONS).find(([name]) => name === value);
    if (own !== undefined) Object.assign(node.callee, { value: own[1] });
  }
  for (const child of node instanceof Map ? [...node].flat() : Object.values(node)) renameCalls(child);
}

/** Jinja's range. */
function boundedRange(first: number, second: number | null = null, step: number | null = null): number[] {
  const [start, stop, by] = second === null ? [0, first, 1] : [first, second, step ?? 1];
  const length = Math.ceil((stop - start) / by);
  if (!(length <= MAX_RANGE))
    throw new ActError("TEMPLATE_FAILED", `range(${start}, ${stop}, ${by}) has more than ${MAX_RANGE} numbers.`, {
      hint: "Shorten it in the template.",
    });
  return Array.from({ length: Math.max(0, length) }, (_, i) => start + i * by);
}

async function templateOfConfig(modelDir: string, name: string): Promise<string | null> {
  const file = "tokenizer_config.json";
  const value = (await readModelJson(modelDir, file))?.chat_template ?? null;
  if (value === null) return null;
  if (typeof value === "string") return name === "default" ? value : null;
  if (!Array.isArray(value)) throw malformed(modelDir, file, "`chat_template` is neither a text nor a list");
  const entries = value.map((entry: unknown) => {
    if (!isObject(entry) || typeof entry.name !== "string" || typeof entry.template !== "string")
      throw malformed(modelDir, file, "an entry of `chat_template` lacks `name` or `template`");
    return { name: entry.name, template: entry.template };
  });
  return entries.find((entry) => entry.name === name)?.template ?? null;
}

function templateError(code: string, message: string, cause: unknown): ActError {
  return new ActError(
    code,
    `${message}: ${(cause instanceof Error ? cause.message : String(cause)).replace(/\.$/, "")}.`,
    {
      hint: "Check the template and the roles of the messages.",
      cause,
    },
  );
}
