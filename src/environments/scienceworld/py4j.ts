/**
 * The text protocol of py4j 0.10: how a call of a Java method is written on a socket and how its answer reads.
 *
 * A request is lines of UTF-8, ended by the line `e`; an answer is exactly one line. Strings are escaped so that they
 * never hold a line end.
 */
import { EnvironmentError } from "../environment.js";

/** An object living in the JVM, named by its id there, e.g. `o12`. */
export class JavaReference {
  constructor(readonly id: string) {}
}

/** What a method can be given. Numbers go as 32-bit integers; the simulator takes no others. */
export type JavaArgument = string | number | boolean | null | JavaReference;

/** What a method can return. `undefined` stands for void. */
export type JavaValue = string | number | bigint | boolean | null | undefined | JavaReference;

/** An answer: a value, or an exception with its message or the object that carries it. */
export type JavaReply =
  | { readonly kind: "value"; readonly value: JavaValue }
  | { readonly kind: "exception"; readonly message: string; readonly reference: JavaReference | null };

const INT_MIN = -(2 ** 31);
const INT_MAX = 2 ** 31 - 1;

/** `\`, CR and LF as two characters each. */
export function escapeText(text: string): string {
  return text.replace(/[\\\r\n]/g, (c) => (c === "\\" ? "\\\\" : c === "\r" ? "\\r" : "\\n"));
}

/** Undoes {@link escapeText}. Throws `ENVIRONMENT_PROTOCOL` at any other escape. */
export function unescapeText(text: string): string {
  return text.replace(/\\(.?)/gsu, (_, c: string) => {
    if (c === "\\") return "\\";
    if (c === "n") return "\n";
    if (c === "r") return "\r";
    throw malformed(`the escape \`\\${c}\``);
  });
}

/** A request that makes an object of a class with its empty constructor. */
export function constructRequest(className: string): string {
  return `i\n${className}\ne\n`;
}

/**
 * A request that calls a method.
 *
 * @param target An object, or a class name for a static method.
 */
export function callRequest(target: JavaReference | string, method: string, args: readonly JavaArgument[]): string {
  const receiver = typeof target === "string" ? `z:${target}` : target.id;
  return `c\n${receiver}\n${method}\n${args.map((a) => `${encodeArgument(a)}\n`).join("")}e\n`;
}

/** A request that lets the JVM forget an object. */
export function releaseRequest(reference: JavaReference): string {
  return `m\nd\n${reference.id}\ne\n`;
}

function encodeArgument(value: JavaArgument): string {
  if (value === null) return "n";
  if (value instanceof JavaReference) return `r${value.id}`;
  if (typeof value === "string") return `s${escapeText(value)}`;
  if (typeof value === "boolean") return value ? "bTrue" : "bFalse";
  if (Number.isInteger(value) && value >= INT_MIN && value <= INT_MAX) return `i${value}`;
  throw new EnvironmentError("ENVIRONMENT_PROTOCOL", `Expected a 32-bit integer as a Java argument, got ${value}.`);
}

/**
 * Reads one answer line (without its line end).
 *
 * @throws EnvironmentError `ENVIRONMENT_PROTOCOL` for a line that is no py4j answer.
 */
export function parseReply(line: string): JavaReply {
  if (line[0] !== "!") throw malformed(`an answer that begins ${JSON.stringify(line.slice(0, 40))}`);
  const body = line.slice(2);
  switch (line[1]) {
    case "y":
      return { kind: "value", value: decodeValue(body) };
    case "x":
      if (body[0] === "s") return { kind: "exception", message: unescapeText(body.slice(1)), reference: null };
      if (body[0] === "r" && body.length > 1)
        return { kind: "exception", message: "", reference: new JavaReference(body.slice(1)) };
      if (body === "") return { kind: "exception", message: "no message", reference: null };
      break;
    case "z":
      return { kind: "exception", message: `fatal: ${body}`, reference: null };
  }
  throw malformed(`an answer that begins ${JSON.stringify(line.slice(0, 40))}`);
}

function decodeValue(text: string): JavaValue {
  const rest = text.slice(1);
  switch (text[0]) {
    case "s":
      return unescapeText(rest);
    case "i":
      if (/^-?\d{1,10}$/.test(rest)) return Number(rest);
      break;
    case "L":
      if (/^-?\d{1,19}$/.test(rest)) return BigInt(rest);
      break;
    case "d":
      if (/^(-?\d+(\.\d+)?(E-?\d+)?|NaN|-?Infinity)$/.test(rest)) return Number(rest);
      break;
    case "b":
      if (rest === "true" || rest === "false") return rest === "true";
      break;
    case "n":
      if (rest === "") return null;
      break;
    case "v":
      if (rest === "") return undefined;
      break;
    // Object, list, map, set, array, iterator: each is a reference.
    case "r":
    case "l":
    case "a":
    case "h":
    case "t":
    case "g":
      if (rest !== "") return new JavaReference(rest);
      break;
  }
  throw malformed(`the value ${JSON.stringify(text.slice(0, 40))}`);
}

/** Of a simulator that does not answer as the one this was written for. */
export const JAR_HINT =
  "Check that `jar` is a ScienceWorld simulator of the version in docs/environments/scienceworld.md.";

function malformed(what: string): EnvironmentError {
  return new EnvironmentError("ENVIRONMENT_PROTOCOL", `The simulator sent ${what}, which py4j does not allow.`, {
    hint: JAR_HINT,
  });
}
