/**
 * A policy that answers by rule, for tests of the endpoint: everything but the model is real.
 */
import { join } from "node:path";
import type {
  AdamWOptions,
  Completion,
  GenerateRequest,
  LossResult,
  LossRows,
  TokenForest,
} from "../../src/engine/policy.js";
import type { ServeOptions } from "../../src/serving/server.js";
import { type ModelServer, serve } from "../../src/serving/server.js";
import type { TrainablePolicy } from "../../src/stages/trainable.js";
import { ChatTemplate } from "../../src/tokens/chat-template.js";
import { Tokenizer } from "../../src/tokens/tokenizer.js";

export const TOKENIZER = join(import.meta.dirname, "../fixtures/tokens/byte-level");

/** Ids of the whole reply to a prompt, stop token included where it ends by itself. */
export type Script = (prompt: string, request: GenerateRequest) => readonly number[] | Promise<readonly number[]>;

/** Log-prob that {@link ScriptedPolicy} gives the token at an absolute position. */
export function logprobAt(position: number): number {
  return -(1 + (position % 7)) / 8;
}

export class ScriptedPolicy implements TrainablePolicy {
  readonly contextLength: number;
  readonly vocabSize: number;
  readonly eosTokens: readonly number[];
  readonly requests: GenerateRequest[] = [];
  readonly batches: { forest: TokenForest; rows: LossRows; version: number }[] = [];
  aborted = 0;
  running = 0;
  /** Milliseconds each call takes. */
  delay = 0;
  /** Calls wait until {@link ScriptedPolicy.release}. */
  hold = false;
  readonly #held = new Set<() => void>();
  weightVersion = 0;
  readonly #tokenizer: Tokenizer;
  readonly #script: Script;
  /** Replies under way, by the ids of prompt and what was given of it. */
  readonly #rest = new Map<string, readonly number[]>();

  constructor(tokenizer: Tokenizer, script: Script, contextLength = 4096) {
    this.#tokenizer = tokenizer;
    this.#script = script;
    this.contextLength = contextLength;
    this.vocabSize = tokenizer.vocabSize;
    this.eosTokens = tokenizer.eosTokens;
  }

  async generate(request: GenerateRequest, options: { signal?: AbortSignal } = {}): Promise<Completion[]> {
    this.requests.push(request);
    const version = this.weightVersion;
    this.running++;
    try {
      await this.#wait(options.signal);
      const completions: Completion[] = [];
      for (let index = 0; index < (request.count ?? 1); index++) completions.push(await this.#one(request, version));
      return completions;
    } finally {
      this.running--;
    }
  }

  /** Ends {@link ScriptedPolicy.hold} and lets all calls go on. */
  release(): void {
    this.hold = false;
    for (const go of this.#held) go();
  }

  async #wait(signal: AbortSignal | undefined): Promise<void> {
    signal?.throwIfAborted();
    await new Promise<void>((resolve, reject) => {
      const onAbort = (): void => {
        this.aborted++;
        this.#held.delete(go);
        reject(signal?.reason);
      };
      const go = (): void => {
        signal?.removeEventListener("abort", onAbort);
        this.#held.delete(go);
        resolve();
      };
      signal?.addEventListener("abort", onAbort, { once: true });
      if (this.hold) this.#held.add(go);
      else setTimeout(go, this.delay);
    });
  }

  async #one(request: GenerateRequest, weightVersion: number): Promise<Completion> {
    const prompt = Array.from(request.prompt);
    const key = `${request.stream}:${prompt.join()}`;
    const reply = this.#rest.get(key) ?? (await this.#script(await this.#tokenizer.decode(prompt), request));
    const tokens = Int32Array.from(reply.slice(0, request.maxNewTokens));
    const ended = tokens.length === reply.length;
    if (!ended) this.#rest.set(`${request.stream}:${[...prompt, ...tokens].join()}`, reply.slice(tokens.length));
    const logprobs = Float32Array.from(tokens, (_, i) => logprobAt(prompt.length + i));
    return {
      tokens,
      logprobs,
      samplingLogprobs: logprobs.slice(),
      keptMass: new Float32Array(tokens.length).fill(1),
      entropy: new Float32Array(tokens.length),
      finishReason: ended && (request.stopTokens ?? this.eosTokens).includes(tokens.at(-1) ?? -1) ? "stop" : "length",
      weightVersion,
    };
  }

  async score(): Promise<LossResult> {
    throw new Error("Not scripted.");
  }

  async accumulate(forest: TokenForest, rows: LossRows): Promise<LossResult> {
    this.batches.push({ forest, rows, version: this.weightVersion });
    const count = rows.rows.length;
    return {
      logprob: (rows.oldLogprob ?? new Float32Array(count)).slice(),
      entropy: new Float32Array(count),
      ratio: new Float32Array(count).fill(1),
      kl: new Float32Array(count),
      clipped: new Uint8Array(count),
      loss: 0,
      terms: { ce: 0, policy: 0, kl: 0, entropy: 0 },
    };
  }

  /** Refuses to run beside sampling, as the engine does. */
  async step(_: AdamWOptions): Promise<{ gradNorm: number; step: number }> {
    if (this.running > 0) throw new Error("BUSY");
    await new Promise((resolve) => setTimeout(resolve, this.delay));
    if (this.running > 0) throw new Error("BUSY: sampling began during the step");
    return { gradNorm: 1, step: ++this.weightVersion };
  }

  async zeroGradients(): Promise<void> {}
  async saveState(): Promise<void> {}
  async loadState(): Promise<void> {}
  async saveModel(): Promise<void> {}

  stats(): ReturnType<TrainablePolicy["stats"]> {
    return {
      bytesAllocated: 0,
      bytesPeak: 0,
      activeSequences: this.running,
      cachedTokens: 0,
      prefillTokens: 0,
      reusedTokens: 0,
      decodedTokens: 0,
      draftedTokens: 0,
      acceptedDrafts: 0,
      weightVersion: this.weightVersion,
    };
  }
}

export interface Served {
  readonly policy: ScriptedPolicy;
  readonly tokenizer: Tokenizer;
  readonly chat: ChatTemplate;
  readonly server: ModelServer;
  readonly errors: unknown[];
  /** Ids of a text that ends with the stop token. */
  readonly reply: (text: string) => Promise<number[]>;
}

/** An endpoint over a scripted policy. `script` may be given as a text: always that reply. */
export async function serveScript(
  script: string | ((prompt: string, request: GenerateRequest) => string | readonly number[]),
  options: ServeOptions = {},
  template = "default",
  contextLength?: number,
): Promise<Served> {
  const tokenizer = await Tokenizer.load(TOKENIZER);
  const chat = await ChatTemplate.load(tokenizer, { name: template });
  const reply = async (text: string): Promise<number[]> => [...(await tokenizer.encode(text)), 2];
  const run: Script = async (prompt, request) => {
    const answer = typeof script === "string" ? script : script(prompt, request);
    return typeof answer === "string" ? reply(answer) : answer;
  };
  const policy = new ScriptedPolicy(tokenizer, run, contextLength);
  const errors: unknown[] = [];
  const server = await serve(policy, chat, options, { onError: (error) => errors.push(error) });
  return { policy, tokenizer, chat, server, errors, reply };
}

/** An answer as JSON, with its status. */
export interface Reply {
  readonly status: number;
  // biome-ignore lint/suspicious/noExplicitAny: tests look into answers of many shapes
  readonly body: any;
  readonly headers: Headers;
}

export async function post(
  server: ModelServer,
  path: string,
  body: unknown,
  headers: Record<string, string> = {},
): Promise<Reply> {
  const response = await fetch(`${server.url}${path}`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: typeof body === "string" ? body : JSON.stringify(body),
  });
  return { status: response.status, body: await response.json(), headers: response.headers };
}

export async function get(server: ModelServer, path: string, headers: Record<string, string> = {}): Promise<Reply> {
  const response = await fetch(`${server.url}${path}`, { headers });
  return { status: response.status, body: await response.json(), headers: response.headers };
}

/** One chat completion of an episode. */
export function chat(
  server: ModelServer,
  messages: readonly { role: string; content: string }[],
  extra: Record<string, unknown> = {},
  headers: Record<string, string> = {},
): Promise<Reply> {
  return post(server, "/v1/chat/completions", { messages, ...extra }, headers);
}

/** Pieces of a streamed answer, `[DONE]` left out, and whether it came. */
export async function streamed(
  server: ModelServer,
  path: string,
  body: unknown,
  // biome-ignore lint/suspicious/noExplicitAny: tests look into answers of many shapes
): Promise<{ pieces: any[]; done: boolean }> {
  const response = await fetch(`${server.url}${path}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  const events = (await response.text()).split("\n\n").filter((event) => event !== "");
  const data = events.map((event) => event.replace(/^data: /u, ""));
  return { pieces: data.filter((d) => d !== "[DONE]").map((d) => JSON.parse(d)), done: data.at(-1) === "[DONE]" };
}
