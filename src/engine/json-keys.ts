/**
 * Finds a key that an object of a JSON text has twice. `JSON.parse` keeps the last one without a word, so that two
 * readers of a hostile file could see two different things.
 */

/**
 * One pass, no recursion and no pattern: hostile keys are as long as their file and nested as deep.
 *
 * @param text Valid JSON. Returns the first duplicate key, or null.
 */
export function duplicateKey(text: string): string | null {
  const open: (Set<string> | null)[] = []; // null: an array
  for (let at = 0; at < text.length; at++) {
    switch (text[at]) {
      case "{":
        open.push(new Set());
        break;
      case "[":
        open.push(null);
        break;
      case "}":
      case "]":
        open.pop();
        break;
      case '"': {
        const end = endOfString(text, at);
        if (isKey(text, end)) {
          const key = JSON.parse(text.slice(at, end)) as string;
          const keys = open.at(-1);
          if (keys?.has(key)) return key;
          keys?.add(key);
        }
        at = end - 1;
      }
    }
  }
  return null;
}

/** @param start Of the opening quote. Returns what follows the closing one. */
function endOfString(text: string, start: number): number {
  for (let at = start + 1; ; ) {
    const quote = text.indexOf('"', at);
    let escapes = 0;
    while (text[quote - 1 - escapes] === "\\") escapes++;
    if (escapes % 2 === 0) return quote + 1;
    at = quote + 1;
  }
}

function isKey(text: string, end: number): boolean {
  let at = end;
  while (" \t\n\r".includes(text[at] ?? ":")) at++;
  return text[at] === ":";
}
