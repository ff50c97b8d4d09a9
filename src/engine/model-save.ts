/** Writes a Hugging Face model folder that transformers loads unchanged. */
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { withFileErrors, writeFileAtomic } from "../data/files.js";
import type { FileDType, ModelConfig } from "./model-config.js";
import { CONFIG_FILE, WEIGHTS_FILE } from "./model-folder.js";
import { SafetensorsWriter } from "./safetensors.js";
import { expectedTensors } from "./tensor-names.js";

const DTYPE_NAMES: Readonly<Record<FileDType, string>> = { F32: "float32", F16: "float16", BF16: "bfloat16" };

export interface ModelToSave {
  readonly config: ModelConfig;
  /** Dtype of the bytes that `read` gives; recorded in config.json. */
  readonly dtype: FileDType;
  /** Files to copy: name in the folder -> path now. */
  readonly companions: ReadonlyMap<string, string>;
  /** Little-endian bytes of a base tensor. */
  readonly read: (name: string) => Promise<Uint8Array>;
}

/**
 * Every file appears whole or not at all, and config.json last: a folder without it is not a model, so a save that was
 * killed midway is never taken for one. Throws the file errors of data/files.ts and whatever `read` throws.
 */
export async function saveModelFolder(target: string, model: ModelToSave): Promise<void> {
  await withFileErrors("creating", target, () => mkdir(target, { recursive: true }));
  for (const [name, from] of model.companions) {
    const to = join(target, name);
    if (to !== from) await writeFileAtomic(to, await withFileErrors("reading", from, () => readFile(from)));
  }
  const shapes = [...expectedTensors(model.config.native)];
  const writer = await SafetensorsWriter.create(
    join(target, WEIGHTS_FILE),
    shapes.map(([name, shape]) => ({ name, dtype: model.dtype, shape })),
  );
  try {
    for (const [name] of shapes) await writer.write(name, await model.read(name));
    await writer.commit();
  } finally {
    await writer.discard(); // does nothing after commit
  }
  await writeFileAtomic(join(target, CONFIG_FILE), `${JSON.stringify(configJson(model), null, 2)}\n`);
}

/** The model's own config.json with the dtype of its weights, under the key its transformers version reads. */
function configJson({ config, dtype }: ModelToSave): Record<string, unknown> {
  const { dtype: _current, torch_dtype: _legacy, ...rest } = config.json;
  return { ...rest, ["torch_dtype" in config.json ? "torch_dtype" : "dtype"]: DTYPE_NAMES[dtype] };
}
