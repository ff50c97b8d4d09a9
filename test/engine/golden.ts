/** The golden models of test/fixtures/golden: what PyTorch and transformers say, and engines to compare with it. */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { loadAddon } from "../../src/engine/addon.js";
import { type EngineOptions, nativeEngineOptions } from "../../src/engine/engine-options.js";
import type { FileDType } from "../../src/engine/model-config.js";
import { type ModelFolder, openModelFolder } from "../../src/engine/model-folder.js";
import type { NativeEngine, NativeForest, NativeLossRows, NativeStepOptions } from "../../src/engine/native.js";
import { readSafetensorsHeader, readStoredTensor } from "../../src/engine/safetensors.js";

export const MODELS = ["llama-tied", "llama3-rope", "llama-linear", "llama-yarn", "qwen2", "qwen3"] as const;

/** golden.json, as make.py writes it. */
interface GoldenJson {
  readonly forest: { readonly tokens: number[]; readonly parents: number[]; readonly lengths: number[] };
  readonly rows: Readonly<Record<Stream, number[]>> & {
    readonly rows: number[];
    readonly targets: number[];
    readonly klEstimator: "k1" | "k2" | "k3";
    readonly temperature: number;
  };
  readonly terms: { readonly ce: number; readonly policy: number; readonly kl: number; readonly entropy: number };
  readonly values: Readonly<Record<"logprob" | "entropy" | "ratio" | "kl", number[]>>;
  readonly bf16: { readonly logits: number; readonly gradients: number; readonly logprob: number };
  readonly lora?: { readonly rank: number; readonly alpha: number; readonly targets: LoraTargets };
  readonly step?: {
    readonly options: Omit<NativeStepOptions, "seed">;
    readonly count: number;
    readonly gradNorms: number[];
  };
}
type LoraTargets = NonNullable<NonNullable<EngineOptions["lora"]>["targets"]>;

const STREAMS = [
  "ceWeight",
  "advantage",
  "oldLogprob",
  "clipLow",
  "clipHigh",
  "policyWeight",
  "refLogprob",
  "klWeight",
  "entropyWeight",
] as const;
type Stream = (typeof STREAMS)[number];

export interface Golden {
  readonly json: GoldenJson;
  readonly folder: ModelFolder;
  /** fp32 tensors by name: `logits`, `gradient.NAME`, `step.NAME`, `lora.NAME`, `lora_gradient.NAME`. */
  readonly tensors: ReadonlyMap<string, Float32Array>;
  readonly forest: NativeForest;
  readonly rows: NativeLossRows;
}

export async function readGolden(model: string): Promise<Golden> {
  const path = fileURLToPath(new URL(`../fixtures/golden/${model}/`, import.meta.url));
  const json = JSON.parse(readFileSync(`${path}golden.json`, "utf8")) as GoldenJson;
  const { tensors: stored } = await readSafetensorsHeader(`${path}golden.safetensors`);
  const tensors = new Map<string, Float32Array>();
  for (const [name, tensor] of stored) {
    const bytes = await readStoredTensor(tensor);
    tensors.set(name, new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4));
  }
  return {
    json,
    folder: await openModelFolder(path),
    tensors,
    forest: {
      tokens: Int32Array.from(json.forest.tokens),
      parents: Int32Array.from(json.forest.parents),
      lengths: Int32Array.from(json.forest.lengths),
    },
    rows: {
      ...lossRows(json.rows.rows, json.rows.targets),
      ...(Object.fromEntries(STREAMS.map((s) => [s, Float32Array.from(json.rows[s])])) as Record<Stream, Float32Array>),
      klEstimator: json.rows.klEstimator,
      inverseTemperature: 1 / json.rows.temperature,
    },
  };
}

/** Rows that only report. */
export function lossRows(rows: readonly number[], targets: readonly number[]): NativeLossRows {
  const none = new Float32Array(0);
  return {
    rows: Int32Array.from(rows),
    targets: Int32Array.from(targets),
    ...(Object.fromEntries(STREAMS.map((s) => [s, none])) as Record<Stream, Float32Array>),
    klEstimator: "k3",
    inverseTemperature: 1,
  };
}

/** A native engine with the golden model's weights. Two threads, small buffers. */
export async function openGolden(golden: Golden, options: EngineOptions = {}): Promise<NativeEngine> {
  const engine = await loadAddon().createEngine(
    nativeEngineOptions(
      { dtype: "fp32", threads: 2, training: true, maxBatchTokens: 128, cacheTokens: 64, maxSequences: 2, ...options },
      golden.folder.config.native,
      "fp32",
    ),
  );
  for (const [name, t] of golden.folder.tensors)
    await engine.loadTensor(name, t.file, t.offset, t.byteLength, t.dtype as FileDType);
  return engine;
}

/** Runs `use` with an engine that is disposed of afterwards. */
export async function withGolden<T>(
  golden: Golden,
  options: EngineOptions,
  use: (engine: NativeEngine) => Promise<T>,
): Promise<T> {
  const engine = await openGolden(golden, options);
  try {
    return await use(engine);
  } finally {
    await engine.dispose();
  }
}

export type Tensors = Map<string, Float32Array>;

/** One kind of every tensor that training changes. */
export async function readAll(engine: NativeEngine, kind: "master" | "gradient"): Promise<Tensors> {
  const all: Tensors = new Map();
  for (const { name, trainable } of engine.tensors())
    if (trainable) all.set(name, (await engine.readTensor(name, kind)) as Float32Array);
  return all;
}

/** |a - b| / |b| over all elements. */
export function relativeError(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) throw new Error(`Comparing ${a.length} with ${b.length} values.`);
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < b.length; i++) {
    difference += ((a[i] as number) - (b[i] as number)) ** 2;
    norm += (b[i] as number) ** 2;
  }
  return Math.sqrt(difference / norm);
}

/** All tensors end to end in name order. */
export function concatenate(tensors: Tensors): Float32Array {
  const parts = [...tensors].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, values]) => values);
  const whole = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** The bytes of every tensor, for comparisons bit by bit. */
export function bytesOf(tensors: Tensors): Record<string, string> {
  return Object.fromEntries(
    [...tensors].map(([name, t]) => [name, Buffer.from(t.buffer, t.byteOffset, t.byteLength).toString("base64")]),
  );
}

/** Logits [rows * vocabulary] less the mean of each row: what the log-probs of all targets tell of them. */
export async function centeredLogits(engine: NativeEngine, golden: Golden): Promise<Float32Array> {
  const vocabulary = golden.folder.config.native.vocabSize;
  const { rows } = golden.json.rows;
  const all = new Float32Array(rows.length * vocabulary);
  // One loss row a vocabulary entry; a few token rows at a time, as a micro-batch holds few.
  const atOnce = 4;
  for (let first = 0; first < rows.length; first += atOnce) {
    const some = rows.slice(first, first + atOnce).flatMap((row) => new Array<number>(vocabulary).fill(row));
    const targets = some.map((_, i) => i % vocabulary);
    const { logprob } = await engine.score(golden.forest, lossRows(some, targets), true).done;
    all.set(logprob, first * vocabulary);
  }
  return centered(all, vocabulary);
}

export function centered(logits: Float32Array, vocabulary: number): Float32Array {
  const result = new Float32Array(logits.length);
  for (let row = 0; row < logits.length; row += vocabulary) {
    const mean = logits.subarray(row, row + vocabulary).reduce((sum, x) => sum + x, 0) / vocabulary;
    for (let i = row; i < row + vocabulary; i++) result[i] = (logits[i] as number) - mean;
  }
  return result;
}
