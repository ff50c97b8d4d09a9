/**
 * `pair`: at every expert state, what the initial policy would have done instead, written to `pairs.jsonl`.
 *
 * D_critic = {(s_i, a_i+, a_i-)}: alternatives are drawn from the policy that is about to be trained, so that they are
 * its own likely errors; those equal to the expert's action are dropped (arXiv 2603.08706). Nothing is executed. States
 * whose draws all equal the expert, or name no action, leave no pair and are counted.
 */
import { join } from "node:path";
import { z } from "zod";
import { makeFolder } from "../data/files.js";
import type { ExpertRecord, PairRecord } from "../data/records.js";
import { readRecords, writeRecords } from "../data/records-file.js";
import { canonicalizeAction, resolveAction } from "../prompts/action-text.js";
import { expertFirst } from "../prompts/order.js";
import { parseReply } from "../prompts/reply.js";
import { deriveSeed, permutation, streamOf } from "../rollouts/random.js";
import { hashFile } from "../runs/hash.js";
import { PartialResults, runResumable } from "./resumable.js";
import {
  type ModelIdentity,
  noData,
  promptRecord,
  type StageContext,
  samplingOptions,
  samplingRecord,
  samplingSchema,
  seedSchema,
} from "./stage.js";
import type { Agent } from "./trainable.js";

export const PAIRS_FILE = "pairs.jsonl";

/** Keys of the stage `pair`. */
export const pairSchema = z.strictObject({
  draws: z.number().int().min(1).max(1024).default(4).describe("completions sampled at each state"),
  pairsPerState: z.number().int().min(1).default(1).describe("pairs kept of a state at most"),
  keepInadmissible: z.boolean().default(true).describe("keep alternatives that the environment would not accept"),
  states: z.number().int().min(1).nullable().default(null).describe("states used, a seeded choice; null: all"),
  sampling: samplingSchema.prefault({}).describe("how alternatives are sampled"),
  concurrency: z.number().int().min(1).default(32).describe("states at work at once"),
  seed: seedSchema,
});
/** Options of {@link pair}. */
export type PairOptions = z.infer<typeof pairSchema>;

/** Why states left no pair, and how many pairs there are. */
export interface PairResult {
  readonly file: string;
  readonly states: number;
  readonly pairs: number;
  /** States without a pair: every action drawn was the expert's. */
  readonly onlyExpert: number;
  /** States without a pair: no reply named another action that may be kept. */
  readonly noAlternative: number;
  /** States without a pair: the prompt leaves no room for a reply. */
  readonly promptTooLong: number;
  /** Completions drawn, those without a readable action, and those equal to the expert's. */
  readonly draws: number;
  readonly malformed: number;
  readonly expertMatches: number;
}

interface StateResult {
  /** Distinct alternatives in the order drawn. */
  readonly alternatives: readonly { readonly text: string; readonly admissible: boolean | null }[];
  readonly draws: number;
  readonly malformed: number;
  readonly matches: number;
  readonly tooLong: boolean;
}

/**
 * Samples alternatives for every state of an expert file.
 *
 * @throws ActError `STAGE_NO_DATA` when no state leaves a pair; those of reading the file and of the policy.
 */
export async function pair(
  agent: Agent,
  model: ModelIdentity,
  expertFile: string,
  options: PairOptions,
  context: StageContext,
): Promise<PairResult> {
  await makeFolder(context.folder);
  const expert = await readRecords(expertFile, "expert", optional(context.signal));
  const records = chooseStates(expert.records, options);
  if (records.length === 0) throw noData(`${expertFile} holds no states`);
  const partial = await PartialResults.open<StateResult>(context.folder, context.configHash);
  try {
    await runResumable(
      partial,
      records.length,
      options.concurrency,
      (index, signal) => drawAlternatives(agent, records[index] as ExpertRecord, index, options, signal),
      { signal: context.signal, onDone: (done) => context.onProgress?.(done, records.length, "") },
    );
    const results = partial.inOrder();
    const pairs = results.flatMap((result, i) => pairsOf(records[i] as ExpertRecord, result, options));
    if (pairs.length === 0)
      throw noData(
        "no state left a pair: every draw equals the expert's action or names none",
        "Raise `draws` or `sampling.temperature`, or imitate a few states first so that the tag format holds.",
      );
    const file = join(context.folder, PAIRS_FILE);
    const { environment, panel, source } = expert.header;
    const header = {
      environment,
      panel,
      source,
      expert_hash: await hashFile(expertFile),
      sampler: {
        model: { id: model.id, weight_hash: model.weightHash },
        prompt: promptRecord(agent.dialogue),
        sampling: samplingRecord(options.sampling, options.seed),
      },
      pairs_per_state: options.pairsPerState,
      keep_inadmissible: options.keepInadmissible,
      order_seed: options.seed,
      config_hash: context.configHash,
    };
    await writeRecords(
      file,
      "pairs",
      header,
      pairs.map((p, i) => ({ ...p, expert_first: expertFirst(options.seed, i) })),
    );
    await partial.finish();
    const empty = results.filter((r) => r.alternatives.length === 0);
    const sum = (of: (r: StateResult) => number): number => results.reduce((total, r) => total + of(r), 0);
    return {
      file,
      states: records.length,
      pairs: pairs.length,
      onlyExpert: empty.filter((r) => r.matches > 0 && r.matches === r.draws).length,
      noAlternative: empty.filter((r) => !r.tooLong && r.matches < r.draws).length,
      promptTooLong: empty.filter((r) => r.tooLong).length,
      draws: sum((r) => r.draws),
      malformed: sum((r) => r.malformed),
      expertMatches: sum((r) => r.matches),
    };
  } finally {
    await partial.close();
  }
}

/** A seeded choice of states, in the file's order. */
function chooseStates(records: readonly ExpertRecord[], options: PairOptions): readonly ExpertRecord[] {
  if (options.states === null || options.states >= records.length) return records;
  const chosen = permutation(deriveSeed(options.seed, "pair", "states"), records.length).slice(0, options.states);
  return [...chosen].sort((a, b) => a - b).map((i) => records[i] as ExpertRecord);
}

async function drawAlternatives(
  agent: Agent,
  record: ExpertRecord,
  index: number,
  options: PairOptions,
  signal: AbortSignal,
): Promise<StateResult> {
  const { policy, dialogue } = agent;
  const prompt = await dialogue.actionPrompt(record.state);
  const room = policy.contextLength - prompt.length;
  if (room < 1) return { alternatives: [], draws: 0, malformed: 0, matches: 0, tooLong: true };
  const sampling = samplingOptions(options.sampling, dialogue);
  const completions = await policy.generate(
    {
      ...sampling,
      maxNewTokens: Math.min(room, sampling.maxNewTokens),
      prompt,
      count: options.draws,
      seed: deriveSeed(options.seed, "pair"),
      stream: streamOf(index),
    },
    { signal },
  );
  const expert = canonicalizeAction(record.expert_action);
  const seen = new Set<string>();
  const alternatives: { text: string; admissible: boolean | null }[] = [];
  let malformed = 0;
  let matches = 0;
  for (const completion of completions) {
    const reply = parseReply(await dialogue.text(completion));
    if (!reply.ok) malformed++;
    else if (reply.action === expert) matches++;
    else if (!seen.has(reply.action)) {
      seen.add(reply.action);
      const { admissible } = record.state;
      const resolved = admissible === null ? null : resolveAction(reply.raw, admissible);
      const isAdmissible = admissible === null ? null : resolved !== null;
      if (isAdmissible === false && !options.keepInadmissible) continue;
      alternatives.push({ text: resolved ?? reply.action, admissible: isAdmissible });
    }
  }
  return { alternatives, draws: completions.length, malformed, matches, tooLong: false };
}

function pairsOf(record: ExpertRecord, result: StateResult, options: PairOptions): Omit<PairRecord, "expert_first">[] {
  return result.alternatives.slice(0, options.pairsPerState).map((alternative, n) => ({
    id: `${record.id}/${n}`,
    task_id: record.task_id,
    category: record.category,
    state: record.state,
    expert_action: record.expert_action,
    thought: record.thought,
    alternative: alternative.text,
    alternative_admissible: alternative.admissible,
    draws: result.draws,
  }));
}

function optional(signal: AbortSignal | undefined): { signal?: AbortSignal } {
  return signal === undefined ? {} : { signal };
}
