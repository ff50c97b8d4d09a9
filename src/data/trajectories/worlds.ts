/**
 * What each benchmark's texts look like in published episodes: which one it is, where the goal is, what belongs to the
 * prompt and not to the world, and which task of ours an item is.
 */
import { dataIndexTask, formatTaskId } from "../../environments/scienceworld/tasks.js";

/** The first thing an agent is shown, taken apart. */
export interface Opening {
  readonly task: string;
  readonly observation: string;
}

/** Name of the environment an episode was recorded in, from its item id or its first text; null where unknown. */
export function recognize(id: string | null, opening: string): string | null {
  const prefix = /^(alfworld|sciworld|scienceworld|webshop)(?=[_/-]|$)/i.exec(id ?? "")?.[1]?.toLowerCase();
  if (prefix !== undefined) return prefix === "sciworld" ? "scienceworld" : prefix;
  if (/You are in the middle of a room/.test(opening)) return "alfworld";
  if (/^\s*(web\s?shop\b|instruction:)/i.test(opening) || /\[SEP\]\s*Instruction/i.test(opening)) return "webshop";
  if (/This (room|outside location) is called/.test(opening)) return "scienceworld";
  return null;
}

/** Splits the first text into goal and observation. The goal is empty where the text does not name one. */
export function openingOf(environment: string, text: string): Opening {
  switch (environment) {
    case "webshop": {
      const goal = /instruction:\s*(?:\[SEP\]\s*)?([\s\S]*?)\s*(?:\[SEP\]|\[Search\]|\n|$)/i.exec(text)?.[1] ?? "";
      return { task: goal.trim(), observation: text };
    }
    case "scienceworld": {
      // The goal comes first, then what is around the agent, or nothing (ETO).
      const room = text.search(/^This (room|outside location) is called/m);
      const goal = room === -1 ? text : text.slice(0, room);
      return {
        task: goal.replace(/^\s*(task description:|here is your task\.)\s*/i, "").trim(),
        observation: room === -1 ? "" : text.slice(room),
      };
    }
    default: {
      const [before = "", goal = ""] = text.split(/Your task is to:\s*/);
      const observation = before.replace(/^\s*here is your task\.\s*/i, "").replace(/^-=.*=-\s*/, "");
      return { task: (goal.split("\n")[0] ?? "").trim().replace(/\.$/, ""), observation: observation.trim() };
    }
  }
}

/** A text of the world without what the prompt put around it, and the actions it lists. */
export function cleanObservation(text: string): { text: string; actions: readonly string[] | null } {
  const bare = text.replace(/^\s*observation\s*:\s*/i, "");
  const listed = /\n?\s*available actions\s*:\s*([^\n]*)\s*$/i.exec(bare);
  if (listed === null) return { text: bare, actions: null };
  const actions = (listed[1] ?? "")
    .replace(/^\[|\]$/g, "")
    .split(",")
    .map((action) => action.trim().replace(/^'(.*)'$/, "$1"))
    .filter((action) => action !== "");
  return { text: bare.slice(0, listed.index), actions: [...new Set(actions)] };
}

/**
 * The task of ours that an item of a data set is; the item's own id where it names none.
 *
 * `sciworld_123` counts as AgentGym's server does; `sciworld_boil_0[_easy]` names task and variation. `webshop_6` is the human
 * goal of that number. ALFWorld items are numbers of a list; `names` translates them.
 */
export function taskIdOf(environment: string, id: string, names: ReadonlyMap<string, string>): string {
  const named = names.get(id);
  if (named !== undefined) return named;
  const item = id.replace(/^[a-z]+_/i, "");
  if (environment === "scienceworld") {
    if (/^\d+$/.test(item) && id !== item) return dataIndexTask(Number(item)) ?? id;
    const parts = /^([a-z][a-z0-9-]*)_(\d+)(?:_(easy))?$/.exec(item);
    return parts === null ? id : formatTaskId(parts[1] ?? "", Number(parts[2]), parts[3] ?? "");
  }
  if (environment === "webshop" && /^\d+$/.test(item)) return `human/${item}`;
  return id;
}
