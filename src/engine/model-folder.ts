/**
 * A Hugging Face model folder: which files are there, what config.json says, where every tensor lies. Nothing is loaded
 * here; contradictions between the files are found before anything is.
 */
import { readdir, readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { withFileErrors } from "../data/files.js";
import { describe } from "../errors.js";
import { restoreFolder } from "./atomic-folder.js";
import { EngineError } from "./errors.js";
import { duplicateKey } from "./json-keys.js";
import { type ModelConfig, parseModelConfig } from "./model-config.js";
import { readSafetensorsHeader, readStoredTensor, type StoredTensor } from "./safetensors.js";
import { expectedTensors } from "./tensor-names.js";

export const CONFIG_FILE = "config.json";
export const WEIGHTS_FILE = "model.safetensors";
export const WEIGHTS_INDEX_FILE = "model.safetensors.index.json";
/** Files beside config and weights that belong to a model and are copied when it is saved elsewhere. */
export const COMPANION_FILES = [
  "tokenizer.json",
  "tokenizer_config.json",
  "chat_template.jinja",
  "chat_template.json",
  "generation_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "tokenizer.model",
  "vocab.json",
  "merges.txt",
] as const;

export interface ModelFolder {
  readonly path: string;
  readonly config: ModelConfig;
  /** Every tensor the engine needs, in name order, in the shape it needs; dtypes F32, F16 or BF16. */
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  /** End-of-sequence ids of generation_config.json, else of config.json. */
  readonly eosTokens: readonly number[];
  /** Which of {@link COMPANION_FILES} are there, as full paths. */
  readonly companions: ReadonlyMap<string, string>;
}

/**
 * Reads and checks a model folder.
 * Throws EngineError `MODEL_NOT_FOUND`, `MODEL_CONFIG`, `MODEL_UNSUPPORTED`, `MODEL_TENSORS`, `SAFETENSORS`.
 */
export async function openModelFolder(path: string): Promise<ModelFolder> {
  await restoreFolder(path);
  const names = new Set(await withFileErrors("reading", path, () => readdir(path)));
  if (!names.has(CONFIG_FILE))
    throw new EngineError("MODEL_NOT_FOUND", `${path} has no ${CONFIG_FILE}.`, {
      hint: "Give a Hugging Face model folder.",
    });
  const config = parseModelConfig(await readText(join(path, CONFIG_FILE)), join(path, CONFIG_FILE));
  const stored = await locateTensors(path, names);
  const tensors = await matchTensors(path, config, stored);
  const companions = new Map(COMPANION_FILES.filter((name) => names.has(name)).map((name) => [name, join(path, name)]));
  const generation = companions.get("generation_config.json");
  const eosTokens = generation === undefined ? null : generationEos(generation, await readText(generation), config);
  return { path, config, tensors, eosTokens: eosTokens ?? config.eosTokens, companions };
}

function readText(path: string): Promise<string> {
  return withFileErrors("reading", path, () => readFile(path, "utf8"));
}

function parseObject(path: string, text: string, code: "MODEL_CONFIG" | "SAFETENSORS"): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  } catch (cause) {
    throw new EngineError(code, `${path} is not JSON.`, { hint: "Save the model folder again.", cause });
  }
  throw new EngineError(code, `${path} is not a JSON object.`, { hint: "Save the model folder again." });
}

/** All stored tensors, from the single file or, where there is none, from the shards. */
async function locateTensors(path: string, names: ReadonlySet<string>): Promise<ReadonlyMap<string, StoredTensor>> {
  // transformers looks in this order too.
  if (names.has(WEIGHTS_FILE)) return (await readSafetensorsHeader(join(path, WEIGHTS_FILE))).tensors;
  if (names.has(WEIGHTS_INDEX_FILE)) return readShards(path, names);
  const others = [...names].filter((name) => /\.(bin|pt|pth|gguf|h5|msgpack)$/.test(name));
  const found = others.length === 0 ? "" : ` (it has ${others.slice(0, 3).join(", ")})`;
  throw new EngineError("MODEL_NOT_FOUND", `${path} has neither ${WEIGHTS_FILE} nor ${WEIGHTS_INDEX_FILE}${found}.`, {
    hint: "Save the model in safetensors form.",
  });
}

async function readShards(path: string, names: ReadonlySet<string>): Promise<ReadonlyMap<string, StoredTensor>> {
  const indexPath = join(path, WEIGHTS_INDEX_FILE);
  const wrong = (reason: string): EngineError =>
    new EngineError("SAFETENSORS", `${indexPath}: ${reason}.`, { hint: "Download or save the model folder again." });
  const text = await readText(indexPath);
  const map = parseObject(indexPath, text, "SAFETENSORS").weight_map;
  if (typeof map !== "object" || map === null || Array.isArray(map)) throw wrong("`weight_map` is not an object");
  const duplicate = duplicateKey(text);
  if (duplicate !== null) throw wrong(`it has the key ${describe(duplicate)} twice`);

  const byFile = new Map<string, Set<string>>();
  for (const [tensor, file] of Object.entries(map)) {
    // A path out of the folder would let an index read any file of the machine.
    if (typeof file !== "string" || file !== basename(file) || !file.endsWith(".safetensors"))
      throw wrong(`tensor ${describe(tensor)} is said to lie in ${describe(file)}, which is no shard's file name`);
    const expected = byFile.get(file) ?? new Set();
    byFile.set(file, expected.add(tensor));
  }
  const tensors = new Map<string, StoredTensor>();
  for (const [file, expected] of byFile) {
    if (!names.has(file))
      throw new EngineError("MODEL_NOT_FOUND", `${path} lacks the shard ${file}.`, {
        hint: "Download the missing file.",
      });
    const header = await readSafetensorsHeader(join(path, file));
    for (const name of expected) {
      const tensor = header.tensors.get(name);
      if (tensor === undefined) throw wrong(`tensor ${describe(name)} is not in ${file}`);
      tensors.set(name, tensor);
    }
    const extra = [...header.tensors.keys()].find((name) => !expected.has(name));
    if (extra !== undefined)
      throw wrong(`${file} holds tensor ${describe(extra)}, which the index does not place there`);
  }
  return tensors;
}

/** Buffers that old checkpoints store and that are computed from config.json here. */
function isDerived(name: string): boolean {
  return name.endsWith(".rotary_emb.inv_freq");
}

async function matchTensors(
  path: string,
  config: ModelConfig,
  stored: ReadonlyMap<string, StoredTensor>,
): Promise<ReadonlyMap<string, StoredTensor>> {
  const contradiction = (reason: string, hint: string): EngineError =>
    new EngineError("MODEL_TENSORS", `${path}: ${reason}.`, { hint });
  const expected = expectedTensors(config.native);
  const matched = new Map<string, StoredTensor>();
  for (const [name, shape] of expected) {
    const tensor = stored.get(name);
    if (tensor === undefined) {
      const untied = name === "lm_head.weight";
      throw contradiction(
        `tensor \`${name}\` is missing${untied ? " although `tie_word_embeddings` is false" : ""}`,
        untied
          ? "Correct config.json if the head shares the embedding."
          : "Check that config.json belongs to these weights.",
      );
    }
    if (tensor.shape.length !== shape.length || tensor.shape.some((n, i) => n !== shape[i]))
      throw contradiction(
        `tensor \`${name}\` has shape [${tensor.shape.join(", ")}], but config.json means [${shape.join(", ")}]`,
        "Check that config.json belongs to these weights.",
      );
    if (tensor.dtype !== "F32" && tensor.dtype !== "F16" && tensor.dtype !== "BF16")
      throw new EngineError("MODEL_UNSUPPORTED", `${path}: tensor \`${name}\` has dtype ${tensor.dtype}.`, {
        hint: "Weights must be F32, F16 or BF16; quantized models cannot be trained.",
      });
    matched.set(name, tensor);
  }
  for (const [name, tensor] of stored) {
    if (expected.has(name) || isDerived(name)) continue;
    if (name === "lm_head.weight") {
      await checkTied(path, tensor, matched.get("model.embed_tokens.weight"));
      continue;
    }
    throw contradiction(
      `there is a tensor \`${name}\` that a ${config.architecture} model of this config.json does not have`,
      "Leaving it out would change what the model computes; check config.json.",
    );
  }
  return matched;
}

/** A tied model may store its head; but then it must be the embedding. */
async function checkTied(path: string, head: StoredTensor, embedding: StoredTensor | undefined): Promise<void> {
  const same =
    embedding !== undefined &&
    head.dtype === embedding.dtype &&
    head.byteLength === embedding.byteLength &&
    Buffer.compare(await readStoredTensor(head), await readStoredTensor(embedding)) === 0;
  if (same) return;
  throw new EngineError(
    "MODEL_TENSORS",
    `${path}: \`tie_word_embeddings\` is true, but \`lm_head.weight\` differs from \`model.embed_tokens.weight\`.`,
    { hint: "Set tie_word_embeddings to false in config.json if the head is the model's own." },
  );
}

function generationEos(path: string, text: string, config: ModelConfig): number[] | null {
  const value = parseObject(path, text, "MODEL_CONFIG").eos_token_id;
  if (value === undefined || value === null) return null;
  return (Array.isArray(value) ? (value as unknown[]) : [value]).map((id) => {
    if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || id >= config.native.vocabSize)
      throw new EngineError(
        "MODEL_CONFIG",
        `${path}: expected token ids below ${config.native.vocabSize} for \`eos_token_id\`, got ${describe(id)}.`,
        { hint: "Check that the file belongs to this model." },
      );
    return id;
  });
}
