/**
 * The corpus of the bundled model: household episodes of a clumsy agent, and judgments of a biased one.
 *
 * The model learns from it how replies look (`<think>...</think><action>...</action>`), what the texts mean, and habits
 * that are worth improving: at every state the agent does what the expert would only with `EXPERT_SHARE`, else another
 * admissible action with a reason that sounds alike; its judgments are right little more often than not and lean to the
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

/** Percent of states in which the agent does what the expert would: clumsy at first, then a short phase of practice. */
export const EXPERT_SHARE = { clumsy: 50, practiced: 75 };
/** Percent of states that also ask for a judgment. */
export const JUDGMENT_SHARE = 50;
/** Percent of judgments that name the expert's action, before the lean to the first candidate. */
export const JUDGMENT_RIGHT = 58;
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

function reply(reason, action, random) {
  if (random.chance(MALFORMED)) return `<think>${reason}</think>${action}`;
  return `<think>${reason}</think><action>${action}</action>`;
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
    const candidates = [
      { action: intention.action, reason: thoughtOf(intention) },
      ((action) => ({ action, reason: reasonFor(action, house.task) }))(random.pick(others)),
    ];
    const [expert, other] = candidates;
    const chosen = random.chance(EXPERT_SHARE[agent]) ? expert : other;
    samples.push({
      prompt: actionPrompt(compactTemplate, state, PROMPT),
      reply: reply(chosen.reason, chosen.action, random),
    });
    if (random.chance(JUDGMENT_SHARE)) {
      const [first, second] = random.chance(50) ? [expert, other] : [other, expert];
      const preferred = random.chance(JUDGMENT_RIGHT) ? expert : other;
      const named = random.chance(JUDGMENT_FIRST) ? first : preferred;
      samples.push({
        prompt: judgmentPrompt(compactTemplate, state, { first: first.action, second: second.action }, PROMPT),
        reply: reply(named.reason, named.action, random),
      });
    }
    const transition = episode.step(chosen.action);
    if (transition.terminated || transition.truncated) return samples;
    history.push({ observation, action: chosen.action });
    observation = transition.observation;
  }
}
