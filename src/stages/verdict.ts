/**
 * One question of the judge: which of two actions is better. How it is asked, and how an answer is read.
 */

import type { PairRecord } from "../data/records.js";
import type { Completion } from "../engine/policy.js";
import { canonicalizeAction } from "../prompts/action-text.js";
import { type ParsedReply, parseReply } from "../prompts/reply.js";
import type { Candidates } from "../prompts/template.js";
import type { Dialogue } from "../rollouts/dialogue.js";

/** Which candidate a reply picked; `other` is a well-formed action that is neither. */
export type Picked = "expert" | "alternative" | "other" | "malformed";

/** A reply of the judge. */
export interface Verdict {
  readonly picked: Picked;
  /** Whether the picked candidate was shown first; null where neither was picked. */
  readonly first: boolean | null;
  readonly parsed: ParsedReply;
  readonly text: string;
}

/** The pair as the prompt shows it. */
export function candidatesOf(pair: PairRecord, expertFirst: boolean): Candidates {
  const { expert_action, alternative } = pair;
  return expertFirst ? { first: expert_action, second: alternative } : { first: alternative, second: expert_action };
}

/** Reads a completion of a judgment prompt. */
export async function readVerdict(
  dialogue: Dialogue,
  pair: PairRecord,
  expertFirst: boolean,
  completion: Completion,
): Promise<Verdict> {
  const text = await dialogue.text(completion);
  const parsed = parseReply(text, dialogue.settings.indexAnswers ? { indexOf: candidatesOf(pair, expertFirst) } : {});
  const picked = pickedBy(parsed, pair);
  const first = picked === "expert" ? expertFirst : picked === "alternative" ? !expertFirst : null;
  return { picked, first, parsed, text };
}

function pickedBy(parsed: ParsedReply, pair: PairRecord): Picked {
  if (!parsed.ok) return "malformed";
  if (parsed.action === canonicalizeAction(pair.expert_action)) return "expert";
  return parsed.action === canonicalizeAction(pair.alternative) ? "alternative" : "other";
}

/** Shares over verdicts. */
export function verdictShares(verdicts: readonly Pick<Verdict, "picked" | "first">[]): {
  /** Right verdicts of all verdicts; null of nothing. */
  readonly accuracy: number | null;
  /** Picks of the action shown first, of all picks; null where nothing was picked. */
  readonly firstShare: number | null;
} {
  const picks = verdicts.filter((v) => v.first !== null);
  const right = verdicts.filter((v) => v.picked === "expert").length;
  return {
    accuracy: verdicts.length === 0 ? null : right / verdicts.length,
    firstShare: picks.length === 0 ? null : picks.filter((v) => v.first === true).length / picks.length,
  };
}

/**
 * Agreement of two lists of verdicts on one pair, one list an order: the share of (one reply, other reply) couples that
 * picked the same candidate. A reply that picked neither agrees with nothing.
 */
export function agreement(one: readonly Pick<Verdict, "picked">[], other: readonly Pick<Verdict, "picked">[]): number {
  const of = (list: readonly Pick<Verdict, "picked">[], picked: Picked): number =>
    list.filter((v) => v.picked === picked).length / list.length;
  return of(one, "expert") * of(other, "expert") + of(one, "alternative") * of(other, "alternative");
}
