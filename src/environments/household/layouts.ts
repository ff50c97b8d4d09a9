/** Room layouts: which receptacles stand in a room. Training and out-of-distribution games have none in common. */
import { EnvironmentError } from "../environment.js";
import { ROOMS, type Room } from "./catalog.js";
import { IntegerRandom } from "./random.js";

/** Number of receptacles of each class, classes in alphabetical order. */
export type Layout = readonly (readonly [receptacleClass: string, count: number])[];

/** Layouts of each kind of room. */
export const LAYOUTS_PER_ROOM = 48;
/** How many of them are kept out of training. */
export const HELD_OUT_LAYOUTS_PER_ROOM = 12;

/** A layout as a text, e.g. `cabinet 2, fridge 1`: equal texts are equal layouts. */
export function layoutName(layout: Layout): string {
  return layout.map(([receptacleClass, count]) => `${receptacleClass} ${count}`).join(", ");
}

/**
 * Layouts of a kind of room with `least` to `most` receptacles, all different.
 *
 * @throws EnvironmentError with code `ENVIRONMENT_BAD_OPTIONS` when there are too few different layouts of that size.
 * @param heldOut - the layouts that no training game has, or those that training games may have
 */
export function layouts(room: Room, least: number, most: number, heldOut: boolean): readonly Layout[] {
  const key = `${room} ${least} ${most}`;
  let all = cache.get(key);
  if (all === undefined) {
    all = sampleLayouts(room, least, most);
    cache.set(key, all);
  }
  return heldOut ? all.slice(-HELD_OUT_LAYOUTS_PER_ROOM) : all.slice(0, -HELD_OUT_LAYOUTS_PER_ROOM);
}

const cache = new Map<string, readonly Layout[]>();

/** Samples after which a range of sizes is taken to be too narrow; the default needs a few hundred. */
const MOST_TRIES = 100_000;

function sampleLayouts(room: Room, least: number, most: number): readonly Layout[] {
  const random = new IntegerRandom(`household@1/layouts/${room}/${least}-${most}`);
  const found = new Map<string, Layout>();
  for (let tries = 0; found.size < LAYOUTS_PER_ROOM; tries++) {
    if (tries === MOST_TRIES) {
      throw new EnvironmentError(
        "ENVIRONMENT_BAD_OPTIONS",
        `Found only ${found.size} of ${LAYOUTS_PER_ROOM} layouts of a ${room} with ${least} to ${most} receptacles.`,
        { hint: "Allow more different numbers of receptacles." },
      );
    }
    const layout = Object.entries(ROOMS[room].receptacles)
      .map(([receptacleClass, [low, high]]) => [receptacleClass, random.between(low, high)] as const)
      .filter(([, count]) => count > 0);
    const size = layout.reduce((sum, [, count]) => sum + count, 0);
    if (size >= least && size <= most) found.set(layoutName(layout), layout);
  }
  return [...found.values()];
}
