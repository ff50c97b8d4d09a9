/**
 * The files between stages: what stands in each line, checked by strict schemas.
 *
 * A record file is JSON Lines. Its first line is a header: which kind of file, which version of its shape, who wrote it,
 * and everything that is the same for all its records. Every other line is a record. A file holds all that a later stage
 * (or another model, or another user) needs: it refers to other files only by hash.
 *
 * Names in files are snake_case. Nothing in them depends on the clock or the machine: equal inputs give equal bytes.
 */
import { z } from "zod";
import { canonicalizeAction } from "../prompts/action-text.js";

const text = z.string().min(1);
/** Of white space alone it would be a candidate that no reply can name. */
const action = z.string().refine((value) => canonicalizeAction(value) !== "", "expected an action, got nothing");
const sha256 = z.string().regex(/^[0-9a-f]{64}$/, "expected a sha256 in hex");
const count = z.number().int().nonnegative();
const share = z.number().min(0).max(1);
const seed = z.number().int();

/** What an environment accepts in a state. */
export const admissibleSchema = z.strictObject({
  actions: z.array(z.string()).readonly().describe("literal actions in the environment's order"),
  patterns: z.array(z.string()).readonly().describe("anchored regular expressions for free text"),
});

/** A `DecisionState` (src/prompts/state.ts). */
export const decisionStateSchema = z
  .strictObject({
    task: z.string().describe("the goal in the environment's words"),
    observation: z.string().describe("what the agent sees now"),
    history: z
      .array(z.strictObject({ observation: z.string(), action: z.string() }))
      .readonly()
      .describe("past decisions, oldest first"),
    step: count.describe("actions taken before this state"),
    admissible: admissibleSchema.nullable().describe("what can be done; null where the environment cannot say"),
  })
  .refine((state) => state.history.length <= state.step, "history is longer than step");

const environmentSchema = z
  .strictObject({
    name: text.describe("as in configuration files, e.g. household"),
    version: z.string().nullable().describe("null where imported data does not say"),
  })
  .describe("where the states are from");

const panelSchema = z
  .strictObject({
    id: text.describe("<environment>/<name>@<version>"),
    hash: sha256.describe("over the tasks' content"),
  })
  .describe("the frozen list of tasks");

const modelSchema = z
  .strictObject({
    id: text.describe("name of the model, e.g. its folder's"),
    weight_hash: sha256.describe("over the weights"),
  })
  .describe("which weights");

const promptSchema = z
  .strictObject({ id: text.describe("name of the template"), version: z.number().int().positive() })
  .describe("which wording, see docs/prompts.md");

/** How completions were sampled; the defaults of the engine are written out. */
export const samplingSchema = z
  .strictObject({
    temperature: z.number().nonnegative().describe("0: greedy"),
    top_k: count.describe("0: off"),
    top_p: share.describe("1: off"),
    min_p: share.describe("0: off"),
    max_new_tokens: z.number().int().positive(),
    seed,
  })
  .describe("how completions were drawn");

/** What every header has besides `format` and `version`. */
const common = {
  created_by: text.describe("package and version that wrote the file"),
  config_hash: sha256.nullable().describe("over the stage's resolved configuration; null for files made elsewhere"),
};

/** @param identity Keys that tell the records of a file apart: no two have the same values of all of them. */
function kind<const F extends string, const V extends number, H extends z.ZodRawShape, R extends z.ZodType>(
  format: F,
  version: V,
  header: H,
  record: R,
  identity: readonly (keyof z.infer<R> & string)[],
) {
  const headerSchema = z.strictObject({ format: z.literal(format), version: z.literal(version), ...common, ...header });
  return { format, version, header: headerSchema, record, identity } as const;
}

/** An expert's decision. */
export const expertRecordSchema = z.strictObject({
  id: text.describe("unique in the file: <task_id>#<step>"),
  task_id: text.describe("for Environment.reset; an imported item's id where it names no task"),
  category: z.string().nullable().describe("kind of task"),
  state: decisionStateSchema,
  expert_action: action.describe("in the environment's spelling"),
  thought: z.string().nullable().describe("the expert's words before the action"),
});

/** An expert's decision and what the initial policy would have done instead. */
export const pairRecordSchema = z
  .strictObject({
    id: text.describe("unique in the file: <expert id>/<n>"),
    task_id: text,
    category: z.string().nullable(),
    state: decisionStateSchema,
    expert_action: action,
    thought: z.string().nullable().describe("the expert's words before the action"),
    alternative: action.describe("canonical form, or the environment's spelling where it is admissible"),
    alternative_admissible: z.boolean().nullable().describe("null where the environment cannot say"),
    expert_first: z.boolean().describe("whether the expert's action is shown first; balanced over the file"),
    draws: z.number().int().positive().describe("completions sampled at this state"),
  })
  .refine(
    (pair) => canonicalizeAction(pair.alternative) !== canonicalizeAction(pair.expert_action),
    "alternative equals expert_action",
  );

/** One verdict of a judge on a pair, in one order. */
export const judgmentRecordSchema = z.strictObject({
  pair_id: text,
  expert_first: z.boolean(),
  picked: z
    .enum(["expert", "alternative", "other", "malformed"])
    .describe("other: a well-formed action that is neither candidate"),
  malformed_reason: z.string().nullable(),
  truncated: z.boolean().describe("cut by the token limit"),
  tokens: count.describe("sampled"),
  reply: z.string().describe("text of the completion"),
});

/** One evaluated episode. */
export const episodeRecordSchema = z.strictObject({
  task_id: text,
  category: z.string().nullable(),
  repeat: count.describe("0 for the first time this task is played"),
  outcome: z
    .enum(["success", "failure", "truncated", "environment_failed"])
    .describe("environment_failed says nothing of the policy and counts nowhere"),
  truncation: z.string().nullable().describe("which limit ended it, where truncated"),
  steps: count.describe("replies of the policy"),
  score: z.number().describe("1 is best; may be negative"),
  reward: z.number().describe("sum of the environment's rewards, in its unit"),
  tokens: count.describe("sampled in the episode"),
  malformed: count.describe("replies without an action"),
  rejected: count.describe("actions that were not accepted"),
  actions: z.array(z.string().nullable()).readonly().describe("one a reply; null where it named none"),
  fault: z.string().nullable().describe("code of the environment's fault, where it failed"),
});

/** Every kind of record file: its name is its `format` without `act-trainer/`. */
export const recordKinds = {
  /** Written by `collect` and the importers. */
  expert: kind(
    "act-trainer/expert",
    1,
    {
      environment: environmentSchema,
      panel: panelSchema.nullable().describe("null for imported data"),
      source: text.describe("who acted: expert, or the importer's name"),
    },
    expertRecordSchema,
    ["id"],
  ),
  /** Written by `pair`. Stands alone: pairs transfer between models. */
  pairs: kind(
    "act-trainer/pairs",
    1,
    {
      environment: environmentSchema,
      panel: panelSchema.nullable(),
      source: text.describe("as in the expert file"),
      expert_hash: sha256.nullable().describe("over the bytes of the expert file; null for pairs made elsewhere"),
      sampler: z
        .strictObject({ model: modelSchema, prompt: promptSchema, sampling: samplingSchema })
        .nullable()
        .describe("who proposed the alternatives, and how it was asked; null for pairs made elsewhere"),
      pairs_per_state: z.number().int().positive(),
      keep_inadmissible: z.boolean().describe("whether alternatives that cannot be carried out were kept"),
      order_seed: seed.describe("of expert_first (src/prompts/order.ts)"),
    },
    pairRecordSchema,
    ["id"],
  ),
  /** Written by judgment evaluation: every pair in both orders. */
  judgments: kind(
    "act-trainer/judgments",
    1,
    {
      model: modelSchema,
      pairs_hash: sha256.describe("over the bytes of the pairs file"),
      prompt: promptSchema,
      sampling: samplingSchema,
    },
    judgmentRecordSchema,
    ["pair_id", "expert_first"],
  ),
  /** Written by `evaluate`. */
  episodes: kind(
    "act-trainer/episodes",
    1,
    {
      environment: environmentSchema,
      panel: panelSchema,
      model: modelSchema,
      prompt: promptSchema,
      sampling: samplingSchema,
      form: z.enum(["per-step", "transcript"]).describe("how the policy is shown an episode"),
      step_limit: z.number().int().positive(),
    },
    episodeRecordSchema,
    ["task_id", "repeat"],
  ),
} as const;

export type RecordKind = keyof typeof recordKinds;
export type RecordHeader<K extends RecordKind> = z.infer<(typeof recordKinds)[K]["header"]>;
export type RecordOf<K extends RecordKind> = z.infer<(typeof recordKinds)[K]["record"]>;
/** A header without what {@link recordHeader} fills in. */
export type HeaderFields<K extends RecordKind> = Omit<RecordHeader<K>, "format" | "version" | "created_by">;

/** An expert's decision: a line of a file that `collect` or an importer wrote. */
export type ExpertRecord = RecordOf<"expert">;
/** An expert's decision and an alternative: a line of a file that `pair` wrote. */
export type PairRecord = RecordOf<"pairs">;
/** One verdict of a judge: a line of a file that `assess` wrote. */
export type JudgmentRecord = RecordOf<"judgments">;
/** One evaluated episode: a line of a file that `evaluate` wrote. */
export type EpisodeRecord = RecordOf<"episodes">;
