/**
 * Finished episodes on their way into training: by group, complete groups in the order in which they were completed.
 */
import type { Sample, SampleGroup } from "../objectives/sample.js";
import type { EndedEpisode } from "./served-episodes.js";

/** Episodes that are compared with each other. */
export interface ServedGroup {
  readonly key: string;
  readonly episodes: readonly EndedEpisode[];
  /** `samples[i]` is `episodes[i]`. At least two. */
  readonly group: SampleGroup;
}

interface Member {
  readonly episode: EndedEpisode;
  readonly sample: Sample;
}

interface FormingGroup {
  members: Member[];
  readonly timer: NodeJS.Timeout;
}

interface Waiter {
  readonly count: number;
  readonly give: (groups: ServedGroup[]) => void;
}

export class EpisodeGroups {
  readonly #size: number;
  readonly #timeout: number;
  readonly #forming = new Map<string, FormingGroup>();
  #ready: { readonly key: string; members: Member[] }[] = [];
  #waiters: Waiter[] = [];
  #ungrouped = 0;
  #dropped = 0;

  /**
   * @param size Episodes of a group.
   * @param timeout Milliseconds that a begun group waits for more.
   */
  constructor(size: number, timeout: number) {
    this.#size = size;
    this.#timeout = timeout;
  }

  /** Groups that wait to be taken. */
  get ready(): number {
    return this.#ready.length;
  }

  /** Episodes that were alone in their group when its time was over. */
  get ungrouped(): number {
    return this.#ungrouped;
  }

  /** Episodes that were dropped before they were taken. */
  get dropped(): number {
    return this.#dropped;
  }

  /** Adds a finished episode to the group it names; a complete group of that name is followed by another. */
  add(episode: EndedEpisode, sample: Sample): void {
    const key = episode.group;
    const forming = this.#forming.get(key) ?? this.#begin(key);
    forming.members.push({ episode, sample });
    if (forming.members.length >= this.#size) this.#complete(key);
  }

  /** Drops an episode, by its number, that was not taken yet. */
  drop(number: number): void {
    const without = (members: readonly Member[]): Member[] =>
      members.filter(({ episode }) => episode.number !== number);
    for (const group of [...this.#forming.values(), ...this.#ready]) {
      const left = without(group.members);
      this.#dropped += group.members.length - left.length;
      group.members = left;
    }
    // One episode has nothing to be compared with.
    const alone = this.#ready.filter(({ members }) => members.length < 2);
    this.#ready = this.#ready.filter(({ members }) => members.length >= 2);
    for (const { members } of alone) this.#ungrouped += members.length;
  }

  /**
   * The next `count` groups, oldest first; waits until there are so many. Callers are served in turn.
   *
   * @throws The signal's reason; no group is lost then.
   */
  async take(count: number, signal?: AbortSignal): Promise<ServedGroup[]> {
    signal?.throwIfAborted();
    let onAbort: (() => void) | undefined;
    try {
      return await new Promise<ServedGroup[]>((resolve, reject) => {
        const waiter: Waiter = { count, give: resolve };
        onAbort = () => {
          this.#waiters = this.#waiters.filter((other) => other !== waiter);
          reject(signal?.reason);
          this.#serve();
        };
        signal?.addEventListener("abort", onAbort, { once: true });
        this.#waiters.push(waiter);
        this.#serve();
      });
    } finally {
      if (onAbort !== undefined) signal?.removeEventListener("abort", onAbort);
    }
  }

  /** Stops all timers. */
  close(): void {
    for (const { timer } of this.#forming.values()) clearTimeout(timer);
  }

  #begin(key: string): FormingGroup {
    const timer = setTimeout(() => this.#complete(key), this.#timeout).unref();
    const forming = { members: [], timer };
    this.#forming.set(key, forming);
    return forming;
  }

  #complete(key: string): void {
    const forming = this.#forming.get(key);
    if (forming === undefined) return;
    clearTimeout(forming.timer);
    this.#forming.delete(key);
    const { members } = forming;
    if (members.length < 2) this.#ungrouped += members.length;
    else this.#ready.push({ key, members });
    this.#serve();
  }

  #serve(): void {
    for (let first = this.#waiters[0]; first !== undefined; first = this.#waiters[0]) {
      if (this.#ready.length < first.count) return;
      this.#waiters.shift();
      const taken = this.#ready.splice(0, first.count);
      first.give(
        taken.map(({ key, members }) => ({
          key,
          episodes: members.map(({ episode }) => episode),
          group: { samples: members.map(({ sample }) => sample) },
        })),
      );
    }
  }
}
