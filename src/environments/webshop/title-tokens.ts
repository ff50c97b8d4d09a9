/**
 * Splits product titles into words the way the original's tagger (spaCy, English) does: at spaces, then punctuation
 * off both ends of each piece, then hyphens, commas and slashes between letters.
 *
 * These are the rules that matter in titles; the table of contractions holds the common ones only. The agreement with
 * the recorded nouns is measured together with {@link tagNouns}.
 */

const QUOTES =
  "'\"\u2018\u2019\u201a\u201b\u201c\u201d\u201e`\u00b4\u2032\u2033\u00ab\u00bb\u300c-\u300f\u3010\u3011\u300a\u300b\u3008\u3009\u27e6\u27e7";
const PUNCTUATION =
  ",:;!?\u00bf\u00a1()\\[\\]{}<>_#*&\u3002\uff1f\uff01\uff0c\u3001\uff1b\uff1a\uff5e\u00b7\uff08\uff09";
const CURRENCY = "$\u00a3\u20ac\u00a5\u20b9\u20bd";
const HYPHENS = "[-\u2013\u2014~]|--+|\u2014\u2014";
// spaCy's icons: symbols of the category So, with the box drawings it adds.
const ICON = "[\\p{So}]";
const UNITS =
  "km²|km³|km|m²|m³|dm²|dm³|dm|cm²|cm³|cm|mm²|mm³|mm|ha|µm|nm|yd|in|ft|kg|mg|µg|g|t|lb|oz|m/s|km/h|kmh|mph|hPa|Pa|mbar|mb|MB|kb|KB|gb|GB|tb|TB|T|G|M|K|m|%";

const PREFIX = new RegExp(
  `^(?:[\u00a7%=\u2014\u2013]|\\+(?![0-9])|\\.\\.+|\u2026|[${PUNCTUATION}]|[${QUOTES}]|[${CURRENCY}]|${ICON})`,
  "u",
);
const SUFFIX = new RegExp(
  `(?:'[sS]|\u2019[sS]|[\u2014\u2013]|\\.\\.+|\u2026|[${PUNCTUATION}]|[${QUOTES}]|${ICON}|(?<=[0-9])\\+|(?<=\u00b0[FfCcKk])\\.|(?<=[0-9])[${CURRENCY}]|(?<=[0-9])(?:${UNITS})|(?<=[0-9\\p{Ll}%\u00b2\\-+${QUOTES}${PUNCTUATION}])\\.|(?<=\\p{Lu}\\p{Lu})\\.)$`,
  "u",
);
const INFIX = new RegExp(
  `\\.\\.+|\u2026|${ICON}|(?<=[0-9])[+\\-*^](?=[0-9-])|(?<=[\\p{Ll}${QUOTES}])\\.(?=[\\p{Lu}${QUOTES}])|(?<=\\p{L}),(?=\\p{L})|(?<=[\\p{L}0-9])(?:${HYPHENS})(?=\\p{L})|(?<=[\\p{L}0-9])[:<>=/](?=\\p{L})`,
  "gu",
);
/** Pieces that stay whole although a rule would cut them. */
const WHOLE = new Set(
  (
    "Co. Dr. Inc. Ltd. Mr. Mrs. Ms. St. Jr. e.g. i.e. a.m. p.m. o'clock ma'am w/o " +
    "a. b. c. d. e. f. g. h. i. j. k. l. m. n. o. p. q. r. s. t. u. v. w. x. y. z."
  ).split(" "),
);
const CONTRACTION =
  /^(?:((?:do|does|did|ca|wo|is|are|was|were|has|have|had|would|should|could|must|need))(n['\u2019]t)|((?:i|you|he|she|it|we|they|who|what|that|there))(['\u2019](?:ll|re|ve|d|m)))$/i;

/** The words and marks of a title, in order, as written. */
export function titleTokens(title: string): string[] {
  return title.split(/\s+/u).flatMap((piece) => (piece === "" ? [] : splitPiece(piece)));
}

function splitPiece(piece: string): string[] {
  const before: string[] = [];
  const after: string[] = [];
  let rest = piece;
  for (;;) {
    if (rest === "" || WHOLE.has(rest)) break;
    const prefix = PREFIX.exec(rest)?.[0] ?? "";
    if (prefix !== "" && WHOLE.has(rest.slice(prefix.length))) {
      before.push(prefix);
      rest = rest.slice(prefix.length);
      break;
    }
    const suffix = SUFFIX.exec(rest)?.[0] ?? "";
    if (prefix === "" && suffix === "") break;
    if (prefix !== "") before.push(prefix);
    rest = rest.slice(prefix.length);
    if (suffix !== "" && suffix.length <= rest.length) {
      after.unshift(suffix);
      rest = rest.slice(0, rest.length - suffix.length);
    }
  }
  return [...before, ...splitInside(rest), ...after];
}

function splitInside(rest: string): string[] {
  if (rest === "") return [];
  if (WHOLE.has(rest)) return [rest];
  const contraction = CONTRACTION.exec(rest);
  if (contraction !== null) return contraction.slice(1).filter((part) => part !== undefined);
  const parts: string[] = [];
  let from = 0;
  for (const match of rest.matchAll(INFIX)) {
    if (match.index > from) parts.push(rest.slice(from, match.index));
    if (match[0] !== "") parts.push(match[0]);
    from = match.index + match[0].length;
  }
  if (from < rest.length) parts.push(rest.slice(from));
  return parts;
}
