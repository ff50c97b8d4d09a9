/** The part of a world that changes, and the facts a goal may ask of it. */
import { type AtomTest, type Grounding, ground } from "./formula.js";
import { OTHER_PREDICATES, PROPERTY_OF_PREDICATE, type World } from "./world.js";

/** A world at one moment. Object and receptacle numbers index {@link World.objects} and {@link World.receptacles}. */
export interface WorldState {
  /** Location of the agent. */
  location: number;
  /** Object in the agent's hand, or -1. */
  held: number;
  /** 1 for each open receptacle. */
  readonly opened: Uint8Array;
  /** Objects in each receptacle, ascending. */
  readonly contents: number[][];
  /** Locations each object is at. */
  readonly places: number[][];
  /** {@link Property} bits of each object. */
  readonly properties: Uint16Array;
  /**
   * Pairs (object, receptacle) whose `inReceptacle` an action has deleted and none has restored, as
   * `object * receptacles + receptacle`. Only these explicit negative facts make `look` list an object.
   */
  readonly removed: Set<number>;
}

/** The state in which a world starts. */
export function initialState(world: World): WorldState {
  const contents: number[][] = world.receptacles.map(() => []);
  world.objects.forEach((object, o) => {
    for (const r of object.receptacles) contents[r]?.push(o);
  });
  return {
    location: world.start,
    held: world.held ?? -1,
    opened: Uint8Array.from(world.receptacles, (receptacle) => (receptacle.opened ? 1 : 0)),
    contents,
    places: world.objects.map((object) => [...object.locations]),
    properties: Uint16Array.from(world.objects, (object) => object.properties),
    removed: new Set(),
  };
}

const compiledGoals = new WeakMap<World, (state: WorldState) => boolean>();

/**
 * The world's goal as a test of its state, compiled once for each world.
 *
 * @throws RangeError when the goal uses a predicate or a type that the world does not know.
 */
export function compileGoal(world: World): (state: WorldState) => boolean {
  const known = compiledGoals.get(world);
  if (known !== undefined) return known;
  const test = ground(world.goal, grounding(world));
  const goal = typeof test === "boolean" ? () => test : test;
  compiledGoals.set(world, goal);
  return goal;
}

function grounding(world: World): Grounding<WorldState> {
  const receptacles = indexById(world.receptacles);
  const objects = indexById(world.objects);
  const locations = indexById(world.locations);

  function atom(predicate: string, ids: readonly string[]): AtomTest<WorldState> {
    const [first = "", second = ""] = ids;
    const r = receptacles.get(first);
    const o = objects.get(first);
    const property = PROPERTY_OF_PREDICATE[predicate];
    if (property !== undefined) {
      return o === undefined ? false : (state) => ((state.properties[o] ?? 0) & property) !== 0;
    }
    switch (predicate) {
      case "objecttype":
        return o !== undefined && world.objects[o]?.types.includes(second) === true;
      case "receptacletype":
        return r !== undefined && world.receptacles[r]?.types.includes(second) === true;
      case "receptacleatlocation": {
        const location = r === undefined ? null : world.receptacles[r]?.location;
        return location != null && world.locations[location]?.id === second;
      }
      case "openable":
        return r !== undefined && world.receptacles[r]?.openable === true;
      case "cancontain":
        return world.canContain.has(`${first} ${second}`);
      case "inreceptacleobject": {
        const outer = objects.get(second);
        return o !== undefined && outer !== undefined && world.objects[outer]?.contents.includes(o) === true;
      }
      case "opened":
        return r === undefined ? false : (state) => state.opened[r] === 1;
      case "inreceptacle": {
        const into = receptacles.get(second);
        if (o === undefined || into === undefined) return false;
        return (state) => state.contents[into]?.includes(o) === true;
      }
      case "atlocation": {
        const location = locations.get(second);
        if (first !== world.agent || location === undefined) return false;
        return (state) => state.location === location;
      }
      case "objectatlocation": {
        const location = locations.get(second);
        if (o === undefined || location === undefined) return false;
        return (state) => state.places[o]?.includes(location) === true;
      }
      case "holds": {
        const held = objects.get(second);
        return first !== world.agent || held === undefined ? false : (state) => state.held === held;
      }
      case "holdsany":
        return first !== world.agent ? false : (state) => state.held >= 0;
      default:
        if (OTHER_PREDICATES.has(predicate)) return world.otherFacts.has([predicate, ...ids].join(" "));
        throw new RangeError(`goal asks for the predicate "${predicate}", which no supported game has`);
    }
  }

  return {
    entities(type) {
      const ids = world.entities.get(type);
      if (ids === undefined) throw new RangeError(`goal has a variable of the type "${type}", which the world lacks`);
      return ids;
    },
    atom,
  };
}

function indexById(entities: readonly { readonly id: string }[]): Map<string, number> {
  return new Map(entities.map((entity, index) => [entity.id, index]));
}
