/**
 * The bytes every token id stands for, read from a parsed `tokenizer.json`.
 *
 * Generation needs them to see a stop string that begins in one token and ends in another. Two families are known:
 * byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM) and SentencePiece-like BPE with byte fallback (Llama 2, TinyLlama).
 */
import { isObject, type JsonObject } from "./files.js";

/** Bytes of token id i: `bytes.subarray(offsets[i], offsets[i + 1])`. */
export interface TokenBytes {
  readonly bytes: Uint8Array;
  /** [vocabulary size + 1], ascending. Ids that stand for nothing have no bytes. */
  readonly offsets: Uint32Array;
}

export type TokenFamily = "byte-level" | "byte-fallback";

/** Which family a tokenizer belongs to, by its decoder; null where token texts cannot be turned into bytes one by one. */
export function tokenFamily(tokenizer: JsonObject): TokenFamily | null {
  const types = decoderTypes(tokenizer.decoder);
  if (types.includes("ByteLevel")) return "byte-level";
  if (types.includes("ByteFallback")) return "byte-fallback";
  return null;
}

function decoderTypes(decoder: unknown): string[] {
  if (!isObject(decoder)) return [];
  const inner = Array.isArray(decoder.decoders) ? decoder.decoders.flatMap(decoderTypes) : [];
  return [String(decoder.type), ...inner];
}

/**
 * @param vocabulary Token text (as in `tokenizer.json`) by id, undefined for unused ids.
 * @param added Ids of added tokens: their texts are literal.
 */
export function tokenBytes(
  family: TokenFamily,
  vocabulary: readonly (string | undefined)[],
  added: ReadonlySet<number>,
): TokenBytes {
  const decode = family === "byte-level" ? byteLevelBytes : byteFallbackBytes;
  const pieces = vocabulary.map((text, id) =>
    text === undefined ? new Uint8Array(0) : added.has(id) ? Buffer.from(text, "utf8") : decode(text),
  );
  const offsets = new Uint32Array(vocabulary.length + 1);
  pieces.forEach((piece, id) => {
    offsets[id + 1] = (offsets[id] ?? 0) + piece.length;
  });
  const bytes = new Uint8Array(offsets[vocabulary.length] ?? 0);
  pieces.forEach((piece, id) => {
    bytes.set(piece, offsets[id] ?? 0);
  });
  return { bytes, offsets };
}

/**
 * GPT-2's map from printable characters to bytes: bytes that print stand for themselves, the other 68 for the code
 * points from 256 on, in ascending order.
 */
const byteOfCharacter: ReadonlyMap<string, number> = (() => {
  const map = new Map<string, number>();
  let next = 256;
  for (let byte = 0; byte < 256; byte++) {
    const prints = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    map.set(String.fromCodePoint(prints ? byte : next++), byte);
  }
  return map;
})();

/** A text with a character outside the map is kept as it is, as the reference decoder does. */
function byteLevelBytes(text: string): Uint8Array {
  const bytes = new Uint8Array(text.length);
  let length = 0;
  for (const character of text) {
    const byte = byteOfCharacter.get(character);
    if (byte === undefined) return Buffer.from(text, "utf8");
    bytes[length++] = byte;
  }
  return bytes.slice(0, length);
}

function byteFallbackBytes(text: string): Uint8Array {
  const byte = /^<0x([0-9A-F]{2})>$/u.exec(text)?.[1];
  return byte === undefined
    ? Buffer.from(text.replaceAll("\u2581", " "), "utf8")
    : Uint8Array.of(Number.parseInt(byte, 16));
}
