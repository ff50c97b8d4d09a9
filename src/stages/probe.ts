/**
 * The no-reasoning probe: what the judge would pick if it had to answer at once, for the price of a scoring pass.
 *
 * Both answers are forced into the answer slot, and the likelier one is the pick:
 *
 *   pick = argmax_c sum_t log pi(answer(c)_t | judgment prompt)
 *
 * In a judgment prompt's forest the prompt is stored once and the two answers hang below it. Every pair is asked in both
 * orders, so position bias and swap consistency come out exactly.
 */
import type { PairRecord } from "../data/records.js";
import type { MetricValues } from "../data/records-metrics.js";
import { imitationBatch, imitationExample } from "../objectives/imitation.js";
import type { Agent } from "./trainable.js";
import { candidatesOf } from "./verdict.js";

/** What the probe found for one pair in one order. */
export interface ProbeVerdict {
  readonly expertFirst: boolean;
  /** log pi(expert's answer) - log pi(alternative's answer), nats. */
  readonly margin: number;
}

/**
 * Probes pairs in both orders: `[pair][order]`, the expert's action first, then second. Pairs whose prompts do not fit
 * the context come back as null.
 */
export async function probePairs(
  agent: Agent,
  pairs: readonly PairRecord[],
  options: { readonly signal?: AbortSignal | undefined; readonly maxTreeTokens?: number | null } = {},
): Promise<(readonly [ProbeVerdict, ProbeVerdict] | null)[]> {
  const signal = options.signal === undefined ? {} : { signal: options.signal };
  return Promise.all(
    pairs.map(async (pair) => {
      const margins: number[] = [];
      for (const expertFirst of [true, false]) {
        const margin = await probeMargin(agent, pair, expertFirst, signal);
        if (margin === null) return null;
        margins.push(margin);
      }
      const [first, second] = margins as [number, number];
      return [
        { expertFirst: true, margin: first },
        { expertFirst: false, margin: second },
      ] as const;
    }),
  );
}

async function probeMargin(
  { policy, dialogue }: Agent,
  pair: PairRecord,
  expertFirst: boolean,
  signal: { readonly signal?: AbortSignal },
): Promise<number | null> {
  const candidates = candidatesOf(pair, expertFirst);
  const prompt = await dialogue.judgmentPrompt(pair.state, candidates);
  const { indexAnswers } = dialogue.settings;
  const expertAnswer = indexAnswers ? (expertFirst ? "1" : "2") : pair.expert_action;
  const otherAnswer = indexAnswers ? (expertFirst ? "2" : "1") : pair.alternative;
  const answers = [await dialogue.target(null, expertAnswer), await dialogue.target(null, otherAnswer)];
  if (answers.some((answer) => prompt.length + answer.length > policy.contextLength)) return null;
  // One example shares the prompt with the other only inside one tree.
  const examples = answers.map((answer) => imitationExample(prompt, answer));
  const batch = imitationBatch(examples, { maxTreeTokens: Number.MAX_SAFE_INTEGER });
  const result = await policy.score(batch.forest, batch.rows, signal);
  const sums = [0, 0];
  batch.rowExample.forEach((example, i) => {
    sums[example] = (sums[example] as number) + (result.logprob[i] as number);
  });
  return (sums[0] as number) - (sums[1] as number);
}

/** Metrics of a probe. A tie counts as wrong: the judge has no preference. */
export function probeMetrics(found: readonly (readonly [ProbeVerdict, ProbeVerdict] | null)[]): MetricValues {
  const both = found.filter((x) => x !== null);
  const all = both.flat();
  if (all.length === 0)
    return { "judge/probe_accuracy": null, "judge/probe_first_share": null, "judge/probe_swap_consistency": null };
  const first = all.filter((v) => (v.expertFirst ? v.margin > 0 : v.margin < 0)).length;
  return {
    "judge/probe_accuracy": all.filter((v) => v.margin > 0).length / all.length,
    "judge/probe_first_share": first / all.length,
    "judge/probe_swap_consistency": both.filter(([a, b]) => a.margin > 0 === b.margin > 0).length / both.length,
  };
}
