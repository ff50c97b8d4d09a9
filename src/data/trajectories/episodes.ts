/** Conversations and other recorded shapes as trajectories. */
import { z } from "zod";
import { TRAJECTORY_FORMAT, type Trajectory, type TrajectoryStep } from "../trajectory.js";
import { type Conversation, NotUsable, type Turn } from "./conversation.js";
import { nullIfEmpty, parseReply } from "./reply.js";
import { cleanObservation, openingOf, recognize, taskIdOf } from "./worlds.js";

/** What the caller knows of a file. */
export interface EpisodeContext {
  /** Name of the environment; null: recognized from each record. */
  readonly environment: string | null;
  /** Written into `source`. */
  readonly source: string;
  /** Item ids to task ids. */
  readonly taskIds: ReadonlyMap<string, string>;
  /** Id of a record that has none. */
  readonly fallbackId: string;
}

/** What an agent says in place of an action when it is done, in AgentBench's demonstrations. */
const FAREWELL = /^task succeeded\.?$/i;

interface Move {
  observation: string;
  admissible: readonly string[] | null;
  thought: string | null;
  action: string | null;
}

/**
 * A conversation as a trajectory.
 *
 * Turns before the first that acts - instructions, "OK.", worked examples that the data set does not train on - are not
 * part of the episode. An agent's turn that only thinks goes before its next action, with what the world said to it.
 *
 * @throws NotUsable when an action is missing where one has to be, or the environment is not known.
 */
export function conversationEpisode(conversation: Conversation, context: EpisodeContext): Trajectory {
  const turns = conversation.turns.filter((turn) => turn.by !== "system");
  const first = turns.findIndex((turn) => turn.by === "agent" && turn.trained !== false && acts(turn));
  if (first === -1) throw new NotUsable("no turn of the agent names an action");
  const begin = turns.slice(0, first).findLastIndex((turn) => turn.by === "agent") + 1;
  const moves: Move[] = [];
  let said: string[] = [];
  let listed: readonly string[] | null = null;
  let done = false;
  for (const turn of turns.slice(begin)) {
    if (turn.by === "world") {
      const { text, actions } = cleanObservation(turn.text);
      said.push(text);
      listed = actions ?? listed;
      continue;
    }
    const reply = replyOf(turn);
    if (reply.action !== null && FAREWELL.test(reply.action)) {
      done = true;
      break;
    }
    moves.push({ observation: said.join("\n"), admissible: listed, ...reply });
    said = [];
    listed = null;
  }
  if (moves.some((move) => move.action === null))
    throw new NotUsable("a turn of the agent in the middle names no action");
  const id = conversation.id ?? context.fallbackId;
  const opening = moves[0]?.observation ?? "";
  const environment = context.environment ?? recognize(conversation.id, opening);
  if (environment === null)
    throw new NotUsable("its environment is not recognized; name it with the option `environment`");
  const { task, observation } = openingOf(environment, opening);
  const score = scoreOf(environment, conversation.reward);
  return {
    format: TRAJECTORY_FORMAT,
    id,
    environment,
    environment_version: null,
    task_id: conversation.gameFile ?? taskIdOf(environment, id, context.taskIds),
    category: null,
    task,
    steps: moves.map((move, i) => toStep(move, i === 0 ? observation : move.observation)),
    final_observation: conversation.finalObservation ?? (said.length > 0 ? said.join("\n") : null),
    success: done ? true : score === null ? null : score >= 1,
    score,
    source: context.source,
  };
}

/** ReAct's prompts for ALFWorld: one text, commands and thoughts after `> `. */
export function reactPromptEpisode(text: string, context: EpisodeContext): Trajectory {
  const [head = "", ...turns] = text.trim().split(/\n> ?/);
  const { task, observation: room } = openingOf("alfworld", head);
  const steps: TrajectoryStep[] = [];
  let thoughts: string[] = [];
  let observation = room;
  for (const turn of turns) {
    const [command = "", ...answer] = turn.trim().split("\n");
    const thought = /^think:\s*(.*)$/s.exec(command.trim())?.[1];
    if (thought !== undefined) {
      // The world answers a thought with "OK.", which is no observation.
      thoughts.push(thought.trim());
      continue;
    }
    if (command.trim() === "") throw new NotUsable("a command of it is empty");
    steps.push({ observation, thought: nullIfEmpty(thoughts.join("\n")), action: command.trim(), admissible: null });
    thoughts = [];
    observation = answer.join("\n").trim();
  }
  if (steps.length === 0) throw new NotUsable("it has no command");
  return {
    format: TRAJECTORY_FORMAT,
    id: context.fallbackId,
    environment: "alfworld",
    environment_version: null,
    task_id: taskIdOf("alfworld", context.fallbackId, context.taskIds),
    category: null,
    task,
    steps,
    final_observation: nullIfEmpty(observation),
    success: null,
    score: null,
    source: context.source,
  };
}

/** Whether a record is one of ReAct's printed WebShop episodes. */
export const reactWebShopSchema = z.object({
  goal_index: z.int().min(0),
  instruction: z.string(),
  reward: z.number().min(0).max(1),
  turns: z.array(z.object({ action: z.string(), observation: z.string() })).min(2),
});

/** One of ReAct's printed WebShop episodes: the first turn is the reset, thoughts are actions `think[...]`. */
export function reactWebShopEpisode(record: z.output<typeof reactWebShopSchema>, context: EpisodeContext): Trajectory {
  const [reset, ...turns] = record.turns;
  const steps: TrajectoryStep[] = [];
  let thoughts: string[] = [];
  let observation = reset?.observation ?? "";
  for (const turn of turns) {
    const thought = /^think\[([\s\S]*)\]$/.exec(turn.action)?.[1];
    if (thought !== undefined) {
      thoughts.push(thought.trim());
      continue;
    }
    if (turn.action.trim() === "") throw new NotUsable("an action of it is empty");
    steps.push({ observation, thought: nullIfEmpty(thoughts.join("\n")), action: turn.action, admissible: null });
    thoughts = [];
    observation = turn.observation;
  }
  if (steps.length === 0) throw new NotUsable("it has only thoughts");
  return {
    format: TRAJECTORY_FORMAT,
    id: `webshop_${record.goal_index}`,
    environment: "webshop",
    environment_version: null,
    task_id: `human/${record.goal_index}`,
    category: null,
    task: record.instruction,
    steps,
    final_observation: observation,
    success: record.reward === 1,
    score: record.reward,
    source: context.source,
  };
}

function toStep(move: Move, observation: string): TrajectoryStep {
  return {
    observation,
    thought: move.thought,
    action: move.action ?? "",
    admissible: move.admissible === null ? null : { actions: [...move.admissible], patterns: [] },
  };
}

function acts(turn: Turn): boolean {
  return replyOf(turn).action !== null;
}

function replyOf(turn: Turn): { thought: string | null; action: string | null } {
  if (turn.toolAction !== null) return { thought: nullIfEmpty(turn.text), action: turn.toolAction };
  return parseReply(turn.text);
}

/** Rewards of ScienceWorld are given in 0..1 or in points of 100. */
function scoreOf(environment: string, reward: number | null): number | null {
  if (reward === null) return null;
  const scaled = environment === "scienceworld" && Math.abs(reward) > 1 ? reward / 100 : reward;
  return Math.min(1, scaled);
}
