/** A `game.tw-pddl` file as a world. */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { EnvironmentError } from "../environment.js";
import { nameEntities } from "../textworld/names.js";
import { compileGoal } from "../textworld/state.js";
import { type Task, taskOfGoal } from "../textworld/task.js";
import {
  OTHER_PREDICATES,
  PROPERTY_OF_PREDICATE,
  type Receptacle,
  type World,
  type WorldObject,
} from "../textworld/world.js";
import { readLanguage, UnsupportedGame } from "./domain.js";
import { PddlError, type Problem, parseProblem } from "./pddl.js";

/** A game ready to be played. */
export interface Game {
  readonly world: World;
  /** The task if it is one of the six kinds; goals of other kinds can be played but have no hand-coded expert. */
  readonly task: Task | null;
  /** Commands that win the game, or null where the file has none. */
  readonly walkthrough: readonly string[] | null;
  /** sha256 of the file in hex. */
  readonly hash: string;
}

/** What a game file says besides its PDDL. */
export interface GameFile {
  readonly pddl_domain: string;
  readonly grammar: string;
  readonly pddl_problem: string;
  /** Undefined where the file does not say. */
  readonly solvable: boolean | undefined;
  readonly walkthrough: readonly string[] | null;
}

/** How entities are called in commands and texts: ALFWorld's shown names, or the ids (as the bare engine does). */
export type Naming = "shown" | "ids";

/** Reads and compiles a game. Throws {@link EnvironmentError} with code `ENVIRONMENT_BAD_DATA`. */
export async function loadGame(path: string, naming: Naming = "shown"): Promise<Game> {
  return compileGame(await readBytes(path), path, naming);
}

/** The same from bytes; `path` is for messages only. */
export function compileGame(bytes: Uint8Array, path: string, naming: Naming = "shown"): Game {
  const file = parseGameFile(bytes, path);
  try {
    const { wording, task } = readLanguage(file.pddl_domain, file.grammar);
    const world = { ...buildWorld(parseProblem(file.pddl_problem), naming), wording, task };
    compileGoal(world);
    return {
      world,
      task: taskOfGoal(world.goal),
      walkthrough: file.walkthrough,
      hash: createHash("sha256").update(bytes).digest("hex"),
    };
  } catch (cause) {
    if (!(cause instanceof UnsupportedGame || cause instanceof PddlError || cause instanceof RangeError)) throw cause;
    throw badGame(path, cause.message, cause);
  }
}

/** Reads the JSON of a game file and checks its keys. Throws {@link EnvironmentError}. */
export function parseGameFile(bytes: Uint8Array, path: string): GameFile {
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    throw badGame(path, "it is not a JSON object", cause);
  }
  if (typeof json !== "object" || json === null) throw badGame(path, "it is not a JSON object");
  const { pddl_domain, grammar, pddl_problem, solvable, walkthrough } = json as Record<string, unknown>;
  if (typeof pddl_domain !== "string" || typeof grammar !== "string" || typeof pddl_problem !== "string") {
    throw badGame(path, "it lacks one of the texts pddl_domain, grammar, pddl_problem");
  }
  const plan = walkthrough ?? null;
  if (plan !== null && !(Array.isArray(plan) && plan.every((command) => typeof command === "string"))) {
    throw badGame(path, "its walkthrough is not a list of commands");
  }
  return {
    pddl_domain,
    grammar,
    pddl_problem,
    solvable: typeof solvable === "boolean" ? solvable : undefined,
    walkthrough: plan as readonly string[] | null,
  };
}

/** Reads a file, turning what goes wrong into an {@link EnvironmentError}. */
export async function readBytes(path: string): Promise<Uint8Array> {
  try {
    return await readFile(path);
  } catch (cause) {
    throw badGame(path, "it cannot be read", cause);
  }
}

function badGame(path: string, why: string, cause?: unknown): EnvironmentError {
  return new EnvironmentError("ENVIRONMENT_BAD_DATA", `Cannot play the game ${path}: ${why}.`, {
    hint: "Supported are single-agent game.tw-pddl files of ALFWorld's releases 2.1.1 to 2.1.3.",
    cause,
  });
}

const RECEPTACLE_FACTS: ReadonlySet<string> = new Set(["receptacletype", "receptacleatlocation", "openable", "opened"]);

/** The world of a problem, but for what the grammar says. Throws {@link UnsupportedGame}. */
function buildWorld(problem: Problem, naming: Naming): Omit<World, "wording" | "task"> {
  const named = [...problem.facts.flatMap(([, ...ids]) => ids), ...problem.assigned];
  const names = naming === "shown" ? nameEntities(named) : new Map(named.map((id) => [id, id]));
  const nameOf = (id: string) => names.get(id) ?? id;

  const facts = new Map<string, (readonly string[])[]>();
  for (const [predicate = "", ...ids] of problem.facts) {
    const known = facts.get(predicate);
    if (known === undefined) facts.set(predicate, [ids]);
    else known.push(ids);
  }
  const of = (predicate: string) => facts.get(predicate) ?? [];
  const firsts = (predicates: Iterable<string>) => [...predicates].flatMap((p) => of(p).map(([id = ""]) => id));
  const sorted = (ids: Iterable<string>) => [...new Set(ids)].sort();
  const index = (ids: readonly string[]) => new Map(ids.map((id, i) => [id, i]));

  const seconds = (predicate: string) => of(predicate).map(([, id = ""]) => id);
  const receptacleIds = sorted([...firsts(RECEPTACLE_FACTS), ...seconds("inreceptacle")]);
  const objectIds = sorted([
    ...firsts([
      ...Object.keys(PROPERTY_OF_PREDICATE),
      "objecttype",
      "inreceptacle",
      "objectatlocation",
      "inreceptacleobject",
    ]),
    ...seconds("inreceptacleobject"),
    ...seconds("holds"),
  ]);
  const locationIds = sorted(["receptacleatlocation", "objectatlocation", "atlocation"].flatMap(seconds));
  const receptacleOf = index(receptacleIds);
  const objectOf = index(objectIds);
  const locationOf = index(locationIds);
  const group = (predicate: string, key: 0 | 1, numbers: ReadonlyMap<string, number>) => {
    const groups = new Map<string, number[]>();
    for (const ids of of(predicate)) {
      const number = numbers.get(ids[1 - key] ?? "");
      if (number === undefined) throw new UnsupportedGame(`its fact (${predicate} ${ids.join(" ")}) makes no sense`);
      groups.set(
        ids[key] ?? "",
        [...(groups.get(ids[key] ?? "") ?? []), number].sort((a, b) => a - b),
      );
    }
    return groups;
  };
  const types = (predicate: string, id: string) =>
    of(predicate).flatMap(([of, type]) => (of === id && type ? [type] : []));

  const standing = group("receptacleatlocation", 0, locationOf);
  const openable = new Set(firsts(["openable"]));
  const opened = new Set(firsts(["opened"]));
  const receptacles: Receptacle[] = receptacleIds.map((id) => {
    const [location = null, ...more] = standing.get(id) ?? [];
    if (more.length > 0) throw new UnsupportedGame(`its receptacle ${id} stands at several locations`);
    return {
      id,
      name: nameOf(id),
      types: types("receptacletype", id),
      location,
      openable: openable.has(id),
      opened: opened.has(id),
    };
  });

  const properties = new Map<string, number>();
  for (const [predicate, bit] of Object.entries(PROPERTY_OF_PREDICATE)) {
    for (const [id = ""] of of(predicate)) properties.set(id, (properties.get(id) ?? 0) | bit);
  }
  const inside = group("inreceptacle", 0, receptacleOf);
  const places = group("objectatlocation", 0, locationOf);
  const contents = group("inreceptacleobject", 1, objectOf);
  const objects: WorldObject[] = objectIds.map((id) => ({
    id,
    name: nameOf(id),
    types: types("objecttype", id),
    receptacles: inside.get(id) ?? [],
    locations: places.get(id) ?? [],
    contents: contents.get(id) ?? [],
    properties: properties.get(id) ?? 0,
  }));

  const agents = problem.objects.get("agent") ?? [];
  const [at, ...elsewhere] = of("atlocation");
  if (agents.length !== 1 || at === undefined || at[0] !== agents[0] || elsewhere.length > 0) {
    throw new UnsupportedGame(`it has ${agents.length} agents at ${of("atlocation").length} locations, and not 1 at 1`);
  }
  const holding = of("holds");
  if (holding.length > 1 || holding.length !== of("holdsany").length) {
    throw new UnsupportedGame("its facts about what the agent holds contradict each other");
  }
  return {
    goal: problem.goal,
    agent: agents[0] as string,
    start: locationOf.get(at[1] ?? "") as number,
    held: holding.length === 0 ? null : (objectOf.get(holding[0]?.[1] ?? "") as number),
    locations: locationIds.map((id) => ({ id, name: nameOf(id) })),
    receptacles,
    objects,
    canContain: new Set(of("cancontain").map((pair) => pair.join(" "))),
    otherFacts: new Set([...OTHER_PREDICATES].flatMap((p) => of(p).map((ids) => [p, ...ids].join(" ")))),
    entities: entitiesByType(problem),
  };
}

/** Declared entities by type; `object` is PDDL's root type and has them all. */
function entitiesByType(problem: Problem): Map<string, readonly string[]> {
  const entities = new Map<string, readonly string[]>(problem.objects);
  for (const type of ["agent", "location", "receptacle", "object", "rtype", "otype"]) {
    if (!entities.has(type)) entities.set(type, []);
  }
  entities.set("object", [...new Set([...problem.objects.values()].flat())]);
  return entities;
}
