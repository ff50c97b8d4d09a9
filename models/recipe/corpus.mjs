/**
 * The corpus of the bundled model: household episodes that go well, an agent that would rather do something else, and
 * judgments of a biased judge.
 *
 * The model learns from it how replies look (`<think>...</think><action>...</action>`), what the texts mean, and habits
 * that are worth improving: the episodes' texts are mostly an expert's, but the replies are an expert's, a habit's or
 * any other admissible action with a reason that sounds alike; judgments are right more often than not and lean to the
 * first candidate. Houses come from seeds that no panel has.
 */
import { generateHouse } from "../../dist/environments/household/generator.js";
import { SETTINGS } from "../../dist/environments/household/panels.js";
import { IntegerRandom } from "../../dist/environments/household/random.js";
import { TextWorldEpisode } from "../../dist/environments/textworld/episode.js";
import { TASK_KINDS } from "../../dist/environments/textworld/task.js";
import { thoughtOf } from "../../dist/environments/textworld/thought.js";
import { MOVE_WORDING } from "../../dist/environments/textworld/world.js";
import { actionPrompt, judgmentPrompt } from "../../dist/prompts/template.js";
import { compactTemplate } from "../../dist/prompts/templates.js";

/** Percent of the states in which an episode goes on with the expert's action, a habit, or a slip; else with any other. */
export const DONE = { clumsy: { expert: 75, habit: 12, slip: 0 }, practiced: { expert: 75, habit: 8, slip: 8 } };
/** The same for what replies name. */
export const REPLY = { clumsy: { expert: 35, habit: 50, slip: 0 }, practiced: { expert: 58, habit: 28, slip: 0 } };
/** The same for the action that judgments hold against the expert's. */
export const RIVAL = { clumsy: { expert: 0, habit: 50, slip: 0 }, practiced: { expert: 0, habit: 35, slip: 35 } };
/** Percent of states that also ask for a judgment. */
export const JUDGMENT_SHARE = 50;
/** Percent of judgments that name the expert's action, before the lean to the first candidate. */
export const JUDGMENT_RIGHT = 65;
/** Percent of judgments that name the first candidate without looking. */
export const JUDGMENT_FIRST = 20;
/** Percent of replies that forget a tag. */
export const MALFORMED = 3;
/** Steps after which an episode of the corpus ends. */
export const EPISODE_STEPS = 24;

/** All past decisions are shown: a prompt then begins with the prompt of the step before. */
export const PROMPT = { historyLength: null };

/** Why someone would do this, in the words of the expert's reasons, whoever does it. */
export function reasonFor(action, task) {
  const [, verb = action, rest = ""] = /^(\S+)(?: (.*))?$/.exec(action) ?? [];
  if (action.startsWith("go to ")) return `${task.object}? try ${action.slice(6)}.`;
  if (verb === "open") return `${rest} is closed. open it.`;
  if (verb === "close") return `${rest} is open. close it.`;
  if (verb === "take") return `${rest.split(" from ")[0]} is here. take it.`;
  if (verb === "move") return `${rest.split(" to ")[1]} is the place for ${rest.split(" to ")[0]}.`;
  if (verb === "use") return `${rest} is here. use it.`;
  if (verb === "examine") return `look at ${rest}.`;
  if (["clean", "heat", "cool"].includes(verb)) return `${verb} it with ${rest.split(" with ")[1]}.`;
  return "look again.";
}

/**
 * An action with a thing that is not there, such as a second mug where there is one.
 *
 * @returns {string | null} A command that is not admissible.
 */
export function slipOf({ action, receptacle }, actions, task, random) {
  const taking = receptacle !== null && actions.includes(`examine ${receptacle}`) && random.chance(40);
  const model = taking ? `take ${task.object} 0 from ${receptacle}` : random.chance(60) ? action : random.pick(actions);
  const numbers = [...model.matchAll(/\d+/g)];
  if (numbers.length === 0) return null;
  const changed = taking ? numbers[0] : random.pick(numbers);
  const slip = `${model.slice(0, changed.index)}${1 + random.below(3)}${model.slice(changed.index + changed[0].length)}`;
  return actions.includes(slip) ? null : slip;
}

function reply(reason, action, random) {
  if (random.chance(MALFORMED)) return `<think>${reason}</think>${action}`;
  return `<think>${reason}</think><action>${action}</action>`;
}

/**
 * What someone who means well and does not think does here: fiddles with what is at hand, goes to the goal's place with
 * nothing to put there, forgets to clean, heat or cool.
 *
 * @returns {string | null} An admissible action other than the expert's.
 */
export function habitOf(intention, actions, task) {
  const { action, phase, receptacle } = intention;
  const starting = (...beginnings) => {
    for (const beginning of beginnings) {
      const found = actions.find((a) => a !== action && a.startsWith(beginning));
      if (found !== undefined) return found;
    }
    return null;
  };
  const goal = task.receptacle ?? task.lamp ?? "";
  if (action.startsWith("go to ")) {
    if (phase === "treat") return starting("move ", `go to ${goal} `, "inventory");
    if (phase === "place" || phase === "use") return starting("move ", "inventory");
    return starting("close ", `go to ${goal} `, "examine ", "look");
  }
  if (phase === "treat") return starting("open ", "close ", "move ", "inventory");
  return starting(`examine ${receptacle}`, "close ", "inventory");
}

/**
 * One episode as samples {prompt, reply}; the prompts of later steps continue those of earlier ones.
 *
 * @param {string} seed Any text; equal seeds give equal episodes.
 * @param {"clumsy" | "practiced"} agent
 */
export function episodeSamples(seed, agent = "clumsy") {
  const random = new IntegerRandom(`corpus/${seed}`);
  const kind = random.pick(TASK_KINDS);
  const house = generateHouse(`corpus/${seed}`, kind, "in", SETTINGS, MOVE_WORDING);
  const episode = new TextWorldEpisode({
    world: house.world,
    task: house.task,
    walkthrough: null,
    expert: "handcoded",
    stepLimit: EPISODE_STEPS,
  });
  const samples = [];
  const history = [];
  let observation = episode.start.observation;
  for (let step = 0; ; step++) {
    const intention = episode.expertIntention();
    const actions = episode.admissible();
    // The answer to `help` is longer than everything else together and says nothing that a reply needs.
    const others = actions.filter((a) => a !== intention?.action && a !== "help");
    if (intention === null || others.length === 0) return samples;
    const state = {
      task: episode.start.task,
      observation,
      history: [...history],
      step,
      admissible: { actions, patterns: [] },
    };
    const expert = { action: intention.action, reason: thoughtOf(intention) };
    const named = (action) => ({ action, reason: reasonFor(action, house.task) });
    const habit = habitOf(intention, actions, house.task);
    const drawn = (shares) => {
      const roll = random.below(100);
      if (roll < shares.expert) return expert;
      if (roll < shares.expert + shares.habit) return named(habit ?? random.pick(others));
      if (roll >= shares.expert + shares.habit + shares.slip) return named(random.pick(others));
      return named(slipOf(intention, actions, house.task, random) ?? random.pick(others));
    };
    const chosen = drawn(REPLY[agent]);
    samples.push({
      prompt: actionPrompt(compactTemplate, state, PROMPT),
      reply: reply(chosen.reason, chosen.action, random),
    });
    if (random.chance(JUDGMENT_SHARE)) {
      const other = habit === null ? named(random.pick(others)) : drawn(RIVAL[agent]);
      const [first, second] = random.chance(50) ? [expert, other] : [other, expert];
      const preferred = random.chance(JUDGMENT_RIGHT) ? expert : other;
      const verdict = random.chance(JUDGMENT_FIRST) ? first : preferred;
      samples.push({
        prompt: judgmentPrompt(compactTemplate, state, { first: first.action, second: second.action }, PROMPT),
        reply: reply(verdict.reason, verdict.action, random),
      });
    }
    const done = drawn(DONE[agent]).action;
    const transition = episode.step(done);
    if (transition.terminated || transition.truncated) return samples;
    history.push({ observation, action: done });
    observation = transition.observation;
  }
}
