/**
 * The rules of ALFWorld's planning domain: which commands are admissible in a state and what each does.
 *
 * This is the domain `alfred` with its grounding done by hand. Peculiarities of the original engine are kept; they are
 * listed in docs/environments/alfworld.md.
 */
import { compileGoal, initialState, type WorldState } from "./state.js";
import * as texts from "./texts.js";
import { Property, type World } from "./world.js";

/** What a command led to. */
export interface StepResult {
  /** Answer of the engine. */
  readonly text: string;
  /** The command was one of the admissible ones; otherwise nothing changed. */
  readonly accepted: boolean;
  /** The goal holds in the state after the command. It can cease to hold again. */
  readonly won: boolean;
}

/** A command that can be carried out, with the numbers of what it acts on. */
interface Action {
  readonly command: string;
  readonly verb: Verb;
  /** Object, or -1. For `slice` the thing that is sliced. */
  readonly object: number;
  /** Receptacle, or -1. For `slice` the knife's object number. */
  readonly other: number;
}

type Verb =
  | "look"
  | "inventory"
  | "help"
  | "go"
  | "open"
  | "close"
  | "examineReceptacle"
  | "examineObject"
  | "take"
  | "put"
  | "clean"
  | "heat"
  | "cool"
  | "use"
  | "slice";

const TREATMENTS = [
  { verb: "clean", property: Property.cleanable, appliance: "sinkbasintype" },
  { verb: "heat", property: Property.heatable, appliance: "microwavetype" },
  { verb: "cool", property: Property.coolable, appliance: "fridgetype" },
] as const;

/**
 * One world being played. Everything is synchronous.
 *
 * @throws RangeError (constructor) when the goal uses a predicate or type that the world does not know.
 */
export class TextWorld {
  readonly world: World;
  private readonly goal: (state: WorldState) => boolean;
  /** Receptacles at each location. */
  private readonly spots: readonly (readonly number[])[];
  private state: WorldState;
  /** Admissible actions of the present state by command, sorted; null when the state has changed since. */
  private actions: readonly Action[] | null = null;
  private readonly always: readonly Action[];
  private readonly goActions: readonly Action[];

  constructor(world: World) {
    this.world = world;
    this.goal = compileGoal(world);
    this.spots = world.locations.map((_, l) => [...world.receptacles.keys()].filter((r) => this.locationOf(r) === l));
    this.state = initialState(world);
    const plain = (verb: "look" | "inventory" | "help"): Action => ({ command: verb, verb, object: -1, other: -1 });
    this.always = [plain("look"), plain("inventory"), ...(world.wording.help === null ? [] : [plain("help")])];
    this.goActions = world.receptacles.map(({ name }, r) => ({
      command: `go to ${name}`,
      verb: "go",
      object: -1,
      other: r,
    }));
  }

  /** Back to the start. Returns the whole first text, with welcome and task. */
  reset(): string {
    this.state = initialState(this.world);
    this.actions = null;
    return texts.firstText(this.world, this.state, this.spot());
  }

  /** The first text's middle part: the room as seen at the start of the world. */
  room(): string {
    const start = initialState(this.world);
    return texts.lookText(this.world, start, this.spots[start.location] ?? [], true);
  }

  /** Carries out a command; white space around it is ignored, everything else must be literally admissible. */
  step(command: string): StepResult {
    const wanted = texts.stripCommand(command);
    const action = this.admissibleActions().find((candidate) => candidate.command === wanted);
    if (action === undefined) return { text: texts.NOTHING_HAPPENS, accepted: false, won: this.won() };
    const text = this.apply(action);
    return { text, accepted: true, won: this.won() };
  }

  /** Admissible commands of the present state, sorted by code point, without duplicates. */
  admissible(): readonly string[] {
    return this.admissibleActions().map((action) => action.command);
  }

  /** Whether the goal holds in the present state. */
  won(): boolean {
    return this.goal(this.state);
  }

  /** A text that is equal for equal states, and only for them. Meant for tests and for tracking a stored plan. */
  fingerprint(): string {
    const { location, held, opened, contents, places, properties, removed } = this.state;
    const parts = [location, held, [...opened], contents, places, [...properties], [...removed].sort((a, b) => a - b)];
    return JSON.stringify(parts);
  }

  private locationOf(r: number): number | null {
    return this.world.receptacles[r]?.location ?? null;
  }

  private spot(): readonly number[] {
    return this.spots[this.state.location] ?? [];
  }

  private admissibleActions(): readonly Action[] {
    if (this.actions === null) this.actions = this.listActions();
    return this.actions;
  }

  private listActions(): readonly Action[] {
    const { receptacles, objects, wording } = this.world;
    const { state } = this;
    const found: Action[] = [...this.always];
    receptacles.forEach((receptacle, r) => {
      // Going to another receptacle of the same spot has no effect, and the original drops actions without one.
      const go = this.goActions[r];
      if (go !== undefined && receptacle.location !== null && receptacle.location !== state.location) found.push(go);
    });
    const held = objects[state.held];
    for (const r of this.spot()) {
      const receptacle = receptacles[r];
      if (receptacle === undefined) continue;
      const { name } = receptacle;
      const opened = state.opened[r] === 1;
      found.push({ command: `examine ${name}`, verb: "examineReceptacle", object: -1, other: r });
      if (receptacle.openable) {
        const verb = opened ? "close" : "open";
        found.push({ command: `${verb} ${name}`, verb, object: -1, other: r });
      }
      const reachable = opened || !receptacle.openable;
      for (const o of state.contents[r] ?? []) {
        const object = objects[o];
        const properties = state.properties[o] ?? 0;
        if (object === undefined) continue;
        if (reachable && held === undefined && (properties & Property.pickupable) !== 0) {
          found.push({ command: `take ${object.name} from ${name}`, verb: "take", object: o, other: r });
        }
        if ((properties & Property.toggleable) !== 0) {
          found.push({ command: `use ${object.name}`, verb: "use", object: o, other: -1 });
        }
      }
      if (held === undefined) continue;
      if (reachable && this.fits(state.held, r)) {
        const command = wording.put === "put" ? `put ${held.name} in/on ${name}` : `move ${held.name} to ${name}`;
        found.push({ command, verb: "put", object: state.held, other: r });
      }
      for (const { verb, property, appliance } of TREATMENTS) {
        if ((held.properties & property) !== 0 && receptacle.types.includes(appliance)) {
          found.push({ command: `${verb} ${held.name} with ${name}`, verb, object: state.held, other: r });
        }
      }
    }
    if (held !== undefined) {
      found.push({ command: `examine ${held.name}`, verb: "examineObject", object: state.held, other: -1 });
      if (held.types.includes("knifetype") || held.types.includes("butterknifetype")) this.listSlices(found);
    }
    found.sort((a, b) => (a.command < b.command ? -1 : a.command > b.command ? 1 : 0));
    return found.filter((action, i) => action.command !== found[i - 1]?.command);
  }

  private listSlices(found: Action[]): void {
    const { state } = this;
    const knife = this.world.objects[state.held]?.name;
    this.world.objects.forEach((object, o) => {
      if ((object.properties & Property.sliceable) === 0) return;
      if (state.places[o]?.includes(state.location) !== true) return;
      found.push({ command: `slice ${object.name} with ${knife}`, verb: "slice", object: o, other: state.held });
    });
  }

  private fits(o: number, r: number): boolean {
    const { objects, receptacles, canContain } = this.world;
    return (
      receptacles[r]?.types.some((rtype) => objects[o]?.types.some((otype) => canContain.has(`${rtype} ${otype}`))) ===
      true
    );
  }

  /** Carries out an admissible action and returns the answer. */
  private apply(action: Action): string {
    const { world, state } = this;
    const { object, other } = action;
    const objectName = world.objects[object]?.name ?? "";
    const receptacleName = world.receptacles[other]?.name ?? "";
    switch (action.verb) {
      case "look":
        return texts.lookText(world, state, this.spot(), false);
      case "inventory":
        return texts.inventoryText(world, state);
      case "help":
        return world.wording.help ?? "";
      case "examineReceptacle":
        return texts.receptacleText(world, state, other);
      case "examineObject":
        return texts.objectText(world, state, object);
      case "go": {
        this.change();
        state.location = this.locationOf(other) ?? state.location;
        const place =
          world.wording.arrival === "receptacle" ? receptacleName : (world.locations[state.location]?.name ?? "");
        return `You arrive at ${place}. ${texts.receptacleText(world, state, other)}`;
      }
      case "open":
        this.change();
        state.opened[other] = 1;
        return `You open the ${receptacleName}. ${texts.receptacleText(world, state, other)}`;
      case "close":
        this.change();
        state.opened[other] = 0;
        return `You close the ${receptacleName}.`;
      case "take":
        this.change();
        remove(state.contents[other], object);
        state.removed.add(object * world.receptacles.length + other);
        remove(state.places[object], state.location);
        state.held = object;
        return `You pick up the ${objectName} from the ${receptacleName}.`;
      case "put":
        this.change();
        insert(state.contents[other], object);
        state.removed.delete(object * world.receptacles.length + other);
        insert(state.places[object], state.location);
        state.held = -1;
        return world.wording.put === "put"
          ? `You put the ${objectName} in/on the ${receptacleName}.`
          : `You move the ${objectName} to the ${receptacleName}.`;
      case "clean":
        this.mark(object, Property.clean, 0);
        return `You clean the ${objectName} using the ${receptacleName}.`;
      case "heat":
        this.mark(object, Property.hot, Property.cool);
        return `You heat the ${objectName} using the ${receptacleName}.`;
      case "cool":
        this.mark(object, Property.cool, Property.hot);
        return `You cool the ${objectName} using the ${receptacleName}.`;
      case "use":
        // The lamp goes on and off, but the sentence asks whether it was ever used and so never says "off".
        this.mark(object, 0, 0, Property.on);
        this.mark(object, Property.toggled, 0);
        return `You turn on the ${objectName}.`;
      case "slice":
        this.mark(object, Property.sliced, 0);
        return `You sliced the ${objectName} with the ${world.objects[other]?.name ?? ""}.`;
    }
  }

  /** Sets, clears and flips bits of an object. None of these bits decides what is admissible. */
  private mark(o: number, set: number, clear: number, flip = 0): void {
    this.state.properties[o] = (((this.state.properties[o] ?? 0) | set) & ~clear) ^ flip;
  }

  private change(): void {
    this.actions = null;
  }
}

function remove(sorted: number[] | undefined, value: number): void {
  const at = sorted?.indexOf(value) ?? -1;
  if (at >= 0) sorted?.splice(at, 1);
}

function insert(sorted: number[] | undefined, value: number): void {
  if (sorted === undefined || sorted.includes(value)) return;
  sorted.push(value);
  sorted.sort((a, b) => a - b);
}
