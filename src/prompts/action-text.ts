/**
 * The one form in which two actions are compared, and the way back to the environment's own spelling.
 */
import { type AdmissibleActions, isAdmissible } from "../environments/environment.js";

/**
 * The canonical form of an action: trimmed, lower case (locale-independent), every run of white space one space.
 *
 * Idempotent. Two actions are the same when their canonical forms are equal.
 */
export function canonicalizeAction(text: string): string {
  return text.toLowerCase().replace(/\s+/gu, " ").trim();
}

/**
 * The action as the environment spells it: the admissible action whose canonical form equals that of `action`, else
 * `action` with outer white space removed where a pattern admits it, else null.
 *
 * `action` may be in any spelling. Where several admissible actions share a canonical form, the exact one wins, then the
 * first.
 */
export function resolveAction(action: string, admissible: AdmissibleActions): string | null {
  const literal = action.trim();
  if (isAdmissible(literal, admissible)) return literal;
  const canonical = canonicalizeAction(action);
  const match = admissible.actions.find((candidate) => canonicalizeAction(candidate) === canonical);
  if (match !== undefined) return match;
  return isAdmissible(canonical, admissible) ? canonical : null;
}
