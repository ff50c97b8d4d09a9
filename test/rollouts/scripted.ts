/** A policy that says what a function tells it to, and an environment that counts: for tests without an engine. */
import type { Completion, GenerateRequest, Policy } from "../../src/engine/policy.js";
import {
  type Environment,
  EnvironmentError,
  type EnvironmentProvider,
  type EpisodeStart,
  type Transition,
} from "../../src/environments/environment.js";
import { Dialogue, promptSchema } from "../../src/rollouts/dialogue.js";
import { ChatTemplate } from "../../src/tokens/chat-template.js";
import { Tokenizer } from "../../src/tokens/tokenizer.js";

const TOKENIZER = new URL("../fixtures/tokens/byte-level/", import.meta.url).pathname;

export async function testDialogue(settings: object = {}): Promise<Dialogue> {
  const tokenizer = await Tokenizer.load(TOKENIZER);
  return new Dialogue(await ChatTemplate.load(tokenizer), promptSchema.parse({ template: "compact", ...settings }));
}

export interface Said {
  readonly text: string;
  /** Ended by the token limit instead of a stop token. */
  readonly cut?: boolean;
}

/** What to say: the prompt as text, the request, and which of its completions. */
export type Script = (prompt: string, request: GenerateRequest, index: number) => Said | string;

/** Everything {@link Policy} asks for; training calls are counted and change nothing. */
export class ScriptedPolicy implements Policy {
  readonly contextLength: number;
  readonly vocabSize: number;
  readonly eosTokens: readonly number[];
  readonly requests: GenerateRequest[] = [];
  /** Most requests under way at once. */
  peak = 0;
  accumulated = 0;
  stepped = 0;
  readonly #dialogue: Dialogue;
  readonly #script: Script;
  #active = 0;

  constructor(dialogue: Dialogue, script: Script, contextLength = 4096) {
    this.#dialogue = dialogue;
    this.#script = script;
    this.contextLength = contextLength;
    this.vocabSize = dialogue.chat.tokenizer.vocabSize;
    this.eosTokens = dialogue.stopTokens;
  }

  async generate(request: GenerateRequest, options: { readonly signal?: AbortSignal } = {}): Promise<Completion[]> {
    options.signal?.throwIfAborted();
    this.requests.push(request);
    this.peak = Math.max(this.peak, ++this.#active);
    // Requests end in another order than they came, as in an engine.
    await new Promise((resolve) => setTimeout(resolve, Number((BigInt(request.stream ?? 0) >> 10n) % 3n)));
    options.signal?.throwIfAborted();
    const prompt = await this.#dialogue.chat.tokenizer.decode(request.prompt);
    const completions: Completion[] = [];
    for (let i = 0; i < (request.count ?? 1); i++) {
      const said = this.#script(prompt, request, i);
      completions.push(await this.#completion(typeof said === "string" ? { text: said } : said));
    }
    this.#active--;
    return completions;
  }

  async #completion({ text, cut = false }: Said): Promise<Completion> {
    const ids = [...(await this.#dialogue.chat.tokenizer.encode(text)), ...(cut ? [] : [this.eosTokens.at(-1) ?? 0])];
    const zeros = new Float32Array(ids.length).fill(-1);
    return {
      tokens: Int32Array.from(ids),
      logprobs: zeros,
      samplingLogprobs: zeros,
      keptMass: new Float32Array(ids.length).fill(1),
      entropy: new Float32Array(ids.length),
      finishReason: cut ? "length" : "stop",
      weightVersion: this.stepped,
    };
  }

  async score(_: unknown, rows: { readonly rows: Int32Array }): ReturnType<Policy["score"]> {
    return result(rows.rows.length);
  }
  async accumulate(_: unknown, rows: { readonly rows: Int32Array }): ReturnType<Policy["accumulate"]> {
    this.accumulated++;
    return result(rows.rows.length);
  }
  async step(): ReturnType<Policy["step"]> {
    return { gradNorm: 1, step: ++this.stepped };
  }
  async zeroGradients(): Promise<void> {}
  stats(): ReturnType<Policy["stats"]> {
    return {
      bytesAllocated: 0,
      bytesPeak: 0,
      activeSequences: 0,
      cachedTokens: 0,
      prefillTokens: 0,
      reusedTokens: 0,
      decodedTokens: 0,
      draftedTokens: 0,
      acceptedDrafts: 0,
      weightVersion: this.stepped,
    };
  }
}

function result(n: number): Awaited<ReturnType<Policy["score"]>> {
  const terms = { ce: 0, policy: 0, kl: 0, entropy: 0 };
  const array = (): Float32Array => new Float32Array(n);
  return {
    logprob: array().fill(-1),
    entropy: array(),
    ratio: array().fill(1),
    kl: array(),
    clipped: new Uint8Array(n),
    loss: 0,
    terms,
  };
}

export interface ScriptedEnvironmentOptions {
  /** Throws this error at a step of a task, as often as it returns one. */
  readonly fault?: (taskId: string, step: number, attempt: number) => Error | null;
  /** Never answers a step. */
  readonly hang?: (taskId: string, step: number) => boolean;
}

/**
 * Task `n` is solved by `go` n times. `stop` ends the episode as a failure; `wait` is accepted; everything else is not.
 */
export function countingProvider(options: ScriptedEnvironmentOptions = {}): EnvironmentProvider & {
  readonly open: () => number;
  readonly made: () => number;
} {
  let open = 0;
  let made = 0;
  const attempts = new Map<string, number>();
  const create = async (): Promise<Environment> => {
    open++;
    made++;
    let closed = false;
    let taskId = "";
    let step = 0;
    let gone = 0;
    return {
      async reset(id: string): Promise<EpisodeStart> {
        if (!/^\d+$/u.test(id)) throw new EnvironmentError("ENVIRONMENT_UNKNOWN_TASK", `No task ${id}.`);
        taskId = id;
        step = 0;
        gone = 0;
        attempts.set(id, (attempts.get(id) ?? 0) + 1);
        return { task: `go ${id} times`, observation: "start", category: Number(id) % 2 === 0 ? "even" : "odd" };
      },
      async step(action: string): Promise<Transition> {
        const fault = options.fault?.(taskId, step, attempts.get(taskId) ?? 0) ?? null;
        if (fault !== null) throw fault;
        if (options.hang?.(taskId, step)) await new Promise(() => undefined);
        step++;
        if (action === "go") gone++;
        const success = gone === Number(taskId);
        return {
          observation: `gone ${gone}`,
          reward: success ? 1 : 0,
          score: gone / Number(taskId),
          success,
          terminated: success || action === "stop",
          truncated: false,
          accepted: ["go", "stop", "wait"].includes(action),
        };
      },
      admissibleActions: async () => ({ actions: ["go", "wait", "stop"], patterns: [] }),
      expertAction: async () => (gone < Number(taskId) ? "go" : null),
      async close() {
        if (!closed) open--;
        closed = true;
      },
    };
  };
  return {
    name: "counting",
    version: "1",
    stepLimit: 10,
    panelNames: ["all"],
    panel: async () => ({ id: "counting/all@1", tasks: ["1", "2", "3", "4", "5", "6"], hash: "a".repeat(64) }),
    create,
    close: async () => undefined,
    open: () => open,
    made: () => made,
  };
}
