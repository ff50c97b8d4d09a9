/**
 * Text to token ids and back, on the official Rust tokenizers, behind an interface of our own.
 */
import { access } from "node:fs/promises";
import type { Tokenizer as RustTokenizer } from "tokenizers";
import { withFileErrors } from "../data/files.js";
import { ActError, describe } from "../errors.js";
import { isObject, type JsonObject, malformed, readModelJson, readModelText, requireText } from "./files.js";
import { type TokenBytes, type TokenFamily, tokenBytes, tokenFamily } from "./token-bytes.js";

export interface EncodeOptions {
  /**
   * Let the tokenizer's post-processor add its special tokens (e.g. a beginning-of-sequence token). Default false:
   * chat templates write theirs themselves, and a text appended to others must not get any.
   */
  readonly addSpecialTokens?: boolean;
}

export interface DecodeOptions {
  /** Leave special tokens out of the text. Default false. */
  readonly skipSpecialTokens?: boolean;
}

/** Far above any vocabulary: a hostile file must not make a list of 2^32 tokens. */
const MAX_TOKEN_ID = 2 ** 24;

/** An immutable tokenizer; calls may run side by side. */
export class Tokenizer {
  /** The folder it was loaded from. */
  readonly modelDir: string;
  /** One more than the largest id. The model's embedding may have more rows (padding), never fewer. */
  readonly vocabSize: number;
  /** Control tokens (added tokens marked special) by their text. */
  readonly specialTokens: ReadonlyMap<string, number>;
  /** All added tokens, special or not (e.g. `<think>`), by their text. */
  readonly addedTokens: ReadonlyMap<string, number>;
  /**
   * Ids that end a sequence: `eos_token_id` of generation_config.json, else of config.json, else the id of `eos_token`
   * in tokenizer_config.json. What transformers' generate() stops at. Empty where none is named.
   */
  readonly eosTokens: readonly number[];
  /** Named tokens of tokenizer_config.json that chat templates use: `bos_token`, `eos_token`, `pad_token`, `unk_token`. */
  readonly namedTokens: Readonly<Record<string, string>>;

  readonly #rust: RustTokenizer;
  readonly #family: TokenFamily | null;
  readonly #vocabulary: readonly (string | undefined)[];
  #bytes: TokenBytes | null = null;

  private constructor(modelDir: string, rust: RustTokenizer, source: JsonObject, configs: ModelConfigs) {
    this.modelDir = modelDir;
    this.#rust = rust;
    this.#family = tokenFamily(source);
    const added = readAddedTokens(modelDir, source);
    this.addedTokens = new Map(added.map(({ content, id }) => [content, id]));
    this.specialTokens = new Map(added.filter(({ special }) => special).map(({ content, id }) => [content, id]));
    const vocabulary: (string | undefined)[] = [];
    for (const [text, id] of Object.entries(rust.getVocab(true))) {
      if (id > MAX_TOKEN_ID)
        throw malformed(
          modelDir,
          "tokenizer.json",
          `token ${describe(text)} has id ${id}; at most ${MAX_TOKEN_ID} is read`,
        );
      vocabulary[id] = text;
    }
    this.#vocabulary = Array.from(vocabulary);
    this.vocabSize = this.#vocabulary.length;
    this.namedTokens = readNamedTokens(configs.tokenizer);
    this.eosTokens = readEosTokens(modelDir, configs, this.namedTokens, rust, this.vocabSize);
  }

  /**
   * Loads `tokenizer.json` (and, where there, generation_config.json, config.json and tokenizer_config.json).
   *
   * Truncation and padding settings inside tokenizer.json are turned off: nothing is ever cut silently.
   *
   * @throws ActError `TOKENIZER_MISSING`, `TOKENIZER_MALFORMED`, `TOKENIZER_UNREADABLE`, `FILE_NOT_FOUND` (the folder),
   * `BAD_ARGUMENT`.
   */
  static async load(modelDir: string): Promise<Tokenizer> {
    requireText(modelDir, "modelDir");
    const name = "tokenizer.json";
    const text = await readModelText(modelDir, name);
    // A folder that is not there lacks more than this file.
    if (text === null) await withFileErrors("reading", modelDir, () => access(modelDir));
    if (text === null)
      throw new ActError("TOKENIZER_MISSING", `There is no ${name} in ${modelDir}.`, {
        hint: "Give a Hugging Face model folder with a fast tokenizer (`save_pretrained` of transformers writes one).",
      });
    const source = await readModelJson(modelDir, name);
    // A native package: loaded here, so that importing this one does not pay for it.
    const { Tokenizer: Rust } = await import("tokenizers");
    let rust: RustTokenizer;
    try {
      rust = Rust.fromString(text);
    } catch (cause) {
      throw malformed(modelDir, name, cause instanceof Error ? cause.message : String(cause), cause);
    }
    rust.disableTruncation();
    rust.disablePadding();
    const [generation, model, tokenizer] = await Promise.all(
      ["generation_config.json", "config.json", "tokenizer_config.json"].map((file) => readModelJson(modelDir, file)),
    );
    const configs = { generation: generation ?? null, model: model ?? null, tokenizer: tokenizer ?? null };
    return new Tokenizer(modelDir, rust, source ?? {}, configs);
  }

  /** Ids of a text. Texts of added tokens inside it become those tokens. */
  async encode(text: string, options: EncodeOptions = {}): Promise<Int32Array> {
    requireText(text, "text");
    const encoding = await this.#rust.encode(text, null, { addSpecialTokens: options.addSpecialTokens ?? false });
    return Int32Array.from(encoding.getIds());
  }

  /** Ids of many texts, side by side on the tokenizer's own threads. */
  async encodeBatch(texts: readonly string[], options: EncodeOptions = {}): Promise<Int32Array[]> {
    if (texts.length === 0) return [];
    texts.forEach((text, i) => {
      requireText(text, `texts.${i}`);
    });
    const encodings = await this.#rust.encodeBatch([...texts], { addSpecialTokens: options.addSpecialTokens ?? false });
    return encodings.map((encoding) => Int32Array.from(encoding.getIds()));
  }

  /**
   * The text of ids. Bytes that form no character become U+FFFD, so text is a view of ids, never their source. Ids from
   * `vocabSize` on have no text: a model's embedding may be padded beyond its tokenizer, and such an id can be sampled.
   *
   * @throws ActError `TOKEN_OUT_OF_RANGE` for what is no id: negative or not a whole number.
   */
  async decode(ids: ArrayLike<number>, options: DecodeOptions = {}): Promise<string> {
    const list = Array.from(ids);
    for (const id of list) {
      if (!(Number.isInteger(id) && id >= 0))
        throw new ActError("TOKEN_OUT_OF_RANGE", `A token id is a whole number from 0 on, not ${id}.`, {
          hint: "Give ids as `encode` returns them.",
        });
    }
    const known = list.filter((id) => id < this.vocabSize);
    return known.length === 0 ? "" : this.#rust.decode(known, options.skipSpecialTokens ?? false);
  }

  /** Id of a token by its text, or null. */
  tokenId(token: string): number | null {
    return this.#rust.tokenToId(token);
  }

  /** The token of an id as tokenizer.json writes it, or null. */
  token(id: number): string | null {
    return this.#vocabulary[id] ?? null;
  }

  /**
   * Bytes of every token; computed once, shared, not to be written to.
   *
   * @throws ActError `TOKENIZER_NO_BYTES` where the tokenizer's tokens have no bytes of their own.
   */
  tokenBytes(): TokenBytes {
    if (this.#family === null)
      throw new ActError("TOKENIZER_NO_BYTES", `The tokenizer of ${this.modelDir} is not a byte-level one.`, {
        hint: "Stop strings need byte-level BPE or byte fallback; use stop tokens instead.",
      });
    this.#bytes ??= tokenBytes(this.#family, this.#vocabulary, new Set(this.addedTokens.values()));
    return this.#bytes;
  }
}

interface ModelConfigs {
  readonly generation: JsonObject | null;
  readonly model: JsonObject | null;
  readonly tokenizer: JsonObject | null;
}

interface AddedToken {
  readonly content: string;
  readonly id: number;
  readonly special: boolean;
}

function readAddedTokens(modelDir: string, source: JsonObject): AddedToken[] {
  const list = source.added_tokens ?? [];
  if (!Array.isArray(list)) throw malformed(modelDir, "tokenizer.json", "`added_tokens` is not a list");
  return list.map((entry: unknown) => {
    if (!isObject(entry) || typeof entry.content !== "string" || typeof entry.id !== "number")
      throw malformed(modelDir, "tokenizer.json", "an entry of `added_tokens` lacks `content` or `id`");
    return { content: entry.content, id: entry.id, special: entry.special === true };
  });
}

/** tokenizer_config.json writes a token as text or as an object with `content`. */
function readNamedTokens(config: JsonObject | null): Record<string, string> {
  const named: Record<string, string> = {};
  for (const key of ["bos_token", "eos_token", "pad_token", "unk_token"]) {
    const value = config?.[key];
    const text = isObject(value) ? value.content : value;
    if (typeof text === "string") named[key] = text;
  }
  return named;
}

function readEosTokens(
  modelDir: string,
  configs: ModelConfigs,
  named: Readonly<Record<string, string>>,
  rust: RustTokenizer,
  vocabSize: number,
): number[] {
  const sources = [
    ["generation_config.json", configs.generation],
    ["config.json", configs.model],
  ] as const;
  for (const [file, config] of sources) {
    const value = config?.eos_token_id;
    if (value === undefined || value === null) continue;
    const ids: unknown[] = Array.isArray(value) ? value : [value];
    const valid = ids.filter((id): id is number => Number.isInteger(id) && Number(id) >= 0 && Number(id) < vocabSize);
    if (valid.length !== ids.length)
      throw malformed(modelDir, file, `\`eos_token_id\` ${JSON.stringify(value)} is not in the tokenizer's vocabulary`);
    return [...new Set(valid)];
  }
  if (named.eos_token === undefined) return [];
  const id = rust.tokenToId(named.eos_token);
  if (id === null)
    throw malformed(modelDir, "tokenizer_config.json", `\`eos_token\` ${JSON.stringify(named.eos_token)} is no token`);
  return [id];
}
