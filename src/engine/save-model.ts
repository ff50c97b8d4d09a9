/** Writes model folders and adapter folders from an engine's weights, tensor by tensor. */
import { copyFile, readdir } from "node:fs/promises";
import { join } from "node:path";
import { setImmediate as nextTurn } from "node:timers/promises";
import { withFileErrors, writeFileAtomic } from "../data/files.js";
import { ADAPTER_CONFIG_FILE, ADAPTER_PREFIX, ADAPTER_WEIGHTS_FILE } from "./adapter-folder.js";
import { writeFolderAtomic } from "./atomic-folder.js";
import { EngineError } from "./errors.js";
import type { ModelConfig } from "./model-config.js";
import { COMPANION_FILES, CONFIG_FILE, type ModelFolder, WEIGHTS_FILE } from "./model-folder.js";
import type { NativeEngine, NativeEngineOptions, NativeTensorInfo } from "./native.js";
import { nativeCall } from "./native-call.js";
import { type SafetensorsDType, SafetensorsWriter } from "./safetensors.js";
import { bytesOf, roundToBf16, widen } from "./tensor-values.js";

export type SavedDType = "fp32" | "bf16";

export interface SaveSource {
  readonly native: NativeEngine;
  readonly options: NativeEngineOptions;
  readonly config: ModelConfig;
  /** Where the model came from; null for one made from a configuration. */
  readonly folder: ModelFolder | null;
}

export interface SaveModelSettings {
  readonly dtype?: SavedDType;
  /** Folder whose tokenizer and generation files are copied. Default: the one the model came from. */
  readonly companionsFrom?: string;
  readonly signal?: AbortSignal;
}

const FILE_DTYPES = { fp32: "F32", bf16: "BF16" } as const;
const CONFIG_DTYPES = { fp32: "float32", bf16: "bfloat16" } as const;

export async function saveModel(dir: string, source: SaveSource, settings: SaveModelSettings): Promise<void> {
  const dtype = settings.dtype ?? source.options.dtype;
  const companions =
    settings.companionsFrom === undefined
      ? (source.folder?.companions ?? new Map<string, string>())
      : await findCompanions(settings.companionsFrom);
  await writeFolderAtomic(dir, async (folder) => {
    const base = source.native.tensors().filter(({ name }) => !name.startsWith(ADAPTER_PREFIX));
    await writeTensors(join(folder, WEIGHTS_FILE), base, FILE_DTYPES[dtype], settings.signal, async (tensor) => {
      if (dtype === "bf16" && source.options.dtype === "bf16" && source.options.lora === null)
        return readTensor(source.native, tensor.name, "weight");
      const values = await mergedValues(source, tensor, settings.signal);
      return dtype === "bf16" ? roundToBf16(values) : values;
    });
    for (const [name, path] of companions)
      await withFileErrors("copying", path, () => copyFile(path, join(folder, name)));
    await writeFileAtomic(join(folder, CONFIG_FILE), `${JSON.stringify(savedConfig(source.config, dtype), null, 2)}\n`);
  });
}

/** The configuration as it came, with the dtype of the new file under the key that was in use. */
function savedConfig(config: ModelConfig, dtype: SavedDType): Record<string, unknown> {
  const { dtype: current, torch_dtype: legacy, ...rest } = config.json;
  const key = legacy !== undefined && current === undefined ? "torch_dtype" : "dtype";
  return { ...rest, [key]: CONFIG_DTYPES[dtype] };
}

async function findCompanions(folder: string): Promise<ReadonlyMap<string, string>> {
  const present = new Set(await withFileErrors("reading", folder, () => readdir(folder)));
  return new Map(COMPANION_FILES.filter((name) => present.has(name)).map((name) => [name, join(folder, name)]));
}

export async function saveAdapters(
  dir: string,
  source: SaveSource,
  settings: { readonly signal?: AbortSignal },
): Promise<void> {
  const { lora } = source.options;
  if (lora === null)
    throw new EngineError("BAD_ARGUMENT", "This engine has no adapters to save.", {
      hint: "Use `saveModel`, or make the engine with `lora`.",
    });
  const adapters = source.native.tensors().filter(({ name }) => name.startsWith(ADAPTER_PREFIX));
  await writeFolderAtomic(dir, async (folder) => {
    await writeTensors(join(folder, ADAPTER_WEIGHTS_FILE), adapters, "F32", settings.signal, ({ name }) =>
      trainedValues(source, name),
    );
    const config = {
      peft_type: "LORA",
      task_type: "CAUSAL_LM",
      base_model_name_or_path: source.folder?.path ?? null,
      r: lora.rank,
      lora_alpha: lora.alpha,
      lora_dropout: 0,
      bias: "none",
      fan_in_fan_out: false,
      inference_mode: true,
      target_modules: lora.targets,
    };
    await writeFileAtomic(join(folder, ADAPTER_CONFIG_FILE), `${JSON.stringify(config, null, 2)}\n`);
  });
}

async function writeTensors(
  path: string,
  tensors: readonly NativeTensorInfo[],
  dtype: SafetensorsDType,
  signal: AbortSignal | undefined,
  read: (tensor: NativeTensorInfo) => Promise<Float32Array | Uint16Array>,
): Promise<void> {
  const writer = await SafetensorsWriter.create(
    path,
    tensors.map(({ name, shape }) => ({ name, shape, dtype })),
  );
  try {
    for (const tensor of tensors) {
      signal?.throwIfAborted();
      await writer.write(tensor.name, bytesOf(await read(tensor)));
    }
    await writer.commit();
  } catch (error) {
    await writer.discard();
    throw error;
  }
}

function readTensor(
  native: NativeEngine,
  name: string,
  kind: "weight" | "master",
): Promise<Float32Array | Uint16Array> {
  return nativeCall(() => native.readTensor(name, kind));
}

/** fp32 values: the master where there is one, else the weight. */
async function trainedValues(source: SaveSource, name: string): Promise<Float32Array> {
  const trainable = source.native.tensors().some((tensor) => tensor.name === name && tensor.trainable);
  return widen(await readTensor(source.native, name, trainable ? "master" : "weight"));
}

/** W + alpha / rank * B A (Hu et al. 2021, section 4.1) where the matrix has an adapter, else W; fp32. */
async function mergedValues(
  source: SaveSource,
  tensor: NativeTensorInfo,
  signal: AbortSignal | undefined,
): Promise<Float32Array> {
  const weight = await trainedValues(source, tensor.name);
  const { lora } = source.options;
  const stem = `${ADAPTER_PREFIX}${tensor.name.replace(/\.weight$/u, "")}`;
  if (lora === null || !source.native.tensors().some(({ name }) => name === `${stem}.lora_A.weight`)) return weight;
  const a = await trainedValues(source, `${stem}.lora_A.weight`);
  const b = await trainedValues(source, `${stem}.lora_B.weight`);
  const [rows, columns] = tensor.shape as [number, number];
  await addProduct(weight, b, a, { rows, columns, rank: lora.rank, scale: lora.alpha / lora.rank, signal });
  return weight;
}

/** Multiply-adds between two turns of the event loop: a few milliseconds. */
const SLICE = 4_000_000;

/** w [rows, columns] += scale * b [rows, rank] a [rank, columns], summed in double precision. */
async function addProduct(
  w: Float32Array,
  b: Float32Array,
  a: Float32Array,
  size: { rows: number; columns: number; rank: number; scale: number; signal: AbortSignal | undefined },
): Promise<void> {
  const { rows, columns, rank, scale, signal } = size;
  const sums = new Float64Array(columns);
  let work = 0;
  for (let row = 0; row < rows; row++) {
    sums.fill(0);
    for (let r = 0; r < rank; r++) {
      const factor = b[row * rank + r] as number;
      const from = r * columns;
      for (let column = 0; column < columns; column++)
        sums[column] = (sums[column] as number) + factor * (a[from + column] as number);
    }
    const to = row * columns;
    for (let column = 0; column < columns; column++)
      w[to + column] = (w[to + column] as number) + scale * (sums[column] as number);
    work += rank * columns;
    if (work > SLICE) {
      work = 0;
      await nextTurn();
      signal?.throwIfAborted();
    }
  }
}
