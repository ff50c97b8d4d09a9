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
  tree: Tree;
}

/** What a tree holds. */
interface Tree {
  /** Distinct tokens. */
  tokens: number;
  /** Loss rows of its sequences; sequences that share tokens do not share them. */
  rows: number;
}

/** A node and how many of its tokens a sequence begins with; none where nothing is worth sharing. */
interface Match {
  readonly node: Node | null;
  readonly shared: number;
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
   * @throws ActError `FOREST_EMPTY_SEQUENCE`, `BAD_ARGUMENT`.
   */
  add(tokens: Int32Array, rows = 0): number {
    if (!(tokens instanceof Int32Array)) throw invalid("BAD_ARGUMENT", "tokens", "an Int32Array", tokens);
    if (tokens.length === 0) throw invalid("FOREST_EMPTY_SEQUENCE", "tokens", "at least one token", tokens.length);
    const root = this.#bestRoot(tokens, rows);
    let siblings = this.#roots;
    let parent: Node | null = null;
    let at = 0;
    while (at < tokens.length) {
      const { node, shared } = parent === null ? root : this.#bestMatch(siblings, tokens, at);
      if (node === null) break;
      const reached: Node = shared < node.tokens.length ? this.#split(node, shared, siblings) : node;
      at += shared;
      parent = reached;
      siblings = reached.children;
    }
    if (at < tokens.length) {
      const tree: Tree = parent?.tree ?? { tokens: 0, rows: 0 };
      const leaf: Node = { tokens: tokens.slice(at), parent, children: [], depth: at, tree };
      tree.tokens += tokens.length - at;
      siblings.push(leaf);
      parent = leaf;
    }
    const end = parent as Node;
    end.tree.rows += rows;
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

  /** The root of the tree that shares most with a sequence, of those that have room for the rest of it. */
  #bestRoot(tokens: Int32Array, rows: number): Match {
    let best: Match = { node: null, shared: 0 };
    let most = 0;
    for (const root of this.#roots) {
      const match = this.#bestMatch([root], tokens, 0);
      const shared = this.#sharedFrom(match, tokens);
      const fits =
        root.tree.tokens + tokens.length - shared <= this.#maxTreeTokens &&
        root.tree.rows + rows <= this.#maxTreeTokens;
      if (shared > most && fits) {
        best = match;
        most = shared;
      }
    }
    return best;
  }

  /** Tokens that a sequence shares with a tree, from the match of its root down. */
  #sharedFrom(root: Match, tokens: Int32Array): number {
    let at = 0;
    for (let match = root; match.node !== null; match = this.#bestMatch(match.node.children, tokens, at)) {
      at += match.shared;
      if (match.shared < match.node.tokens.length) break;
    }
    return at;
  }

  /** The sibling sharing most with tokens from `at` on, if entering it is worth a split. */
  #bestMatch(siblings: readonly Node[], tokens: Int32Array, at: number): Match {
    let best: Match = { node: null, shared: 0 };
    for (const node of siblings) {
      const limit = Math.min(node.tokens.length, tokens.length - at);
      let shared = 0;
      while (shared < limit && node.tokens[shared] === tokens[at + shared]) shared++;
      const worth = shared === node.tokens.length || shared >= this.#minSharedTokens;
      if (worth && shared > best.shared) best = { node, shared };
    }
    return best;
  }

  /** Cuts `node` after `shared` tokens. The lower part keeps its identity, so handles that end in it stay valid. */
  #split(node: Node, shared: number, siblings: Node[]): Node {
    const { parent, depth, tree } = node;
    const upper: Node = { tokens: node.tokens.slice(0, shared), parent, children: [node], depth, tree };
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
