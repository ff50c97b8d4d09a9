/**
 * Lays sequences out as a token forest in which a common prefix is stored, and later computed, once.
 *
 * A GRPO group shares its prompt; the per-step prompts of one episode share everything up to the step; a state's action
 * and judgment prompts share the context. All of these fall out of merging by prefix; the loss and the gradient are those
 * of the sequences one by one (docs/engine.md).
 */
import { invalid } from "../errors.js";
import type { TokenForest } from "./policy.js";

interface Node {
  tokens: Int32Array;
  parent: Node | null;
  children: Node[];
  /** Tokens before this node on its path. */
  depth: number;
  root: Root;
}

interface Root {
  /** Distinct tokens of the tree. */
  tokens: number;
  /** Loss rows of its sequences; sequences that share tokens do not share them. */
  rows: number;
}

/** How far prefixes are shared. */
export interface ForestBuilderOptions {
  /**
   * Distinct tokens, and loss rows, one tree may hold; a sequence that would exceed it starts a tree of its own. Keep it
   * at or below the engine's `maxBatchTokens`, as a tree is never split. Default: no bound.
   */
  readonly maxTreeTokens?: number;
  /** A segment is split only where that saves at least this many tokens: very short segments cost more than they save. */
  readonly minSharedTokens?: number;
}

/** Collects sequences, then gives the forest and where each sequence's tokens are in it. */
export class ForestBuilder {
  readonly #maxTreeTokens: number;
  readonly #minSharedTokens: number;
  readonly #roots: Node[] = [];
  readonly #leaves: Node[] = [];
  readonly #lengths: number[] = [];

  constructor(options: ForestBuilderOptions = {}) {
    this.#maxTreeTokens = options.maxTreeTokens ?? Number.POSITIVE_INFINITY;
    this.#minSharedTokens = options.minSharedTokens ?? 8;
  }

  /**
   * Adds a sequence of at least one token and returns its handle: 0, 1, 2, ...
   *
   * @param rows Loss rows that will be asked of it.
   * @throws ActError `FOREST_EMPTY_SEQUENCE`.
   */
  add(tokens: Int32Array, rows = 0): number {
    if (tokens.length === 0) throw invalid("FOREST_EMPTY_SEQUENCE", "tokens", "at least one token", tokens.length);
    let siblings = this.#roots;
    let parent: Node | null = null;
    let at = 0;
    while (at < tokens.length) {
      const { node, shared } = this.#bestMatch(siblings, tokens, at, rows);
      if (node === null) break;
      const reached: Node = shared < node.tokens.length ? this.#split(node, shared, siblings) : node;
      at += shared;
      parent = reached;
      siblings = reached.children;
    }
    if (at < tokens.length) {
      const root: Root = parent?.root ?? { tokens: 0, rows: 0 };
      const leaf: Node = { tokens: tokens.slice(at), parent, children: [], depth: at, root };
      root.tokens += tokens.length - at;
      siblings.push(leaf);
      parent = leaf;
    }
    const end = parent as Node;
    end.root.rows += rows;
    this.#leaves.push(end);
    this.#lengths.push(tokens.length);
    return this.#leaves.length - 1;
  }

  /** The forest of all sequences added so far. */
  build(): BuiltForest {
    const order: Node[] = [];
    const stack = [...this.#roots].reverse();
    for (let node = stack.pop(); node !== undefined; node = stack.pop()) {
      order.push(node);
      stack.push(...[...node.children].reverse());
    }
    const numbers = new Map(order.map((node, i) => [node, i]));
    const offsets = new Map<Node, number>();
    let total = 0;
    for (const node of order) {
      offsets.set(node, total);
      total += node.tokens.length;
    }
    const segments = order.map(({ parent, tokens }) => ({
      parent: parent === null ? null : (numbers.get(parent) as number),
      tokens,
    }));
    const lengths = [...this.#lengths];
    const leaves = [...this.#leaves];
    const flatTokens = lengths.reduce((sum, n) => sum + n, 0);
    return {
      forest: { segments },
      tokens: total,
      flatTokens,
      indices(handle, from = 0, to = lengths[handle] ?? 0) {
        const length = lengths[handle];
        if (length === undefined || from < 0 || to > length || from > to)
          throw invalid("FOREST_BAD_RANGE", "from, to", `a range within sequence ${handle}`, `${from}..${to}`);
        const out = new Int32Array(to - from);
        let node: Node | null = leaves[handle] ?? null;
        for (let position = to - 1; position >= from && node !== null; ) {
          if (position < node.depth) node = node.parent;
          else {
            out[position - from] = (offsets.get(node) as number) + position - node.depth;
            position--;
          }
        }
        return out;
      },
    };
  }

  /** The sibling sharing most with tokens from `at` on, if entering it is worth a split and its tree has room. */
  #bestMatch(
    siblings: readonly Node[],
    tokens: Int32Array,
    at: number,
    rows: number,
  ): { node: Node | null; shared: number } {
    let best: { node: Node | null; shared: number } = { node: null, shared: 0 };
    for (const node of siblings) {
      const limit = Math.min(node.tokens.length, tokens.length - at);
      let shared = 0;
      while (shared < limit && node.tokens[shared] === tokens[at + shared]) shared++;
      const worth = shared === node.tokens.length || shared >= this.#minSharedTokens;
      if (worth && shared > best.shared && this.#fits(node.root, tokens.length - at - shared, rows))
        best = { node, shared };
    }
    return best;
  }

  #fits(root: Root, tokens: number, rows: number): boolean {
    return root.tokens + tokens <= this.#maxTreeTokens && root.rows + rows <= this.#maxTreeTokens;
  }

  /** Cuts `node` after `shared` tokens. The lower part keeps its identity, so handles that end in it stay valid. */
  #split(node: Node, shared: number, siblings: Node[]): Node {
    const { parent, depth, root } = node;
    const upper: Node = { tokens: node.tokens.slice(0, shared), parent, children: [node], depth, root };
    siblings[siblings.indexOf(node)] = upper;
    node.tokens = node.tokens.slice(shared);
    node.parent = upper;
    node.depth = depth + shared;
    return upper;
  }
}

/** A finished layout. */
export interface BuiltForest {
  readonly forest: TokenForest;
  /** Distinct tokens, computed once each. */
  readonly tokens: number;
  /** Tokens of all sequences one by one; `flatTokens / tokens` is what sharing saves. */
  readonly flatTokens: number;
  /**
   * Token indices (over segments laid end to end) of positions `from` to `to` (exclusive) of a sequence.
   * Throws ActError FOREST_BAD_RANGE.
   */
  indices(handle: number, from?: number, to?: number): Int32Array;
}
