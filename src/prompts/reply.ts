/**
 * Reads a model's reply: free reasoning, then exactly one `<action>...</action>`.
 */
import { invalid } from "../errors.js";
import { canonicalizeAction } from "./action-text.js";

/** Why a reply holds no action. */
export type MalformedReason =
  | "no_action" // no <action> tag after the thinking
  | "several_actions" // more than one opening or closing tag
  | "unclosed_action" // one tag of the pair is missing, or they are in the wrong order
  | "empty_action" // nothing but white space between the tags
  | "unfinished_thinking" // <think> without </think>
  | "missing_thinking"; // `requireThinking` and no </think>

/** A reply that holds one action. */
export interface WellFormedReply {
  readonly ok: true;
  /** Canonical form (`canonicalizeAction`); with an index answer, that of the candidate it names. */
  readonly action: string;
  /** The text between the tags as written. */
  readonly raw: string;
  /** Everything before the action tag, without think tags, trimmed. Empty where nothing was said. */
  readonly thought: string;
  /** 1 or 2 where the answer was an index, else null. */
  readonly index: 1 | 2 | null;
}

/** A reply that does not. */
export interface MalformedReply {
  readonly ok: false;
  readonly reason: MalformedReason;
}

/** What {@link parseReply} makes of a reply. */
export type ParsedReply = WellFormedReply | MalformedReply;

export interface ParseOptions {
  /** The candidates of a judgment; given, an answer such as `1` or `Action 2` stands for the candidate. */
  readonly indexOf?: { readonly first: string; readonly second: string };
  /** A reply without `</think>` is malformed. Default false: chat templates may open the thinking themselves. */
  readonly requireThinking?: boolean;
}

const OPEN = "<action>";
const CLOSE = "</action>";
const THINK_OPEN = "<think>";
const THINK_CLOSE = "</think>";

/**
 * The action of a reply. Tags count only after the end of thinking (the last `</think>`, if there is one), so that an
 * action weighed in the reasoning is not taken for the answer. Tags are matched literally, in lower case. No text is
 * refused; what is no text throws ActError `BAD_ARGUMENT`.
 */
export function parseReply(text: string, options: ParseOptions = {}): ParsedReply {
  if (typeof text !== "string") throw invalid("BAD_ARGUMENT", "text", "a text", text, "Give the decoded reply.");
  const thinkEnd = text.lastIndexOf(THINK_CLOSE);
  if (thinkEnd === -1 && text.includes(THINK_OPEN)) return { ok: false, reason: "unfinished_thinking" };
  if (thinkEnd === -1 && options.requireThinking === true) return { ok: false, reason: "missing_thinking" };
  const start = thinkEnd === -1 ? 0 : thinkEnd + THINK_CLOSE.length;
  const answer = text.slice(start);

  const opens = count(answer, OPEN);
  const closes = count(answer, CLOSE);
  if (opens === 0 && closes === 0) return { ok: false, reason: "no_action" };
  if (opens > 1 || closes > 1) return { ok: false, reason: "several_actions" };
  const open = answer.indexOf(OPEN);
  const close = answer.indexOf(CLOSE);
  if (open === -1 || close < open) return { ok: false, reason: "unclosed_action" };
  const raw = answer.slice(open + OPEN.length, close);
  const action = canonicalizeAction(raw);
  if (action === "") return { ok: false, reason: "empty_action" };

  const thought = text
    .slice(0, start + open)
    .replaceAll(THINK_OPEN, "")
    .replaceAll(THINK_CLOSE, "")
    .trim();
  const index = options.indexOf === undefined ? null : indexAnswer(action, options.indexOf);
  if (index === null || options.indexOf === undefined) return { ok: true, action, raw, thought, index: null };
  const named = index === 1 ? options.indexOf.first : options.indexOf.second;
  return { ok: true, action: canonicalizeAction(named), raw, thought, index };
}

/** A candidate copied in full wins over an index: an action may itself be called `1`. */
function indexAnswer(action: string, candidates: { readonly first: string; readonly second: string }): 1 | 2 | null {
  if ([candidates.first, candidates.second].some((c) => canonicalizeAction(c) === action)) return null;
  const match = /^(?:action ?)?([12])[.:]?$/u.exec(action);
  return match === null ? null : match[1] === "1" ? 1 : 2;
}

function count(text: string, needle: string): number {
  return text.split(needle).length - 1;
}
