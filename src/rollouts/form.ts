/**
 * The two forms in which a policy is shown an episode.
 *
 * - `per-step`: every decision gets a fresh prompt with the task, the last few decisions and the present. Prompts stay
 *   short; each step is a sample of its own.
 * - `transcript`: one conversation; every observation is appended to it. Tokens are appended and never tokenized again;
 *   the whole episode is one sample.
 */
import type { Completion } from "../engine/policy.js";
import type { DecisionState } from "../prompts/state.js";
import type { ChatMessage } from "../tokens/chat-template.js";
import { Transcript } from "../tokens/transcript.js";
import type { Dialogue } from "./dialogue.js";

export const formNames = ["per-step", "transcript"] as const;
/** How a policy is shown an episode; see the file's head. */
export type FormName = (typeof formNames)[number];

/** What one episode shows its policy. Made anew for every episode. */
export interface EpisodeForm {
  /** The whole conversation (transcript form), else null. */
  readonly transcript: Transcript | null;
  /** The tokens to complete now, and those of them that were not there before the last completion. */
  prompt(state: DecisionState): Promise<{ readonly full: Int32Array; readonly added: Int32Array }>;
  /** Takes in what was sampled. */
  append(completion: Completion): void;
  /** Text of a completion without its stop token. */
  text(completion: Completion): Promise<string>;
}

/** A maker of forms, as {@link PlayOptions.form} wants it. */
export function episodeForm(name: FormName, dialogue: Dialogue): () => EpisodeForm {
  return name === "per-step" ? () => new PerStepForm(dialogue) : () => new TranscriptForm(dialogue);
}

class PerStepForm implements EpisodeForm {
  readonly transcript = null;
  readonly #dialogue: Dialogue;

  constructor(dialogue: Dialogue) {
    this.#dialogue = dialogue;
  }

  async prompt(state: DecisionState): Promise<{ full: Int32Array; added: Int32Array }> {
    const full = await this.#dialogue.actionPrompt(state);
    return { full, added: full };
  }

  append(): void {}

  text(completion: Completion): Promise<string> {
    return this.#dialogue.text(completion);
  }
}

class TranscriptForm implements EpisodeForm {
  readonly #dialogue: Dialogue;
  readonly transcript = new Transcript();
  readonly #messages: ChatMessage[] = [];
  #last: Completion | null = null;

  constructor(dialogue: Dialogue) {
    this.#dialogue = dialogue;
  }

  async prompt(state: DecisionState): Promise<{ full: Int32Array; added: Int32Array }> {
    const start = this.transcript.length;
    if (this.#last === null) {
      this.#messages.push(...this.#dialogue.messages(this.#dialogue.actionText(state)));
      this.transcript.append("prompt", await this.#dialogue.chat.encode(this.#messages));
    } else {
      this.#messages.push({ role: "user", content: this.#dialogue.nextTurnText(state) });
      const stopped = this.#last.finishReason === "stop";
      this.transcript.append("observation", await this.#dialogue.chat.suffixForNextTurn(this.#messages, { stopped }));
    }
    return { full: this.transcript.tokens(), added: this.transcript.tokens(start) };
  }

  append(completion: Completion): void {
    this.transcript.appendAction(completion);
    // The content is never rendered for training: the transcript holds the sampled tokens. It only marks the turn.
    this.#messages.push({ role: "assistant", content: "" });
    this.#last = completion;
  }

  text(completion: Completion): Promise<string> {
    return this.#dialogue.text(completion);
  }
}
