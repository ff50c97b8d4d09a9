/**
 * `evaluate`: success of a policy on frozen panels, written to `episodes.<panel>.jsonl`.
 */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { makeFolder } from "../data/files.js";
import { writeJsonl } from "../data/jsonl.js";
import type { EpisodeRecord, HeaderFields } from "../data/records.js";
import { writeRecords } from "../data/records-file.js";
import type { EnvironmentProvider, Panel } from "../environments/environment.js";
import { panelResult } from "../evaluation/panel.js";
import type { PanelResult } from "../evaluation/summary.js";
import { type Episode, totalReward } from "../rollouts/episode.js";
import { episodeForm } from "../rollouts/form.js";
import { deriveSeed } from "../rollouts/random.js";
import { type EpisodeRequest, rollout } from "../rollouts/rollout.js";
import { playShape } from "./reinforce-episodes.js";
import { PartialResults } from "./resumable.js";
import {
  type ModelIdentity,
  promptRecord,
  type StageContext,
  samplingAt,
  samplingOptions,
  samplingRecord,
  seedSchema,
} from "./stage.js";
import { taskRangeShape, tasksInRange } from "./task-range.js";
import type { Agent } from "./trainable.js";

/** Keys of the stage `evaluate`. */
export const evaluateSchema = z.strictObject({
  ...playShape,
  panels: z
    .record(z.string().regex(/^[\w-]+$/u, "letters, digits, - and _"), z.string())
    .refine((panels) => Object.keys(panels).length > 0, "at least one panel")
    .describe("panels played: name in the results -> panel of the environment"),
  ...taskRangeShape,
  repeats: z.number().int().min(1).default(1).describe("episodes of each task"),
  sampling: samplingAt(0.4).prefault({}).describe("how actions are sampled"),
  examples: z.number().int().min(0).default(4).describe("episodes of each panel kept in full for readers"),
  seed: seedSchema,
});
/** Options of {@link evaluate}. */
export type EvaluateOptions = z.infer<typeof evaluateSchema>;

/** An episode in words, for readers. */
export interface ExampleEpisode {
  readonly task_id: string;
  readonly task: string;
  readonly outcome: string;
  readonly steps: readonly {
    readonly observation: string;
    readonly reply: string;
    readonly action: string | null;
    readonly accepted: boolean;
  }[];
  readonly final_observation: string;
}

/** What {@link evaluate} wrote and found. */
export interface EvaluateResult {
  /** By the names of `panels`. */
  readonly panels: Readonly<Record<string, { readonly file: string; readonly result: PanelResult }>>;
}

interface PlayedEpisode {
  readonly record: EpisodeRecord;
  readonly example: ExampleEpisode | null;
}

/**
 * Plays the chosen tasks of every panel.
 *
 * @throws ActError `STAGE_NO_DATA`; EnvironmentError for an unknown panel; the policy's errors; abort reasons.
 */
export async function evaluate(
  agent: Agent,
  model: ModelIdentity,
  provider: EnvironmentProvider,
  options: EvaluateOptions,
  context: StageContext,
): Promise<EvaluateResult> {
  const plays = await Promise.all(
    Object.entries(options.panels).map(([name, id]) => planPlay(name, id, provider, options)),
  );
  const total = plays.reduce((sum, { requests }) => sum + requests.length, 0);
  const panels: Record<string, { file: string; result: PanelResult }> = {};
  let before = 0; // episodes of the panels that are finished
  for (const play of plays) {
    const onProgress: StageContext["onProgress"] = (done) => context.onProgress?.(before + done, total, play.name);
    panels[play.name] = await evaluatePanel(play, agent, model, provider, options, { ...context, onProgress });
    before += play.requests.length;
  }
  return { panels };
}

/** File of a panel's episodes in a stage's folder. */
export function episodesFile(name: string): string {
  return `episodes.${name}.jsonl`;
}

/** File of a panel's examples in a stage's folder. */
export function examplesFile(name: string): string {
  return `examples.${name}.jsonl`;
}

/** A panel and the episodes to play of it. */
interface PanelPlay {
  readonly name: string;
  readonly panel: Panel;
  readonly tasks: readonly string[];
  readonly requests: readonly EpisodeRequest[];
}

async function planPlay(
  name: string,
  id: string,
  provider: EnvironmentProvider,
  options: EvaluateOptions,
): Promise<PanelPlay> {
  const panel = await provider.panel(id);
  const tasks = tasksInRange(panel.tasks, options, `panel ${panel.id}`);
  const requests = Array.from({ length: options.repeats }, (_, repeat) => repeat).flatMap((repeat) =>
    tasks.map((taskId, t) => ({ index: repeat * tasks.length + t, taskId })),
  );
  return { name, panel, tasks, requests };
}

async function evaluatePanel(
  { name, panel, tasks, requests }: PanelPlay,
  agent: Agent,
  model: ModelIdentity,
  provider: EnvironmentProvider,
  options: EvaluateOptions,
  context: StageContext,
): Promise<{ file: string; result: PanelResult }> {
  // A folder for each panel's half-done work: panels are played one after the other.
  const folder = join(context.folder, `.${name}`);
  await makeFolder(folder);
  const partial = await PartialResults.open<PlayedEpisode>(folder, context.configHash);
  const stepLimit = options.stepLimit ?? provider.stepLimit;
  const pending: Promise<void>[] = [];
  try {
    await rollout(
      requests.filter((r) => !partial.has(r.index)),
      {
        policy: agent.policy,
        provider,
        form: episodeForm(options.shown, agent.dialogue),
        sampling: samplingOptions(options.sampling, agent.dialogue),
        seed: deriveSeed(options.seed, "evaluate", name),
        stepLimit,
        timeLimit: options.timeLimit,
        environmentTimeLimit: options.environmentTimeLimit,
        admissible: options.admissible ?? agent.dialogue.listsAdmissible,
        malformedLimit: options.malformedLimit,
        concurrency: options.concurrency,
        retries: options.retries,
        retryPause: options.retryPause,
        signal: context.signal,
        onEpisode: (episode) => {
          const repeat = Math.floor(episode.index / tasks.length);
          const example = episode.index < options.examples ? exampleOf(episode) : null;
          const played = { record: recordOf(episode, repeat), example };
          const kept = partial.add(episode.index, played, episode.outcome !== "environment_failed");
          kept.catch(() => undefined);
          pending.push(kept);
          context.onProgress?.(partial.size, requests.length, name);
        },
      },
    );
    await Promise.all(pending);
    const played = partial.inOrder();
    const records = played.map((p) => p.record);
    const header: HeaderFields<"episodes"> = {
      environment: { name: provider.name, version: provider.version },
      panel: { id: panel.id, hash: panel.hash },
      model: { id: model.id, weight_hash: model.weightHash },
      prompt: promptRecord(agent.dialogue),
      sampling: samplingRecord(options.sampling, options.seed),
      form: options.shown,
      step_limit: stepLimit,
      config_hash: context.configHash,
    };
    const file = join(context.folder, episodesFile(name));
    await writeRecords(file, "episodes", header, records);
    await writeJsonl(
      join(context.folder, examplesFile(name)),
      played.flatMap((p) => (p.example === null ? [] : [p.example])),
    );
    const result = panelResult(header, records, partial.seconds);
    await partial.finish();
    await rm(folder, { recursive: true, force: true });
    return { file, result };
  } finally {
    await partial.close();
  }
}

function recordOf(episode: Episode, repeat: number): EpisodeRecord {
  const { steps } = episode;
  const fault = episode.outcome === "environment_failed" ? (episode.faults.at(-1)?.code ?? null) : null;
  return {
    task_id: episode.taskId,
    category: episode.category === "" ? null : episode.category,
    repeat,
    outcome: episode.outcome,
    truncation: episode.truncation,
    steps: steps.length,
    score: episode.score,
    reward: totalReward(episode),
    tokens: steps.reduce((sum, s) => sum + s.completion.tokens.length, 0),
    malformed: steps.filter((s) => s.action === null).length,
    rejected: steps.filter((s) => s.action !== null && !s.accepted).length,
    actions: steps.map((s) => s.action),
    fault,
  };
}

function exampleOf(episode: Episode): ExampleEpisode {
  return {
    task_id: episode.taskId,
    task: episode.task,
    outcome: episode.outcome,
    steps: episode.steps.map(({ observation, reply, action, accepted }) => ({ observation, reply, action, accepted })),
    final_observation: episode.finalObservation,
  };
}
