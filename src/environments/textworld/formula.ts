/**
 * Goals as first-order formulas over the facts of a world, and their reduction to the few facts that can change.
 *
 * A formula is grounded once, when a world is compiled: facts that no action can change are replaced by their truth, so
 * that what is tested after every step are only the pairs of object and receptacle that could satisfy the goal.
 */

/** A variable of an enclosing quantifier, or the id of an entity. */
export type Term = { readonly variable: string } | { readonly constant: string };

/** Predicates are lower-cased PDDL names, e.g. `inreceptacle`. */
export type Formula =
  | { readonly kind: "and" | "or"; readonly parts: readonly Formula[] }
  | { readonly kind: "not"; readonly part: Formula }
  | {
      readonly kind: "exists" | "forall";
      /** Bound variables with the type whose entities they range over. */
      readonly variables: readonly { readonly name: string; readonly type: string }[];
      readonly body: Formula;
    }
  | { readonly kind: "equal"; readonly left: Term; readonly right: Term }
  | { readonly kind: "atom"; readonly predicate: string; readonly terms: readonly Term[] };

/** An atom: its constant truth, or a test of the present state. */
export type AtomTest<State> = boolean | ((state: State) => boolean);

/** What grounding needs to know of a world. */
export interface Grounding<State> {
  /** Ids of all entities of a type. Throws for a type the world does not know. */
  entities(type: string): readonly string[];
  /** The test of one ground atom. Throws for a predicate the world does not know. */
  atom(predicate: string, ids: readonly string[]): AtomTest<State>;
}

/** Values of the variables bound so far. One map serves a whole grounding: quantifiers set and restore their entries. */
type Bindings = Map<string, string>;

/** Grounds a closed formula; the result is constant or a function of the state. */
export function ground<State>(formula: Formula, world: Grounding<State>): AtomTest<State> {
  return reduce(formula, new Map(), world);
}

function reduce<State>(formula: Formula, bindings: Bindings, world: Grounding<State>): AtomTest<State> {
  switch (formula.kind) {
    case "and":
      return join(formula.parts, false, (part) => reduce(part, bindings, world));
    case "or":
      return join(formula.parts, true, (part) => reduce(part, bindings, world));
    case "not": {
      const test = reduce(formula.part, bindings, world);
      return typeof test === "boolean" ? !test : (state) => !test(state);
    }
    case "equal":
      return idOf(formula.left, bindings) === idOf(formula.right, bindings);
    case "atom":
      return world.atom(
        formula.predicate,
        formula.terms.map((term) => idOf(term, bindings)),
      );
    case "exists":
    case "forall":
      return join(instances(formula, 0, bindings, world), formula.kind === "exists", (bound) =>
        reduce(formula.body, bound, world),
      );
  }
}

/** Disjunction (`absorbing` = true) or conjunction (false) of the tests of some parts, stopping at the absorbing one. */
function join<State, Part>(
  parts: Iterable<Part>,
  absorbing: boolean,
  test: (part: Part) => AtomTest<State>,
): AtomTest<State> {
  const open: ((state: State) => boolean)[] = [];
  for (const part of parts) {
    const result = test(part);
    if (result === absorbing) return absorbing;
    if (typeof result === "function") open.push(result);
  }
  if (open.length === 0) return !absorbing;
  if (open.length === 1) return open[0] as (state: State) => boolean;
  return (state) => {
    for (const part of open) if (part(state) === absorbing) return absorbing;
    return !absorbing;
  };
}

/**
 * Binds a quantifier's variables in all ways, one variable after the other so that hopeless prefixes are left early. What
 * is yielded is always the same map, valid until the next value is asked for.
 */
function* instances<State>(
  formula: Extract<Formula, { kind: "exists" | "forall" }>,
  depth: number,
  bindings: Bindings,
  world: Grounding<State>,
): Generator<Bindings> {
  const variable = formula.variables[depth];
  if (variable === undefined) {
    yield bindings;
    return;
  }
  const shadowed = bindings.get(variable.name);
  try {
    for (const id of world.entities(variable.type)) {
      bindings.set(variable.name, id);
      if (formula.kind === "exists" && refuted(formula.body, variable.name, bindings, world)) continue;
      yield* instances(formula, depth + 1, bindings, world);
    }
  } finally {
    if (shadowed === undefined) bindings.delete(variable.name);
    else bindings.set(variable.name, shadowed);
  }
}

/** Whether a part of a conjunction that the variable `bound` last completed is false for good. */
function refuted<State>(body: Formula, bound: string, bindings: Bindings, world: Grounding<State>): boolean {
  if (body.kind === "and") return body.parts.some((part) => refuted(part, bound, bindings, world));
  if (body.kind !== "atom") return false;
  if (!body.terms.some((term) => "variable" in term && term.variable === bound)) return false;
  if (body.terms.some((term) => "variable" in term && !bindings.has(term.variable))) return false;
  return reduce(body, bindings, world) === false;
}

function idOf(term: Term, bindings: Bindings): string {
  if ("constant" in term) return term.constant;
  const id = bindings.get(term.variable);
  if (id === undefined) throw new RangeError(`variable ?${term.variable} is not bound by a quantifier`);
  return id;
}
