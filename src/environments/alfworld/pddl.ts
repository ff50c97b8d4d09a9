/** Reading of planning problems (PDDL with the ADL parts that ALFWorld's goals use). */
import type { Formula, Term } from "../textworld/formula.js";

/** A word or a list in parentheses; words are lower-case, as PDDL does not distinguish case. */
export type Expression = string | readonly Expression[];

/** A PDDL problem without interpretation. */
export interface Problem {
  /** Declared objects by type, in the order of the file. */
  readonly objects: ReadonlyMap<string, readonly string[]>;
  /** Positive initial facts, each once: predicate, then ids. */
  readonly facts: readonly (readonly string[])[];
  /** Ids that occur in numeric assignments such as `(= (distance a b) 3)`; they count as entities. */
  readonly assigned: readonly string[];
  readonly goal: Formula;
}

/** Thrown with the offending text; callers add the file's name. */
export class PddlError extends Error {
  override readonly name = "PddlError";
}

/**
 * Reads one expression; comments run from `;` to the end of the line. What follows it is ignored, since published
 * problems have one closing parenthesis too many.
 */
export function parseExpression(text: string): Expression {
  const stack: Expression[][] = [];
  const tokens = text
    .toLowerCase()
    .replace(/;[^\n]*/g, " ")
    .matchAll(/[()]|[^\s()]+/g);
  for (const [token] of tokens) {
    if (token === "(") stack.push([]);
    else if (token === ")") {
      const done = stack.pop();
      if (done === undefined) throw new PddlError("a closing parenthesis comes before any opening one");
      const outer = stack[stack.length - 1];
      if (outer === undefined) return done;
      outer.push(done);
    } else {
      const list = stack[stack.length - 1];
      if (list === undefined) throw new PddlError(`the word "${token}" stands outside parentheses`);
      list.push(token);
    }
  }
  throw new PddlError(stack.length === 0 ? "the text is empty" : `${stack.length} parentheses are not closed`);
}

/** Reads a problem file. Throws {@link PddlError}. */
export function parseProblem(text: string): Problem {
  const [head, ...sections] = listOf(parseExpression(text), "the problem");
  if (head !== "define") throw new PddlError(`expected (define ...), got ${show(head)}`);
  const objects = new Map<string, string[]>();
  const facts = new Map<string, string[]>();
  const assigned: string[] = [];
  let goal: Formula | null = null;
  for (const section of sections) {
    const [name, ...body] = listOf(section, "a section");
    if (name === ":objects") {
      for (const { name: id, type } of typedList(body)) objects.set(type, [...(objects.get(type) ?? []), id]);
    } else if (name === ":init") {
      for (const fact of body) readFact(fact, facts, assigned);
    } else if (name === ":goal") {
      goal = parseFormula(body[0] ?? [], new Set());
    }
  }
  if (goal === null) throw new PddlError("the problem has no (:goal ...)");
  return { objects, facts: [...facts.values()], assigned, goal };
}

/** @param facts By their text: a state is a set, a fact that is written twice holds once. */
function readFact(fact: Expression, facts: Map<string, string[]>, assigned: string[]): void {
  const [predicate, ...rest] = listOf(fact, "a fact");
  if (predicate === "=") {
    const [, ...ids] = listOf(rest[0] ?? [], "an assigned function");
    for (const id of ids) assigned.push(wordOf(id));
  } else if (predicate !== "not") {
    // Negative initial facts say nothing under the closed-world assumption.
    const words = [wordOf(predicate), ...rest.map(wordOf)];
    facts.set(words.join(" "), words);
  }
}

/** `a b - t c - u` as names with types; without a type it is `object`. */
function typedList(expressions: readonly Expression[]): { name: string; type: string }[] {
  const words = expressions.map(wordOf);
  const typed: { name: string; type: string }[] = [];
  let waiting: string[] = [];
  for (let i = 0; i < words.length; i++) {
    if (words[i] !== "-") {
      waiting.push(words[i] as string);
      continue;
    }
    const type = words[++i];
    if (type === undefined) throw new PddlError("a typed list ends after its dash");
    typed.push(...waiting.map((name) => ({ name, type })));
    waiting = [];
  }
  return [...typed, ...waiting.map((name) => ({ name, type: "object" }))];
}

/** Reads a goal formula; `bound` are the variables of the quantifiers around it. */
export function parseFormula(expression: Expression, bound: ReadonlySet<string>): Formula {
  const [head, ...rest] = listOf(expression, "a formula");
  if (head === undefined) return { kind: "and", parts: [] };
  const word = wordOf(head);
  const part = (index: number): Formula => {
    const inner = rest[index];
    if (inner === undefined) throw new PddlError(`(${word} ...) needs ${index + 1} parts`);
    return parseFormula(inner, bound);
  };
  switch (word) {
    case "and":
    case "or":
      return { kind: word, parts: rest.map((inner) => parseFormula(inner, bound)) };
    case "not":
      return { kind: "not", part: part(0) };
    case "imply":
      return { kind: "or", parts: [{ kind: "not", part: part(0) }, part(1)] };
    case "exists":
    case "forall": {
      const variables = typedList(listOf(rest[0] ?? [], "a quantifier's variables")).map(({ name, type }) => {
        if (!name.startsWith("?")) throw new PddlError(`expected a variable, got "${name}"`);
        return { name: name.slice(1), type };
      });
      const names = new Set([...bound, ...variables.map((variable) => variable.name)]);
      return { kind: word, variables, body: parseFormula(rest[1] ?? [], names) };
    }
    case "=": {
      const [left, right] = rest.map((term) => termOf(term, bound));
      if (left === undefined || right === undefined) throw new PddlError("(= ...) needs 2 terms");
      return { kind: "equal", left, right };
    }
    default:
      return { kind: "atom", predicate: word, terms: rest.map((term) => termOf(term, bound)) };
  }
}

function termOf(expression: Expression, bound: ReadonlySet<string>): Term {
  const word = wordOf(expression);
  if (!word.startsWith("?")) return { constant: word };
  const variable = word.slice(1);
  if (!bound.has(variable)) throw new PddlError(`variable ${word} is not bound by a quantifier`);
  return { variable };
}

function listOf(expression: Expression, what: string): readonly Expression[] {
  if (typeof expression === "string") throw new PddlError(`expected a list for ${what}, got "${expression}"`);
  return expression;
}

function wordOf(expression: Expression | undefined): string {
  if (typeof expression !== "string") throw new PddlError(`expected a word, got ${show(expression)}`);
  return expression;
}

/** An expression as text with single spaces, cut to a readable length. */
function show(expression: Expression | undefined): string {
  const text = canonical(expression ?? []);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

/** The one text of an expression: single spaces, lower case, no comments. */
export function canonical(expression: Expression): string {
  return typeof expression === "string" ? expression : `(${expression.map(canonical).join(" ")})`;
}
