/**
 * Lucene 8's StandardTokenizer: the word-break rules of UAX #29 (Unicode 9), each Han or Hiragana character a token of
 * its own, runs of South-East Asian letters one token, emoji (UTS #51) one token each, tokens cut at 255 UTF-16 units.
 *
 * The classes below are written with the properties that JavaScript's regular expressions know. They follow the
 * definitions of UAX #29, so they differ from Lucene's only in characters that Unicode added after version 9.
 */

const MAX_TOKEN_UNITS = 255;

// UAX #29 table 3. Each is the inside of a character class or a single-character expression.
const EXTEND = "[\\p{Grapheme_Extend}\\p{Mc}\\p{Emoji_Modifier}\\p{Cf}]*"; // rule WB4: Extend, Format, ZWJ
const COMPLEX =
  "(?=[\\p{L}\\p{M}])[\\p{sc=Thai}\\p{sc=Lao}\\p{sc=Myanmar}\\p{sc=Khmer}\\p{sc=Tai_Le}\\p{sc=New_Tai_Lue}\\p{sc=Tai_Tham}\\p{sc=Tai_Viet}]";
const KATAKANA = `[\\p{sc=Katakana}\\u3031-\\u3035\\u309b\\u309c\\u30a0\\u30fc\\uff70]${EXTEND}`;
const HEBREW = `(?=\\p{Lo})\\p{sc=Hebrew}${EXTEND}`;
const LETTER =
  `(?![\\p{Ideographic}\\p{sc=Katakana}\\p{sc=Hiragana}\\u3031-\\u3035\\u309b\\u309c\\u30a0\\u30fc\\uff70\\p{Grapheme_Extend}\\p{Mc}])` +
  `(?!${COMPLEX})[\\p{Alphabetic}\\u05f3]${EXTEND}`;
const NUMERIC = `[\\p{Nd}\\u066b]${EXTEND}`;
const MID_LETTER = `[:\\u00b7\\u02d7\\u0387\\u05f4\\u2027\\ufe13\\ufe55\\uff1a.\\u2018\\u2019\\u2024\\ufe52\\uff07\\uff0e']${EXTEND}`;
const MID_NUMBER = `[,;\\u037e\\u0589\\u060c\\u060d\\u066c\\u07f8\\u2044\\ufe10\\ufe14\\ufe50\\ufe54\\uff0c\\uff1b.\\u2018\\u2019\\u2024\\ufe52\\uff07\\uff0e']${EXTEND}`;
const EXTEND_NUM_LET = `[\\p{Pc}\\u202f]${EXTEND}`;

// Rules WB5 to WB13b as one expression: runs of letters, numbers or Katakana, tied together by underscores.
const NUMBERS = `(?:${NUMERIC}(?:(?:(?:${EXTEND_NUM_LET})*|${MID_NUMBER})${NUMERIC})*)`;
const LETTERS = `(?:(?:${LETTER})(?:(?:(?:${EXTEND_NUM_LET})*|${MID_LETTER})(?:${LETTER}))*)`;
const HEBREW_QUOTED = `(?:(?:${HEBREW})(?:"${EXTEND}(?:${HEBREW})|'${EXTEND}))`;
const KATAKANAS = `(?:${KATAKANA}(?:(?:${EXTEND_NUM_LET})*${KATAKANA})*)`;
const RUN = `(?:${KATAKANAS}|(?:${HEBREW_QUOTED}|${NUMBERS}|${LETTERS})+)`;
const WORD = `(?:${EXTEND_NUM_LET})*${RUN}(?:(?:${EXTEND_NUM_LET})+${RUN})*(?:${EXTEND_NUM_LET})*`;

// Extended_Pictographic as emoji data 11 to 16 have it; later versions of Unicode drop hundreds of symbols from it.
const PICTOGRAPH_RANGES =
  "a9 ae 203c 2049 2122 2139 2194-2199 21a9-21aa 231a-231b 2328 2388 23cf 23e9-23f3 23f8-23fa 24c2 25aa-25ab 25b6 " +
  "25c0 25fb-25fe 2600-2605 2607-2612 2614-2685 2690-2705 2708-2712 2714 2716 271d 2721 2728 2733-2734 2744 2747 " +
  "274c 274e 2753-2755 2757 2763-2767 2795-2797 27a1 27b0 27bf 2934-2935 2b05-2b07 2b1b-2b1c 2b50 2b55 3030 303d " +
  "3297 3299 1f000-1f0ff 1f10d-1f10f 1f12f 1f16c-1f171 1f17e-1f17f 1f18e 1f191-1f19a 1f1ad-1f1e5 1f201-1f20f 1f21a " +
  "1f22f 1f232-1f23a 1f23c-1f23f 1f249-1f3fa 1f400-1f53d 1f546-1f64f 1f680-1f6ff 1f774-1f77f 1f7d5-1f7ff " +
  "1f80c-1f80f 1f848-1f84f 1f85a-1f85f 1f888-1f88f 1f8ae-1f8ff 1f90c-1f93a 1f93c-1f945 1f947-1fffd";
const PICTOGRAPH = `[${PICTOGRAPH_RANGES.split(" ")
  .map((range) =>
    range
      .split("-")
      .map((hex) => `\\u{${hex}}`)
      .join("-"),
  )
  .join("")}]`;
const EMOJI_ELEMENT = `${PICTOGRAPH}(?:\\ufe0f\\u20e3?)?${EXTEND}`;
const EMOJI = `\\p{RI}${EXTEND}\\p{RI}${EXTEND}|[#*]\\ufe0f?\\u20e3|${EMOJI_ELEMENT}(?:(?<=\\u200d)${EMOJI_ELEMENT})*`;

const TOKEN = new RegExp(`${WORD}|${EMOJI}|(?:${COMPLEX})+|[\\p{sc=Han}\\p{sc=Hiragana}]${EXTEND}`, "uy");
// Where a token may start at all; everything else is skipped in one go.
const START = new RegExp(
  `(?:[\\p{Alphabetic}\\p{Nd}\\p{Pc}\\p{RI}\\p{sc=Han}\\p{sc=Hiragana}\\p{sc=Katakana}\\u202f\\u066b#*\\u3031-\\u3035\\u309b\\u309c\\u30a0\\u30fc\\uff70\\u05f3]|${PICTOGRAPH}|${COMPLEX})`,
  "gu",
);

/** The tokens of a text as Lucene's StandardTokenizer gives them, in order, as written. */
export function tokenize(text: string): string[] {
  const tokens: string[] = [];
  let at = 0;
  for (;;) {
    START.lastIndex = at;
    const start = START.exec(text);
    if (start === null) return tokens;
    at = start.index;
    const token = tokenAt(text, at);
    if (token === null) {
      at += start[0].length;
      continue;
    }
    tokens.push(token);
    at += token.length;
  }
}

function tokenAt(text: string, at: number): string | null {
  TOKEN.lastIndex = at;
  const token = TOKEN.exec(text)?.[0];
  if (token === undefined) return null;
  if (token.length <= MAX_TOKEN_UNITS) return token;
  // The scanner sees only a window of 255 units from the token's start on, so rules end where the window does.
  TOKEN.lastIndex = 0;
  return TOKEN.exec(text.slice(at, at + MAX_TOKEN_UNITS))?.[0] ?? null;
}
