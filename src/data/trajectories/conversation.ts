/**
 * Conversations of the data sets in use, brought to one shape: AgentTraj-L, ETO, AgentInstruct and ShareGPT
 * (`from`/`value`), role/content messages with or without tool calls.
 */
import { z } from "zod";

/** One turn. */
export interface Turn {
  readonly by: "world" | "agent" | "system";
  readonly text: string;
  /** The argument `action` of a tool call, where the agent acts by tools; null otherwise. */
  readonly toolAction: string | null;
  /** False: the data set does not train on it. Null: it does not say. */
  readonly trained: boolean | null;
}

/** A conversation and what its record says beside it. */
export interface Conversation {
  readonly id: string | null;
  readonly turns: readonly Turn[];
  readonly reward: number | null;
  readonly finalObservation: string | null;
  /** Path of the game played, in converted ALFWorld sets. */
  readonly gameFile: string | null;
}

const toolCall = z.object({
  function: z.object({ arguments: z.union([z.string(), z.record(z.string(), z.unknown())]) }),
});
const turn = z.union([
  z.object({ from: z.string(), value: z.string(), loss: z.boolean().nullable().optional() }),
  z.object({
    role: z.string(),
    content: z.string().nullable(),
    tool_calls: z.array(toolCall).nullable().optional(),
  }),
]);
const turns = z.array(turn);
const identifier = z.union([z.string(), z.number()]).transform(String);
const recordSchema = z.object({
  id: identifier.optional(),
  item_id: identifier.optional(),
  conversations: turns.nullable().optional(),
  conversation: turns.nullable().optional(),
  messages: turns.nullable().optional(),
  reward: z.number().nullable().optional(),
  final_observation: z.string().nullable().optional(),
  game_file: z.string().nullable().optional(),
});

const SPEAKERS: Readonly<Record<string, Turn["by"]>> = {
  human: "world",
  user: "world",
  tool: "world",
  observation: "world",
  function: "world",
  gpt: "agent",
  assistant: "agent",
  agent: "agent",
  model: "agent",
  system: "system",
};

/** Why a record is no conversation that can be used, as a sentence part. */
export class NotUsable extends Error {}

/**
 * Reads a record with a conversation, or a bare array of turns.
 *
 * @throws NotUsable
 */
export function readConversation(value: unknown): Conversation {
  const bare = turns.safeParse(value);
  if (bare.success && bare.data.length > 0)
    return { id: null, turns: bare.data.map(toTurn), reward: null, finalObservation: null, gameFile: null };
  const result = recordSchema.safeParse(value);
  if (!result.success) {
    const issue = result.error.issues[0];
    throw new NotUsable(`it has no turns of a known shape (${issue?.path.join(".")}: ${issue?.message})`);
  }
  const record = result.data;
  const listed = record.conversations ?? record.conversation ?? record.messages;
  if (listed === undefined || listed === null || listed.length === 0) throw new NotUsable("it has no conversation");
  return {
    id: record.item_id ?? record.id ?? null,
    turns: listed.map(toTurn),
    reward: record.reward ?? null,
    finalObservation: record.final_observation ?? null,
    gameFile: record.game_file ?? null,
  };
}

function toTurn(given: z.output<typeof turn>): Turn {
  if ("from" in given)
    return { by: speaker(given.from), text: given.value, toolAction: null, trained: given.loss ?? null };
  return {
    by: speaker(given.role),
    text: given.content ?? "",
    toolAction: toolAction(given.tool_calls ?? []),
    trained: null,
  };
}

function speaker(name: string): Turn["by"] {
  const by = SPEAKERS[name.toLowerCase()];
  if (by === undefined) throw new NotUsable(`it has a turn by ${JSON.stringify(name)}, which is nobody known`);
  return by;
}

function toolAction(calls: readonly z.output<typeof toolCall>[]): string | null {
  if (calls.length === 0) return null;
  if (calls.length > 1) throw new NotUsable("it has a turn with several tool calls at once");
  const given = calls[0]?.function.arguments;
  let parsed: unknown = given;
  if (typeof given === "string")
    try {
      parsed = JSON.parse(given);
    } catch {
      throw new NotUsable("it has a tool call whose arguments are no JSON");
    }
  const action = typeof parsed === "object" && parsed !== null && "action" in parsed ? parsed.action : undefined;
  if (typeof action === "string" && action !== "") return action;
  throw new NotUsable("it has a tool call without an argument `action`");
}
