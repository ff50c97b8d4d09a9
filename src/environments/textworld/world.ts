/**
 * A world of the ALFWorld kind as data: rooms full of receptacles and objects, one agent, one goal.
 *
 * Two sources make worlds: the household generator and the loader of real `game.tw-pddl` files. The rules that move a
 * world are in `rules.ts`, its sentences in `texts.ts`.
 */
import type { Formula } from "./formula.js";

/** Something that holds objects and stands at a place, e.g. `cabinet 8`. */
export interface Receptacle {
  /** Lower-case id; receptacles are sorted by it, and so are all texts. */
  readonly id: string;
  /** Shown name. */
  readonly name: string;
  /** Lower-case PDDL types, e.g. `["cabinettype"]`. */
  readonly types: readonly string[];
  /** Index into {@link World.locations}, or null for one that cannot be reached. */
  readonly location: number | null;
  readonly openable: boolean;
  /** Open at the start. */
  readonly opened: boolean;
}

/** Something that can be in a receptacle, e.g. `mug 2`. */
export interface WorldObject {
  /** Lower-case id; objects are sorted by it, and so are all texts. */
  readonly id: string;
  /** Shown name. */
  readonly name: string;
  /** Lower-case PDDL types, e.g. `["mugtype"]`. */
  readonly types: readonly string[];
  /** Receptacles it is in at the start, as indices; real games sometimes have two. */
  readonly receptacles: readonly number[];
  /** Locations it is at, as indices. What can be sliced depends on this and not on the receptacle. */
  readonly locations: readonly number[];
  /** Objects inside it, as indices, ascending. Nothing ever changes this. */
  readonly contents: readonly number[];
  /** What can be done with it, and its condition at the start: a sum of {@link Property} bits. */
  readonly properties: number;
}

/** Bits of {@link WorldObject.properties}. The first group never changes; the second is the initial condition. */
export const Property = {
  pickupable: 1 << 0,
  cleanable: 1 << 1,
  heatable: 1 << 2,
  coolable: 1 << 3,
  sliceable: 1 << 4,
  toggleable: 1 << 5,
  receptacleObject: 1 << 6,
  clean: 1 << 7,
  hot: 1 << 8,
  cool: 1 << 9,
  sliced: 1 << 10,
  toggled: 1 << 11,
  on: 1 << 12,
} as const;

/** Which bit each of the domain's predicates about one object is. */
export const PROPERTY_OF_PREDICATE: Readonly<Record<string, number>> = {
  pickupable: Property.pickupable,
  cleanable: Property.cleanable,
  heatable: Property.heatable,
  coolable: Property.coolable,
  sliceable: Property.sliceable,
  toggleable: Property.toggleable,
  isreceptacleobject: Property.receptacleObject,
  isclean: Property.clean,
  ishot: Property.hot,
  iscool: Property.cool,
  issliced: Property.sliced,
  istoggled: Property.toggled,
  ison: Property.on,
};

/** Predicates of the domain that no action changes, no text shows and no other field of a world represents. */
export const OTHER_PREDICATES: ReadonlySet<string> = new Set([
  "isreceptacleobjectfull",
  "wasinreceptacle",
  "examined",
  "holdsanyreceptacleobject",
  "full",
  "moveable",
]);

/** The two published sets of sentences. They differ in three places. */
export interface Wording {
  /** `put O in/on R` (games up to 2.1.1) or `move O to R` (from 2.1.2 on). */
  readonly put: "put" | "move";
  /** What `You arrive at ...` names: the numbered location (up to 2.1.1) or the receptacle. */
  readonly arrival: "location" | "receptacle";
  /** Answer to `help`, or null where there is no such command (up to 2.1.1). */
  readonly help: string | null;
}

const HELP_LINES = [
  ["look", "look around your current location"],
  ["inventory", "check your current inventory"],
  ["go to (receptacle)", "move to a receptacle"],
  ["open (receptacle)", "open a receptacle"],
  ["close (receptacle)", "close a receptacle"],
  ["take (object) from (receptacle)", "take an object from a receptacle"],
  ["move (object) to (receptacle)", "place an object in or on a receptacle"],
  ["examine (something)", "examine a receptacle or an object"],
  ["use (object)", "use an object"],
  ["heat (object) with (receptacle)", "heat an object using a receptacle"],
  ["clean (object) with (receptacle)", "clean an object using a receptacle"],
  ["cool (object) with (receptacle)", "cool an object using a receptacle"],
  ["slice (object) with (object)", "slice an object using a sharp object"],
] as const;

/** Wording of the games from 2.1.2 on. */
export const MOVE_WORDING: Wording = {
  put: "move",
  arrival: "receptacle",
  // The original's line for `move` is padded one column short of the others.
  help: `Available commands:\n${HELP_LINES.map(([command, meaning]) =>
    command.startsWith("move") ? `  ${command}:  ${meaning}\n` : `  ${`${command}:`.padEnd(33)} ${meaning}\n`,
  ).join("")}`,
};

/** Wording of the games up to 2.1.1, and of most published trajectories. */
export const PUT_WORDING: Wording = { put: "put", arrival: "location", help: null };

/** A whole world at its start. */
export interface World {
  /** Goal sentence without the full stop, e.g. `put a clean mug in coffeemachine`. */
  readonly task: string;
  readonly goal: Formula;
  readonly wording: Wording;
  /** Lower-case id of the agent. */
  readonly agent: string;
  /** Where the agent starts: index into {@link locations}. */
  readonly start: number;
  /** Object in the agent's hand at the start, or null. */
  readonly held: number | null;
  readonly locations: readonly { readonly id: string; readonly name: string }[];
  readonly receptacles: readonly Receptacle[];
  readonly objects: readonly WorldObject[];
  /** Pairs `<receptacle type> <object type>` that fit. */
  readonly canContain: ReadonlySet<string>;
  /** Facts of {@link OTHER_PREDICATES}, which only a goal may ask for: `<predicate> <id> ...`. */
  readonly otherFacts: ReadonlySet<string>;
  /** All entities by PDDL type, for the goal's quantifiers. `object` is the root type and has all of them. */
  readonly entities: ReadonlyMap<string, readonly string[]>;
}
