/**
 * A stage of a recipe with every setting written out, and the key that says when its result may be kept.
 */
import type { ObjectiveSettings } from "../objectives/objective.js";
import { withLengths } from "../objectives/registry.js";
import type { PromptSettings } from "../rollouts/dialogue.js";
import { promptSchema } from "../rollouts/dialogue.js";
import { type EngineSettings, engineSettingsSchema } from "../stages/models.js";
import { parseOptions } from "../stages/options.js";
import type { SamplingSettings } from "../stages/stage.js";
import type { NamedStage, Recipe } from "./recipe.js";
import { type StageKindName, stageKinds } from "./stage-kinds.js";

/** Everything a stage depends on besides its inputs. */
export interface ResolvedStage {
  readonly kind: StageKindName;
  /** Checked by the kind's schema, defaults and seed filled in. */
  readonly options: Readonly<Record<string, unknown>>;
  readonly environment: { readonly name: string; readonly options: Readonly<Record<string, unknown>> } | null;
  readonly engine: EngineSettings | null;
  readonly prompt: PromptSettings | null;
}

/** Something a stage reads. */
export interface StageInput {
  readonly path: string;
  /** Over the contents, those of the adapters included. */
  readonly hash: string;
  /** Folder of adapters, where a model has one. */
  readonly adapter?: string | undefined;
}
/** Inputs by name. */
export type StageInputs = Readonly<Record<string, StageInput>>;

/** Options that name files: what counts is their content. */
export const FILE_OPTIONS: readonly string[] = ["file", "taskIds"];

/** Where it is not 1: goes up when a stage would compute something else from the same configuration and inputs. */
const STAGE_VERSIONS: Readonly<Partial<Record<StageKindName, number>>> = {
  "reinforce-episodes": 2, // 2: an episode counts as cut by its last reply only
};

/** Throws ActError `CONFIG_*`, `OBJECTIVE_BAD_OPTIONS`. */
export function resolveStage(stage: NamedStage, recipe: Recipe, runSeed: number): ResolvedStage {
  const { options: schema, hasModel } = stageKinds[stage.kind];
  const where = `stages.${stage.name}`;
  const seed = "seed" in schema.shape ? { seed: stage.options.seed ?? runSeed } : {};
  const environment = recipe.environments[stage.inputs.environment ?? ""] ?? null;
  const options: Record<string, unknown> = parseOptions(schema, { ...stage.options, ...seed }, where);
  const longest = longestSample(stage.kind, options, environment?.options.stepLimit);
  return {
    kind: stage.kind,
    options:
      options.objective === undefined
        ? options
        : { ...options, objective: withLengths(options.objective as ObjectiveSettings, longest) },
    environment,
    engine: hasModel ? parseOptions(engineSettingsSchema, { ...recipe.engine, ...stage.engine }, where) : null,
    prompt: hasModel ? parseOptions(promptSchema, { ...recipe.prompt, ...stage.prompt }, where) : null,
  };
}

/** Most new tokens of a sample: of one reply, or of every turn of an episode. Null where its turns are not limited here. */
function longestSample(kind: StageKindName, options: Readonly<Record<string, unknown>>, limit: unknown): number | null {
  const { maxNewTokens } = (options.sampling ?? { maxNewTokens: 0 }) as SamplingSettings;
  if (kind !== "reinforce-episodes") return maxNewTokens;
  const turns = options.stepLimit ?? limit;
  return typeof turns === "number" ? turns * maxNewTokens : null;
}

/**
 * What a stage's key is a hash of.
 *
 * Left out: where inputs lie, how many threads compute, how much may be in memory at once, and where.
 * None of them changes a result.
 */
export function stageKeyParts(stage: ResolvedStage, inputs: StageInputs): unknown {
  const hashes = Object.fromEntries(Object.entries(inputs).map(([name, { hash }]) => [name, hash]));
  const {
    threads: _threads,
    memoryLimit: _limit,
    offloadOptimizer: _offload,
    maxSequences: _sequences,
    draftTokens: _drafts,
    cacheTokens: _cache,
    ...engine
  } = stage.engine ?? {};
  const options = Object.fromEntries(Object.entries(stage.options).filter(([key]) => !FILE_OPTIONS.includes(key)));
  return { version: STAGE_VERSIONS[stage.kind] ?? 1, ...stage, options, engine, inputs: hashes };
}
