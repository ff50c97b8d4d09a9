/**
 * Answers in the shapes of the OpenAI API: whole ones, and the pieces of a stream.
 */
import { randomUUID } from "node:crypto";
import type { Completion } from "../engine/policy.js";
import { ActError } from "../errors.js";
import type { Tokenizer } from "../tokens/tokenizer.js";
import type { PlannedJob } from "./complete.js";
import type { CompletionJob } from "./job.js";
import type { SampledCompletion } from "./sampler.js";

type Json = Readonly<Record<string, unknown>>;

/** What a choice has grown by since the last piece. */
interface Piece {
  readonly index: number;
  readonly text: string;
  /** Tokens [from, end) of the completion. */
  readonly completion: Completion;
  readonly from: number;
  readonly finishReason: string | null;
}

/** Shapes the answer to one job. */
export class Answer {
  readonly #job: CompletionJob;
  readonly #planned: PlannedJob;
  readonly #tokenizer: Tokenizer;
  readonly #model: string;
  readonly #id: string;
  readonly #created = Math.floor(Date.now() / 1000);

  constructor(job: CompletionJob, planned: PlannedJob, tokenizer: Tokenizer, model: string) {
    this.#job = job;
    this.#planned = planned;
    this.#tokenizer = tokenizer;
    this.#model = model;
    this.#id = `${job.kind === "chat" ? "chatcmpl" : "cmpl"}-${randomUUID().replaceAll("-", "")}`;
  }

  /** The answer of a request without `stream`. */
  async whole(choices: readonly SampledCompletion[]): Promise<Json> {
    const chat = this.#job.kind === "chat";
    const data = choices.map(async ({ completion, text }, index) => ({
      index,
      ...(chat ? { message: { role: "assistant", content: text, refusal: null } } : { text }),
      logprobs: await this.#logprobs(completion, 0, this.#promptOf(index).text.length),
      finish_reason: completion.finishReason,
      ...this.#choiceIds(completion, 0, index),
    }));
    return {
      ...this.#head(chat ? "chat.completion" : "text_completion"),
      choices: await Promise.all(data),
      usage: this.#usage(choices),
      ...this.#about(choices[0]?.completion ?? null),
      ...(chat && this.#job.tokenIds ? { prompt_token_ids: [...this.#promptOf(0).tokens] } : {}),
    };
  }

  /** The first piece of a chat's choice: it names the role. Null where pieces need no beginning. */
  opening(index: number): Json | null {
    if (this.#job.kind !== "chat") return null;
    return {
      ...this.#head("chat.completion.chunk"),
      choices: [{ index, delta: { role: "assistant", content: "" }, logprobs: null, finish_reason: null }],
      ...(this.#job.tokenIds ? { prompt_token_ids: [...this.#promptOf(index).tokens] } : {}),
    };
  }

  /** What came since the last piece of a choice. */
  async piece({ index, text, completion, from, finishReason }: Piece): Promise<Json> {
    const chat = this.#job.kind === "chat";
    return {
      ...this.#head(chat ? "chat.completion.chunk" : "text_completion"),
      choices: [
        {
          index,
          ...(chat ? { delta: text === "" ? {} : { content: text } } : { text }),
          logprobs: await this.#logprobs(completion, from, this.#promptOf(index).text.length),
          finish_reason: finishReason,
          ...this.#choiceIds(completion, from, index),
        },
      ],
      ...(finishReason === null ? {} : this.#about(completion)),
    };
  }

  /** The last piece of a stream that asked for it. */
  usage(choices: readonly SampledCompletion[]): Json {
    const object = this.#job.kind === "chat" ? "chat.completion.chunk" : "text_completion";
    return { ...this.#head(object), choices: [], usage: this.#usage(choices) };
  }

  #head(object: string): Json {
    return { id: this.#id, object, created: this.#created, model: this.#model };
  }

  /** What the API has no word for: the weights that sampled, and what became of the episode. */
  #about(completion: Completion | null): Json {
    const turn = this.#planned.turns[0];
    const version = completion?.weightVersion ?? null;
    return {
      system_fingerprint: `weights-${version}`,
      act: {
        weight_version: version,
        ...(turn === undefined
          ? {}
          : { episode_id: turn.episodeId, turn: turn.index, continued: turn.planned.continues !== null }),
      },
    };
  }

  #promptOf(choice: number): PlannedJob["prompts"][number] {
    const prompt = this.#planned.prompts[Math.floor(choice / this.#job.count)];
    if (prompt === undefined) throw new RangeError(`There is no choice ${choice}.`);
    return prompt;
  }

  #choiceIds({ tokens }: Completion, from: number, index: number): Json {
    if (!this.#job.tokenIds) return {};
    const prompt =
      this.#job.kind === "text" && from === 0 ? { prompt_token_ids: [...this.#promptOf(index).tokens] } : {};
    return { ...prompt, token_ids: [...tokens.subarray(from)] };
  }

  #usage(choices: readonly SampledCompletion[]): Json {
    const prompt = this.#planned.prompts.reduce((sum, { tokens }) => sum + tokens.length, 0);
    const sampled = choices.reduce((sum, { completion }) => sum + completion.tokens.length, 0);
    return { prompt_tokens: prompt, completion_tokens: sampled, total_tokens: prompt + sampled };
  }

  /** Log-probs of the sampled tokens from `from` on, the stop token among them: temperature 1, untruncated, nats. */
  async #logprobs({ tokens, logprobs }: Completion, from: number, promptLength: number): Promise<Json | null> {
    if (!this.#job.logprobs) return null;
    const texts = await Promise.all(Array.from(tokens.subarray(from), (id) => this.#tokenizer.decode([id])));
    const values = [...logprobs.subarray(from)];
    if (this.#job.kind === "chat") {
      const content = texts.map((token, i) => ({
        token,
        logprob: values[i],
        bytes: this.#bytes(tokens[from + i] ?? -1),
        top_logprobs: [],
      }));
      return { content, refusal: null };
    }
    const offsets: number[] = [];
    // Prefixes, as a character may need several tokens.
    for (let end = from; end < tokens.length; end++)
      offsets.push(promptLength + (await this.#tokenizer.decode(tokens.subarray(0, end))).length);
    return { tokens: texts, token_logprobs: values, top_logprobs: null, text_offset: offsets };
  }

  /** Bytes of a token; null where the tokenizer's tokens have none of their own. */
  #bytes(id: number): number[] | null {
    try {
      const { bytes, offsets } = this.#tokenizer.tokenBytes();
      return [...bytes.subarray(offsets[id], offsets[id + 1])];
    } catch (cause) {
      if (cause instanceof ActError && cause.code === "TOKENIZER_NO_BYTES") return null;
      throw cause;
    }
  }
}
