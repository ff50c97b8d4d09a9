/**
 * The three servers of AgentGym that play our benchmarks. Each has its own words for the same calls.
 *
 * ScienceWorld's were recorded from a running server; ALFWorld's and WebShop's are known from reading its sources.
 */
import { z } from "zod";
import type { AdmissibleActions, EpisodeStart } from "../environment.js";

export const agentGymKinds = ["sciworld", "alfworld", "webshop"] as const;
export type AgentGymKind = (typeof agentGymKinds)[number];

/** Asks the server; errors are already thrown, the answer is checked against a schema. */
export type Ask = <T>(
  call: {
    readonly method: "GET" | "POST";
    readonly path: string;
    readonly body?: unknown;
    /** Whether sending it twice does no harm. */
    readonly repeatable: boolean;
    readonly slow?: boolean;
  },
  schema: z.ZodType<T>,
) => Promise<T>;

/** What an action led to, in the server's words made ours. */
export interface DialectStep {
  readonly observation: string;
  readonly reward: number;
  /** 1 is the best possible. */
  readonly score: number;
  readonly success: boolean;
  readonly done: boolean;
  /** The server ended the episode by its own limit. */
  readonly truncated: boolean;
  readonly accepted: boolean;
  /** Where the answer lists them. */
  readonly admissible: AdmissibleActions | null;
}

export interface Dialect {
  /** Name of the environment, as ours is called. */
  readonly environment: string;
  /** Panels whose items are known, as first item and the one after the last. */
  readonly panels: Readonly<Record<string, readonly [number, number]>>;
  create(ask: Ask): Promise<number>;
  reset(ask: Ask, id: number, item: number): Promise<{ start: EpisodeStart; admissible: AdmissibleActions | null }>;
  step(ask: Ask, id: number, action: string): Promise<DialectStep>;
  /** Asked where the last answer listed none; null where the server cannot. */
  admissible(ask: Ask, id: number): Promise<AdmissibleActions | null>;
  /** Null where the server has no such call. */
  readonly close: ((ask: Ask, id: number) => Promise<void>) | null;
}

const numbered = z.object({ id: z.int() });

const sciworld: Dialect = {
  environment: "scienceworld",
  panels: { all: [0, 4639] },
  create: async (ask) => (await ask({ method: "POST", path: "/create", repeatable: false, slow: true }, numbered)).id,
  reset: async (ask, id, item) => {
    const schema = z.object({ task_name: z.string(), task_description: z.string(), observation: z.string() });
    const body = { id, data_idx: item };
    const r = await ask({ method: "POST", path: "/reset", body, repeatable: true, slow: true }, schema);
    return {
      start: { task: r.task_description, observation: r.observation, category: r.task_name },
      admissible: null,
    };
  },
  step: async (ask, id, action) => {
    const schema = z.object({ observation: z.string(), reward: z.number(), score: z.number(), done: z.boolean() });
    const r = await ask({ method: "POST", path: "/step", body: { id, action }, repeatable: false }, schema);
    const success = r.done && r.score >= 100;
    return {
      observation: r.observation,
      reward: r.reward,
      score: r.score / 100,
      success,
      done: r.done,
      // Neither won nor failed (failing is -100), and yet at an end: that is the package's limit of moves.
      truncated: r.done && !success && r.score >= 0,
      accepted: !/^(No known action|Unknown action|Ambiguous request)/.test(r.observation),
      admissible: null,
    };
  },
  admissible: async (ask, id) => {
    const schema = z.object({ possible_actions: z.array(z.string()) });
    const hint = await ask({ method: "GET", path: `/action_hint?id=${id}`, repeatable: true }, schema);
    // Templates with a place for an object; without one an action is literal.
    const open = (template: string): boolean => template.split(" ").includes("OBJ");
    const actions = hint.possible_actions.filter((template) => !open(template));
    const patterns = hint.possible_actions.filter(open).map(
      (template) =>
        `^${template
          .split(" ")
          .map((word) => (word === "OBJ" ? ".+" : verbatim(word)))
          .join(" ")}$`,
    );
    return { actions: [...new Set(actions)], patterns: [...new Set(patterns)] };
  },
  close: async (ask, id) => {
    await ask({ method: "POST", path: "/close", body: { id }, repeatable: false }, z.unknown());
  },
};

const alfworld: Dialect = {
  environment: "alfworld",
  panels: { train: [0, 2420], test: [2420, 2620] },
  create: async (ask) => (await ask({ method: "POST", path: "/create", repeatable: false, slow: true }, numbered)).id,
  reset: async (ask, id, item) => {
    const schema = z.object({
      observation: z.string(),
      available_actions: z.array(z.string()),
      task_type: z.string(),
    });
    const body = { id, game: item, world_type: "Text" };
    const r = await ask({ method: "POST", path: "/reset", body, repeatable: true, slow: true }, schema);
    const [before = "", goal = ""] = r.observation.split(/Your task is to:\s*/);
    return {
      start: {
        task: (goal.split("\n")[0] ?? "").trim().replace(/\.$/, ""),
        observation: before.replace(/^-=.*=-\s*/, "").trim(),
        category: (r.task_type.split("/").at(-2) ?? r.task_type).split("-")[0] ?? "",
      },
      admissible: literal(r.available_actions),
    };
  },
  step: async (ask, id, action) => {
    const schema = z.object({
      observation: z.string(),
      reward: z.number(),
      available_actions: z.array(z.string()),
      done: z.boolean(),
    });
    const r = await ask({ method: "POST", path: "/step", body: { id, action }, repeatable: false }, schema);
    return {
      observation: r.observation,
      reward: r.reward,
      score: Math.min(1, r.reward),
      success: r.done && r.reward >= 1,
      done: r.done,
      truncated: r.done && r.reward < 1,
      accepted: r.observation.trim() !== "Nothing happens.",
      admissible: literal(r.available_actions),
    };
  },
  admissible: async (ask, id) =>
    literal(await ask({ method: "GET", path: `/available_actions?id=${id}`, repeatable: true }, z.array(z.string()))),
  close: null,
};

const webshop: Dialect = {
  environment: "webshop",
  // How many goals a server has depends on its products.
  panels: {},
  create: async (ask) => ask({ method: "POST", path: "/create", repeatable: false, slow: true }, z.int()),
  reset: async (ask, id, item) => {
    const schema = z.tuple([z.string(), z.unknown()]);
    const body = { env_idx: id, session_id: item };
    const [text] = await ask({ method: "POST", path: "/reset", body, repeatable: true, slow: true }, schema);
    const goal = /Instruction:\s*(?:\[SEP\]\s*)?([\s\S]*?)\s*(?:\[SEP\]|$)/.exec(text)?.[1] ?? "";
    return { start: { task: goal.trim(), observation: text, category: "" }, admissible: null };
  },
  step: async (ask, id, action) => {
    const schema = z.object({ state: z.string(), reward: z.number(), done: z.boolean() });
    const r = await ask({ method: "POST", path: "/step", body: { env_idx: id, action }, repeatable: false }, schema);
    return {
      observation: r.state,
      reward: r.reward,
      score: Math.min(1, r.reward),
      success: r.done && r.reward >= 1,
      done: r.done,
      truncated: false,
      accepted: true,
      admissible: null,
    };
  },
  admissible: async (ask, id) => {
    const schema = z.object({ has_search_bar: z.boolean(), clickables: z.array(z.string()) });
    const r = await ask({ method: "GET", path: `/available_actions?env_idx=${id}`, repeatable: true }, schema);
    const actions = r.clickables.filter((label) => label !== "search").map((label) => `click[${label}]`);
    return { actions: [...new Set(actions)], patterns: r.has_search_bar ? ["^search\\[.+\\]$"] : [] };
  },
  close: null,
};

export const dialects: Readonly<Record<AgentGymKind, Dialect>> = { sciworld, alfworld, webshop };

function literal(actions: readonly string[]): AdmissibleActions {
  return { actions: [...new Set(actions)], patterns: [] };
}

/** A word as a regular expression that matches it; only what the flag `u` allows is escaped. */
function verbatim(word: string): string {
  return word.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&");
}
