/**
 * What an agent knows of a text world from what it has read: nothing here looks at the world itself.
 *
 * Receptacles and objects are known by shown names. The belief is updated by every text, so it is right after wrong
 * actions too; it may be incomplete, never wrong, as long as nobody else acts in the world.
 */
import type { Treatment } from "./task.js";

/** What is known of a receptacle. */
export interface KnownReceptacle {
  readonly name: string;
  /** Its contents cannot be seen at present. */
  closed: boolean;
  /** Objects last seen in it, or null when it was never looked into. */
  contents: string[] | null;
}

/** Knowledge gathered from texts. */
export class Belief {
  /** Receptacles in the order in which they were first read. */
  readonly receptacles = new Map<string, KnownReceptacle>();
  /** Name of the object in the agent's hand, or null. */
  held: string | null = null;
  /** Receptacle the held object was taken from, or null. */
  origin: string | null = null;
  /** Receptacle the agent went to last, or null when it is at none. */
  at: string | null = null;
  /** Lamps that were ever used. */
  readonly lit = new Set<string>();
  private readonly treatments = new Map<string, Set<Treatment>>();

  /** Whether an object is known to be treated. Heating undoes cooling and the reverse. */
  isTreated(object: string, treatment: Treatment): boolean {
    return this.treatments.get(object)?.has(treatment) === true;
  }

  /** Receptacle an object is known to be in, or null. */
  placeOf(object: string): string | null {
    for (const { name, contents } of this.receptacles.values()) if (contents?.includes(object)) return name;
    return null;
  }

  /** Takes note of any text of the engine: the first one or the answer to a command. */
  read(text: string): void {
    for (const [pattern, learn] of SENTENCES) {
      const groups = pattern.exec(text)?.groups;
      if (groups !== undefined) learn(this, groups);
    }
  }

  /**
   * Takes note of which receptacles the admissible commands name. They are the only source where an episode starts at a
   * receptacle, and tell which other receptacles stand at the same spot.
   */
  readCommands(commands: readonly string[]): void {
    for (const command of commands) if (command.startsWith("go to ")) this.know(command.slice(6));
    for (const command of commands) {
      if (command.startsWith("examine ") && command.slice(8) !== this.held) this.know(command.slice(8));
    }
  }

  /** A receptacle by name, known from now on. */
  know(name: string): KnownReceptacle {
    const known = this.receptacles.get(name) ?? { name, closed: false, contents: null };
    this.receptacles.set(name, known);
    return known;
  }

  /** Records a treatment. */
  treat(object: string, treatment: Treatment): void {
    const known = this.treatments.get(object) ?? new Set();
    known.add(treatment);
    if (treatment === "heat") known.delete("cool");
    if (treatment === "cool") known.delete("heat");
    this.treatments.set(object, known);
  }
}

type Groups = Readonly<Record<string, string | undefined>>;

/** Sentences and what they tell. A text may have several; those about contents come after those about movement. */
const SENTENCES: readonly (readonly [pattern: RegExp, learn: (belief: Belief, groups: Groups) => void])[] = [
  [
    /^(?:.*\n\n)?You are in the middle of a room\. Looking quickly around you, you see (?<seen>.+)\.(?:\n|$)/,
    (belief, { seen = "" }) => {
      belief.at = null;
      for (const name of readList(seen)) belief.know(name);
    },
  ],
  [
    /You are facing the (?<facing>.+?)\. Next to it/,
    (belief, { facing = "" }) => {
      const names = facing.split(/, and |, /);
      for (const name of names) belief.know(name);
      if (belief.at === null || !names.includes(belief.at)) belief.at = names[0] ?? null;
    },
  ],
  [
    /^You arrive at .*?\. (?:On the|The) (?<name>[a-z]+ \d+)/,
    (belief, { name = "" }) => {
      belief.at = name;
    },
  ],
  [
    /(?:^|\. )(?:On the (?<on>[a-z]+ \d+)|The (?<open>[a-z]+ \d+) is open\. In it), you see (?<seen>.+)\.$/,
    (belief, { on, open, seen = "" }) => {
      const known = belief.know(on ?? open ?? "");
      known.closed = false;
      known.contents = readList(seen);
    },
  ],
  [
    /(?:^|\. )The (?<name>[a-z]+ \d+) is closed\.$/,
    (belief, { name = "" }) => {
      belief.know(name).closed = true;
    },
  ],
  [
    /^You close the (?<name>.+)\.$/,
    (belief, { name = "" }) => {
      belief.know(name).closed = true;
    },
  ],
  [
    /^You pick up the (?<object>.+) from the (?<name>.+)\.$/,
    (belief, { object = "", name = "" }) => {
      const known = belief.know(name);
      known.contents = known.contents?.filter((other) => other !== object) ?? null;
      belief.held = object;
      belief.origin = name;
    },
  ],
  [
    /^You (?:move|put) the (?<object>.+) (?:to|in\/on) the (?<name>.+)\.$/,
    (belief, { object = "", name = "" }) => {
      const known = belief.know(name);
      if (known.contents?.includes(object) === false) known.contents.push(object);
      belief.held = null;
      belief.origin = null;
    },
  ],
  [
    /^You (?<verb>clean|heat|cool) the (?<object>.+) using the .+\.$/,
    (belief, { verb, object = "" }) => belief.treat(object, verb as Treatment),
  ],
  [
    /^You turn on the (?<lamp>.+)\.$/,
    (belief, { lamp = "" }) => {
      belief.lit.add(lamp);
    },
  ],
  [
    /^You are carrying: a (?<object>.+)\.$/,
    (belief, { object = "" }) => {
      belief.held = object;
    },
  ],
  [
    /^You are not carrying anything\.$/,
    (belief) => {
      belief.held = null;
      belief.origin = null;
    },
  ],
];

/** Names in `a mug 1, a cup 2, and a pan 1`. */
function readList(text: string): string[] {
  return text === "nothing" ? [] : text.split(/, and |, /).map((item) => item.replace(/^a /, ""));
}
