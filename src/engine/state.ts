/**
 * Training state on disk, for exact resume: `state.safetensors` (fp32 masters and moments as `<kind>/<tensor>`) and
 * `state.json` (what the engine was, counters, SHA-256 of the former). The folder appears, or takes the place of an
 * earlier state, whole or not at all.
 */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { withFileErrors, writeFileAtomic } from "../data/files.js";
import { restoreFolder, writeFolderAtomic } from "./atomic-folder.js";
import { EngineError } from "./errors.js";
import type { NativeEngine, NativeEngineOptions } from "./native.js";
import { nativeCall, nativeCallSync } from "./native-call.js";
import { readSafetensorsHeader, readStoredTensor, SafetensorsWriter } from "./safetensors.js";
import { bytesOf, floatsOf, widen } from "./tensor-values.js";

const FORMAT = "act-trainer/engine-state@1";
const VALUES_FILE = "state.safetensors";
const INDEX_FILE = "state.json";
const KINDS = ["master", "moment1", "moment2"] as const;

const indexSchema = z.strictObject({
  format: z.literal(FORMAT),
  /** Of {@link VALUES_FILE}. */
  sha256: z.string().regex(/^[0-9a-f]{64}$/u),
  optimizerStep: z.number().int().min(0),
  weightVersion: z.number().int().min(0),
  dtype: z.enum(["fp32", "bf16"]),
  /** Values of a compact state are those that its codes stand for. Absent in states older than the choice. */
  optimizerState: z.enum(["full", "compact"]).default("full"),
  lora: z.strictObject({ rank: z.number(), alpha: z.number(), targets: z.array(z.string()) }).nullable(),
});

export interface StateTarget {
  readonly native: NativeEngine;
  readonly options: NativeEngineOptions;
}

interface StateEntry {
  readonly key: string;
  readonly name: string;
  readonly kind: (typeof KINDS)[number];
  readonly shape: readonly number[];
}

/** What a state of this engine consists of, in file order. */
function entries({ native, options }: StateTarget): StateEntry[] {
  if (!options.training)
    throw new EngineError("BAD_ARGUMENT", "This engine was made without training: it has no optimizer state.", {
      hint: "Make it with `training: true`, or use `saveModel`.",
    });
  return native
    .tensors()
    .filter(({ trainable }) => trainable)
    .flatMap(({ name, shape }) => KINDS.map((kind) => ({ key: `${kind}/${name}`, name, kind, shape })));
}

/** Of adapters, all that decides what their values mean. */
function loraIdentity({ lora }: NativeEngineOptions): { rank: number; alpha: number; targets: string[] } | null {
  return lora === null ? null : { rank: lora.rank, alpha: lora.alpha, targets: [...lora.targets].sort() };
}

/**
 * @param dir An absent or empty folder, or one with an earlier state.
 * @param source With the version of the weights; asked for once they have been read, as calls before may still be at work.
 */
export async function saveState(
  dir: string,
  source: StateTarget & { readonly weightVersion: () => number },
  signal?: AbortSignal,
): Promise<void> {
  const { native, options } = source;
  const list = entries(source);
  await writeFolderAtomic(dir, async (folder) => {
    const path = join(folder, VALUES_FILE);
    const writer = await SafetensorsWriter.create(
      path,
      list.map(({ key, shape }) => ({ name: key, shape, dtype: "F32" })),
      { format: FORMAT },
    );
    try {
      for (const { key, name, kind } of list) {
        signal?.throwIfAborted();
        await writer.write(key, bytesOf(widen(await nativeCall(() => native.readTensor(name, kind)))));
      }
      await writer.commit();
    } catch (error) {
      await writer.discard();
      throw error;
    }
    const index: z.infer<typeof indexSchema> = {
      format: FORMAT,
      sha256: await sha256(path),
      optimizerStep: nativeCallSync(() => native.optimizerStep),
      weightVersion: source.weightVersion(),
      dtype: options.dtype,
      optimizerState: options.optimizerState,
      lora: loraIdentity(options),
    };
    await writeFileAtomic(join(folder, INDEX_FILE), `${JSON.stringify(index, null, 2)}\n`);
  });
}

/** Checks everything, then writes every value; the engine's gradients are zero afterwards. */
export async function loadState(
  dir: string,
  target: StateTarget,
  signal?: AbortSignal,
): Promise<{ weightVersion: number }> {
  const { native, options } = target;
  const list = entries(target);
  await restoreFolder(dir);
  const index = await readIndex(dir);
  const refuse = (reason: string, hint: string): EngineError =>
    new EngineError("STATE", `Failed loading the state in ${dir}: ${reason}.`, { hint });
  if (index.dtype !== options.dtype)
    throw refuse(`it is of a ${index.dtype} engine, this one is ${options.dtype}`, `Use dtype ${index.dtype}.`);
  if (index.optimizerState !== options.optimizerState)
    throw refuse(
      `its optimizer state is ${index.optimizerState}, this engine's is ${options.optimizerState}`,
      `Use optimizerState ${index.optimizerState}; or begin a new optimizer state with the saved model (\`saveModel\`).`,
    );
  if (JSON.stringify(index.lora) !== JSON.stringify(loraIdentity(options)))
    throw refuse("its adapters are not those of this engine", "Use the `lora` settings of the engine that saved it.");
  const path = join(dir, VALUES_FILE);
  const { tensors } = await readSafetensorsHeader(path);
  for (const { key, shape } of list) {
    const stored = tensors.get(key);
    if (stored === undefined || stored.dtype !== "F32" || stored.shape.join() !== shape.join())
      throw refuse(`it has no \`${key}\` of shape [${shape.join(", ")}]`, "Load it into an engine of the same model.");
  }
  if (tensors.size !== list.length)
    throw refuse("it has tensors this model does not have", "Load it into an engine of the same model.");
  if ((await sha256(path)) !== index.sha256)
    throw refuse(`the bytes of ${VALUES_FILE} are not those that were saved`, "Go back to an earlier state.");
  signal?.throwIfAborted();
  for (const { key, name, kind } of list) {
    const stored = tensors.get(key);
    if (stored === undefined) throw new EngineError("INTERNAL", `The state's ${key} vanished.`);
    const values = floatsOf(await readStoredTensor(stored));
    await nativeCall(() => native.writeTensor(name, kind, values));
  }
  native.optimizerStep = index.optimizerStep;
  await nativeCall(() => native.zeroGradients());
  return { weightVersion: index.weightVersion };
}

async function readIndex(dir: string): Promise<z.infer<typeof indexSchema>> {
  const path = join(dir, INDEX_FILE);
  const text = await withFileErrors("reading", path, () => readFile(path, "utf8"));
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new EngineError("STATE", `${path} is not JSON.`, { hint: "Go back to an earlier state.", cause });
  }
  const parsed = indexSchema.safeParse(value);
  if (!parsed.success)
    throw new EngineError("STATE", `${path} does not describe a state of format ${FORMAT}.`, {
      hint: "Go back to an earlier state.",
      cause: parsed.error,
    });
  return parsed.data;
}

async function sha256(path: string): Promise<string> {
  const hash = createHash("sha256");
  await withFileErrors("reading", path, async () => {
    for await (const chunk of createReadStream(path, { highWaterMark: 2 ** 20 })) hash.update(chunk as Buffer);
  });
  return hash.digest("hex");
}
