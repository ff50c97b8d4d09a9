/**
 * Which planning domain and text grammar a game file carries, and whether this engine implements them.
 *
 * The rules of `textworld/rules.ts` and `texts.ts` are ALFWorld's, worked out by hand. A game's own domain and grammar are
 * therefore read only to find out which of the published wordings they use, and to refuse a game whose rules differ in
 * any part that the engine relies on - by the name of that part, rather than by playing it wrongly.
 */
import { createHash } from "node:crypto";
import { MOVE_WORDING, PUT_WORDING, type Wording } from "../textworld/world.js";
import { type Grammar, GrammarError, parseGrammar } from "./grammar.js";
import { canonical, type Expression, PddlError, parseExpression } from "./pddl.js";

/** First 16 hex digits of the sha256 of each action's canonical text: the domain of alfworld 0.3.5 to 0.5.0. */
const DOMAIN_ACTIONS: Readonly<Record<string, string>> = {
  look: "af35305d0073105f",
  inventory: "707bf5a9f559863f",
  examinereceptacle: "b3bf49299bab5205",
  examineobject: "30dc940e6061553d",
  gotolocation: "1a17e26de38fab24",
  openobject: "21956169b15d8546",
  closeobject: "11ebd46815bc0c79",
  pickupobject: "67566d33029bd651",
  putobject: "6ebc84b6bfd5a339",
  cleanobject: "60439a4fefecb24d",
  heatobject: "913128a2295ae62c",
  coolobject: "e5584ea482950e09",
  toggleobject: "add36a6e826ee01c",
  sliceobject: "d10bfbed9ccc451d",
  help: "805c8dba41981b5e",
};

/** The same of each rule's alternatives as JSON. */
const GRAMMAR_RULES: Readonly<Record<string, string>> = {
  intro: "e10713eab1e7ea75",
  "look.feedback": "9f542416ac1ec072",
  "look-variations": "03a13e6b18e1349f",
  list_objects_on_the_floor: "80eeae0ed91344c1",
  list_appliances: "d7cc660399658086",
  "overview(o)": "ec1e9e636ea0904d",
  "overview(r)": "4a2bc78c30445a9f",
  list_empty: "782d6abf785b521f",
  list_separator: "48e7c01eaa61a08d",
  list_last_separator: "2c5c78a579484418",
  "OpenObject.feedback": "429d8fa9b26510c1",
  "CloseObject.feedback": "2f811301ed038380",
  "PickupObject.feedback": "c6573a32e2fe5623",
  "inventory.feedback": "d946fea03af0f706",
  "examineReceptacle.feedback": "2203f6fc39716b2c",
  "examineObject.feedback": "00a99d06f28fc943",
  "toggleObject.feedback": "a4e0975c7e444225",
  "heatObject.feedback": "1bad7d2240191fd8",
  "cleanObject.feedback": "a814f6cb8d56efbf",
  "coolObject.feedback": "936804bc4731aafe",
  "sliceObject.feedback": "099403cac7a611a3",
};

/** Command template and feedback of each action; those that depend on the wording are looked at one by one. */
const ACTION_TEXTS: Readonly<Record<string, readonly [template: string, feedback: string]>> = {
  gotolocation: ["go to [{r.name | receptacleatlocation(r:receptacle, lend:location)}]", "#GotoLocation.feedback#"],
  openobject: ["open {r}", "#OpenObject.feedback#"],
  closeobject: ["close {r}", "#CloseObject.feedback#"],
  pickupobject: ["take {o} from {r}", "#PickupObject.feedback#"],
  inventory: ["inventory", "#inventory.feedback#"],
  examinereceptacle: ["examine {r}", "#examineReceptacle.feedback#"],
  examineobject: ["examine {o}", "#examineObject.feedback#"],
  toggleobject: ["use {o}", "#toggleObject.feedback#"],
  heatobject: ["heat {o} with {r}", "#heatObject.feedback#"],
  cleanobject: ["clean {o} with {r}", "#cleanObject.feedback#"],
  coolobject: ["cool {o} with {r}", "#coolObject.feedback#"],
  sliceobject: ["slice {co} with {ko}", "#sliceObject.feedback#"],
  look: ["look", "#look.feedback#"],
};

const PUT_TEXTS: readonly (readonly [put: Wording["put"], template: string, feedback: string])[] = [
  ["move", "move {o} to {r}", "You move the {o.name} to the {r.name}."],
  ["put", "put {o} in/on {r}", "You put the {o.name} in/on the {r.name}."],
];

const ARRIVAL_TEXTS: readonly (readonly [arrival: Wording["arrival"], feedback: string])[] = [
  ["receptacle", "You arrive at {r.name}. #examineReceptacle.feedback#"],
  ["location", "You arrive at {lend.name}. #examineReceptacle.feedback#"],
];

/** Characters to which the text grammar gives a meaning of their own. */
const GRAMMAR_CHARACTERS = /[;|"<>[\]#{}]/;

/** Why a game cannot be played. Callers add the file's name. */
export class UnsupportedGame extends Error {
  override readonly name = "UnsupportedGame";
}

/** What the texts of a game file say about its wording. */
export interface Language {
  readonly wording: Wording;
  /** Goal sentence without the full stop. */
  readonly task: string;
}

/** Names of the actions of domains seen so far, by the domain's text: all games of a release share one text. */
const knownDomains = new Map<string, ReadonlySet<string>>();

/**
 * Checks domain and grammar and reads wording and goal sentence from them.
 *
 * @throws UnsupportedGame naming the first part that differs from what the engine implements.
 */
export function readLanguage(domain: string, grammarText: string): Language {
  const actions = checkDomain(domain);
  let grammar: Grammar;
  try {
    grammar = parseGrammar(grammarText);
  } catch (error) {
    if (error instanceof GrammarError) throw new UnsupportedGame(`its grammar cannot be read: ${error.message}`);
    throw error;
  }
  checkGrammar(grammar);
  const put = putText(grammar);
  const arrival = oneOf(grammar, "GotoLocation.feedback", (rhs) => ARRIVAL_TEXTS.find(([, text]) => text === rhs)?.[0]);
  const task = oneOf(grammar, "task", (rhs) => /^Your task is to: ([\s\S]*)\.$/.exec(rhs)?.[1]);
  if (GRAMMAR_CHARACTERS.test(task)) {
    throw new UnsupportedGame(`its goal sentence has a character that the text grammar reserves: ${task}`);
  }
  const help = actions.has("help") ? helpText(grammar) : null;
  // The constants keep equal wordings identical objects.
  const known = [MOVE_WORDING, PUT_WORDING].find((w) => w.put === put && w.arrival === arrival && w.help === help);
  return { wording: known ?? { put, arrival, help }, task };
}

/** Checks every action of a domain and returns their names. */
function checkDomain(text: string): ReadonlySet<string> {
  const known = knownDomains.get(text);
  if (known !== undefined) return known;
  let sections: Expression;
  try {
    sections = parseExpression(text);
  } catch (error) {
    if (error instanceof PddlError) throw new UnsupportedGame(`its domain cannot be read: ${error.message}`);
    throw error;
  }
  const names = new Set<string>();
  for (const section of sections) {
    if (typeof section === "string" || section[0] !== ":action") continue;
    const name = String(section[1]);
    if (DOMAIN_ACTIONS[name] !== digest(canonical(section))) {
      throw new UnsupportedGame(`the action "${name}" of its domain is not one this engine implements`);
    }
    names.add(name);
  }
  for (const name of Object.keys(DOMAIN_ACTIONS)) {
    if (name !== "help" && !names.has(name)) throw new UnsupportedGame(`its domain lacks the action "${name}"`);
  }
  knownDomains.set(text, names);
  return names;
}

function checkGrammar(grammar: Grammar): void {
  for (const [name, expected] of Object.entries(GRAMMAR_RULES)) {
    const alternatives = grammar.rules.get(name);
    if (alternatives === undefined || digest(JSON.stringify(alternatives)) !== expected) {
      throw new UnsupportedGame(`the rule "${name}" of its grammar is not one this engine implements`);
    }
  }
  for (const [name, [template, feedback]] of Object.entries(ACTION_TEXTS)) {
    const action = grammar.actions.get(name);
    if (action?.template !== template || action.feedback !== feedback) {
      throw new UnsupportedGame(`the texts of the action "${name}" in its grammar are not those this engine writes`);
    }
  }
}

function putText(grammar: Grammar): Wording["put"] {
  const template = grammar.actions.get("putobject")?.template;
  const put = oneOf(
    grammar,
    "PutObject.feedback",
    (rhs) => PUT_TEXTS.find(([, command, feedback]) => command === template && feedback === rhs)?.[0],
  );
  if (grammar.actions.get("putobject")?.feedback !== "#PutObject.feedback#") {
    throw new UnsupportedGame('the texts of the action "putobject" in its grammar are not those this engine writes');
  }
  return put;
}

/** Text of `help`: a rule of its own in newer games, written in place of the rule in games patched to 2.1.2. */
function helpText(grammar: Grammar): string {
  const action = grammar.actions.get("help");
  if (action === undefined || action.template !== "help") throw new UnsupportedGame('its grammar has no "help"');
  const text = action.feedback === "#help.feedback#" ? oneOf(grammar, "help.feedback", (rhs) => rhs) : action.feedback;
  if (GRAMMAR_CHARACTERS.test(text)) throw new UnsupportedGame("its help text has a character the grammar reserves");
  // The original's parser takes white space at the very beginning for an empty comment.
  return text.replace(/^\s+/, "");
}

/** The reading of a rule that must have one unconditional alternative. */
function oneOf<T>(grammar: Grammar, rule: string, read: (rhs: string) => T | undefined): T {
  const alternatives = grammar.rules.get(rule) ?? [];
  const [only] = alternatives;
  const value = alternatives.length === 1 && only?.condition === "" ? read(only.rhs) : undefined;
  if (value === undefined) throw new UnsupportedGame(`the rule "${rule}" of its grammar is not one this engine writes`);
  return value;
}

function digest(text: string): string {
  return createHash("sha256").update(text).digest("hex").slice(0, 16);
}
