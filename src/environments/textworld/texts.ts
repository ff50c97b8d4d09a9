/** The sentences of the original engine's text grammar. Lists are in the order of raw ids, never of shown names. */
import type { WorldState } from "./state.js";
import { Property, type World } from "./world.js";

/** Answer to everything that is not, literally, an admissible command. */
export const NOTHING_HAPPENS = "Nothing happens.";

/** First paragraph of every first text. */
export const WELCOME = "-= Welcome to TextWorld, ALFRED! =-";

/** `nothing`; `x`; `x, and y` (the comma is kept for two); `x, y, and z`. */
export function list(items: readonly string[]): string {
  if (items.length === 0) return "nothing";
  if (items.length === 1) return items[0] as string;
  return `${items.slice(0, -1).join(", ")}, and ${items[items.length - 1]}`;
}

/** The same with the article of every item, which is always `a`. */
function listOfA(items: readonly string[]): string {
  return list(items.map((item) => `a ${item}`));
}

/**
 * Answer to `look`, or the room of the first text (`first`).
 *
 * Where the agent stands at no receptacle, only the first text lists the receptacles of the room: later the grammar's
 * rule is bound to the agent's own location and finds none.
 */
export function lookText(world: World, state: WorldState, spot: readonly number[], first: boolean): string {
  if (spot.length > 0) {
    const facing = list(spot.map((r) => world.receptacles[r]?.name ?? ""));
    return `You are facing the ${facing}. Next to it, you see ${listOfA(besides(world, state, spot))}.`;
  }
  const seen = first ? world.receptacles.filter((receptacle) => receptacle.location !== null) : [];
  const names = seen.map((receptacle) => receptacle.name);
  return `You are in the middle of a room. Looking quickly around you, you see ${listOfA(names)}.`;
}

/** Objects at the agent's location once for each receptacle of the spot that they were taken out of. */
function besides(world: World, state: WorldState, spot: readonly number[]): string[] {
  if (state.removed.size === 0) return [];
  const receptacles = world.receptacles.length;
  return [...state.removed]
    .sort((a, b) => a - b)
    .filter((pair) => {
      const o = Math.floor(pair / receptacles);
      return spot.includes(pair % receptacles) && state.places[o]?.includes(state.location) === true;
    })
    .map((pair) => world.objects[Math.floor(pair / receptacles)]?.name ?? "");
}

/** The whole first text: welcome, room and task, separated by blank lines. */
export function firstText(world: World, state: WorldState, spot: readonly number[]): string {
  return `${WELCOME}\n\n${lookText(world, state, spot, true)}\n\nYour task is to: ${world.task}.`;
}

/** What there is to see in or on a receptacle. */
export function receptacleText(world: World, state: WorldState, r: number): string {
  const receptacle = world.receptacles[r];
  const name = receptacle?.name ?? "";
  const inside = () => listOfA((state.contents[r] ?? []).map((o) => world.objects[o]?.name ?? ""));
  if (receptacle?.openable !== true) return `On the ${name}, you see ${inside()}.`;
  return state.opened[r] === 1 ? `The ${name} is open. In it, you see ${inside()}.` : `The ${name} is closed.`;
}

/** Conditions of an object in the order in which the grammar tries them. Each needs all of its bits. */
const CONDITIONS: readonly (readonly [bits: number, sentence: (name: string) => string])[] = [
  [Property.clean | Property.hot | Property.sliced, (name) => `This is a hot and clean sliced ${name}.`],
  [Property.clean | Property.cool | Property.sliced, (name) => `This is a cool and clean sliced ${name}.`],
  [Property.clean | Property.sliced, (name) => `This is a clean sliced ${name}.`],
  [Property.hot | Property.sliced, (name) => `This is a hot sliced ${name}.`],
  [Property.cool | Property.sliced, (name) => `This is a cool sliced ${name}.`],
  [Property.clean | Property.hot, (name) => `This is a hot and clean ${name}.`],
  [Property.clean | Property.cool, (name) => `This is a cool and clean ${name}.`],
  [Property.hot, (name) => `This is a hot ${name}.`],
  [Property.clean, (name) => `This is a clean ${name}.`],
  [Property.cool, (name) => `This is a cold ${name}.`],
  [Property.toggleable | Property.toggled, (name) => `This ${name} is on.`],
  // The grammar's next rule, `This ... is off.`, needs an explicit negative fact that no action makes.
  [Property.sliceable | Property.sliced, (name) => `This is a sliced ${name}.`],
];

/** Answer to `examine O`. */
export function objectText(world: World, state: WorldState, o: number): string {
  const object = world.objects[o];
  const name = object?.name ?? "";
  const properties = state.properties[o] ?? 0;
  if ((properties & Property.receptacleObject) !== 0) {
    // An object is never listed inside itself: the grammar wants two different entities.
    const inside = (object?.contents ?? []).filter((c) => c !== o).map((c) => world.objects[c]?.name ?? "");
    return `This is a normal ${name}. In it, you see ${listOfA(inside)}.`;
  }
  for (const [bits, sentence] of CONDITIONS) if ((properties & bits) === bits) return sentence(name);
  return `There's nothing special about ${name}.`;
}

/** Answer to `inventory`. */
export function inventoryText(world: World, state: WorldState): string {
  if (state.held < 0) return "You are not carrying anything.";
  return `You are carrying: a ${world.objects[state.held]?.name ?? ""}.`;
}

const STRIPPED = "[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]+";
const STRIPPED_ENDS = new RegExp(`^${STRIPPED}|${STRIPPED}$`, "g");

/** Removes white space at both ends as Python's `str.strip` does; JavaScript's `trim` knows other characters. */
export function stripCommand(command: string): string {
  return command.replace(STRIPPED_ENDS, "");
}
