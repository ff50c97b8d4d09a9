/**
 * A hand-coded expert for the six kinds of task that acts on nothing but what it has read.
 *
 * It can be asked in any state, also after actions that were not its own: it keeps a {@link Belief} of the world, and at
 * every step decides anew from that. It is deterministic.
 */
import { Belief, type KnownReceptacle } from "./belief.js";
import { placesOf } from "./likely.js";
import { shownClass } from "./names.js";
import { applianceOf, type Task, type Treatment, treatmentOf } from "./task.js";

/** Why the expert does what it does. Names are shown names. */
export type Reason =
  | { readonly kind: "empty-handed" }
  | { readonly kind: "holding"; readonly object: string }
  /** An object was seen in a receptacle and is believed to be there still. */
  | { readonly kind: "seen"; readonly object: string; readonly receptacle: string }
  /** No object of the class is known; these receptacles were looked into. */
  | { readonly kind: "not-found"; readonly objectClass: string; readonly searched: readonly string[] }
  /** The receptacle was never looked into and may hold such an object. */
  | { readonly kind: "unexplored"; readonly receptacle: string }
  | { readonly kind: "closed"; readonly receptacle: string }
  /** The agent is at the receptacle. */
  | { readonly kind: "at"; readonly receptacle: string }
  /** The agent is somewhere else. */
  | { readonly kind: "away"; readonly receptacle: string }
  | { readonly kind: "untreated"; readonly object: string; readonly treatment: Treatment }
  | { readonly kind: "treated"; readonly object: string; readonly treatment: Treatment }
  /** One of two objects is in its place already. */
  | { readonly kind: "placed"; readonly object: string; readonly receptacle: string }
  /** The held object is not wanted and has to be put down. */
  | { readonly kind: "unwanted"; readonly object: string };

/** What the expert is about to do. */
export interface Intention {
  /**
   * `search` for an object not seen yet, `take` a known one, `treat` the held one, `place` it where it belongs, `use` the
   * lamp, `drop` what is not wanted. Going to a receptacle and opening it belong to the phase they serve.
   */
  readonly phase: "search" | "take" | "treat" | "place" | "use" | "drop";
  /** The command, literally admissible. */
  readonly action: string;
  /** The object this is about, by name or, while none is known, by class. */
  readonly target: string;
  /** The receptacle that the phase is about at present, or null. */
  readonly receptacle: string | null;
  readonly treatment: Treatment | null;
  /** What it is based on, the most telling first. */
  readonly reasons: readonly Reason[];
}

type Step = Omit<Intention, "phase" | "target" | "treatment">;

/** The expert of one episode. */
export class Expert {
  readonly belief = new Belief();
  /** Receptacles that did not take an object of a class although they were open, as `<receptacle>|<class>`. */
  private readonly refusals = new Set<string>();

  /** `firstText` is the first text or the room in it. */
  constructor(
    private readonly task: Task,
    firstText: string,
  ) {
    this.belief.read(firstText);
  }

  /** Takes note of the answer to a command; every answer of the episode has to be told, in order. */
  observe(text: string): void {
    this.belief.read(text);
  }

  /**
   * What to do now, given the admissible commands of the present state; null when the expert knows no way (the object is
   * nowhere to be found) or nothing is left to do.
   */
  intention(admissible: readonly string[]): Intention | null {
    this.belief.readCommands(admissible);
    const commands = new Set(admissible);
    const { held } = this.belief;
    if (held !== null && shownClass(held) !== this.task.object) return this.drop(held, commands);
    if (held === null) return this.fetch(commands);
    if (this.task.lamp !== null) return this.light(held, this.task.lamp, commands);
    const treatment = treatmentOf(this.task.kind);
    if (treatment !== null && !this.belief.isTreated(held, treatment)) return this.treat(held, treatment, commands);
    return this.place(held, treatment, commands);
  }

  /** Empty-handed: take a wanted object that was seen, or look for one. */
  private fetch(commands: ReadonlySet<string>): Intention | null {
    const empty: Reason = { kind: "empty-handed" };
    for (const { object, receptacle } of this.wanted()) {
      const seen: Reason = { kind: "seen", object, receptacle };
      const step = this.reach(receptacle, `take ${object} from ${receptacle}`, commands);
      if (step === null) continue;
      const reasons = [seen, ...step.reasons, empty, ...this.placedReasons()];
      return { ...step, phase: "take", target: object, treatment: null, reasons };
    }
    return this.search(this.task.object, [empty, ...this.placedReasons()], commands);
  }

  /** Objects of the wanted class that are not where they belong already; treated ones, and ones at hand, first. */
  private wanted(): { object: string; receptacle: string }[] {
    const treatment = treatmentOf(this.task.kind);
    const done = this.task.kind === "pick_two_obj_and_place" ? this.pairReceptacle() : null;
    const found: { object: string; receptacle: string; rank: number }[] = [];
    for (const { name, contents } of this.belief.receptacles.values()) {
      if (done !== null && name === done) continue;
      for (const object of contents ?? []) {
        if (shownClass(object) !== this.task.object) continue;
        const treated = treatment === null || this.belief.isTreated(object, treatment);
        if (this.task.lamp === null && this.isTarget(name) && treated && done === null) continue;
        found.push({ object, receptacle: name, rank: (treated ? 0 : 2) + (name === this.belief.at ? 0 : 1) });
      }
    }
    return found.sort((a, b) => a.rank - b.rank);
  }

  /** Looks where an object of a class may be: first the receptacles at hand, then others in the order they were read. */
  private search(objectClass: string, reasons: readonly Reason[], commands: ReadonlySet<string>): Intention | null {
    const known = [...this.belief.receptacles.values()];
    const searched = known.filter((receptacle) => receptacle.contents !== null).map(({ name }) => name);
    const likely = placesOf(objectClass);
    const rank = ({ name }: KnownReceptacle) =>
      (likely.has(shownClass(name)) ? 0 : 2) + (commands.has(`examine ${name}`) ? 0 : 1);
    const unexplored = known.filter(({ contents }) => contents === null).sort((a, b) => rank(a) - rank(b));
    for (const { name } of unexplored) {
      const step = this.reach(name, `examine ${name}`, commands);
      if (step === null) continue;
      const why: Reason[] = [
        { kind: "not-found", objectClass, searched },
        { kind: "unexplored", receptacle: name },
        ...step.reasons,
        ...reasons,
      ];
      return { ...step, phase: "search", target: objectClass, treatment: null, reasons: why };
    }
    return null;
  }

  /** Holding a wanted object that still has to be treated. */
  private treat(held: string, treatment: Treatment, commands: ReadonlySet<string>): Intention | null {
    const reasons: Reason[] = [
      { kind: "holding", object: held },
      { kind: "untreated", object: held, treatment },
    ];
    for (const { name } of this.ofClass(applianceOf(treatment), commands)) {
      const command = `${treatment} ${held} with ${name}`;
      // Appliances work open or closed alike, so there is nothing to open.
      const step = commands.has(command) ? this.act(command, name) : this.go(name, commands);
      if (step === null) continue;
      return { ...step, phase: "treat", target: held, treatment, reasons: [...reasons, ...step.reasons] };
    }
    return null;
  }

  /** Holding an object that is ready for its place. */
  private place(held: string, treatment: Treatment | null, commands: ReadonlySet<string>): Intention | null {
    const reasons: Reason[] = [{ kind: "holding", object: held }];
    if (treatment !== null) reasons.push({ kind: "treated", object: held, treatment });
    reasons.push(...this.placedReasons());
    const pair = this.task.kind === "pick_two_obj_and_place" ? this.pairReceptacle() : null;
    const targets = this.ofClass(this.task.receptacle ?? "", commands).map(({ name }) => name);
    const ordered = pair === null ? targets : [pair, ...targets.filter((name) => name !== pair)];
    const step = this.putInto(held, ordered, commands);
    if (step === null) return null;
    return { ...step, phase: "place", target: held, treatment, reasons: [...reasons, ...step.reasons] };
  }

  /** Holding what is to be looked at: go to a lamp and switch it on. */
  private light(held: string, lampClass: string, commands: ReadonlySet<string>): Intention | null {
    const holding: Reason = { kind: "holding", object: held };
    for (const { name, contents } of this.belief.receptacles.values()) {
      const lamp = contents?.find((object) => shownClass(object) === lampClass);
      if (lamp === undefined) continue;
      const step = commands.has(`use ${lamp}`) ? this.act(`use ${lamp}`, name) : this.go(name, commands);
      if (step === null) continue;
      const reasons: Reason[] = [holding, { kind: "seen", object: lamp, receptacle: name }, ...step.reasons];
      return { ...step, phase: "use", target: lamp, treatment: null, reasons };
    }
    return this.search(lampClass, [holding], commands);
  }

  /** Holding something that is not wanted: put it down here, or else where it came from or may belong. */
  private drop(held: string, commands: ReadonlySet<string>): Intention | null {
    const likely = placesOf(shownClass(held));
    const names = [...this.belief.receptacles.keys()];
    const here = names.filter((name) => this.putCommand(held, name, commands) !== null);
    const origin = this.belief.origin === null ? [] : [this.belief.origin];
    const fitting = names.filter((name) => likely.has(shownClass(name)));
    const step = this.putInto(held, [...here, ...origin, ...fitting, ...names], commands);
    if (step === null) return null;
    const reasons: Reason[] = [{ kind: "unwanted", object: held }, ...step.reasons];
    return { ...step, phase: "drop", target: held, treatment: null, reasons };
  }

  /** The next step towards putting the held object into the first of some receptacles that takes it. */
  private putInto(held: string, receptacles: readonly string[], commands: ReadonlySet<string>): Step | null {
    for (const name of receptacles) {
      const refusal = `${name}|${shownClass(held)}`;
      if (this.refusals.has(refusal)) continue;
      const put = this.putCommand(held, name, commands);
      if (put !== null) return this.act(put, name);
      const step = this.reach(name, null, commands);
      if (step !== null) return step;
      this.refusals.add(refusal);
    }
    return null;
  }

  /** The admissible command that puts the held object into a receptacle, in either wording. */
  private putCommand(held: string, name: string, commands: ReadonlySet<string>): string | null {
    return [`move ${held} to ${name}`, `put ${held} in/on ${name}`].find((command) => commands.has(command)) ?? null;
  }

  /** The command if it is admissible, or else the next step towards it: going to the receptacle, opening it. */
  private reach(name: string, command: string | null, commands: ReadonlySet<string>): Step | null {
    if (commands.has(`open ${name}`)) {
      return { action: `open ${name}`, receptacle: name, reasons: [{ kind: "closed", receptacle: name }] };
    }
    if (command !== null && commands.has(command)) return this.act(command, name);
    return this.go(name, commands);
  }

  private act(action: string, name: string): Step {
    return { action, receptacle: name, reasons: [{ kind: "at", receptacle: name }] };
  }

  private go(name: string, commands: ReadonlySet<string>): Step | null {
    if (!commands.has(`go to ${name}`)) return null;
    return { action: `go to ${name}`, receptacle: name, reasons: [{ kind: "away", receptacle: name }] };
  }

  /** Known receptacles of a class, those at hand first. */
  private ofClass(receptacleClass: string, commands: ReadonlySet<string>): KnownReceptacle[] {
    const all = [...this.belief.receptacles.values()].filter(({ name }) => shownClass(name) === receptacleClass);
    const here = ({ name }: KnownReceptacle) => (commands.has(`examine ${name}`) ? 0 : 1);
    return all.sort((a, b) => here(a) - here(b));
  }

  private isTarget(name: string): boolean {
    return shownClass(name) === this.task.receptacle;
  }

  /** For a task of two: the target receptacle that holds the most wanted objects already, or null. */
  private pairReceptacle(): string | null {
    let best: string | null = null;
    let most = 0;
    for (const { name, contents } of this.belief.receptacles.values()) {
      if (!this.isTarget(name)) continue;
      const count = (contents ?? []).filter((object) => shownClass(object) === this.task.object).length;
      if (count > most) [best, most] = [name, count];
    }
    return best;
  }

  private placedReasons(): Reason[] {
    if (this.task.kind !== "pick_two_obj_and_place") return [];
    const receptacle = this.pairReceptacle();
    const contents = receptacle === null ? [] : (this.belief.receptacles.get(receptacle)?.contents ?? []);
    const placed = contents.filter((object) => shownClass(object) === this.task.object);
    return placed.map((object) => ({ kind: "placed", object, receptacle: receptacle ?? "" }));
  }
}
