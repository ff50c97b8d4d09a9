/**
 * From a model folder to an agent: engine, tokenizer, chat template, prompts.
 */
import { readdir } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import type { z } from "zod";
import { withFileErrors } from "../data/files.js";
import { Engine } from "../engine/engine.js";
import { type EngineOptions, engineOptionsSchema } from "../engine/engine-options.js";
import { ActError } from "../errors.js";
import { Dialogue, type PromptSettings } from "../rollouts/dialogue.js";
import { hashFile, hashValue } from "../runs/hash.js";
import { ChatTemplate } from "../tokens/chat-template.js";
import { Tokenizer } from "../tokens/tokenizer.js";
import type { ModelIdentity } from "./stage.js";
import type { TrainableAgent } from "./trainable.js";

/** Engine settings as configurations write them. */
export const engineSettingsSchema = engineOptionsSchema.omit({ tokenBytes: true, training: true, adapter: true });
export type EngineSettings = z.infer<typeof engineSettingsSchema>;

/** A loaded model; dispose of it when done. */
export interface LoadedAgent extends TrainableAgent, AsyncDisposable {
  readonly policy: Engine;
  readonly identity: ModelIdentity;
}

/**
 * Loads a model folder.
 *
 * A model without chat template gets the plain one, whose turns are texts end to end.
 *
 * @param options.training Keeps gradients and optimizer state.
 * @param options.adapter Folder of PEFT adapters to begin with.
 * @throws EngineError, ActError `TOKENIZER_*`, `TEMPLATE_*`.
 */
export async function loadAgent(
  modelDir: string,
  engine: EngineSettings,
  prompt: PromptSettings,
  options: {
    readonly training: boolean;
    readonly adapter?: string | undefined;
    readonly signal?: AbortSignal | undefined;
  },
): Promise<LoadedAgent> {
  const tokenizer = await Tokenizer.load(modelDir);
  const chat = (await loadChat(tokenizer)) ?? ChatTemplate.plain(tokenizer);
  const dialogue = new Dialogue(chat, prompt);
  const { training, adapter } = options;
  const identity = { id: basename(resolve(modelDir)), weightHash: await weightHash(modelDir, adapter) };
  const settings = options.signal === undefined ? {} : { signal: options.signal };
  const chosen = { ...engineOptions(engine), training, ...(adapter === undefined ? {} : { adapter }) };
  const policy = await Engine.load(modelDir, chosen, settings);
  return {
    policy,
    dialogue,
    identity,
    maxTreeTokens: policy.maxBatchTokens,
    [Symbol.asyncDispose]: () => policy.dispose(),
  };
}

/** The chat template of a model folder, or null where it has none. */
export async function loadChat(tokenizer: Tokenizer): Promise<ChatTemplate | null> {
  try {
    return await ChatTemplate.load(tokenizer);
  } catch (cause) {
    if (cause instanceof ActError && cause.code === "TEMPLATE_MISSING") return null;
    throw cause;
  }
}

/** Settings without the keys that were left out. */
export function engineOptions(settings: EngineSettings): EngineOptions {
  return Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== undefined));
}

/** sha256 over the weight files of a model folder and of its adapters. Throws ActError `FILE_*`. */
export async function weightHash(modelDir: string, adapter?: string): Promise<string> {
  const hashes: string[] = [];
  for (const folder of adapter === undefined ? [modelDir] : [modelDir, adapter]) {
    const names = await withFileErrors("reading", folder, () => readdir(folder));
    const weights = names.filter((name) => name.endsWith(".safetensors")).sort();
    for (const name of weights) hashes.push(await hashFile(join(folder, name)));
  }
  return hashValue(hashes);
}
