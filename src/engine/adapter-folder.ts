/**
 * A folder of LoRA adapters as PEFT writes it: `adapter_config.json` and `adapter_model.safetensors`. Nothing is loaded
 * here; what would change the computation and is not supported is refused by name.
 */
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { withFileErrors } from "../data/files.js";
import { describe } from "../errors.js";
import { restoreFolder } from "./atomic-folder.js";
import { LORA_TARGETS } from "./engine-options.js";
import { EngineError } from "./errors.js";
import type { NativeModelConfig } from "./native.js";
import { readSafetensorsHeader, type StoredTensor } from "./safetensors.js";
import { expectedTensors } from "./tensor-names.js";

export const ADAPTER_CONFIG_FILE = "adapter_config.json";
export const ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors";
/** Before the name of a module, in PEFT's names of tensors. */
export const ADAPTER_PREFIX = "base_model.model.";

type LoraTarget = (typeof LORA_TARGETS)[number];

export interface AdapterFolder {
  /** As the option `lora` of an engine; `alpha / rank` is the scale PEFT applies. */
  readonly lora: { readonly rank: number; readonly alpha: number; readonly targets: readonly LoraTarget[] };
  /** By the engine's name, in the shape it needs; dtypes F32, F16 or BF16. */
  readonly tensors: ReadonlyMap<string, StoredTensor>;
}

/** Keys that say how adapters came to be or how to train them, not what they compute. */
const IGNORED = new Set([
  ...["auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode", "peft_version"],
  ...["lora_dropout", "exclude_modules", "layers_pattern", "loftq_config", "eva_config"],
  ...["corda_config", "lora_ga_config", "megatron_config", "megatron_core", "runtime_config", "qalora_group_size"],
  ...["peft_type", "r", "lora_alpha", "target_modules", "use_rslora"],
]);
/** Values that are not nothing and mean it; initial values other than these change the model below the adapters too. */
const NEUTRAL: Readonly<Record<string, readonly unknown[]>> = {
  bias: ["none"],
  init_lora_weights: [true, "gaussian", "orthogonal", "eva"],
};

/**
 * Reads and checks a folder of adapters for a model.
 *
 * @throws EngineError `ADAPTER` (malformed, not supported, of another model), `SAFETENSORS`; the errors of files.
 */
export async function openAdapterFolder(path: string, model: NativeModelConfig): Promise<AdapterFolder> {
  const refuse = (reason: string, hint: string): EngineError =>
    new EngineError("ADAPTER", `Failed reading the adapters in ${path}: ${reason}.`, { hint });
  await restoreFolder(path);
  const names = await withFileErrors("reading", path, () => readdir(path));
  for (const name of [ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE])
    if (!names.includes(name))
      throw refuse(`it has no ${name}`, "Give a folder that PEFT's `save_pretrained` or `saveAdapters` wrote.");
  const file = join(path, ADAPTER_CONFIG_FILE);
  const config = parseObject(await withFileErrors("reading", file, () => readFile(file, "utf8")));
  if (config === null) throw refuse(`${ADAPTER_CONFIG_FILE} is not a JSON object`, "Save the adapters again.");
  const { rank, alpha } = readScale(config, refuse);
  const { tensors } = await readSafetensorsHeader(join(path, ADAPTER_WEIGHTS_FILE));
  const targets = readTargets(config.target_modules, tensors, refuse);
  const expected = adapterTensors(model, rank, targets);
  for (const [name, shape] of expected) {
    const tensor = tensors.get(name);
    if (tensor === undefined)
      throw refuse(
        `\`${name}\` is missing`,
        "Adapters of some layers only are not supported; or it is another model's.",
      );
    if (tensor.shape.join() !== shape.join())
      throw refuse(
        `\`${name}\` has shape [${tensor.shape.join(", ")}], but the model and rank ${rank} mean [${shape.join(", ")}]`,
        "Give adapters of this very model.",
      );
    if (tensor.dtype !== "F32" && tensor.dtype !== "F16" && tensor.dtype !== "BF16")
      throw refuse(`\`${name}\` has dtype ${tensor.dtype}`, "Adapters must be F32, F16 or BF16.");
  }
  const extra = [...tensors.keys()].find((name) => !expected.has(name));
  if (extra !== undefined)
    throw refuse(
      `there is a tensor \`${extra}\` that this model has no place for`,
      "Give adapters of this very model.",
    );
  return { lora: { rank, alpha, targets }, tensors };
}

type Refuse = (reason: string, hint: string) => EngineError;

function parseObject(text: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value)
      ? (value as Record<string, unknown>)
      : null;
  } catch {
    return null;
  }
}

/** PEFT scales by lora_alpha / r, or by lora_alpha / sqrt(r) under use_rslora (arXiv 2312.03732). */
function readScale(config: Record<string, unknown>, refuse: Refuse): { rank: number; alpha: number } {
  const { peft_type: type, r: rank, lora_alpha: alpha, use_rslora: stabilized } = config;
  const saveAgain = "Save the adapters again with PEFT.";
  if (type !== "LORA") throw refuse(`\`peft_type\` is ${describe(type)}`, "Only LORA is supported.");
  if (typeof rank !== "number" || !Number.isInteger(rank) || rank < 1)
    throw refuse(`expected an integer >= 1 for \`r\`, got ${describe(rank)}`, saveAgain);
  if (typeof alpha !== "number" || !Number.isFinite(alpha) || alpha <= 0)
    throw refuse(`expected a positive number for \`lora_alpha\`, got ${describe(alpha)}`, saveAgain);
  for (const [key, value] of Object.entries(config))
    if (!IGNORED.has(key) && !isNothing(value) && NEUTRAL[key]?.includes(value) !== true)
      throw refuse(
        `\`${key}\` is ${describe(value)}, which is not supported`,
        "Merge the adapters with PEFT (`merge_and_unload`) and give the merged model.",
      );
  return { rank, alpha: stabilized === true ? alpha * Math.sqrt(rank) : alpha };
}

/** What PEFT writes for a feature that is not in use. */
function isNothing(value: unknown): boolean {
  if (value === null || value === false) return true;
  return typeof value === "object" && Object.keys(value as object).length === 0;
}

/** The projections that have adapters, in the engine's order; a target that matches nothing is an error. */
function readTargets(given: unknown, tensors: ReadonlyMap<string, StoredTensor>, refuse: Refuse): LoraTarget[] {
  const stored = new Set([...tensors.keys()].map((name) => /\.(\w+)\.lora_[AB]\.weight$/u.exec(name)?.[1]));
  // A text is a pattern, or `all-linear`: the tensors say what it matched.
  const named = Array.isArray(given) ? given.map(String) : [];
  const unmatched = named.find((target) => !stored.has(target.split(".").at(-1)));
  if (unmatched !== undefined)
    throw refuse(`target \`${unmatched}\` of \`target_modules\` has no tensors`, "Save the adapters again with PEFT.");
  const targets = LORA_TARGETS.filter((target) => stored.has(target));
  if (targets.length === 0)
    throw refuse("no tensor is an adapter of a projection", `Supported are ${LORA_TARGETS.join(", ")}.`);
  return targets;
}

/** Names and shapes of the adapters of a model: A is [rank, inputs], B [outputs, rank]. */
function adapterTensors(
  model: NativeModelConfig,
  rank: number,
  targets: readonly string[],
): ReadonlyMap<string, readonly number[]> {
  const shapes = new Map<string, readonly number[]>();
  for (const [name, [outputs = 0, inputs = 0]] of expectedTensors(model)) {
    const module = name.replace(/\.weight$/u, "");
    if (!targets.includes(module.split(".").at(-1) ?? "")) continue;
    if (name === module) continue; // a bias
    shapes.set(`${ADAPTER_PREFIX}${module}.lora_A.weight`, [rank, inputs]);
    shapes.set(`${ADAPTER_PREFIX}${module}.lora_B.weight`, [outputs, rank]);
  }
  return shapes;
}
