/**
 * What the generated houses are made of: a part of ALFWorld's classes, with ALFWorld's properties and its table of what
 * may hold what.
 */
import { placesOf } from "../textworld/likely.js";
import { Property } from "../textworld/world.js";
import { IntegerRandom } from "./random.js";

/** Kinds of rooms. A house is one room, as in ALFWorld. */
export type Room = "kitchen" | "bathroom" | "bedroom" | "livingroom";

/** What may stand and lie in a room. */
export interface RoomCatalog {
  /** Receptacle classes with the least and the largest number of them. */
  readonly receptacles: Readonly<Record<string, readonly [least: number, most: number]>>;
  /** Object classes. */
  readonly objects: readonly string[];
  /** Lamp classes; empty in rooms without tasks of looking at something. */
  readonly lamps: readonly string[];
}

/** The rooms. */
export const ROOMS: Readonly<Record<Room, RoomCatalog>> = {
  kitchen: {
    receptacles: {
      cabinet: [1, 3],
      coffeemachine: [0, 1],
      countertop: [1, 2],
      diningtable: [0, 1],
      drawer: [0, 2],
      fridge: [1, 1],
      garbagecan: [0, 1],
      microwave: [1, 1],
      shelf: [0, 2],
      sinkbasin: [1, 1],
      stoveburner: [0, 2],
    },
    objects:
      "apple bowl bread cup dishsponge egg fork knife lettuce mug pan plate potato saltshaker spoon tomato".split(" "),
    lamps: [],
  },
  bathroom: {
    receptacles: {
      bathtubbasin: [0, 1],
      cabinet: [0, 3],
      countertop: [1, 2],
      drawer: [0, 3],
      garbagecan: [0, 1],
      handtowelholder: [0, 1],
      shelf: [0, 2],
      sinkbasin: [1, 2],
      toilet: [1, 1],
      toiletpaperhanger: [0, 1],
    },
    objects: "candle cloth dishsponge handtowel soapbar soapbottle spraybottle tissuebox toiletpaper".split(" "),
    lamps: [],
  },
  bedroom: {
    receptacles: {
      armchair: [0, 1],
      bed: [1, 1],
      desk: [1, 2],
      drawer: [1, 3],
      dresser: [0, 1],
      garbagecan: [0, 1],
      shelf: [0, 3],
      sidetable: [0, 2],
    },
    objects: "alarmclock book cd cellphone creditcard keychain laptop pen pencil pillow".split(" "),
    lamps: ["desklamp", "floorlamp"],
  },
  livingroom: {
    receptacles: {
      armchair: [0, 2],
      cabinet: [0, 2],
      coffeetable: [1, 1],
      diningtable: [0, 1],
      drawer: [0, 3],
      dresser: [0, 1],
      garbagecan: [0, 1],
      ottoman: [0, 1],
      shelf: [0, 2],
      sidetable: [1, 2],
      sofa: [1, 1],
    },
    objects: "book box creditcard keychain laptop newspaper pillow remotecontrol statue vase watch".split(" "),
    lamps: ["desklamp", "floorlamp"],
  },
};

/** Receptacle classes that always open and close. */
export const ALWAYS_OPENABLE: ReadonlySet<string> = new Set(["fridge", "microwave"]);
/** Receptacle classes some of which open and close. */
export const MOSTLY_OPENABLE: ReadonlySet<string> = new Set(["cabinet", "drawer"]);

const words = (text: string): ReadonlySet<string> => new Set(text.split(" "));
const CLEANABLE = words(
  "apple bowl cloth cup dishsponge egg fork knife lettuce mug pan plate potato soapbar spoon tomato",
);
const HEATABLE = words("apple bread cup egg mug plate potato tomato");
const COOLABLE = words("apple bowl bread cup egg lettuce mug pan plate potato tomato");
const SLICEABLE = words("apple bread egg lettuce potato tomato");
const RECEPTACLE_OBJECTS = words("bowl box cup mug pan plate");
const LAMPS = words("desklamp floorlamp");

/** {@link Property} bits of an object class at the start of an episode. */
export function propertiesOf(objectClass: string): number {
  if (LAMPS.has(objectClass)) return Property.toggleable;
  return (
    Property.pickupable |
    (CLEANABLE.has(objectClass) ? Property.cleanable : 0) |
    (HEATABLE.has(objectClass) ? Property.heatable : 0) |
    (COOLABLE.has(objectClass) ? Property.coolable : 0) |
    (SLICEABLE.has(objectClass) ? Property.sliceable : 0) |
    (RECEPTACLE_OBJECTS.has(objectClass) ? Property.receptacleObject : 0)
  );
}

/** Receptacle classes in this catalog. */
const RECEPTACLE_CLASSES = new Set(Object.values(ROOMS).flatMap((room) => Object.keys(room.receptacles)));

/**
 * Pairs `<object class> <receptacle class>` that never occur in training games: not as a goal, not as a place at the
 * start, not as something that fits. About a third of each object's pairs.
 */
export const HELD_OUT_PAIRS: ReadonlySet<string> = holdOut();

function holdOut(): Set<string> {
  const held = new Set<string>();
  const classes = [...new Set(Object.values(ROOMS).flatMap((room) => room.objects))].sort();
  for (const objectClass of classes) {
    const places = [...placesOf(objectClass)].filter((place) => RECEPTACLE_CLASSES.has(place)).sort();
    const shuffled = new IntegerRandom(`household@1/held-out/${objectClass}`).shuffle(places);
    for (const place of shuffled.slice(0, Math.floor(places.length / 3))) held.add(`${objectClass} ${place}`);
  }
  return held;
}

/** Whether looking at an object of a class under a lamp of a class is kept out of training. One lamp for each object. */
export function isHeldOutLamp(objectClass: string, lampClass: string): boolean {
  return new IntegerRandom(`household@1/held-out-lamp/${objectClass}`).pick(["desklamp", "floorlamp"]) === lampClass;
}
