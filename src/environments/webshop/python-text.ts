/**
 * How Python 3 writes and compares strings and numbers, where WebShop's pages, URLs or scores show it.
 */

/** What `str.strip()` removes, as the inside of a character class. */
const SPACE = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const OUTER_SPACE = new RegExp(`^[${SPACE}]+|[${SPACE}]+$`, "g");

/** `text.strip()`: Unicode white space off both ends (a little different from String.prototype.trim). */
export function strip(text: string): string {
  return text.replace(OUTER_SPACE, "");
}

/** `text.strip(character)` for a single character. */
export function stripCharacter(text: string, character: string): string {
  let start = 0;
  let end = text.length;
  while (start < end && text[start] === character) start++;
  while (end > start && text[end - 1] === character) end--;
  return text.slice(start, end);
}

/** Order of two strings by code point, which is Python's order (JavaScript's is by UTF-16 unit). */
export function compareCodePoints(a: string, b: string): number {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i++) {
    const x = a.charCodeAt(i);
    const y = b.charCodeAt(i);
    // At the first different unit a surrogate stands for a code point above every other unit.
    if (x !== y) return surrogateLast(x) - surrogateLast(y);
  }
  return a.length - b.length;
}

function surrogateLast(unit: number): number {
  return unit >= 0xd800 && unit <= 0xdfff ? unit + 0x10000 : unit;
}

/** `repr(x)` of a float: shortest digits, always with a point or an exponent, exponent from 1e16 on and below 1e-4. */
export function floatRepr(x: number): string {
  if (Number.isNaN(x)) return "nan";
  if (!Number.isFinite(x)) return x > 0 ? "inf" : "-inf";
  const [digits, exponentText] = x.toExponential().split("e") as [string, string];
  const exponent = Number(exponentText);
  if (x !== 0 && (exponent < -4 || exponent >= 16)) {
    const sign = exponent < 0 ? "-" : "+";
    return `${digits}e${sign}${String(Math.abs(exponent)).padStart(2, "0")}`;
  }
  if (Object.is(x, -0)) return "-0.0";
  const plain = String(x);
  return plain.includes(".") ? plain : `${plain}.0`;
}

/** `round(x)`: to the nearest integer, halves to the even one. */
export function roundHalfEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  if (rest !== 0.5) return rest < 0.5 ? floor : floor + 1;
  return floor % 2 === 0 ? floor : floor + 1;
}

// str.isprintable: everything but the categories "Other" and "Separator", with the ASCII space printable.
const NOT_PRINTABLE = /(?! )[\p{C}\p{Z}]/u;

/** `repr(text)` of a string: single quotes unless only double ones save escapes, unprintable characters as escapes. */
export function stringRepr(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  let out = quote;
  for (const character of text) {
    if (character === quote || character === "\\") out += `\\${character}`;
    else if (character === "\t") out += "\\t";
    else if (character === "\n") out += "\\n";
    else if (character === "\r") out += "\\r";
    else out += NOT_PRINTABLE.test(character) ? escapeCodePoint(character.codePointAt(0)!) : character;
  }
  return out + quote;
}

function escapeCodePoint(code: number): string {
  const hex = code.toString(16);
  if (code <= 0xff) return `\\x${hex.padStart(2, "0")}`;
  return code <= 0xffff ? `\\u${hex.padStart(4, "0")}` : `\\U${hex.padStart(8, "0")}`;
}

/** `repr` of a dictionary of strings, in its own order: `{'size': 'small'}`. */
export function dictRepr(entries: ReadonlyMap<string, string>): string {
  return `{${[...entries].map(([key, value]) => `${stringRepr(key)}: ${stringRepr(value)}`).join(", ")}}`;
}

/** `json.dumps` of a dictionary of strings: `, ` and `: ` between, everything outside ASCII as `\uXXXX`. */
export function jsonDumps(entries: Iterable<readonly [string, string]>): string {
  return `{${[...entries].map(([key, value]) => `${jsonString(key)}: ${jsonString(value)}`).join(", ")}}`;
}

function jsonString(text: string): string {
  // JSON.stringify leaves U+007F and everything above as it is (lone surrogates aside, which it escapes alike).
  return JSON.stringify(text).replace(
    /[\u007f-\uffff]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** Jinja's `tojson` of a dictionary of strings: keys sorted, and `' < > &` escaped so that it may stand in HTML. */
export function jinjaJson(entries: ReadonlyMap<string, string>): string {
  const sorted = [...entries].sort(([a], [b]) => compareCodePoints(a, b));
  return jsonDumps(sorted).replace(/['<>&]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
}
