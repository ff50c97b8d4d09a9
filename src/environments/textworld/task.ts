/** ALFWorld's six kinds of task: as data, as a goal formula and as a sentence. */
import type { Formula, Term } from "./formula.js";

/** The six kinds, by their published names. */
export const TASK_KINDS = [
  "pick_and_place_simple",
  "look_at_obj_in_light",
  "pick_clean_then_place_in_recep",
  "pick_heat_then_place_in_recep",
  "pick_cool_then_place_in_recep",
  "pick_two_obj_and_place",
] as const;

/** One of the six kinds of task. */
export type TaskKind = (typeof TASK_KINDS)[number];

/** What is done to an object before it is put away. */
export type Treatment = "clean" | "heat" | "cool";

/** A task in data form. Classes are shown classes, e.g. `mug`, `sinkbasin`. */
export interface Task {
  readonly kind: TaskKind;
  /** Class of the object to be moved or looked at. */
  readonly object: string;
  /** Class of the receptacle it goes to; null for `look_at_obj_in_light`. */
  readonly receptacle: string | null;
  /** Class of the lamp; null but for `look_at_obj_in_light`. */
  readonly lamp: string | null;
}

/** What a kind of task asks to be done to its object, or null. */
export function treatmentOf(kind: TaskKind): Treatment | null {
  if (kind === "pick_clean_then_place_in_recep") return "clean";
  if (kind === "pick_heat_then_place_in_recep") return "heat";
  if (kind === "pick_cool_then_place_in_recep") return "cool";
  return null;
}

/** The class of receptacle in which a treatment is done. */
export function applianceOf(treatment: Treatment): string {
  return { clean: "sinkbasin", heat: "microwave", cool: "fridge" }[treatment];
}

const SENTENCES: Readonly<Record<TaskKind, readonly [string, string]>> = {
  pick_and_place_simple: ["put a {obj} in {recep}", "put some {obj} on {recep}"],
  look_at_obj_in_light: ["look at {obj} under the {lamp}", "examine the {obj} with the {lamp}"],
  pick_clean_then_place_in_recep: ["put a clean {obj} in {recep}", "clean some {obj} and put it in {recep}"],
  pick_heat_then_place_in_recep: ["put a hot {obj} in {recep}", "heat some {obj} and put it in {recep}"],
  pick_cool_then_place_in_recep: ["put a cool {obj} in {recep}", "cool some {obj} and put it in {recep}"],
  pick_two_obj_and_place: ["put two {obj} in {recep}", "find two {obj} and put them in {recep}"],
};

/** One of the two published sentences of a task (`variant` 0 or 1), without a full stop. */
export function taskSentence(task: Task, variant: 0 | 1): string {
  return SENTENCES[task.kind][variant]
    .replace("{obj}", task.object)
    .replace("{recep}", task.receptacle ?? "")
    .replace("{lamp}", task.lamp ?? "");
}

/** The task that one of the published sentences asks for, or null for any other sentence. */
export function parseTaskSentence(sentence: string): Task | null {
  for (const kind of TASK_KINDS) {
    for (const template of SENTENCES[kind]) {
      const pattern = template.replace(/\{(obj|recep|lamp)\}/g, "(?<$1>[a-z]+)");
      const groups = new RegExp(`^${pattern}$`).exec(sentence)?.groups;
      if (groups === undefined) continue;
      return { kind, object: groups.obj ?? "", receptacle: groups.recep ?? null, lamp: groups.lamp ?? null };
    }
  }
  return null;
}

const variable = (name: string): Term => ({ variable: name });
const atom = (predicate: string, ...terms: Term[]): Formula => ({ kind: "atom", predicate, terms });
const typed = (predicate: string, name: string, type: string): Formula =>
  atom(predicate, variable(name), { constant: `${type}type` });

/** The goal of a task, as ALFWorld's goal library states it. */
export function goalFormula(task: Task): Formula {
  if (task.kind === "look_at_obj_in_light") {
    const lit: Formula = {
      kind: "exists",
      variables: [
        { name: "ot", type: "object" },
        { name: "r", type: "receptacle" },
        { name: "a", type: "agent" },
        { name: "l", type: "location" },
      ],
      body: {
        kind: "and",
        parts: [
          typed("objecttype", "ot", task.lamp ?? ""),
          atom("toggleable", variable("ot")),
          atom("istoggled", variable("ot")),
          atom("receptacleatlocation", variable("r"), variable("l")),
          atom("atlocation", variable("a"), variable("l")),
          atom("inreceptacle", variable("ot"), variable("r")),
        ],
      },
    };
    const held: Formula = {
      kind: "exists",
      variables: [
        { name: "o", type: "object" },
        { name: "a", type: "agent" },
      ],
      body: {
        kind: "and",
        parts: [typed("objecttype", "o", task.object), atom("holds", variable("a"), variable("o"))],
      },
    };
    return { kind: "and", parts: [lit, held] };
  }
  const inPlace = (name: string): Formula[] => [
    typed("objecttype", name, task.object),
    typed("receptacletype", "r", task.receptacle ?? ""),
    ...conditions(task.kind, name),
    atom("inreceptacle", variable(name), variable("r")),
  ];
  const parts = inPlace("o1");
  if (task.kind === "pick_two_obj_and_place") {
    const other: Formula = { kind: "not", part: { kind: "equal", left: variable("o1"), right: variable("o2") } };
    const second: Formula = { kind: "and", parts: [other, ...inPlace("o2")] };
    parts.push({ kind: "exists", variables: [{ name: "o2", type: "object" }], body: second });
  }
  const body: Formula = {
    kind: "exists",
    variables: [{ name: "o1", type: "object" }],
    body: { kind: "and", parts },
  };
  return { kind: "exists", variables: [{ name: "r", type: "receptacle" }], body };
}

const TREATED: Readonly<Record<Treatment, readonly [able: string, done: string]>> = {
  clean: ["cleanable", "isclean"],
  heat: ["heatable", "ishot"],
  cool: ["coolable", "iscool"],
};

function conditions(kind: TaskKind, name: string): Formula[] {
  const treatment = treatmentOf(kind);
  return treatment === null ? [] : TREATED[treatment].map((predicate) => atom(predicate, variable(name)));
}

/** Predicates a goal of the six kinds may have; any other makes it a goal of another kind. */
const TASK_PREDICATES: ReadonlySet<string> = new Set([
  "objecttype",
  "receptacletype",
  "inreceptacle",
  "holds",
  "toggleable",
  "istoggled",
  "receptacleatlocation",
  "atlocation",
  ...Object.values(TREATED).flat(),
]);

/** The task that a goal formula states, or null for a goal that is not of the six kinds. */
export function taskOfGoal(goal: Formula): Task | null {
  const atoms: { predicate: string; names: string[] }[] = [];
  if (!collect(goal, atoms) || atoms.some(({ predicate }) => !TASK_PREDICATES.has(predicate))) return null;
  const of = (predicate: string) => atoms.filter((found) => found.predicate === predicate).map(({ names }) => names);
  const types = new Map(of("objecttype").map(([name = "", type = ""]) => [name, type.replace(/type$/, "")]));
  const classes = (names: readonly string[]) => [...new Set(names.map((name) => types.get(name) ?? ""))];
  const lamps = classes(of("istoggled").map(([name = ""]) => name));
  if (lamps.length > 0) {
    const held = classes(of("holds").map(([, name = ""]) => name));
    if (held.length !== 1 || lamps.length !== 1 || of("receptacletype").length > 0) return null;
    return { kind: "look_at_obj_in_light", object: held[0] as string, receptacle: null, lamp: lamps[0] as string };
  }
  const placed = [...new Set(of("inreceptacle").map(([name = ""]) => name))];
  const objects = classes(placed);
  const receptacles = [...new Set(of("receptacletype").map(([, type = ""]) => type.replace(/type$/, "")))];
  const treatments = (Object.keys(TREATED) as Treatment[]).filter((treatment) => of(TREATED[treatment][1]).length > 0);
  if (objects.length !== 1 || receptacles.length !== 1 || treatments.length > 1 || of("holds").length > 0) return null;
  if (placed.length > 2 || (placed.length === 2 && treatments.length > 0)) return null;
  const kind: TaskKind =
    placed.length === 2
      ? "pick_two_obj_and_place"
      : (TASK_KINDS.find((candidate) => treatmentOf(candidate) === (treatments[0] ?? null)) as TaskKind);
  return { kind, object: objects[0] as string, receptacle: receptacles[0] as string, lamp: null };
}

/** Gathers the atoms of a formula of conjunctions and existence only; false for any other formula. */
function collect(formula: Formula, atoms: { predicate: string; names: string[] }[]): boolean {
  switch (formula.kind) {
    case "and":
      return formula.parts.every((part) => collect(part, atoms));
    case "exists":
      return collect(formula.body, atoms);
    case "atom":
      atoms.push({
        predicate: formula.predicate,
        names: formula.terms.map((term) => ("variable" in term ? term.variable : term.constant)),
      });
      return true;
    case "not":
      return formula.part.kind === "equal";
    default:
      return false;
  }
}
