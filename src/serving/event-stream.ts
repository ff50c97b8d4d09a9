/**
 * Answers as server-sent events: pieces while the completion grows, `[DONE]` at the end.
 *
 * The piece that carries a choice's finish reason is held back until the completion is recorded: a client that has seen
 * it may post its reward.
 */
import type { ServerResponse } from "node:http";
import type { Completion } from "../engine/policy.js";
import type { Answer } from "./answers.js";
import { ApiError } from "./api-error.js";
import type { SampledCompletion } from "./sampler.js";

export class EventStream {
  readonly #response: ServerResponse;
  readonly #answer: Answer;
  readonly #signal: AbortSignal;
  /** By choice: characters and tokens sent. */
  readonly #sent = new Map<number, { text: string; tokens: number }>();

  constructor(response: ServerResponse, answer: Answer, signal: AbortSignal) {
    this.#response = response;
    this.#answer = answer;
    this.#signal = signal;
  }

  /** Sends the head of the answer and the opening of every choice. */
  open(choices: number): void {
    this.#response.writeHead(200, {
      "content-type": "text/event-stream; charset=utf-8",
      "cache-control": "no-cache",
      "x-accel-buffering": "no",
    });
    this.#response.flushHeaders();
    for (let index = 0; index < choices; index++) {
      const opening = this.#answer.opening(index);
      if (opening !== null) this.#send(opening);
    }
  }

  /** Sends what is settled of a choice. */
  async grow(index: number, completion: Completion, settled: string): Promise<void> {
    const sent = this.#sentOf(index);
    // Text that is taken back cannot be sent again; a later piece brings what is missing.
    if (!settled.startsWith(sent.text) || settled.length === sent.text.length) return;
    const text = settled.slice(sent.text.length);
    this.#sent.set(index, { text: settled, tokens: completion.tokens.length });
    this.#send(await this.#answer.piece({ index, text, completion, from: sent.tokens, finishReason: null }));
  }

  /** Sends the rest of every choice and ends the stream. */
  async finish(choices: readonly SampledCompletion[], includeUsage: boolean): Promise<void> {
    for (const [index, { completion, text }] of choices.entries()) {
      const sent = this.#sentOf(index);
      if (!text.startsWith(sent.text))
        throw new ApiError(500, "stream_broken", "The text of the completion is not the one that was streamed.", {
          hint: "Ask without `stream`: this tokenizer rewrites text it has given already.",
        });
      const rest = text.slice(sent.text.length);
      const { finishReason } = completion;
      this.#send(await this.#answer.piece({ index, text: rest, completion, from: sent.tokens, finishReason }));
    }
    if (includeUsage) this.#send(this.#answer.usage(choices));
    this.#response.end("data: [DONE]\n\n");
  }

  #sentOf(index: number): { readonly text: string; readonly tokens: number } {
    return this.#sent.get(index) ?? { text: "", tokens: 0 };
  }

  /**
   * Does not wait for a client that reads slowly: a completion holds the sampling gate, and its text is small.
   */
  #send(data: unknown): void {
    this.#signal.throwIfAborted();
    this.#response.write(`data: ${JSON.stringify(data)}\n\n`);
  }
}
