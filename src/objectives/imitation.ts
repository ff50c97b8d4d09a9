/**
 * Imitation: cross-entropy on given tokens.
 *
 *   L = - sum_i w_i sum_t log pi(a_it | s_i)
 *
 * w_i by aggregation (aggregation.ts): `token-mean` is the usual fine-tuning loss, `seq-mean-token-mean` gives every
 * example the same say, `seq-mean-token-sum` is the mean negative log-likelihood of whole answers.
 */
import type { LossRows, TokenForest } from "../engine/policy.js";
import { type Aggregation, type BatchTotals, tokenWeight } from "./aggregation.js";
import { type ForestOptions, layForest, type MaskedTokens } from "./forest.js";
import { badSample } from "./sample.js";

/** Tokens of which the masked ones are to be learned. The first never is: nothing stands before it. */
export type ImitationExample = MaskedTokens;

export interface ImitationBatch {
  readonly forest: TokenForest;
  readonly rows: LossRows;
  /** [rows] Index of the row's example. */
  readonly rowExample: Int32Array;
  readonly totals: BatchTotals;
}

export interface ImitationOptions extends ForestOptions {
  /** Default `token-mean`. `seq-mean-token-sum-norm` is not offered: there is no length to norm by. */
  readonly aggregation?: Exclude<Aggregation, "seq-mean-token-sum-norm">;
  /** Counts of the whole optimizer step, where `examples` are only a part of it. Default: those of `examples`. */
  readonly totals?: BatchTotals;
}

/** An example from a prompt and the answer to learn, the answer's stop token included. */
export function imitationExample(prompt: ArrayLike<number>, answer: ArrayLike<number>): ImitationExample {
  if (prompt.length === 0 || answer.length === 0)
    throw badSample("prompt and answer need at least one token each", "Leave out records without them.");
  const tokens = new Int32Array(prompt.length + answer.length);
  tokens.set(prompt);
  tokens.set(answer, prompt.length);
  return { tokens, mask: new Uint8Array(tokens.length).fill(1, prompt.length) };
}

/** Counts that {@link imitationBatch} normalizes by; those of several parts add up. */
export function imitationTotals(examples: readonly ImitationExample[]): BatchTotals {
  return { samples: examples.length, tokens: examples.reduce((sum, { mask }) => sum + learned(mask), 0) };
}

/**
 * One optimizer step's batch, or a part of one.
 *
 * @throws ActError `OBJECTIVE_BAD_SAMPLE` for an example without learned tokens.
 */
export function imitationBatch(examples: readonly ImitationExample[], options: ImitationOptions = {}): ImitationBatch {
  const totals = options.totals ?? imitationTotals(examples);
  const laid = layForest(
    examples.map((example) => [example]),
    options,
  );
  const rows: number[] = [];
  const targets: number[] = [];
  const weights: number[] = [];
  const rowExample: number[] = [];
  examples.forEach((example, index) => {
    const [positions] = laid.positions[index] ?? [];
    const weight = tokenWeight(options.aggregation ?? "token-mean", learned(example.mask), totals, null);
    for (let t = 1; positions !== undefined && t <= positions.length; t++) {
      if (example.mask[t] !== 1) continue;
      rows.push(positions[t - 1] ?? -1);
      targets.push(example.tokens[t] ?? -1);
      weights.push(weight);
      rowExample.push(index);
    }
  });
  return {
    forest: laid.forest,
    rows: { rows: Int32Array.from(rows), targets: Int32Array.from(targets), ceWeight: Float32Array.from(weights) },
    rowExample: Int32Array.from(rowExample),
    totals,
  };
}

function learned(mask: Uint8Array): number {
  let count = 0;
  for (const bit of mask) count += bit;
  return count;
}
