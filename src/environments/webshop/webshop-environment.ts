/** A WebShop session behind the environment contract: one purchase ends the episode. */
import { throwIfAborted } from "../../errors.js";
import {
  type AdmissibleActions,
  assertAction,
  type Environment,
  EnvironmentError,
  type EpisodeStart,
  type Transition,
} from "../environment.js";
import { parseAction } from "./action.js";
import { nextAction, type PurchasePlan, planPurchase } from "./expert.js";
import { PythonRandom } from "./python-random.js";
import { WebShopSession } from "./session.js";
import type { Shop } from "./shop.js";

const SEARCH_PATTERN = "^search\\[.+\\]$";
/** A goal is reached at this reward. */
const FULL_REWARD = 1;

export interface WebShopPlay {
  readonly goals: "human" | "synthetic";
  readonly showAttributes: boolean;
  readonly observation: "text" | "text_rich";
  readonly instruction: "keep" | "drop";
  readonly stepLimit: number;
}

/**
 * Plays one goal at a time. The reward comes with the purchase, from 0 to 1; success is full reward. A search on a page
 * without a search bar is carried out, as in the original, but not listed as admissible. An action on which the original
 * raises is not accepted and shows the page again.
 */
export class WebShopEnvironment implements Environment {
  readonly #shop: Shop;
  readonly #play: WebShopPlay;
  #session: WebShopSession | null = null;
  #plan: PurchasePlan | null | undefined;
  #steps = 0;
  #ended = false;
  #closed = false;

  constructor(shop: Shop, play: WebShopPlay) {
    this.#shop = shop;
    this.#play = play;
  }

  async reset(taskId: string, options: { readonly signal?: AbortSignal } = {}): Promise<EpisodeStart> {
    throwIfAborted(options.signal);
    this.#checkOpen();
    const index = this.#goalIndex(taskId);
    const goal = this.#shop.goals[index]!;
    this.#session = new WebShopSession(this.#shop, goal, {
      id: String(index),
      showAttributes: this.#play.showAttributes,
      // Random listings depend on the goal alone, not on what was played before.
      random: new PythonRandom(index),
    });
    this.#plan = undefined;
    this.#steps = 0;
    this.#ended = false;
    return { task: goal.instructionText, observation: this.#observe(this.#session), category: goal.category };
  }

  async step(action: string, options: { readonly signal?: AbortSignal } = {}): Promise<Transition> {
    throwIfAborted(options.signal);
    assertAction(action);
    const session = this.#running();
    if (this.#ended) {
      throw new EnvironmentError("ENVIRONMENT_NO_EPISODE", "Cannot step: the WebShop episode has ended.", {
        hint: "Start another one with reset().",
      });
    }
    const { reward, done, accepted } = session.step(action);
    this.#steps++;
    const truncated = !done && this.#steps >= this.#play.stepLimit;
    this.#ended = done || truncated;
    return {
      observation: this.#observe(session),
      reward,
      score: reward,
      success: reward === FULL_REWARD,
      terminated: done,
      truncated,
      accepted,
    };
  }

  async admissibleActions(): Promise<AdmissibleActions> {
    const session = this.#running();
    const actions = session.clickables
      .filter((label) => label !== "search" && parseAction(`click[${label}]`).argument === label)
      .map((label) => `click[${label}]`);
    return { actions, patterns: session.hasSearchBar ? [SEARCH_PATTERN] : [] };
  }

  async expertAction(): Promise<string | null> {
    const session = this.#running();
    if (this.#ended) return null;
    if (this.#plan === undefined) this.#plan = planPurchase(this.#shop, session.goal);
    return this.#plan === null ? null : nextAction(this.#shop, session, this.#plan);
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#session = null;
  }

  #observe(session: WebShopSession): string {
    return session.show(this.#play.observation, this.#play.instruction);
  }

  #goalIndex(taskId: string): number {
    const { goals } = this.#play;
    const match = /^(human|synthetic)\/(0|[1-9][0-9]{0,8})$/.exec(taskId);
    const index = match?.[1] === goals ? Number(match[2]) : -1;
    if (this.#shop.goals[index] !== undefined) return index;
    throw new EnvironmentError("ENVIRONMENT_UNKNOWN_TASK", `This shop has no task ${JSON.stringify(taskId)}.`, {
      hint: `Task ids are ${goals}/0 to ${goals}/${this.#shop.goals.length - 1}.`,
    });
  }

  #running(): WebShopSession {
    this.#checkOpen();
    if (this.#session !== null) return this.#session;
    throw new EnvironmentError("ENVIRONMENT_NO_EPISODE", "There is no running WebShop episode.", {
      hint: "Start one with reset().",
    });
  }

  #checkOpen(): void {
    if (!this.#closed) return;
    throw new EnvironmentError("ENVIRONMENT_CLOSED", "This WebShop environment is closed.", {
      hint: "Make another one with the provider's create().",
    });
  }
}
