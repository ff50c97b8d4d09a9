/** Plays recorded sessions of the original WebShop again and reports where this one differs. */
import { isDeepStrictEqual } from "node:util";
import { z } from "zod";
import { EnvironmentError } from "../environment.js";
import type { ReplayMismatch, ReplayReport } from "../replay.js";
import { findWebShopFiles } from "./data-files.js";
import type { Goal } from "./goals.js";
import { badData } from "./json-records.js";
import { type GoalKind, loadShop } from "./load-shop.js";
import { PythonRandom } from "./python-random.js";
import { readRecordedNouns, readText } from "./recorded-nouns.js";
import { isPairs, type RewardParts } from "./reward.js";
import { WebShopSession } from "./session.js";
import type { Shop } from "./shop.js";

/** Seeds of prices and bounds under which sessions are recorded. */
export const RECORDING_SEEDS: Readonly<Record<GoalKind, number>> = { human: 101, synthetic: 202 };

const recordedStep = z.looseObject({
  action: z.string().nullable(),
  observation: z.string(),
  available: z.object({ has_search_bar: z.boolean(), clickables: z.array(z.string()) }).optional(),
  reward: z.number().nullable().optional(),
  done: z.boolean().nullable().optional(),
  url: z.string().optional(),
  state: z.record(z.string(), z.unknown()).optional(),
  error: z.string().optional(),
  observation_text_rich: z.string().optional(),
  py_seed_before: z.int().optional(),
});

const recordedSession = z.looseObject({
  id: z.string(),
  env: z.enum(["human", "synthetic"]),
  show_attrs: z.boolean().default(false),
  session: z.int().nonnegative(),
  goal: z.record(z.string(), z.unknown()).optional(),
  instruction_text: z.string().optional(),
  steps: z.array(recordedStep).min(1),
  reward: z.number().optional(),
  reward_info: z.record(z.string(), z.unknown()).optional(),
});
type RecordedStep = z.infer<typeof recordedStep>;
type RecordedSession = z.infer<typeof recordedSession>;

export interface WebShopReplayOptions {
  /** Folder with products, attributes, human instructions and recorded title nouns. */
  readonly data: string;
  /** Recorded sessions, JSON Lines, packed with gzip where the name ends in `.gz`. */
  readonly sessions: string;
  readonly signal?: AbortSignal;
}

/**
 * Replays every session of a file: goal, page text (both modes where recorded), clickables, reward and its parts, end,
 * URL, state and errors. Steps are counted without the reset, which is step -1 in mismatches.
 *
 * Throws {@link EnvironmentError} when a file is missing or not what it should be.
 */
export async function replayWebShop(options: WebShopReplayOptions): Promise<ReplayReport> {
  const files = findWebShopFiles(options.data);
  if (files.nouns === undefined) throw badData(options.data, "title_nouns.jsonl or title_nouns.jsonl.gz is not there");
  const nounsOf = await readRecordedNouns(files.nouns);
  const sessions = parseSessions(options.sessions, await readText(options.sessions));
  const shops = new Map<GoalKind, Shop>();
  const mismatches: ReplayMismatch[] = [];
  let steps = 0;
  let exact = 0;
  for (const session of sessions) {
    options.signal?.throwIfAborted();
    let shop = shops.get(session.env);
    if (shop === undefined) {
      shop = await loadShop(files, { goals: session.env, priceSeed: RECORDING_SEEDS[session.env], nounsOf });
      shops.set(session.env, shop);
    }
    const found = replaySession(shop, session);
    const wrong = new Set(found.map((mismatch) => mismatch.step).filter((step) => step >= 0));
    mismatches.push(...found);
    steps += session.steps.length - 1;
    exact += session.steps.length - 1 - wrong.size;
  }
  return { episodes: sessions.length, steps, exact, mismatches };
}

function parseSessions(path: string, text: string): RecordedSession[] {
  const lines = text.split("\n").filter((line) => line.trim() !== "");
  if (lines.length === 0) throw badData(path, "expected recorded sessions, got an empty file");
  return lines.map((line, index) => {
    try {
      return recordedSession.parse(JSON.parse(line));
    } catch (cause) {
      const reason = cause instanceof z.ZodError ? z.prettifyError(cause) : "not valid JSON";
      throw new EnvironmentError("ENVIRONMENT_BAD_DATA", `Session ${index} of ${path} cannot be read: ${reason}.`, {
        hint: "Give sessions in the format of the WebShop recordings, one JSON object a line.",
        cause,
      });
    }
  });
}

function replaySession(shop: Shop, recorded: RecordedSession): ReplayMismatch[] {
  const mismatches: ReplayMismatch[] = [];
  const compare = (step: number, field: string, expected: unknown, got: unknown): void => {
    if (expected === undefined || isDeepStrictEqual(expected, got)) return;
    mismatches.push({ episode: recorded.id, step, field, expected, got });
  };
  const goal = shop.goals[recorded.session];
  if (goal === undefined) {
    for (let step = -1; step < recorded.steps.length - 1; step++) compare(step, "session", recorded.session, null);
    return mismatches;
  }
  const random = new PythonRandom(0);
  const session = new WebShopSession(shop, goal, {
    id: String(recorded.session),
    showAttributes: recorded.show_attrs,
    random,
  });
  compare(-1, "goal", recorded.goal, goalRecord(goal));
  compare(-1, "instruction_text", recorded.instruction_text, `Instruction: ${goal.instructionText}`);
  let lastPurchase = -1;
  recorded.steps.forEach((step, index) => {
    if (step.py_seed_before !== undefined) random.seed(step.py_seed_before);
    if (step.action === null) {
      if (index > 0) compare(index - 1, "action", "an action after the reset", null);
      comparePage(session, step, (field, expected, got) => compare(index - 1, field, expected, got));
      return;
    }
    const result = session.step(step.action);
    if (result.done) lastPurchase = index - 1;
    // Where the original raised there is neither reward nor end.
    compare(index - 1, "error", step.error ?? null, result.error);
    if (step.error === undefined) {
      compare(index - 1, "reward", step.reward, result.reward);
      compare(index - 1, "done", step.done, result.done);
    }
    comparePage(session, step, (field, expected, got) => compare(index - 1, field, expected, got));
  });
  compare(lastPurchase, "reward", recorded.reward, session.purchase?.total ?? null);
  compare(lastPurchase, "reward_info", recorded.reward_info, session.purchase && rewardInfo(session.purchase));
  return mismatches;
}

function comparePage(
  session: WebShopSession,
  step: RecordedStep,
  compare: (field: string, expected: unknown, got: unknown) => void,
): void {
  const { keywords, page, asin, options } = session.state;
  compare("observation", step.observation, session.text);
  compare("observation_text_rich", step.observation_text_rich, session.richText);
  compare("available", step.available, { has_search_bar: session.hasSearchBar, clickables: session.clickables });
  compare("url", step.url, session.url);
  compare("state", step.state, { keywords, page, asin, options: Object.fromEntries(options) });
}

/** A goal with the original's field names. */
export function goalRecord(goal: Goal): Record<string, unknown> {
  return {
    asin: goal.asin,
    category: goal.category,
    query: goal.query,
    name: goal.name,
    product_category: goal.productCategory,
    instruction_text: goal.instructionText,
    attributes: goal.attributes,
    price_upper: goal.priceUpper,
    goal_options: isPairs(goal.options) ? Object.fromEntries(goal.options) : goal.options,
    weight: goal.weight,
  };
}

/** The parts of a reward with the original's field names. */
export function rewardInfo(parts: RewardParts): Record<string, unknown> {
  const options = parts.rOption === null ? {} : { r_option: parts.rOption, w_option: parts.weights.options };
  return {
    r_type: parts.type.rType,
    r_att: parts.rAttribute,
    w_att: parts.weights.attributes,
    query_match: parts.type.queryMatch,
    category_match: parts.type.categoryMatch,
    title_score: parts.type.titleScore,
    ...options,
    r_price: parts.rPrice,
    w_price: parts.weights.price,
  };
}
