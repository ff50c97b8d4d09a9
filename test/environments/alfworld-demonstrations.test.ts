/**
 * The 36 published ReAct demonstrations were recorded in games that are not to be had. Each can still be checked: from
 * what it shows a world is put together, and in that world the same commands must be admissible and give the same texts.
 */
import { existsSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { TextWorld } from "../../src/environments/textworld/rules.js";
import { goalFormula, parseTaskSentence, type Task } from "../../src/environments/textworld/task.js";
import { NOTHING_HAPPENS } from "../../src/environments/textworld/texts.js";
import { Property, PUT_WORDING, type World } from "../../src/environments/textworld/world.js";

const file = new URL("../../../shared/envs/alfworld/demonstrations/react_alfworld_3prompts.json", import.meta.url);
const present = existsSync(file);
if (!present) console.warn("ReAct's demonstrations are not in ../shared/envs/alfworld: their tests are skipped.");

interface Demonstration {
  readonly room: string;
  readonly task: string;
  readonly turns: readonly { readonly command: string; readonly text: string }[];
}

/** Room, task and turns; thoughts are no actions of the game. */
function readDemonstration(text: string): Demonstration {
  const [head = "", ...turns] = text.trim().split(/\n> ?/);
  const [room = "", task = ""] = head.trim().split(/\n+/);
  return {
    room,
    task: task.replace(/^Your task is to: /, "").replace(/\.$/, ""),
    turns: turns
      .map((turn) => turn.trim().split("\n"))
      .map(([command = "", answer = ""]) => ({ command, text: answer }))
      .filter(({ command }) => !command.startsWith("think:")),
  };
}

/** The demonstrations' editors left out where the agent arrived, and `and` in some lists. */
const normalize = (text: string) =>
  text
    .trim()
    .replace(/^You arrive at loc \d+\. /, "")
    .replaceAll(", and a ", ", a ");

const names = (list: string) =>
  list === "nothing" ? [] : list.split(/, and |, /).map((item) => item.replace(/^a /, ""));
const classOf = (name: string) => name.replace(/ \d+$/, "");
/** An id that sorts as the original's do: by class, and by falling number. */
const idOf = (name: string) => `${classOf(name)}_bar_${String(999 - Number(name.replace(/^.* /, "")))}`;

/** The one goal sentence that is not of the published templates. */
const taskOf = (sentence: string): Task =>
  parseTaskSentence(sentence.replace(/^find some (\w+) and put it in (\w+)$/, "put a $1 in $2")) as Task;

/** A world in which the demonstration could have happened. */
function worldOf({ room, task, turns }: Demonstration): World {
  const receptacles = new Map<string, { openable: boolean; contents: string[] | null }>();
  for (const name of names(/you see (.*)\.$/.exec(room)?.[1] ?? "")) {
    receptacles.set(name, { openable: false, contents: null });
  }
  const properties = new Map<string, number>();
  const facing = new Map<string, string>();
  const fits = new Set<string>();
  const moved = new Set<string>();
  const able = (object: string, property: number) => properties.set(object, (properties.get(object) ?? 0) | property);
  for (const { command, text } of turns) {
    for (const [, name = ""] of text.matchAll(/The ([a-z]+ \d+) is (?:open|closed)\./g)) {
      const receptacle = receptacles.get(name);
      if (receptacle !== undefined) receptacle.openable = true;
    }
    const [, on, open, list = ""] =
      /(?:On the ([a-z]+ \d+)|The ([a-z]+ \d+) is open\. In it), you see (.*)\.$/.exec(text) ?? [];
    const receptacle = receptacles.get(on ?? open ?? "");
    if (receptacle?.contents === null) receptacle.contents = names(list).filter((name) => !moved.has(name));
    const [, verb = "", object = "", place = ""] =
      /^(take|put|clean|heat|cool|use) ([a-z]+ \d+)(?: (?:from|in\/on|with) ([a-z]+ \d+))?/.exec(command) ?? [];
    const [spot, ...others] = /^You are facing the (.*)\. Next to it/.exec(text)?.[1]?.split(/, and |, /) ?? [];
    for (const other of others) facing.set(other, spot ?? other);
    // A command that did nothing says nothing about the world.
    if (text.trim() === NOTHING_HAPPENS) continue;
    if (verb === "put") {
      fits.add(`${classOf(place)}type ${classOf(object)}type`);
      moved.add(object);
    }
    if (verb === "take") able(object, Property.pickupable);
    if (verb === "clean") able(object, Property.cleanable);
    if (verb === "heat") able(object, Property.heatable);
    if (verb === "cool") able(object, Property.coolable);
    if (verb === "use") able(object, Property.toggleable);
  }
  const sorted = [...receptacles].sort(([a], [b]) => (idOf(a) < idOf(b) ? -1 : 1));
  const objects = sorted
    .flatMap(([, { contents }], r) => (contents ?? []).map((name) => ({ name, r })))
    .sort((a, b) => (idOf(a.name) < idOf(b.name) ? -1 : 1));
  const locations = [...sorted.map(([name]) => name), "middle 1"];
  const spotOf = (name: string) => locations.indexOf(facing.get(name) ?? name);
  const parsed = taskOf(task);
  return {
    task,
    goal: goalFormula(parsed),
    wording: PUT_WORDING,
    agent: "agent1",
    start: locations.length - 1,
    held: null,
    locations: locations.map((name, l) => ({ id: `loc_bar_${name}`, name: `loc ${l}` })),
    receptacles: sorted.map(([name, { openable }]) => ({
      id: idOf(name),
      name,
      types: [`${classOf(name)}type`],
      location: spotOf(name),
      openable,
      opened: false,
    })),
    objects: objects.map(({ name, r }) => ({
      id: idOf(name),
      name,
      types: [`${classOf(name)}type`],
      receptacles: [r],
      locations: [spotOf(sorted[r]?.[0] ?? "")],
      contents: [],
      properties: properties.get(name) ?? Property.pickupable,
    })),
    canContain: fits,
    otherFacts: new Set(),
    entities: new Map([
      ["agent", ["agent1"]],
      ["location", locations.map((name) => `loc_bar_${name}`)],
      ["receptacle", sorted.map(([name]) => idOf(name))],
      ["object", objects.map(({ name }) => idOf(name))],
    ]),
  };
}

describe.skipIf(!present)("published demonstrations", () => {
  const prompts: Record<string, string> = present ? JSON.parse(readFileSync(file, "utf8")) : {};

  it.each(Object.keys(prompts))("%s happens as written in the world it shows", (name) => {
    const demonstration = readDemonstration(prompts[name] ?? "");
    const world = new TextWorld(worldOf(demonstration));
    expect(normalize(world.reset()).split("\n\n")[1]?.replaceAll(", and a ", ", a ")).toBe(
      demonstration.room.replaceAll(", and a ", ", a "),
    );
    for (const { command, text } of demonstration.turns) {
      // One demonstration opens the fridge without having gone there, and one lacks the answer to a command.
      if (command === "open fridge 1" && name.endsWith("heat_0")) world.step("go to fridge 1");
      const answer = normalize(world.step(command).text);
      if (text !== "") expect(`${command}: ${answer}`).toBe(`${command}: ${normalize(text)}`);
    }
    expect(world.won()).toBe(true);
  });
});
