/** WebShop's action grammar: `name[argument]`. */

export interface ParsedAction {
  /** What stands before the bracket, as written; the whole text where there is no argument. */
  readonly name: string;
  /** Lower case; null where the text is not of the form `name[argument]`. */
  readonly argument: string | null;
}

/**
 * Reads an action as the original's `re.match(r'(.+)\[(.+)\]')` does: greedy, from the start, not to the end of the
 * text, within the first line. So `click[buy now] please` is understood, and in `click[a]]` the argument is `a]`.
 */
export function parseAction(text: string): ParsedAction {
  const newline = text.indexOf("\n");
  const line = newline < 0 ? text : text.slice(0, newline);
  const close = line.lastIndexOf("]");
  // The name takes as much as it can: up to the last bracket that leaves an argument of one character.
  const open = close < 3 ? -1 : line.lastIndexOf("[", close - 2);
  if (open < 1) return { name: text, argument: null };
  return { name: line.slice(0, open), argument: line.slice(open + 1, close).toLowerCase() };
}
