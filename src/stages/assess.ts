/**
 * `assess`: how well a model judges held-out pairs, every pair asked in both orders.
 */
import { join } from "node:path";
import { z } from "zod";
import { makeFolder } from "../data/files.js";
import type { JudgmentRecord, PairRecord } from "../data/records.js";
import { readRecords, writeRecords } from "../data/records-file.js";
import { judgmentResult } from "../evaluation/judgment.js";
import type { JudgmentResult } from "../evaluation/summary.js";
import { deriveSeed, permutation, streamOf } from "../rollouts/random.js";
import { hashFile } from "../runs/hash.js";
import { PartialResults, runResumable } from "./resumable.js";
import {
  type ModelIdentity,
  noData,
  promptRecord,
  type StageContext,
  samplingAt,
  samplingOptions,
  samplingRecord,
  seedSchema,
} from "./stage.js";
import type { Agent } from "./trainable.js";
import { candidatesOf, readVerdict } from "./verdict.js";

export const JUDGMENTS_FILE = "judgments.jsonl";

/** Keys of the stage `assess`. */
export const assessSchema = z.strictObject({
  limit: z.number().int().min(1).nullable().default(null).describe("pairs asked, a seeded choice; null: all"),
  sampling: samplingAt(0).prefault({}).describe("how verdicts are sampled"),
  concurrency: z.number().int().min(1).default(32).describe("pairs at work at once"),
  seed: seedSchema,
});
/** Options of {@link assess}. */
export type AssessOptions = z.infer<typeof assessSchema>;

/** What {@link assess} wrote and found. */
export interface AssessResult {
  readonly file: string;
  readonly result: JudgmentResult;
  /** Pairs whose prompts leave no room for an answer; they are in no figure. */
  readonly promptTooLong: number;
}

/**
 * Asks a model for its verdict on every pair of a file, in both orders.
 *
 * @throws ActError `STAGE_NO_DATA`; those of reading the file and of the policy.
 */
export async function assess(
  agent: Agent,
  model: ModelIdentity,
  pairsFile: string,
  options: AssessOptions,
  context: StageContext,
): Promise<AssessResult> {
  await makeFolder(context.folder);
  const { records } = await readRecords(pairsFile, "pairs");
  const pairs = choosePairs(records, options);
  if (pairs.length === 0) throw noData(`${pairsFile} holds no pairs`);
  const partial = await PartialResults.open<readonly JudgmentRecord[]>(context.folder, context.configHash);
  try {
    await runResumable(
      partial,
      pairs.length,
      options.concurrency,
      (index, signal) => askBothOrders(agent, pairs[index] as PairRecord, index, options, signal),
      { signal: context.signal, onDone: (done) => context.onProgress?.(done, pairs.length, "") },
    );
    const judgments = partial.inOrder();
    const promptTooLong = judgments.filter((j) => j.length === 0).length;
    if (promptTooLong === pairs.length) throw noData("no judgment prompt leaves room for an answer");
    const file = join(context.folder, JUDGMENTS_FILE);
    const header = {
      model: { id: model.id, weight_hash: model.weightHash },
      pairs_hash: await hashFile(pairsFile),
      prompt: promptRecord(agent.dialogue),
      sampling: samplingRecord(options.sampling, options.seed),
      config_hash: context.configHash,
    };
    await writeRecords(file, "judgments", header, judgments.flat());
    const result = judgmentResult(pairs, judgments.flat(), partial.seconds);
    await partial.finish();
    return { file, result, promptTooLong };
  } finally {
    await partial.close();
  }
}

function choosePairs(records: readonly PairRecord[], options: AssessOptions): readonly PairRecord[] {
  if (options.limit === null || options.limit >= records.length) return records;
  const chosen = permutation(deriveSeed(options.seed, "assess", "pairs"), records.length).slice(0, options.limit);
  return [...chosen].sort((a, b) => a - b).map((i) => records[i] as PairRecord);
}

/** Two verdicts, or none where a prompt leaves no room for an answer. */
async function askBothOrders(
  agent: Agent,
  pair: PairRecord,
  index: number,
  options: AssessOptions,
  signal: AbortSignal,
): Promise<JudgmentRecord[]> {
  const { policy, dialogue } = agent;
  const sampling = samplingOptions(options.sampling, dialogue);
  const prompts = await Promise.all(
    [true, false].map((first) => dialogue.judgmentPrompt(pair.state, candidatesOf(pair, first))),
  );
  const room = policy.contextLength - Math.max(...prompts.map((p) => p.length));
  if (room < 1) return [];
  return Promise.all(
    prompts.map(async (prompt, order) => {
      const expertFirst = order === 0;
      const [completion] = await policy.generate(
        {
          ...sampling,
          maxNewTokens: Math.min(room, sampling.maxNewTokens),
          prompt,
          seed: deriveSeed(options.seed, "assess"),
          stream: streamOf(index, order),
        },
        { signal },
      );
      if (completion === undefined) throw new TypeError("The policy returned no completion.");
      const verdict = await readVerdict(dialogue, pair, expertFirst, completion);
      return {
        pair_id: pair.id,
        expert_first: expertFirst,
        picked: verdict.picked,
        malformed_reason: verdict.parsed.ok ? null : verdict.parsed.reason,
        truncated: completion.finishReason === "length",
        tokens: completion.tokens.length,
        reply: verdict.text,
      };
    }),
  );
}
