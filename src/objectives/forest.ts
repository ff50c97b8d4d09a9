/**
 * Lays a group's sequences out as a token forest: every context token that sequences share is there once.
 *
 * A sequence is its context (the tokens before the first trained one) and its body. Contexts of a group are merged into
 * a tree wherever they agree from the start; each body is a segment of its own under its context. That is the shape the
 * group was decoded in: one prompt, G children. The last trained token is a target only and is left out.
 */
import type { TokenForest } from "../engine/policy.js";
import type { TrainingSequence } from "./sample.js";
import { badSample } from "./sample.js";

type Segment = TokenForest["segments"][number];

/** Segments so far, and the index of the next token when they are laid end to end. */
export class ForestBuilder {
  readonly #segments: Segment[] = [];
  #tokens = 0;

  get forest(): TokenForest {
    return { segments: [...this.#segments] };
  }

  /** Tokens laid down so far. */
  get tokens(): number {
    return this.#tokens;
  }

  /**
   * Adds sequences that may share context.
   *
   * @returns For each sequence, the forest index of its tokens 0 .. last trained - 1.
   * @throws ActError `OBJECTIVE_BAD_SAMPLE` for a sequence without trained tokens, or whose first token is trained.
   */
  add(sequences: readonly Pick<TrainingSequence, "tokens" | "mask">[]): Int32Array[] {
    const laid = sequences.map(({ tokens, mask }) => {
      const first = mask.indexOf(1);
      const last = mask.lastIndexOf(1);
      if (mask.length !== tokens.length) throw badSample(`${tokens.length} tokens came with a mask of ${mask.length}`);
      if (first === -1) throw badSample("it has no trained token");
      if (first === 0) throw badSample("its first token is trained, but nothing stands before it");
      return {
        context: tokens.subarray(0, first),
        body: tokens.subarray(first, last),
        positions: new Int32Array(last),
      };
    });
    this.#addContexts(laid, 0, null);
    return laid.map((sequence) => sequence.positions);
  }

  /** Lays the contexts that agree up to `depth`, under segment `parent`. */
  #addContexts(sequences: readonly Laid[], depth: number, parent: number | null): void {
    const byNext = new Map<number, Laid[]>();
    for (const sequence of sequences) {
      const next = sequence.context[depth];
      if (next === undefined) {
        this.#lay(sequence.body, parent, [sequence], depth);
        continue;
      }
      const branch = byNext.get(next);
      if (branch === undefined) byNext.set(next, [sequence]);
      else branch.push(sequence);
    }
    for (const branch of byNext.values()) {
      const end = commonLength(branch, depth);
      const shared = branch[0]?.context.subarray(depth, end) ?? new Int32Array(0);
      const segment = this.#lay(shared, parent, branch, depth);
      this.#addContexts(branch, end, segment);
    }
  }

  #lay(tokens: Int32Array, parent: number | null, owners: readonly Laid[], depth: number): number | null {
    if (tokens.length === 0) return parent;
    for (const { positions } of owners) {
      for (let i = 0; i < tokens.length; i++) positions[depth + i] = this.#tokens + i;
    }
    this.#tokens += tokens.length;
    this.#segments.push({ parent, tokens: tokens.slice() });
    return this.#segments.length - 1;
  }
}

interface Laid {
  readonly context: Int32Array;
  readonly body: Int32Array;
  readonly positions: Int32Array;
}

/** How far all contexts agree; they are known to agree up to and at `depth`. */
function commonLength(branch: readonly Laid[], depth: number): number {
  const [first, ...others] = branch;
  if (first === undefined) return depth;
  let end = first.context.length;
  for (const { context } of others) {
    let i = depth;
    while (i < end && i < context.length && context[i] === first.context[i]) i++;
    end = i;
  }
  return end;
}
