/**
 * Episodes that agents play through the endpoint: opened by their first completion, closed by a reward or by time.
 *
 * Nothing is lost without being counted. What stands between the endpoint and training is one bound: the newest
 * `retain` ended episodes are kept, for listing and for training; an older one that training had not taken up is counted
 * as dropped.
 */
import { createHash } from "node:crypto";
import { z } from "zod";
import type { Sample } from "../objectives/sample.js";
import type { ChatTemplate } from "../tokens/chat-template.js";
import type { TranscriptData } from "../tokens/transcript.js";
import { ApiError } from "./api-error.js";
import { EpisodeGroups, type ServedGroup } from "./episode-groups.js";
import { type HistoryForm, type PlannedPrompt, type PromptInput, RecordedEpisode } from "./recorded-episode.js";
import type { RewardRequest, ServedOutcome } from "./requests.js";
import type { SampledCompletion } from "./sampler.js";

export const servedEpisodesSchema = z.strictObject({
  groupSize: z.number().int().min(2).max(1024).default(8).describe("episodes that are compared with each other"),
  groupTimeout: z
    .number()
    .positive()
    .max(2 ** 31 - 1)
    .default(300_000)
    .describe("milliseconds a begun group waits for its other episodes; then it is taken with at least two"),
  episodeTimeout: z
    .number()
    .positive()
    .max(2 ** 31 - 1)
    .default(600_000)
    .describe("milliseconds without request after which an episode without reward expires"),
  maxOpen: z.number().int().min(1).default(4096).describe("episodes open at once at most"),
  retain: z.number().int().min(1).default(1024).describe("ended episodes kept for listing and training"),
  history: z
    .enum(["rendered", "sampled"])
    .default("rendered")
    .describe("what past replies of a chat are shown as: rendered by the chat template, or the tokens sampled"),
});
export type ServedEpisodesSettings = z.infer<typeof servedEpisodesSchema>;

/**
 * - `open`: may be played on.
 * - `finished`: has its reward.
 * - `failed`: its environment failed; never trained on.
 * - `expired`: got no reward in time; never trained on.
 */
export type EpisodeStatus = "open" | "finished" | "failed" | "expired";

/** How an episode ended, for training. */
export interface EndedEpisode {
  readonly id: string;
  /** Counts ended episodes from 1; what `after` of the listing refers to. */
  readonly number: number;
  readonly status: Exclude<EpisodeStatus, "open">;
  readonly group: string;
  readonly outcome: ServedOutcome | null;
  /** Null unless finished. */
  readonly reward: number | null;
  readonly malformed: boolean;
  readonly recorded: RecordedEpisode;
}

/** An ended episode as `GET /v1/act/episodes` gives it. */
export interface EpisodeRecord {
  readonly object: "act.episode";
  readonly number: number;
  readonly episode_id: string;
  readonly status: EndedEpisode["status"];
  readonly group: string;
  readonly outcome: ServedOutcome | null;
  readonly reward: number | null;
  readonly turns: number;
  readonly separate_turns: number;
  readonly sampled_tokens: number;
  readonly truncated: boolean;
  readonly malformed: boolean;
  /** Oldest and newest version of the weights that sampled it. */
  readonly weight_versions: readonly [number, number] | null;
  /** One a conversation; left out where tokens are not wanted. */
  readonly transcripts?: readonly TranscriptData[];
}

/** What happened so far. Every episode opened is open or in exactly one of finished, failed and expired. */
export interface EpisodeCounts {
  readonly opened: number;
  readonly open: number;
  readonly finished: number;
  readonly failed: number;
  readonly expired: number;
  /** Completions recorded. */
  readonly turns: number;
  /** Requests after an episode's first that continued no transcript. */
  readonly separateTurns: number;
  /** Completions that were not recorded, because their episode had ended or their client had gone. */
  readonly lostTurns: number;
  /** Finished episodes that left without being trained on: alone in their group at its time limit, or too old. */
  readonly ungrouped: number;
  readonly dropped: number;
  readonly groupsReady: number;
}

class OpenEpisode {
  readonly recorded: RecordedEpisode;
  readonly id: string;
  group: string | null;
  /** Requests being answered: such an episode does not expire. */
  active = 0;
  /** Requests so far; names the random stream of the next. */
  requests = 0;
  readonly timer: NodeJS.Timeout;

  constructor(id: string, group: string | null, recorded: RecordedEpisode, timeout: number, onExpired: () => void) {
    this.id = id;
    this.group = group;
    this.recorded = recorded;
    this.timer = setTimeout(() => {
      if (this.active === 0) onExpired();
    }, timeout).unref();
  }
}

/** One request within an episode: made by {@link ServedEpisodes.begin}, to be ended by `record` or `abandon`. */
export interface EpisodeTurn {
  readonly planned: PlannedPrompt;
  readonly episodeId: string;
  /** Number of the request within its episode, from 0. */
  readonly index: number;
  /**
   * Takes in what was sampled.
   *
   * @throws ApiError 409 where the episode ended meanwhile.
   */
  record(sampled: readonly SampledCompletion[]): void;
  /** The request led to nothing. Safe to call after {@link EpisodeTurn.record}. */
  abandon(): void;
}

/** See the file's head. */
export class ServedEpisodes {
  readonly #chat: ChatTemplate;
  readonly #settings: ServedEpisodesSettings;
  readonly #open = new Map<string, OpenEpisode>();
  /** By id, oldest first. */
  readonly #ended = new Map<string, EndedEpisode>();
  readonly #groups: EpisodeGroups;
  #count = { opened: 0, finished: 0, failed: 0, expired: 0, turns: 0, separateTurns: 0, lostTurns: 0 };
  #number = 0;

  constructor(chat: ChatTemplate, settings: ServedEpisodesSettings) {
    this.#chat = chat;
    this.#settings = settings;
    this.#groups = new EpisodeGroups(settings.groupSize, settings.groupTimeout);
  }

  get counts(): EpisodeCounts {
    const { ungrouped, dropped, ready } = this.#groups;
    return { ...this.#count, open: this.#open.size, ungrouped, dropped, groupsReady: ready };
  }

  /**
   * Begins a request of an episode, which is opened by its first.
   *
   * @throws ApiError 409 `episode_ended`, 400 `group_changed`, 429 `too_many_episodes`, and those of the prompt.
   */
  async begin(id: string, group: string | null, input: PromptInput): Promise<EpisodeTurn> {
    const known = this.#open.get(id);
    const episode = known ?? this.#opened(id, group);
    this.#setGroup(episode, group);
    episode.active++;
    let planned: PlannedPrompt;
    try {
      planned = await episode.recorded.plan(input);
    } catch (cause) {
      this.#leave(episode);
      // A first request that cannot be read opens nothing.
      if (episode.requests === 0 && episode.active === 0) this.#forget(episode);
      throw cause;
    }
    const index = episode.requests++;
    let over = false;
    const end = (): boolean => {
      if (over) return false;
      over = true;
      this.#leave(episode);
      return true;
    };
    return {
      planned,
      episodeId: id,
      index,
      record: (sampled) => {
        if (!end()) return;
        if (this.#open.get(id) !== episode) {
          this.#count.lostTurns += sampled.length;
          throw ended(id);
        }
        this.#record(episode, planned, sampled);
      },
      abandon: () => {
        if (!end()) return;
        episode.recorded.release(planned);
        this.#count.lostTurns++;
      },
    };
  }

  /**
   * Ends an episode. The same reward posted again changes nothing, so that a client may retry.
   *
   * @throws ApiError 404 `episode_not_found`, 409 `episode_ended`, 400 `missing_required_parameter`, `group_changed`,
   *   `episode_empty`.
   */
  reward(request: RewardRequest): EpisodeRecord {
    const { episode_id: id } = request;
    const reward = request.reward ?? null;
    const outcome = request.outcome ?? null;
    const failed = outcome === "environment_failed";
    if (reward === null && !failed)
      throw new ApiError(400, "missing_required_parameter", "Missing required parameter: `reward`.", {
        param: "reward",
        hint: "Only an episode with outcome `environment_failed` has none.",
      });
    const before = this.#ended.get(id);
    if (before !== undefined) {
      const status = failed ? "failed" : "finished";
      const same = before.status === status && before.outcome === outcome && (failed || before.reward === reward);
      if (same) return episodeRecord(before, false);
      throw ended(id);
    }
    const episode = this.#open.get(id);
    if (episode === undefined)
      throw new ApiError(404, "episode_not_found", `No episode ${JSON.stringify(id)} is open.`, {
        param: "episode_id",
        hint: "An episode begins with its first completion; send its id with every one.",
      });
    this.#setGroup(episode, request.group ?? null);
    if (episode.recorded.turns === 0 && !failed)
      throw new ApiError(409, "episode_empty", `Episode ${JSON.stringify(id)} has no completion yet.`, {
        hint: "Ask for its first completion, or end it with outcome `environment_failed`.",
      });
    const result = this.#end(episode, failed ? "failed" : "finished", {
      outcome,
      reward: failed ? null : reward,
      malformed: request.malformed ?? false,
    });
    if (!failed) this.#groups.add(result, sampleOf(result));
    return episodeRecord(result, false);
  }

  /** Ended episodes with numbers above `after`, oldest first. `next` is the `after` of the next call. */
  list(after: number, limit: number, tokens: boolean): { readonly data: EpisodeRecord[]; readonly next: number } {
    const found = [...this.#ended.values()].filter(({ number }) => number > after).slice(0, limit);
    return { data: found.map((episode) => episodeRecord(episode, tokens)), next: found.at(-1)?.number ?? after };
  }

  /** Waits for groups whose episodes have all ended; see {@link EpisodeGroups.take}. */
  takeGroups(count: number, options: { readonly signal?: AbortSignal | undefined } = {}): Promise<ServedGroup[]> {
    return this.#groups.take(count, options.signal);
  }

  /** Stops all timers. Open episodes stay as they are. */
  close(): void {
    for (const episode of this.#open.values()) clearTimeout(episode.timer);
    this.#groups.close();
  }

  #opened(id: string, group: string | null): OpenEpisode {
    if (this.#ended.has(id)) throw ended(id);
    if (this.#open.size >= this.#settings.maxOpen)
      throw new ApiError(429, "too_many_episodes", `${this.#open.size} episodes are open already.`, {
        hint: "Post the rewards of those that are over.",
      });
    const { episodeTimeout, history } = this.#settings;
    const recorded = new RecordedEpisode(this.#chat, history satisfies HistoryForm);
    const episode = new OpenEpisode(id, group, recorded, episodeTimeout, () => {
      this.#end(episode, "expired", { outcome: null, reward: null, malformed: false });
    });
    this.#open.set(id, episode);
    this.#count.opened++;
    return episode;
  }

  #forget(episode: OpenEpisode): void {
    clearTimeout(episode.timer);
    if (this.#open.get(episode.id) === episode) {
      this.#open.delete(episode.id);
      this.#count.opened--;
    }
  }

  #setGroup(episode: OpenEpisode, group: string | null): void {
    if (group === null || group === episode.group) return;
    if (episode.group !== null)
      throw new ApiError(400, "group_changed", `The episode belongs to group ${JSON.stringify(episode.group)}.`, {
        param: "group",
        hint: "Send that group, or leave `group` out.",
      });
    episode.group = group;
  }

  /** A request is over: the time until expiry begins anew. */
  #leave(episode: OpenEpisode): void {
    episode.active--;
    if (this.#open.get(episode.id) === episode) episode.timer.refresh();
  }

  #record(episode: OpenEpisode, planned: PlannedPrompt, sampled: readonly SampledCompletion[]): void {
    const { recorded } = episode;
    const [turns, separate] = [recorded.turns, recorded.separateTurns];
    recorded.record(planned, sampled);
    this.#count.turns += recorded.turns - turns;
    this.#count.separateTurns += recorded.separateTurns - separate;
    episode.group ??= promptKey(planned.tokens);
  }

  #end(
    episode: OpenEpisode,
    status: EndedEpisode["status"],
    result: Pick<EndedEpisode, "outcome" | "reward" | "malformed">,
  ): EndedEpisode {
    clearTimeout(episode.timer);
    this.#open.delete(episode.id);
    this.#count[status]++;
    const { id, recorded } = episode;
    const number = ++this.#number;
    const record: EndedEpisode = { id, number, status, group: episode.group ?? "", ...result, recorded };
    this.#ended.set(id, record);
    for (const [oldest, { number: gone }] of this.#ended) {
      if (this.#ended.size <= this.#settings.retain) break;
      this.#ended.delete(oldest);
      this.#groups.drop(gone);
    }
    return record;
  }
}

/** The key of an episode whose client named no group: episodes with the same first prompt are compared. */
function promptKey(tokens: Int32Array): string {
  const bytes = new Uint8Array(tokens.buffer, tokens.byteOffset, tokens.byteLength);
  return `prompt:${createHash("sha256").update(bytes).digest("hex").slice(0, 32)}`;
}

function sampleOf({ recorded, reward, malformed }: EndedEpisode): Sample {
  return { sequences: recorded.sequences(), reward: reward ?? Number.NaN, truncated: recorded.truncated, malformed };
}

function episodeRecord(episode: EndedEpisode, tokens: boolean): EpisodeRecord {
  const { id, number, status, group, outcome, reward, malformed, recorded } = episode;
  return {
    object: "act.episode",
    number,
    episode_id: id,
    status,
    group,
    outcome,
    reward,
    turns: recorded.turns,
    separate_turns: recorded.separateTurns,
    sampled_tokens: recorded.sampledTokens,
    truncated: recorded.truncated,
    malformed,
    weight_versions: recorded.weightVersions,
    ...(tokens ? { transcripts: recorded.transcripts.map((transcript) => transcript.toData()) } : {}),
  };
}

function ended(id: string): ApiError {
  return new ApiError(409, "episode_ended", `Episode ${JSON.stringify(id)} has ended.`, {
    param: "episode_id",
    hint: "Begin another one under a new id.",
  });
}
