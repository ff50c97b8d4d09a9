/**
 * JSON as Python's `json.loads` reads it: NaN and infinities are values, and a fault has Python's words and position.
 *
 * The servers of both environment protocols are Python programs that send these words to their clients.
 */

/** A text that is no JSON, in the words of Python's `json.JSONDecodeError`. */
export class PythonJsonError extends Error {
  /** Words without the position, e.g. `Expecting value`. */
  readonly reason: string;
  /** Position in characters (code points), from 0. */
  readonly position: number;

  constructor(reason: string, text: string, index: number) {
    const before = text.slice(0, index);
    const position = codePoints(before);
    const line = before.split("\n").length;
    const column = codePoints(before.slice(before.lastIndexOf("\n") + 1)) + 1;
    super(`${reason}: line ${line} column ${column} (char ${position})`);
    this.reason = reason;
    this.position = position;
  }
}

/**
 * Reads a JSON text.
 *
 * @throws PythonJsonError with Python 3.11's words.
 */
export function parsePythonJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    // Slower and with Python's rules; also for the texts only Python takes.
    return new Scanner(text).document();
  }
}

/** Python's name of a JSON value's type. */
export function pythonType(value: unknown): string {
  if (value === null) return "NoneType";
  if (Array.isArray(value)) return "list";
  if (typeof value === "number") return Number.isInteger(value) ? "int" : "float";
  return { string: "str", boolean: "bool" }[typeof value as string] ?? "dict";
}

/** Python's `repr` of a JSON value. Numbers that were written `5.0` read `5`: JavaScript does not tell them apart. */
export function pythonRepr(value: unknown): string {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "number") {
    if (Number.isNaN(value)) return "nan";
    return Number.isFinite(value) ? String(value) : value > 0 ? "inf" : "-inf";
  }
  if (typeof value === "string") return reprString(value);
  if (Array.isArray(value)) return `[${value.map(pythonRepr).join(", ")}]`;
  const entries = Object.entries(value as Record<string, unknown>);
  return `{${entries.map(([key, item]) => `${reprString(key)}: ${pythonRepr(item)}`).join(", ")}}`;
}

/** Python's `str` of a JSON value: that of a string is the string. */
export function pythonStr(value: unknown): string {
  return typeof value === "string" ? value : pythonRepr(value);
}

function reprString(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  const named: Readonly<Record<string, string>> = { "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t" };
  const body = text.replace(/[\\\n\r\t'\p{Cc}]/gu, (c) => {
    if (c === "'") return quote === "'" ? "\\'" : c;
    return named[c] ?? `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`;
  });
  return quote + body + quote;
}

function codePoints(text: string): number {
  let count = 0;
  for (const _ of text) count++;
  return count;
}

const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?/y;
const LITERALS: readonly (readonly [string, unknown])[] = [
  ["null", null],
  ["true", true],
  ["false", false],
  ["NaN", Number.NaN],
  ["Infinity", Number.POSITIVE_INFINITY],
  ["-Infinity", Number.NEGATIVE_INFINITY],
];
const ESCAPES: Readonly<Record<string, string>> = {
  '"': '"',
  "\\": "\\",
  "/": "/",
  b: "\b",
  f: "\f",
  n: "\n",
  r: "\r",
  t: "\t",
};
/** Nesting at which Python gives up. */
const MAX_DEPTH = 990;

/** The steps of CPython's `_json.c`, in its order, as its faults depend on them. */
class Scanner {
  readonly #text: string;
  #at = 0;
  #depth = 0;

  constructor(text: string) {
    this.#text = text;
  }

  document(): unknown {
    if (this.#text.startsWith("\uFEFF")) throw this.#fault("Unexpected UTF-8 BOM (decode using utf-8-sig)", 0);
    this.#space();
    const value = this.#value();
    this.#space();
    if (this.#at < this.#text.length) throw this.#fault("Extra data", this.#at);
    return value;
  }

  #value(): unknown {
    const c = this.#text[this.#at];
    if (c === '"') return this.#string();
    if (c === "{" || c === "[") {
      if (++this.#depth > MAX_DEPTH) throw this.#fault("maximum recursion depth exceeded", this.#at);
      const value = c === "{" ? this.#object() : this.#array();
      this.#depth--;
      return value;
    }
    for (const [word, value] of LITERALS)
      if (this.#text.startsWith(word, this.#at)) {
        this.#at += word.length;
        return value;
      }
    NUMBER.lastIndex = this.#at;
    const number = NUMBER.exec(this.#text)?.[0];
    if (number === undefined) throw this.#fault("Expecting value", this.#at);
    this.#at += number.length;
    return Number(number);
  }

  #object(): Record<string, unknown> {
    const entries: [string, unknown][] = [];
    this.#at++;
    this.#space();
    if (this.#text[this.#at] !== "}")
      for (;;) {
        if (this.#text[this.#at] !== '"')
          throw this.#fault("Expecting property name enclosed in double quotes", this.#at);
        const key = this.#string();
        this.#space();
        if (this.#text[this.#at] !== ":") throw this.#fault("Expecting ':' delimiter", this.#at);
        this.#at++;
        this.#space();
        entries.push([key, this.#value()]);
        this.#space();
        if (this.#text[this.#at] === "}") break;
        if (this.#text[this.#at] !== ",") throw this.#fault("Expecting ',' delimiter", this.#at);
        this.#at++;
        this.#space();
      }
    this.#at++;
    return Object.fromEntries(entries);
  }

  #array(): unknown[] {
    const items: unknown[] = [];
    this.#at++;
    this.#space();
    if (this.#text[this.#at] !== "]")
      for (;;) {
        items.push(this.#value());
        this.#space();
        if (this.#text[this.#at] === "]") break;
        if (this.#text[this.#at] !== ",") throw this.#fault("Expecting ',' delimiter", this.#at);
        this.#at++;
        this.#space();
      }
    this.#at++;
    return items;
  }

  #string(): string {
    const begin = this.#at;
    let result = "";
    this.#at++;
    for (;;) {
      const from = this.#at;
      let c = this.#text[this.#at];
      while (c !== undefined && c !== '"' && c !== "\\") {
        if (c <= "\u001f") throw this.#fault("Invalid control character at", this.#at);
        c = this.#text[++this.#at];
      }
      result += this.#text.slice(from, this.#at);
      if (c === undefined) throw this.#fault("Unterminated string starting at", begin);
      this.#at++;
      if (c === '"') return result;
      const letter = this.#text[this.#at];
      if (letter === undefined) throw this.#fault("Unterminated string starting at", begin);
      this.#at++;
      if (letter !== "u") {
        const named = ESCAPES[letter];
        if (named === undefined) throw this.#fault("Invalid \\escape", this.#at - 2);
        result += named;
        continue;
      }
      const digits = this.#text.slice(this.#at, this.#at + 4);
      if (this.#at + 4 >= this.#text.length || !/^[0-9a-fA-F]{4}$/.test(digits))
        throw this.#fault("Invalid \\uXXXX escape", this.#at - 1);
      // Halves of a pair follow each other and join by themselves.
      result += String.fromCharCode(Number.parseInt(digits, 16));
      this.#at += 4;
    }
  }

  #space(): void {
    while (/[ \t\n\r]/.test(this.#text[this.#at] ?? "")) this.#at++;
  }

  #fault(reason: string, index: number): PythonJsonError {
    return new PythonJsonError(reason, this.#text, index);
  }
}
