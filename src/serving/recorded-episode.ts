/**
 * The tokens of one episode as it was played through the endpoint.
 *
 * A client sends messages or text, not tokens; tokenizing its history again would not give the tokens that were sampled.
 * So each request is compared with what the episode already holds. Where its prompt begins with a transcript's text, to
 * the last character, the transcript's own tokens are the beginning of the prompt and only the rest is tokenized.
 * Otherwise - the client rewrote its history, the chat template did, or another conversation of the same episode began -
 * the request starts a transcript of its own, and is counted.
 */
import type { Completion } from "../engine/policy.js";
import type { TrainingSequence } from "../objectives/sample.js";
import { sequenceOfTranscript } from "../objectives/sample.js";
import type { ChatMessage, ChatTemplate } from "../tokens/chat-template.js";
import { Transcript } from "../tokens/transcript.js";
import { joined, type SampledCompletion } from "./sampler.js";

/** A prompt as the client gave it. */
export type PromptInput =
  | { readonly kind: "chat"; readonly messages: readonly ChatMessage[] }
  | { readonly kind: "text"; readonly text: string }
  | { readonly kind: "ids"; readonly ids: readonly number[] };

/**
 * What a past assistant's turn of a chat counts as.
 *
 * - `rendered`: what the chat template makes of it, as any server would show it to the model. A template that strips
 *   thoughts from past turns makes each turn a transcript of its own.
 * - `sampled`: the tokens that were sampled, whatever the template would make of them. Needs the client to send replies
 *   back as it got them.
 */
export type HistoryForm = "rendered" | "sampled";

/** Tokens to complete, and where the completion will be recorded. */
export interface PlannedPrompt {
  readonly tokens: Int32Array;
  /** The text the tokens stand for. */
  readonly text: string;
  /** The prompt's messages; null where it had none. */
  readonly messages: readonly ChatMessage[] | null;
  /** The conversation that goes on, or null where a new one begins. */
  readonly continues: Conversation | null;
}

/** One transcript of an episode. */
interface Conversation {
  readonly transcript: Transcript;
  /** What the transcript reads as. */
  text: string;
  messages: readonly ChatMessage[] | null;
  /** The last completion as the client got it. */
  reply: string;
  /** The last completion ended with a stop token. */
  stopped: boolean;
  /** A request that continues it is being answered. */
  taken: boolean;
}

/** Tokens and text of a prompt that continues nothing. */
export async function freshPrompt(chat: ChatTemplate, input: PromptInput): Promise<PlannedPrompt> {
  const { tokenizer } = chat;
  if (input.kind === "ids") {
    const tokens = Int32Array.from(input.ids);
    return { tokens, text: await tokenizer.decode(tokens), messages: null, continues: null };
  }
  if (input.kind === "text") {
    const tokens = await tokenizer.encode(input.text, { addSpecialTokens: true });
    return { tokens, text: input.text, messages: null, continues: null };
  }
  const text = chat.render(input.messages);
  return { tokens: await tokenizer.encode(text), text, messages: input.messages, continues: null };
}

/** The transcripts of one episode. */
export class RecordedEpisode {
  readonly #chat: ChatTemplate;
  readonly #history: HistoryForm;
  readonly #conversations: Conversation[] = [];
  #turns = 0;
  #lastReply: Completion | null = null;
  #separateTurns = 0;
  /** Ends when the last plan asked for is made. */
  #planning: Promise<unknown> = Promise.resolve();

  constructor(chat: ChatTemplate, history: HistoryForm) {
    this.#chat = chat;
    this.#history = history;
  }

  /** Completions recorded. */
  get turns(): number {
    return this.#turns;
  }

  /** Requests after the first that continued no transcript. */
  get separateTurns(): number {
    return this.#separateTurns;
  }

  /** One for each conversation, in the order in which they began. */
  get transcripts(): readonly Transcript[] {
    return this.#conversations.map(({ transcript }) => transcript);
  }

  /** Tokens sampled. */
  get sampledTokens(): number {
    return this.#actions().reduce((sum, { start, end }) => sum + end - start, 0);
  }

  /** The last reply was cut by the token limit; of several to one request, the first. */
  get truncated(): boolean {
    return this.#lastReply?.finishReason === "length";
  }

  /** Versions of the weights that sampled it, oldest and newest; null before the first completion. */
  get weightVersions(): readonly [number, number] | null {
    const versions = this.#actions().flatMap(({ weightVersion }) => (weightVersion === null ? [] : [weightVersion]));
    return versions.length === 0 ? null : [Math.min(...versions), Math.max(...versions)];
  }

  /** What can be trained on. */
  sequences(): TrainingSequence[] {
    return this.transcripts.map(sequenceOfTranscript);
  }

  /**
   * Finds the tokens of a request's prompt, and takes the conversation that it continues until {@link record} or
   * {@link release}: a second request of the same history begins a conversation of its own.
   */
  async plan(input: PromptInput): Promise<PlannedPrompt> {
    // One after the other: tokenizing takes a while, and no two may find the same conversation free.
    const planning = this.#planning.then(async () => {
      const planned = (await this.#continued(input)) ?? (await freshPrompt(this.#chat, input));
      if (planned.continues !== null) planned.continues.taken = true;
      return planned;
    });
    this.#planning = planning.catch(() => undefined);
    return planning;
  }

  /** Gives back a plan that led to nothing. */
  release({ continues }: PlannedPrompt): void {
    if (continues !== null) continues.taken = false;
  }

  /** Appends what was sampled for a plan. Of several completions, the first continues the transcript; the rest branch. */
  record(planned: PlannedPrompt, sampled: readonly SampledCompletion[]): void {
    const { continues } = planned;
    if (continues === null && this.#conversations.length > 0) this.#separateTurns++;
    this.#lastReply = sampled[0]?.completion ?? this.#lastReply;
    sampled.forEach((one, i) => {
      if (one.completion.tokens.length === 0) return;
      const conversation = i === 0 && continues !== null ? continues : this.#begin(planned);
      const { transcript } = conversation;
      if (conversation === continues) transcript.append("observation", planned.tokens.subarray(transcript.length));
      transcript.appendAction(one.completion);
      conversation.text = planned.text + one.full;
      conversation.messages = planned.messages;
      conversation.reply = one.text;
      conversation.stopped = this.#endsTurn(one.completion);
      this.#turns++;
    });
    this.release(planned);
  }

  #begin(planned: PlannedPrompt): Conversation {
    const transcript = new Transcript();
    transcript.append("prompt", planned.tokens);
    const conversation = { transcript, text: "", messages: null, reply: "", stopped: false, taken: false };
    this.#conversations.push(conversation);
    return conversation;
  }

  /** The plan of a prompt that continues a conversation: the longest one. */
  async #continued(input: PromptInput): Promise<PlannedPrompt | null> {
    const free = this.#conversations
      .filter(({ taken }) => !taken)
      .sort((a, b) => b.transcript.length - a.transcript.length);
    if (free.length === 0) return null;
    if (input.kind === "ids") return this.#continuedIds(input.ids, free);
    if (input.kind === "chat" && this.#history === "sampled") {
      const { messages } = input;
      const continues = free.find((conversation) => continuesMessages(conversation, messages));
      if (continues === undefined) return null;
      const { stopped } = continues;
      const suffix = this.#chat.turnSuffix(messages);
      return this.#extended(continues, stopped ? suffix.afterStop : suffix.afterCut, messages);
    }
    const text = input.kind === "chat" ? this.#chat.render(input.messages) : input.text;
    const continues = free.find((conversation) => text.startsWith(conversation.text));
    if (continues === undefined) return null;
    return this.#extended(continues, text.slice(continues.text.length), input.kind === "chat" ? input.messages : null);
  }

  async #continuedIds(ids: readonly number[], free: readonly Conversation[]): Promise<PlannedPrompt | null> {
    const continues = free.find(({ transcript }) => startsWith(ids, transcript.tokens()));
    if (continues === undefined) return null;
    const tokens = Int32Array.from(ids);
    const rest = await this.#chat.tokenizer.decode(tokens.subarray(continues.transcript.length));
    return { tokens, text: continues.text + rest, messages: null, continues };
  }

  async #extended(
    continues: Conversation,
    rest: string,
    messages: readonly ChatMessage[] | null,
  ): Promise<PlannedPrompt> {
    const before = continues.transcript.tokens();
    const tokens = joined(before, await this.#chat.tokenizer.encode(rest));
    return { tokens, text: continues.text + rest, messages, continues };
  }

  #endsTurn({ tokens, finishReason }: Completion): boolean {
    const last = tokens.at(-1);
    return finishReason === "stop" && last !== undefined && this.#chat.stopTokens.includes(last);
  }

  #actions(): Transcript["spans"][number][] {
    return this.transcripts.flatMap(({ spans }) => spans.filter(({ role }) => role === "action"));
  }
}

function startsWith(ids: readonly number[], beginning: Int32Array): boolean {
  return ids.length >= beginning.length && beginning.every((id, i) => ids[i] === id);
}

/** The messages of the conversation, its reply as the client got it, and at least one message more. */
function continuesMessages(conversation: Conversation, messages: readonly ChatMessage[]): boolean {
  const { messages: before, reply } = conversation;
  if (before === null || messages.length < before.length + 2) return false;
  const same = before.every(({ role, content }, i) => messages[i]?.role === role && messages[i]?.content === content);
  const answer = messages[before.length];
  // What follows must be appendable: an assistant's message among it was never sampled here.
  const rest = messages.slice(before.length + 1);
  return (
    same && answer?.role === "assistant" && answer.content === reply && rest.every(({ role }) => role !== "assistant")
  );
}
