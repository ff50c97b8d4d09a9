/**
 * The fuzzy string match of WebShop's reward: thefuzz 0.19.0's `token_set_ratio` over Python's difflib.
 *
 * `fuzzball` has the same function, but gives 63 of the 490 recorded pairs of texts another score (19 with its difflib
 * option), one of them across the threshold of a match; so it is written out here.
 */
import { compareCodePoints, roundHalfEven } from "./python-text.js";

// Python's `\w` without re.ASCII: letters, numbers, underscore; combining marks are not part of it.
const NON_WORD = /[^\p{L}\p{N}_]/gu;
const LATIN_1 = /[\x80-\xff]/g;
/** Texts at least this long lose their frequent characters as anchors (difflib's `autojunk`). */
const AUTOJUNK_LENGTH = 200;

/** Similarity of two texts as sets of words, an integer from 0 to 100. */
export function tokenSetRatio(a: string, b: string): number {
  const tokensA = tokenSet(a);
  const tokensB = tokenSet(b);
  if (tokensA.size === 0 || tokensB.size === 0) return 0;
  const common = sortedText([...tokensA].filter((token) => tokensB.has(token)));
  const onlyA = sortedText([...tokensA].filter((token) => !tokensB.has(token)));
  const onlyB = sortedText([...tokensB].filter((token) => !tokensA.has(token)));
  const withA = joinParts(common, onlyA);
  const withB = joinParts(common, onlyB);
  return Math.max(ratio(common, withA), ratio(common, withB), ratio(withA, withB));
}

/** thefuzz's cleaning: U+0080 to U+00FF dropped, everything but letters, numbers and `_` a space, lower case. */
export function fullProcess(text: string): string {
  return text.replace(LATIN_1, "").replace(NON_WORD, " ").toLowerCase().trim();
}

function tokenSet(text: string): Set<string> {
  const clean = fullProcess(text);
  return new Set(clean === "" ? [] : clean.split(/ +/));
}

function sortedText(tokens: string[]): string {
  return tokens.sort(compareCodePoints).join(" ");
}

function joinParts(a: string, b: string): string {
  if (a === "") return b;
  return b === "" ? a : `${a} ${b}`;
}

/** 100 times 2 * matched characters / all characters, rounded half to even. */
function ratio(a: string, b: string): number {
  if (a === b) return 100;
  const left = Array.from(a);
  const right = Array.from(b);
  const total = left.length + right.length;
  return roundHalfEven(100 * ((2 * matchedCharacters(left, right)) / total));
}

/** Sum of the sizes of difflib's matching blocks: the longest common run, then the same to its left and right. */
function matchedCharacters(a: readonly string[], b: readonly string[]): number {
  const anchors = anchorPositions(b);
  const queue: [aLow: number, aHigh: number, bLow: number, bHigh: number][] = [[0, a.length, 0, b.length]];
  let matched = 0;
  for (let range = queue.pop(); range !== undefined; range = queue.pop()) {
    const [aLow, aHigh, bLow, bHigh] = range;
    const [i, j, size] = longestMatch(a, b, anchors, range);
    if (size === 0) continue;
    matched += size;
    queue.push([aLow, i, bLow, j], [i + size, aHigh, j + size, bHigh]);
  }
  return matched;
}

/** Where each character stands in `b`, without the too frequent ones of long texts. */
function anchorPositions(b: readonly string[]): Map<string, number[]> {
  const positions = new Map<string, number[]>();
  b.forEach((character, j) => {
    const known = positions.get(character);
    if (known === undefined) positions.set(character, [j]);
    else known.push(j);
  });
  if (b.length >= AUTOJUNK_LENGTH) {
    const limit = Math.floor(b.length / 100) + 1;
    for (const [character, at] of positions) if (at.length > limit) positions.delete(character);
  }
  return positions;
}

/** The first longest common run of a[aLow, aHigh) and b[bLow, bHigh), grown over characters that are no anchors. */
function longestMatch(
  a: readonly string[],
  b: readonly string[],
  anchors: ReadonlyMap<string, number[]>,
  [aLow, aHigh, bLow, bHigh]: readonly [number, number, number, number],
): [i: number, j: number, size: number] {
  let bestI = aLow;
  let bestJ = bLow;
  let size = 0;
  let lengths = new Map<number, number>();
  for (let i = aLow; i < aHigh; i++) {
    const next = new Map<number, number>();
    for (const j of anchors.get(a[i]!) ?? []) {
      if (j < bLow) continue;
      if (j >= bHigh) break;
      const length = (lengths.get(j - 1) ?? 0) + 1;
      next.set(j, length);
      if (length > size) {
        bestI = i - length + 1;
        bestJ = j - length + 1;
        size = length;
      }
    }
    lengths = next;
  }
  while (bestI > aLow && bestJ > bLow && a[bestI - 1] === b[bestJ - 1]) {
    bestI--;
    bestJ--;
    size++;
  }
  while (bestI + size < aHigh && bestJ + size < bHigh && a[bestI + size] === b[bestJ + size]) size++;
  return [bestI, bestJ, size];
}
