/**
 * What all stages share: settings of sampling, the folder they write to, and where they tell how far they are.
 */
import { z } from "zod";
import type { SamplingOptions } from "../engine/policy.js";
import { ActError } from "../errors.js";
import type { Dialogue } from "../rollouts/dialogue.js";

/** Settings of sampling as configurations write them. */
export const samplingSchema = z.strictObject({
  temperature: z.number().min(0).default(1).describe("0: greedy"),
  topK: z.number().int().min(0).default(0).describe("0: all tokens"),
  topP: z.number().gt(0).max(1).default(1).describe("1: all tokens"),
  minP: z.number().min(0).max(1).default(0).describe("0: all tokens"),
  maxNewTokens: z.number().int().min(1).default(512).describe("longest completion, tokens"),
});
export type SamplingSettings = z.infer<typeof samplingSchema>;

/** {@link samplingSchema} with another default temperature. */
export function samplingAt(temperature: number): typeof samplingSchema {
  const { description = "" } = samplingSchema.shape.temperature;
  const schema = samplingSchema.shape.temperature.unwrap().default(temperature).describe(description);
  return samplingSchema.extend({ temperature: schema });
}

export const seedSchema = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER).default(0).describe("random seed");

/** Where a stage writes, and how it is watched and stopped. */
export interface StageContext {
  /** Folder of the stage; made if absent. */
  readonly folder: string;
  /** Hash of the stage's configuration and inputs: files carry it, and half-done work is only taken up under it. */
  readonly configHash: string;
  readonly signal?: AbortSignal | undefined;
  /** Told how many of `total` items or steps are done. */
  readonly onProgress?: ((done: number, total: number, detail: string) => void) | undefined;
}

/** Who samples, as files record it. */
export interface ModelIdentity {
  readonly id: string;
  /** sha256 over the weights. */
  readonly weightHash: string;
}

/** Sampling options of the engine; replies end where the chat template says. */
export function samplingOptions(settings: SamplingSettings, dialogue: Dialogue): SamplingOptions {
  return { ...settings, stopTokens: dialogue.stopTokens };
}

/** Sampling settings as record files write them. */
export function samplingRecord(
  settings: SamplingSettings,
  seed: number,
): {
  temperature: number;
  top_k: number;
  top_p: number;
  min_p: number;
  max_new_tokens: number;
  seed: number;
} {
  return {
    temperature: settings.temperature,
    top_k: settings.topK,
    top_p: settings.topP,
    min_p: settings.minP,
    max_new_tokens: settings.maxNewTokens,
    seed,
  };
}

/** Prompt wording as record files write it. */
export function promptRecord(dialogue: Dialogue): { id: string; version: number } {
  return { id: dialogue.template.id, version: dialogue.template.version };
}

/** A stage that has nothing to work on. */
export function noData(why: string, hint?: string): ActError {
  return new ActError("STAGE_NO_DATA", `There is nothing to work on: ${why}.`, hint === undefined ? {} : { hint });
}
