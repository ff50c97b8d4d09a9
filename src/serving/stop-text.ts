/**
 * The text of a completion while it grows: where a stop string ends it, and how much of it is safe to send.
 */
import type { Tokenizer } from "../tokens/tokenizer.js";

/** What a completion reads as. */
export interface CompletionText {
  /** As the client gets it: without stop token and stop string, control tokens left out. */
  readonly text: string;
  /** As the tokens stand for it, control tokens and stop token included. */
  readonly full: string;
}

/** Decodes completions of one request. */
export class StopText {
  readonly #tokenizer: Tokenizer;
  readonly #stops: readonly string[];
  readonly #stopTokens: readonly number[];

  constructor(tokenizer: Tokenizer, stops: readonly string[], stopTokens: readonly number[]) {
    this.#tokenizer = tokenizer;
    this.#stops = stops;
    this.#stopTokens = stopTokens;
  }

  /**
   * Tokens up to and with the one that completes a stop string, or null where none is complete.
   *
   * @param from Tokens known to hold none.
   */
  async end(tokens: Int32Array, from: number): Promise<number | null> {
    if (this.#stops.length === 0 || (await this.#find(tokens)) === null) return null;
    // Which of the new tokens completed it: a text only grows, so that the first prefix with a match is the one.
    for (let length = from + 1; length < tokens.length; length++)
      if ((await this.#find(tokens.subarray(0, length))) !== null) return length;
    return tokens.length;
  }

  /** The text of a finished completion. */
  async finished(tokens: Int32Array): Promise<CompletionText> {
    const full = await this.#tokenizer.decode(tokens);
    const at = await this.#find(tokens);
    const text = await this.#visible(tokens);
    return { text: at === null ? text : text.slice(0, at), full };
  }

  /** The beginning of the text that no further token can change: no half characters, no half stop strings. */
  async settled(tokens: Int32Array): Promise<string> {
    const text = await this.#visible(tokens);
    let end = text.length;
    while (end > 0 && text[end - 1] === "\ufffd") end--;
    const longest = Math.max(0, ...this.#stops.map((stop) => stop.length));
    for (let start = Math.max(0, end - longest + 1); start < end; start++)
      if (this.#stops.some((stop) => stop.startsWith(text.slice(start, end)))) return text.slice(0, start);
    return text.slice(0, end);
  }

  /** Where the earliest stop string begins, or null. */
  async #find(tokens: Int32Array): Promise<number | null> {
    if (this.#stops.length === 0) return null;
    const text = await this.#visible(tokens);
    const found = this.#stops.map((stop) => text.indexOf(stop)).filter((at) => at !== -1);
    return found.length === 0 ? null : Math.min(...found);
  }

  #visible(tokens: Int32Array): Promise<string> {
    const last = tokens.at(-1);
    const ended = last !== undefined && this.#stopTokens.includes(last);
    return this.#tokenizer.decode(ended ? tokens.subarray(0, -1) : tokens, { skipSpecialTokens: true });
  }
}
