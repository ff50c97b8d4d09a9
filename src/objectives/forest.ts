/**
 * Lays training sequences out as a token forest, and finds their tokens in it again.
 */
import { ForestBuilder } from "../engine/forest-builder.js";
import type { TokenForest } from "../engine/policy.js";
import { badSample } from "./sample.js";

export interface ForestOptions {
  /**
   * Given: prefixes are shared over the whole batch, in trees of at most so many tokens and loss rows; set it to the
   * engine's `maxBatchTokens`, which is the most one tree may have. Left out: prefixes are shared within a group only.
   */
  readonly maxTreeTokens?: number;
}

/** A forest and where the sequences are in it. */
export interface LaidForest {
  readonly forest: TokenForest;
  /** By group and sequence: forest index of the tokens 0 .. last trained - 1. */
  readonly positions: readonly (readonly Int32Array[])[];
  /** Distinct tokens, and those of all sequences one by one. */
  readonly tokens: number;
  readonly flatTokens: number;
}

/** Tokens of which the masked ones are targets. */
export interface MaskedTokens {
  readonly tokens: Int32Array;
  readonly mask: Uint8Array;
}

/**
 * The last trained token of a sequence is a target only, so it and what follows are left out.
 *
 * @throws ActError `OBJECTIVE_BAD_SAMPLE` for a sequence without trained tokens, or whose first token is trained.
 */
export function layForest(groups: readonly (readonly MaskedTokens[])[], options: ForestOptions = {}): LaidForest {
  const { maxTreeTokens } = options;
  const shared = maxTreeTokens === undefined ? null : new ForestBuilder({ maxTreeTokens });
  const segments: TokenForest["segments"][number][] = [];
  let tokens = 0;
  let flatTokens = 0;
  const positions: Int32Array[][] = [];

  const finish = (builder: ForestBuilder, handles: readonly (readonly number[])[]): void => {
    const built = builder.build();
    const first = segments.length;
    for (const { parent, tokens } of built.forest.segments)
      segments.push({ parent: parent === null ? null : parent + first, tokens });
    for (const group of handles)
      positions.push(group.map((handle) => built.indices(handle).map((position) => position + tokens)));
    tokens += built.tokens;
    flatTokens += built.flatTokens;
  };

  const handles = groups.map((group) => {
    const builder = shared ?? new ForestBuilder();
    const own = group.map((sequence) => builder.add(inputs(sequence), trained(sequence)));
    if (shared === null) finish(builder, [own]);
    return own;
  });
  if (shared !== null) finish(shared, handles);
  return { forest: { segments }, positions, tokens, flatTokens };
}

function inputs({ tokens, mask }: MaskedTokens): Int32Array {
  if (mask.length !== tokens.length)
    throw badSample(
      `${tokens.length} tokens came with a mask of ${mask.length}`,
      "Give one entry of the mask for each token.",
    );
  const first = mask.indexOf(1);
  if (first === -1)
    throw badSample("it has no trained token", "Leave it out, or set its mask to 1 where the policy spoke.");
  if (first === 0)
    throw badSample(
      "its first token is trained, but nothing stands before it",
      "Put the prompt before it, with mask 0.",
    );
  return tokens.subarray(0, mask.lastIndexOf(1));
}

function trained({ mask }: MaskedTokens): number {
  return mask.reduce((sum, on) => sum + on, 0);
}
