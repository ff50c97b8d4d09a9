/**
 * Byte-level byte-pair encoding learned from a corpus, written as a `tokenizer.json`.
 *
 * Deterministic: the most frequent pair is merged first, ties by the pair's text. (Sennrich et al. 2016, 1508.07909;
 * bytes as the alphabet after GPT-2.)
 */

/** Words keep one leading space; digits stand alone, so that `cabinet 12` shares its tokens with `cabinet 1`. */
const WORD = " ?\\p{L}+| ?\\d| ?[^\\s\\p{L}\\d]+|\\s+(?!\\S)|\\s+";

/** GPT-2's table from bytes to printable characters. */
function byteCharacters() {
  const table = new Array(256);
  let next = 256;
  for (let b = 0; b < 256; b++) {
    const printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    table[b] = String.fromCharCode(printable ? b : next++);
  }
  return table;
}

/**
 * @param {Iterable<string>} texts
 * @param {{ vocabSize: number, special: string[], added: string[] }} options `special` tokens are never text; `added`
 *   tokens are text that always stays one token. Both come after the learned vocabulary.
 * @returns {object} the content of a tokenizer.json
 */
export function trainTokenizer(texts, { vocabSize, special, added }) {
  const characters = byteCharacters();
  const whole = [...special, ...added];
  const split = new RegExp(`(?:${whole.map((t) => t.replace(/[|\\{}()[\]^$+*?.]/g, "\\$&")).join("|")})`, "gu");
  const encoder = new TextEncoder();
  const counts = new Map();
  for (const text of texts)
    for (const piece of text.split(split))
      for (const [word] of piece.matchAll(new RegExp(WORD, "gu"))) {
        const key = Array.from(encoder.encode(word), (b) => characters[b]).join("");
        counts.set(key, (counts.get(key) ?? 0) + 1);
      }
  const words = [...counts].map(([word, count]) => ({ symbols: [...word], count }));
  const vocabulary = [...characters].sort((a, b) => (a < b ? -1 : 1));
  const merges = [];
  const limit = vocabSize - whole.length;
  while (vocabulary.length < limit) {
    const pairs = new Map();
    for (const { symbols, count } of words)
      for (let i = 0; i + 1 < symbols.length; i++) {
        const pair = `${symbols[i]} ${symbols[i + 1]}`;
        pairs.set(pair, (pairs.get(pair) ?? 0) + count);
      }
    let best = null;
    for (const [pair, count] of pairs)
      if (best === null || count > best.count || (count === best.count && pair < best.pair)) best = { pair, count };
    if (best === null || best.count < 2) break;
    const [left, right] = best.pair.split(" ");
    merges.push([left, right]);
    vocabulary.push(left + right);
    for (const word of words)
      for (let i = 0; i + 1 < word.symbols.length; i++)
        if (word.symbols[i] === left && word.symbols[i + 1] === right) word.symbols.splice(i, 2, left + right);
  }
  const vocab = Object.fromEntries(vocabulary.map((token, id) => [token, id]));
  const addedTokens = whole.map((content, i) => ({
    id: vocabulary.length + i,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: i < special.length,
  }));
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: addedTokens,
    normalizer: null,
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [
        { type: "Split", pattern: { Regex: WORD }, behavior: "Isolated", invert: false },
        { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false },
      ],
    },
    post_processor: null,
    decoder: { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab,
      merges,
    },
  };
}
