/**
 * Finds a key that an object of a JSON text has twice. `JSON.parse` keeps the last one without a word, so that two
 * readers of a hostile file could see two different things.
 */

/** @param text Valid JSON. Returns the first duplicate key, or null. */
export function duplicateKey(text: string): string | null {
  // Strings, and the characters that open, close and separate; everything else in valid JSON is of no interest here.
  const tokens = /"(?:[^"\\]|\\.)*"|[{}[\],:]/g;
  const open: (Set<string> | null)[] = []; // null: an array
  let last: string | null = null;
  for (const [token] of text.matchAll(tokens)) {
    if (token === "{") open.push(new Set());
    else if (token === "[") open.push(null);
    else if (token === "}" || token === "]") open.pop();
    else if (token === ":" && last !== null) {
      const keys = open.at(-1);
      const key = JSON.parse(last) as string;
      if (keys?.has(key)) return key;
      keys?.add(key);
    }
    last = token.startsWith('"') ? token : null;
  }
  return null;
}
