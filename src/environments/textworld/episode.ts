/** One episode of a text world: the rules, a step limit, and an expert to ask. */
import type { Environment, EpisodeStart, Transition } from "../environment.js";
import { assertAction, EnvironmentError } from "../environment.js";
import { Expert, type Intention } from "./expert.js";
import { TextWorld } from "./rules.js";
import type { Task } from "./task.js";
import { stripCommand } from "./texts.js";
import { thoughtOf } from "./thought.js";
import type { World } from "./world.js";

/** Which expert an episode asks. */
export type ExpertKind = "handcoded" | "walkthrough";

/** What an episode is made of. */
export interface EpisodeSetup {
  readonly world: World;
  /** The task in data form; null for goals that are not of the six kinds. */
  readonly task: Task | null;
  /** A stored plan that wins from the start, or null. */
  readonly walkthrough: readonly string[] | null;
  readonly expert: ExpertKind;
  /** Steps after which the episode is truncated; at least 1. */
  readonly stepLimit: number;
}

/**
 * An episode played synchronously, e.g. to write many demonstrations fast. {@link TextWorldEnvironment} is the same behind
 * the asynchronous contract.
 */
export class TextWorldEpisode {
  /** The goal sentence and the room; the welcome line and the task sentence are not part of the observation. */
  readonly start: EpisodeStart;
  private readonly game: TextWorld;
  private readonly advisor: Advisor;
  private steps = 0;
  private ended = false;

  constructor(private readonly setup: EpisodeSetup) {
    this.game = new TextWorld(setup.world);
    this.start = {
      task: setup.world.task,
      observation: this.game.room(),
      category: setup.task?.kind ?? "other",
    };
    this.advisor = setup.expert === "walkthrough" ? new PlanAdvisor(setup) : new RuleAdvisor(setup, this.start);
  }

  /**
   * Carries out an action. Reward and score are 1 when the goal holds afterwards, which ends the episode, and otherwise 0.
   *
   * @throws EnvironmentError with code `ENVIRONMENT_NO_EPISODE` after the end, `ENVIRONMENT_BAD_ACTION`.
   */
  step(action: string): Transition {
    assertAction(action);
    if (this.ended) {
      throw new EnvironmentError("ENVIRONMENT_NO_EPISODE", "Cannot step: the episode has ended.", {
        hint: "Start another one with reset().",
      });
    }
    const unchanged = this.advisor.needsState ? this.game.fingerprint() : "";
    const { text, accepted, won } = this.game.step(action);
    this.steps++;
    this.advisor.observe(stripCommand(action), text, unchanged !== "" && unchanged === this.game.fingerprint());
    const truncated = !won && this.steps >= this.setup.stepLimit;
    this.ended = won || truncated;
    const reward = won ? 1 : 0;
    return { observation: text, reward, score: reward, success: won, terminated: won, truncated, accepted };
  }

  /** Admissible commands of the present state, sorted by code point. */
  admissible(): readonly string[] {
    return this.game.admissible();
  }

  /** The expert's action, or null when it knows none or the episode has ended. Always literally admissible. */
  expertAction(): string | null {
    return this.ended ? null : this.advisor.action(this.game.admissible());
  }

  /**
   * What the expert is about to do and why; its `action` is {@link expertAction}. Null where that is null, and always null
   * for stored walkthroughs, which have no reasons.
   */
  expertIntention(): Intention | null {
    return this.ended ? null : this.advisor.intention(this.game.admissible());
  }
}

/** What an episode wants of its expert. */
interface Advisor {
  /** Whether {@link observe} has to be told if the state changed. */
  readonly needsState: boolean;
  observe(command: string, text: string, unchanged: boolean): void;
  action(admissible: readonly string[]): string | null;
  intention(admissible: readonly string[]): Intention | null;
}

/** The hand-coded expert. Texts are read only when it is asked, so that episodes that never ask are not slowed down. */
class RuleAdvisor implements Advisor {
  readonly needsState = false;
  private readonly expert: Expert | null;
  private unread: string[] = [];

  constructor(setup: EpisodeSetup, start: EpisodeStart) {
    this.expert = setup.task === null ? null : new Expert(setup.task, start.observation);
  }

  observe(_command: string, text: string): void {
    this.unread.push(text);
  }

  action(admissible: readonly string[]): string | null {
    return this.intention(admissible)?.action ?? null;
  }

  intention(admissible: readonly string[]): Intention | null {
    for (const text of this.unread) this.expert?.observe(text);
    this.unread = [];
    return this.expert?.intention(admissible) ?? null;
  }
}

/** The stored walkthrough: known as long as nothing but it, and commands that change nothing, were carried out. */
class PlanAdvisor implements Advisor {
  readonly needsState = true;
  private readonly plan: readonly string[];
  private next = 0;
  private left = false;

  constructor(setup: EpisodeSetup) {
    this.plan = setup.walkthrough ?? [];
  }

  observe(command: string, _text: string, unchanged: boolean): void {
    if (command === this.plan[this.next]) this.next++;
    else if (!unchanged) this.left = true;
  }

  action(admissible: readonly string[]): string | null {
    const action = this.left ? undefined : this.plan[this.next];
    return action !== undefined && admissible.includes(action) ? action : null;
  }

  intention(): Intention | null {
    return null;
  }
}

/** The asynchronous contract over episodes that a provider sets up by task id. */
export class TextWorldEnvironment implements Environment {
  private episode: TextWorldEpisode | null = null;
  private closed = false;

  constructor(private readonly setUp: (taskId: string) => EpisodeSetup | Promise<EpisodeSetup>) {}

  async reset(taskId: string, options: { readonly signal?: AbortSignal } = {}): Promise<EpisodeStart> {
    options.signal?.throwIfAborted();
    this.assertOpen();
    this.episode = null;
    const setup = await this.setUp(taskId);
    options.signal?.throwIfAborted();
    this.assertOpen();
    this.episode = new TextWorldEpisode(setup);
    return this.episode.start;
  }

  async step(action: string, options: { readonly signal?: AbortSignal } = {}): Promise<Transition> {
    options.signal?.throwIfAborted();
    return this.running().step(action);
  }

  async admissibleActions(): Promise<{ readonly actions: readonly string[]; readonly patterns: readonly string[] }> {
    return { actions: this.running().admissible(), patterns: [] };
  }

  async expertAction(): Promise<string | null> {
    return this.running().expertAction();
  }

  async expertThought(): Promise<string | null> {
    const intention = this.running().expertIntention();
    return intention === null ? null : thoughtOf(intention);
  }

  /** See {@link TextWorldEpisode.expertIntention}. */
  async expertIntention(): Promise<Intention | null> {
    return this.running().expertIntention();
  }

  async close(): Promise<void> {
    this.closed = true;
    this.episode = null;
  }

  private assertOpen(): void {
    if (this.closed) {
      throw new EnvironmentError("ENVIRONMENT_CLOSED", "Cannot use a closed environment.", {
        hint: "Make another one with the provider's create().",
      });
    }
  }

  private running(): TextWorldEpisode {
    this.assertOpen();
    if (this.episode === null) {
      throw new EnvironmentError("ENVIRONMENT_NO_EPISODE", "No episode is running.", { hint: "Call reset() first." });
    }
    return this.episode;
  }
}
