import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { houseOf } from "../../src/environments/household/panels.js";
import { Belief } from "../../src/environments/textworld/belief.js";
import { Expert } from "../../src/environments/textworld/expert.js";
import { type Formula, ground } from "../../src/environments/textworld/formula.js";
import { nameEntities } from "../../src/environments/textworld/names.js";
import { TextWorld } from "../../src/environments/textworld/rules.js";
import {
  goalFormula,
  parseTaskSentence,
  TASK_KINDS,
  type Task,
  taskOfGoal,
  taskSentence,
} from "../../src/environments/textworld/task.js";
import { list, NOTHING_HAPPENS, stripCommand } from "../../src/environments/textworld/texts.js";
import { MOVE_WORDING, Property, PUT_WORDING, type World } from "../../src/environments/textworld/world.js";

const ANYTHING = Property.pickupable | Property.cleanable | Property.heatable | Property.coolable | Property.sliceable;

/** Three drawers at one spot, a fridge and a microwave, and a table apart; two apples, a knife, a lamp, a bowl. */
function testWorld(changes: Partial<World> = {}): World {
  const receptacle = (name: string, location: number, openable = false) => ({
    id: `${name.split(" ")[0]}_bar_${name.split(" ")[1]}`,
    name,
    types: [`${name.split(" ")[0]}type`],
    location,
    openable,
    opened: false,
  });
  const object = (name: string, properties: number, receptacles: number[], locations: number[]) => ({
    id: `${name.split(" ")[0]}_bar_${name.split(" ")[1]}`,
    name,
    types: [`${name.split(" ")[0]}type`],
    receptacles,
    locations,
    contents: [] as number[],
    properties,
  });
  const receptacles = [
    receptacle("drawer 3", 0),
    receptacle("drawer 2", 0),
    receptacle("drawer 1", 0, true),
    receptacle("fridge 1", 1, true),
    receptacle("microwave 1", 1, true),
    receptacle("table 1", 2),
  ];
  const objects = [
    object("apple 2", ANYTHING, [0], [0]),
    object("apple 1", ANYTHING, [0, 1], [0]),
    { ...object("bowl 1", Property.pickupable | Property.receptacleObject, [5], [2]), contents: [3] },
    object("knife 1", Property.pickupable, [5], [2]),
    object("lamp 1", Property.toggleable | Property.pickupable, [2], [0]),
  ];
  const task: Task = { kind: "pick_heat_then_place_in_recep", object: "apple", receptacle: "table", lamp: null };
  const kinds = ["drawer", "fridge", "microwave", "table"];
  return {
    task: "put a hot apple in table",
    goal: goalFormula(task),
    wording: MOVE_WORDING,
    agent: "agent1",
    start: 3,
    held: null,
    locations: [0, 1, 2, 3].map((l) => ({ id: `loc_bar_${l}`, name: `loc ${4 - l}` })),
    receptacles,
    objects,
    canContain: new Set(kinds.flatMap((r) => ["apple", "knife", "bowl", "lamp"].map((o) => `${r}type ${o}type`))),
    otherFacts: new Set(),
    entities: new Map([
      ["agent", ["agent1"]],
      ["location", [0, 1, 2, 3].map((l) => `loc_bar_${l}`)],
      ["receptacle", receptacles.map(({ id }) => id)],
      ["object", [...objects, ...receptacles].map(({ id }) => id)],
    ]),
    ...changes,
  };
}

/** Plays commands that must all be accepted; returns the last text. */
function play(world: TextWorld, ...commands: string[]): string {
  let text = "";
  for (const command of commands) {
    const result = world.step(command);
    expect(result.accepted, command).toBe(true);
    text = result.text;
  }
  return text;
}

describe("rules that no recorded trace shows", () => {
  it("list an object once for each receptacle of the spot it was taken out of", () => {
    const world = new TextWorld(testWorld());
    play(world, "go to drawer 3", "open drawer 1");
    play(world, "take apple 2 from drawer 3", "move apple 2 to drawer 2");
    play(world, "take apple 2 from drawer 2", "move apple 2 to drawer 1");
    const facing = "You are facing the drawer 3, drawer 2, and drawer 1. Next to it, you see";
    expect(play(world, "look")).toBe(`${facing} a apple 2, and a apple 2.`);
    play(world, "take apple 1 from drawer 3", "move apple 1 to drawer 1");
    expect(play(world, "look")).toBe(`${facing} a apple 2, a apple 2, and a apple 1.`);
    play(world, "take apple 2 from drawer 1");
    expect(play(world, "look")).toBe(`${facing} a apple 1.`);
  });

  it("leave an object in its second receptacle when it is taken from the first", () => {
    const world = new TextWorld(testWorld());
    play(world, "go to drawer 2", "take apple 1 from drawer 3");
    expect(play(world, "examine drawer 2")).toBe("On the drawer 2, you see a apple 1.");
    expect(play(world, "inventory")).toBe("You are carrying: a apple 1.");
  });

  it("let heat and cold drive each other out, open or closed", () => {
    const world = new TextWorld(testWorld());
    play(world, "go to drawer 3", "take apple 2 from drawer 3", "go to fridge 1", "cool apple 2 with fridge 1");
    expect(play(world, "examine apple 2")).toBe("This is a cold apple 2.");
    play(world, "heat apple 2 with microwave 1");
    expect(play(world, "examine apple 2")).toBe("This is a hot apple 2.");
    play(world, "open fridge 1", "cool apple 2 with fridge 1");
    expect(play(world, "examine apple 2")).toBe("This is a cold apple 2.");
  });

  it("switch on a lamp in a closed receptacle, always with the same words, and show it when it is held", () => {
    const world = new TextWorld(testWorld());
    play(world, "go to drawer 1");
    expect(world.admissible()).not.toContain("take lamp 1 from drawer 1");
    expect(play(world, "use lamp 1")).toBe("You turn on the lamp 1.");
    expect(play(world, "use lamp 1")).toBe("You turn on the lamp 1.");
    play(world, "open drawer 1", "take lamp 1 from drawer 1");
    expect(play(world, "examine lamp 1")).toBe("This lamp 1 is on.");
  });

  it("slice what is at the location, not what is in hand, and not when the hand is empty", () => {
    const world = new TextWorld(testWorld());
    play(world, "go to table 1", "take knife 1 from table 1", "go to drawer 3");
    expect(world.admissible().filter((command) => command.startsWith("slice"))).toEqual([
      "slice apple 1 with knife 1",
      "slice apple 2 with knife 1",
    ]);
    expect(play(world, "slice apple 1 with knife 1")).toBe("You sliced the apple 1 with the knife 1.");
    play(world, "move knife 1 to drawer 3", "take apple 1 from drawer 2");
    expect(play(world, "examine apple 1")).toBe("This is a sliced apple 1.");
    expect(world.admissible().join()).not.toContain("slice");
    // Taken from one of its two receptacles it is no longer "at" the spot, although the other still has it.
    play(world, "go to table 1", "move apple 1 to table 1", "go to drawer 3", "take knife 1 from drawer 3");
    expect(play(world, "examine drawer 3")).toBe("On the drawer 3, you see a apple 2, and a apple 1.");
    expect(world.admissible().filter((command) => command.startsWith("slice"))).toEqual(["slice apple 2 with knife 1"]);
  });

  it("put in words what is in an object", () => {
    const world = new TextWorld(testWorld());
    play(world, "go to table 1", "take bowl 1 from table 1");
    expect(play(world, "examine bowl 1")).toBe("This is a normal bowl 1. In it, you see a knife 1.");
  });

  it("describe every combination of conditions in the grammar's order", () => {
    const sentences: [number, string][] = [
      [0, "There's nothing special about apple 2."],
      [Property.clean, "This is a clean apple 2."],
      [Property.hot, "This is a hot apple 2."],
      [Property.cool, "This is a cold apple 2."],
      [Property.sliced, "This is a sliced apple 2."],
      [Property.clean | Property.hot, "This is a hot and clean apple 2."],
      [Property.clean | Property.cool, "This is a cool and clean apple 2."],
      [Property.clean | Property.sliced, "This is a clean sliced apple 2."],
      [Property.hot | Property.sliced, "This is a hot sliced apple 2."],
      [Property.cool | Property.sliced, "This is a cool sliced apple 2."],
      [Property.clean | Property.hot | Property.sliced, "This is a hot and clean sliced apple 2."],
      [Property.clean | Property.cool | Property.sliced, "This is a cool and clean sliced apple 2."],
    ];
    for (const [bits, sentence] of sentences) {
      const base = testWorld();
      const [apple, ...others] = base.objects;
      if (apple === undefined) throw new Error("the test world has an apple");
      const objects = [{ ...apple, properties: apple.properties | bits, receptacles: [] }, ...others];
      expect(play(new TextWorld({ ...base, objects, held: 0 }), "examine apple 2")).toBe(sentence);
    }
  });

  it("say what is won in the present state only", () => {
    const world = new TextWorld(testWorld());
    play(world, "go to drawer 3", "take apple 2 from drawer 3", "go to microwave 1", "heat apple 2 with microwave 1");
    play(world, "go to table 1");
    expect(world.step("move apple 2 to table 1").won).toBe(true);
    expect(world.step("nonsense")).toEqual({ text: NOTHING_HAPPENS, accepted: false, won: true });
    expect(world.step("take apple 2 from table 1").won).toBe(false);
  });

  it("speak the older wording", () => {
    const world = new TextWorld(testWorld({ wording: PUT_WORDING }));
    expect(world.admissible()).not.toContain("help");
    expect(play(world, "go to table 1")).toBe("You arrive at loc 2. On the table 1, you see a bowl 1, and a knife 1.");
    play(world, "take knife 1 from table 1");
    expect(world.step("move knife 1 to table 1").accepted).toBe(false);
    expect(play(world, "put knife 1 in/on table 1")).toBe("You put the knife 1 in/on the table 1.");
  });

  it("begin at a receptacle without naming the others", () => {
    const first = new TextWorld(testWorld({ start: 2 })).reset();
    expect(first).toBe(
      "-= Welcome to TextWorld, ALFRED! =-\n\nYou are facing the table 1. Next to it, you see nothing.\n\n" +
        "Your task is to: put a hot apple in table.",
    );
  });
});

describe("commands", () => {
  const house = houseOf("household/train/000004", MOVE_WORDING);
  /** A world after a few random admissible commands. */
  const walked = fc.array(fc.nat(), { maxLength: 25 }).map((choices) => {
    const world = new TextWorld(house.world);
    for (const choice of choices) {
      const commands = world.admissible();
      world.step(commands[choice % commands.length] ?? "");
    }
    return world;
  });
  const mangled = fc.oneof(
    fc.string(),
    fc.string({ unit: "binary" }),
    fc.constantFrom("Look", "go to", "take", "put", "LOOK", "look.", "\u200blook", "go  to fridge 1", "examine"),
  );

  it("are sorted by code point, unique, and all accepted", () => {
    const property = fc.property(walked, fc.nat(), (world, choice) => {
      const commands = world.admissible();
      expect(commands).toEqual([...new Set(commands)].sort());
      const command = commands[choice % commands.length] ?? "";
      const { accepted, text } = world.step(command);
      expect(accepted).toBe(true);
      expect(text).not.toBe(NOTHING_HAPPENS);
    });
    fc.assert(property);
  });

  it("that are not literally listed change nothing", () => {
    const property = fc.property(walked, mangled, (world, command) => {
      fc.pre(!world.admissible().includes(stripCommand(command)));
      const before = world.fingerprint();
      const listed = world.admissible();
      expect(world.step(command)).toEqual({ text: NOTHING_HAPPENS, accepted: false, won: world.won() });
      expect(world.fingerprint()).toBe(before);
      expect(world.admissible()).toEqual(listed);
    });
    fc.assert(property, { numRuns: 300 });
  });

  it("are refused after any change of one character that is not white space around them", () => {
    const property = fc.property(
      walked,
      fc.nat(),
      fc.nat(),
      fc.constantFrom("x", " ", "1", ""),
      (world, c, at, put) => {
        const listed = world.admissible();
        const command = listed[c % listed.length] ?? "";
        const cut = at % command.length;
        const changed = command.slice(0, cut) + put + command.slice(cut + 1);
        fc.pre(!listed.includes(stripCommand(changed)));
        expect(world.step(changed).accepted).toBe(false);
      },
    );
    fc.assert(property, { numRuns: 300 });
  });

  it("are stripped as Python strips them", () => {
    for (const space of ["\t", "\n", "\x1c", "\x1f", "\x85", "\xa0", "\u2003", "\u3000", "\u2029"]) {
      expect(stripCommand(`${space}look${space} `)).toBe("look");
    }
    for (const other of ["\ufeff", "\u200b", "\u180e", "\x1b"])
      expect(stripCommand(`${other}look`)).toBe(`${other}look`);
  });

  it("do the same after a reset", () => {
    const property = fc.property(walked, (world) => {
      const first = world.reset();
      expect(first).toBe(new TextWorld(house.world).reset());
      expect(world.fingerprint()).toBe(new TextWorld(house.world).fingerprint());
    });
    fc.assert(property);
  });
});

describe("names", () => {
  it("count downwards in sorted order, with basins by themselves", () => {
    const names = nameEntities([
      "mug_bar_b",
      "mug_bar_a",
      "sink_bar_a",
      "sink_bar_a_bar_sinkbasin",
      "agent1",
      "mug_bar_a",
    ]);
    expect(Object.fromEntries(names)).toEqual({
      agent1: "agent1 ",
      mug_bar_a: "mug 2",
      mug_bar_b: "mug 1",
      sink_bar_a: "sink 1",
      sink_bar_a_bar_sinkbasin: "sinkbasin 1",
    });
  });

  it("are listed with a comma before `and`, also for two", () => {
    expect([[], ["a"], ["a", "b"], ["a", "b", "c"]].map(list)).toEqual(["nothing", "a", "a, and b", "a, b, and c"]);
  });
});

describe("tasks", () => {
  const tasks: Task[] = TASK_KINDS.map((kind) =>
    kind === "look_at_obj_in_light"
      ? { kind, object: "mug", receptacle: null, lamp: "desklamp" }
      : { kind, object: "mug", receptacle: "sinkbasin", lamp: null },
  );

  it("are read back from their goals and sentences", () => {
    for (const task of tasks) {
      expect(taskOfGoal(goalFormula(task))).toEqual(task);
      for (const variant of [0, 1] as const) expect(parseTaskSentence(taskSentence(task, variant))).toEqual(task);
    }
    expect(parseTaskSentence("put a mug")).toBeNull();
  });

  it("are not read into other goals", () => {
    const [place] = tasks;
    if (place === undefined) throw new Error("there are tasks");
    const goal = goalFormula(place);
    expect(taskOfGoal({ kind: "not", part: goal })).toBeNull();
    expect(taskOfGoal({ kind: "or", parts: [goal] })).toBeNull();
    const sliced: Formula = { kind: "atom", predicate: "issliced", terms: [{ constant: "mug_bar_1" }] };
    expect(taskOfGoal({ kind: "and", parts: [goal, sliced] })).toBeNull();
  });
});

describe("formulas", () => {
  /** Random closed formulas over two variables and the entities a, b, c. */
  const formulas = fc.letrec<{ formula: Formula }>((tie) => ({
    formula: fc.oneof(
      { maxDepth: 4 },
      fc
        .tuple(fc.constantFrom("p", "q", "fixed"), fc.constantFrom("x", "y"), fc.constantFrom("x", "y"))
        .map(([predicate, a, b]): Formula => ({ kind: "atom", predicate, terms: [{ variable: a }, { variable: b }] })),
      fc.constant<Formula>({ kind: "equal", left: { variable: "x" }, right: { variable: "y" } }),
      fc
        .tuple(fc.constantFrom("and", "or"), fc.array(tie("formula"), { maxLength: 3 }))
        .map(([kind, parts]) => ({ kind, parts }) as Formula),
      tie("formula").map((part) => ({ kind: "not", part }) as Formula),
      fc
        .tuple(fc.constantFrom("exists", "forall"), fc.constantFrom("x", "y"), tie("formula"))
        .map(([kind, name, body]) => ({ kind, variables: [{ name, type: "t" }], body }) as Formula),
    ),
  })).formula;
  const ids = ["a", "b", "c"];
  type State = Set<string>;

  /** The meaning of a formula by its definition, without any reduction. */
  function truth(formula: Formula, bound: Record<string, string>, state: State): boolean {
    const id = (term: { variable: string } | { constant: string }) =>
      "variable" in term ? (bound[term.variable] ?? "") : term.constant;
    switch (formula.kind) {
      case "and":
        return formula.parts.every((part) => truth(part, bound, state));
      case "or":
        return formula.parts.some((part) => truth(part, bound, state));
      case "not":
        return !truth(formula.part, bound, state);
      case "equal":
        return id(formula.left) === id(formula.right);
      case "atom":
        return state.has(`${formula.predicate} ${formula.terms.map(id).join(" ")}`);
      default: {
        const name = formula.variables[0]?.name ?? "";
        const test = (value: string) => truth(formula.body, { ...bound, [name]: value }, state);
        return formula.kind === "exists" ? ids.some(test) : ids.every(test);
      }
    }
  }

  it("mean after grounding what they mean by definition", () => {
    const all = ["p", "q", "fixed"].flatMap((p) => ids.flatMap((a) => ids.map((b) => `${p} ${a} ${b}`)));
    const property = fc.property(formulas, fc.subarray(all), (inner, facts) => {
      const closed: Formula = {
        kind: "exists",
        variables: [
          { name: "x", type: "t" },
          { name: "y", type: "t" },
        ],
        body: inner,
      };
      const state = new Set(facts);
      const test = ground<State>(closed, {
        entities: () => ids,
        atom: (predicate, args) => {
          const fact = `${predicate} ${args.join(" ")}`;
          return predicate === "fixed" ? state.has(fact) : (present) => present.has(fact);
        },
      });
      const expected = ids.some((x) => ids.some((y) => truth(inner, { x, y }, state)));
      expect(typeof test === "boolean" ? test : test(state)).toBe(expected);
    });
    fc.assert(property, { numRuns: 500 });
  });
});

describe("belief", () => {
  it("is the truth about everything that was read", () => {
    const property = fc.property(fc.nat({ max: 400 }), fc.array(fc.nat(), { maxLength: 40 }), (index, choices) => {
      const { world: data } = houseOf(`household/train/${String(index).padStart(6, "0")}`, MOVE_WORDING);
      const world = new TextWorld(data);
      const belief = new Belief();
      belief.read(world.reset());
      expect([...belief.receptacles.keys()].sort()).toEqual(data.receptacles.map(({ name }) => name).sort());
      for (const choice of choices) {
        const commands = world.admissible();
        belief.read(world.step(commands[choice % commands.length] ?? "").text);
      }
      const carried = world.step("inventory").text;
      expect(carried).toBe(
        belief.held === null ? "You are not carrying anything." : `You are carrying: a ${belief.held}.`,
      );
      // Go and look: what is believed to be in a receptacle is what is there.
      for (const { name, contents } of [...belief.receptacles.values()]) {
        const before = contents === null ? null : [...contents].sort();
        world.step(`go to ${name}`);
        world.step(`open ${name}`);
        belief.read(world.step(`examine ${name}`).text);
        if (before !== null) expect([...(belief.receptacles.get(name)?.contents ?? [])].sort()).toEqual(before);
      }
    });
    fc.assert(property, { numRuns: 60 });
  });

  it("knows receptacles from the commands where an episode starts at one", () => {
    const task = parseTaskSentence("put a hot apple in table") as Task;
    const world = new TextWorld(testWorld({ start: 2 }));
    const expert = new Expert(task, world.reset());
    expect(expert.intention(world.admissible())).toMatchObject({ phase: "search", target: "apple" });
    for (let i = 0; i < 30 && !world.won(); i++) {
      const intention = expert.intention(world.admissible());
      expert.observe(world.step(intention?.action ?? "").text);
    }
    expect(world.won()).toBe(true);
  });
});
