/** Houses from seeds: a room, its receptacles and objects, and one of ALFWorld's six kinds of task. */

import { placesOf } from "../textworld/likely.js";
import { nameEntities, shownClass } from "../textworld/names.js";
import { applianceOf, goalFormula, type Task, type TaskKind, taskSentence, treatmentOf } from "../textworld/task.js";
import { Property, type Receptacle, type Wording, type World, type WorldObject } from "../textworld/world.js";
import {
  ALWAYS_OPENABLE,
  HELD_OUT_PAIRS,
  isHeldOutLamp,
  MOSTLY_OPENABLE,
  propertiesOf,
  ROOMS,
  type Room,
} from "./catalog.js";
import { type Layout, layouts } from "./layouts.js";
import { IntegerRandom } from "./random.js";

/** Size and variety of houses. All numbers are whole; ranges include both ends. */
export interface HouseSettings {
  readonly receptacles: readonly [least: number, most: number];
  readonly objects: readonly [least: number, most: number];
  /** Most objects of one class. */
  readonly copies: number;
  /** Share of cabinets and drawers that open and close, in percent. */
  readonly openable: number;
  /** Share of openable receptacles that are open at the start, in percent. */
  readonly opened: number;
  /** Share of houses in which two receptacles stand at one spot, in percent. */
  readonly sharedSpots: number;
}

/** Which layouts and pairings a game may have: those of training, or those kept out of it. */
export type Distribution = "in" | "out";

/** A generated house. */
export interface House {
  readonly world: World;
  readonly task: Task;
  readonly room: Room;
  readonly layout: Layout;
}

const ROOMS_OF_KIND: Readonly<Record<TaskKind, readonly Room[]>> = {
  pick_and_place_simple: ["kitchen", "bathroom", "bedroom", "livingroom"],
  look_at_obj_in_light: ["bedroom", "livingroom"],
  pick_clean_then_place_in_recep: ["kitchen", "bathroom"],
  pick_heat_then_place_in_recep: ["kitchen"],
  pick_cool_then_place_in_recep: ["kitchen"],
  pick_two_obj_and_place: ["kitchen", "bathroom", "bedroom", "livingroom"],
};

/** An object class in a receptacle, by number. */
interface Placement {
  readonly objectClass: string;
  readonly receptacle: number;
}

/**
 * The house of a seed. Equal arguments give equal houses, on every machine.
 *
 * Out of distribution the layout is one of those kept out of training; a goal's object and receptacle are a pair kept out
 * of training (for tasks with a lamp: object and lamp, and object and the receptacle it starts in), and wanted objects
 * start in such pairs where the layout has one.
 */
export function generateHouse(
  seed: string,
  kind: TaskKind,
  distribution: Distribution,
  settings: HouseSettings,
  wording: Wording,
): House {
  const random = new IntegerRandom(seed);
  for (;;) {
    const room = random.pick(ROOMS_OF_KIND[kind]);
    const [least, most] = settings.receptacles;
    const layout = random.pick(layouts(room, least, most, distribution === "out"));
    const draft = new Draft(random, room, layout, distribution, settings);
    const task = draft.chooseTask(kind);
    // Some layouts have no receptacle for any task of this kind; another room is drawn.
    if (task === null) continue;
    return { world: draft.build(task, wording), task, room, layout };
  }
}

/** A house while it is being furnished. */
class Draft {
  /** Class of each receptacle. */
  private readonly receptacles: readonly string[];
  private readonly placements: Placement[] = [];
  private readonly places = new Map<string, readonly number[]>();

  constructor(
    private readonly random: IntegerRandom,
    private readonly room: Room,
    layout: Layout,
    private readonly distribution: Distribution,
    private readonly settings: HouseSettings,
  ) {
    this.receptacles = layout.flatMap(([receptacleClass, count]) => Array<string>(count).fill(receptacleClass));
  }

  /** A task that can be done in this room, or null. */
  chooseTask(kind: TaskKind): Task | null {
    const tasks = new Map<string, Task[]>();
    for (const object of ROOMS[this.room].objects) {
      const possible = this.tasksWith(kind, object).filter((task) => this.starts(task).length > 0);
      if (possible.length > 0) tasks.set(object, possible);
    }
    // First the object, then its place: else objects that fit many places would be wanted most.
    return tasks.size === 0 ? null : this.random.pick(this.random.pick([...tasks.values()]));
  }

  private tasksWith(kind: TaskKind, object: string): Task[] {
    const classes = [...new Set(this.receptacles)];
    if (kind === "look_at_obj_in_light") {
      return ROOMS[this.room].lamps
        .filter((lamp) => isHeldOutLamp(object, lamp) === (this.distribution === "out"))
        .filter((lamp) => classes.some((receptacle) => placesOf(lamp).has(receptacle)))
        .map((lamp) => ({ kind, object, receptacle: null, lamp }));
    }
    const treatment = treatmentOf(kind);
    const needed = treatment === null ? 0 : TREATABLE[treatment];
    if ((propertiesOf(object) & needed) !== needed) return [];
    if (treatment !== null && !classes.includes(applianceOf(treatment))) return [];
    return classes
      .filter((receptacle) => placesOf(object).has(receptacle))
      .filter((receptacle) => HELD_OUT_PAIRS.has(`${object} ${receptacle}`) === (this.distribution === "out"))
      .map((receptacle) => ({ kind, object, receptacle, lamp: null }));
  }

  /** Receptacles in which wanted objects of a task may start: not where they belong in the end. */
  private starts(task: Task): number[] {
    const places = this.placesFor(task.object).filter((r) => this.receptacles[r] !== task.receptacle);
    if (this.distribution === "in") return places;
    const unseen = places.filter((r) => HELD_OUT_PAIRS.has(`${task.object} ${this.receptacles[r]}`));
    return unseen.length > 0 || task.kind === "look_at_obj_in_light" ? unseen : places;
  }

  /** Receptacles that may hold an object of a class in this distribution. */
  private placesFor(objectClass: string): readonly number[] {
    let places = this.places.get(objectClass);
    if (places === undefined) {
      places = [...this.receptacles.keys()].filter((r) => this.fits(objectClass, this.receptacles[r] ?? ""));
      this.places.set(objectClass, places);
    }
    return places;
  }

  private fits(objectClass: string, receptacleClass: string): boolean {
    if (!placesOf(objectClass).has(receptacleClass)) return false;
    return this.distribution === "out" || !HELD_OUT_PAIRS.has(`${objectClass} ${receptacleClass}`);
  }

  /** Furnishes the room for a task. */
  build(task: Task, wording: Wording): World {
    const { random, settings } = this;
    const wanted = random.between(task.kind === "pick_two_obj_and_place" ? 2 : 1, settings.copies);
    const starts = this.starts(task);
    for (let i = 0; i < wanted; i++)
      this.placements.push({ objectClass: task.object, receptacle: random.pick(starts) });
    if (task.lamp !== null) this.place(task.lamp);
    const size = random.between(...settings.objects);
    // Classes without a place in this layout are left out, so the room may stay emptier than drawn.
    const classes = ROOMS[this.room].objects.filter((c) => c !== task.object && this.placesFor(c).length > 0);
    const pool = random.shuffle(classes.flatMap((c) => Array<string>(settings.copies).fill(c)));
    for (const objectClass of pool.slice(0, Math.max(0, size - this.placements.length))) this.place(objectClass);
    return this.assemble(task, wording);
  }

  private place(objectClass: string): void {
    this.placements.push({ objectClass, receptacle: this.random.pick(this.placesFor(objectClass)) });
  }

  /** Ids, names, locations and facts for what was drawn. */
  private assemble(task: Task, wording: Wording): World {
    const { random, settings } = this;
    const spots = this.drawSpots();
    const locationIds = numbered("loc", Math.max(...spots) + 2);
    const start = locationIds.length - 1;
    const flags = this.receptacles.map((receptacleClass) => {
      const openable =
        ALWAYS_OPENABLE.has(receptacleClass) ||
        (MOSTLY_OPENABLE.has(receptacleClass) && random.chance(settings.openable));
      return { openable, opened: openable && random.chance(settings.opened) };
    });
    const sentence = taskSentence(task, random.chance(50) ? 0 : 1);

    const receptacleIds = idsOf(this.receptacles);
    const placements = [...this.placements].sort((a, b) =>
      a.objectClass < b.objectClass ? -1 : a.objectClass > b.objectClass ? 1 : 0,
    );
    const objectIds = idsOf(placements.map(({ objectClass }) => objectClass));
    const names = nameEntities([...locationIds, ...receptacleIds, ...objectIds]);
    const nameOf = (id: string) => names.get(id) ?? id;
    const receptacles: Receptacle[] = this.receptacles.map((receptacleClass, r) => ({
      id: receptacleIds[r] as string,
      name: nameOf(receptacleIds[r] as string),
      types: [`${receptacleClass}type`],
      location: spots[r] as number,
      ...(flags[r] as { openable: boolean; opened: boolean }),
    }));
    const objects: WorldObject[] = placements.map(({ objectClass, receptacle }, o) => ({
      id: objectIds[o] as string,
      name: nameOf(objectIds[o] as string),
      types: [`${objectClass}type`],
      receptacles: [receptacle],
      locations: [spots[receptacle] as number],
      contents: [],
      properties: propertiesOf(objectClass),
    }));
    const agent = "agent1";
    return {
      task: sentence,
      goal: goalFormula(task),
      wording,
      agent,
      start,
      held: null,
      locations: locationIds.map((id) => ({ id, name: nameOf(id) })),
      receptacles,
      objects,
      canContain: this.fittingTypes(objects.map(({ name }) => shownClass(name))),
      otherFacts: new Set(),
      entities: new Map([
        ["agent", [agent]],
        ["location", locationIds],
        ["receptacle", receptacleIds],
        ["object", objectIds],
      ]),
    };
  }

  /** Location number of each receptacle; in some houses two of them stand at one. */
  private drawSpots(): number[] {
    const spots = [...this.receptacles.keys()];
    if (!this.random.chance(this.settings.sharedSpots)) return this.random.shuffle(spots);
    const shared = this.random.below(spots.length - 1);
    const numbers = this.random.shuffle(spots.slice(0, -1));
    return spots.map((r) => numbers[r > shared ? r - 1 : r] as number);
  }

  private fittingTypes(objectClasses: readonly string[]): Set<string> {
    const pairs = new Set<string>();
    for (const receptacleClass of new Set(this.receptacles)) {
      for (const objectClass of new Set(objectClasses)) {
        // Lamps stay where they are, and in ALFWorld no receptacle takes them.
        if ((propertiesOf(objectClass) & Property.pickupable) === 0) continue;
        if (this.fits(objectClass, receptacleClass)) pairs.add(`${receptacleClass}type ${objectClass}type`);
      }
    }
    return pairs;
  }
}

const TREATABLE = { clean: Property.cleanable, heat: Property.heatable, cool: Property.coolable } as const;

/** Ids of receptacles or objects whose classes are in alphabetical order; the ids are then in order too. */
function idsOf(classes: readonly string[]): string[] {
  const seen = new Map<string, number>();
  return classes.map((entityClass) => {
    const number = (seen.get(entityClass) ?? 0) + 1;
    seen.set(entityClass, number);
    const digits = String(number).padStart(2, "0");
    // ALFWorld's basins are parts of a sink or a bathtub, and their shown names come from the word in the id.
    const [whole] = entityClass.split("basin");
    return whole === entityClass ? `${entityClass}_bar_${digits}` : `${whole}_bar_${digits}_bar_${entityClass}`;
  });
}

function numbered(stem: string, count: number): string[] {
  return Array.from({ length: count }, (_, i) => `${stem}_bar_${String(i + 1).padStart(2, "0")}`);
}
