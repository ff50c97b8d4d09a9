/** A provider made for tests of clients and servers: it does what its actions say. */
import {
  type AdmissibleActions,
  type Environment,
  EnvironmentError,
  type EnvironmentProvider,
  type EpisodeStart,
  type Panel,
  type Transition,
} from "../../src/environments/environment.js";

/** How many environments are open. */
export const toyCounts = { open: 0 };

export class ToyEnvironment implements Environment {
  #count = -1;
  #closed = false;

  constructor() {
    toyCounts.open++;
  }

  async reset(taskId: string): Promise<EpisodeStart> {
    if (!/^t\d+$/.test(taskId)) throw new EnvironmentError("ENVIRONMENT_UNKNOWN_TASK", `No task ${taskId}.`);
    this.#count = 0;
    return { task: `count to 3 in ${taskId}`, observation: "The counter shows 0.", category: "count" };
  }

  async step(action: string): Promise<Transition> {
    if (this.#count < 0) throw new EnvironmentError("ENVIRONMENT_NO_EPISODE", "There is no running episode.");
    const [verb, argument = ""] = action.split(" ");
    if (verb === "break") throw new EnvironmentError("ENVIRONMENT_LOST", "told to break");
    if (verb === "throw") throw new Error("told to throw");
    if (verb === "sleep") await new Promise((resolve) => setTimeout(resolve, Number(argument)));
    if (verb === "add") this.#count++;
    const accepted = ["add", "sleep", "long"].includes(verb ?? "");
    const success = this.#count === 3;
    const observation = verb === "long" ? "x".repeat(Number(argument)) : `The counter shows ${this.#count}.`;
    const score = this.#count / 3;
    const transition = { observation, reward: verb === "add" ? 0.25 : 0, score, success, accepted };
    if (success || verb === "cut") this.#count = -1;
    return { ...transition, terminated: success, truncated: verb === "cut" };
  }

  async admissibleActions(): Promise<AdmissibleActions> {
    return { actions: ["add", "sleep 1"], patterns: ["^sleep \\d+$"] };
  }

  async expertAction(): Promise<string> {
    return "add";
  }

  async close(): Promise<void> {
    if (!this.#closed) toyCounts.open--;
    this.#closed = true;
  }
}

export function toyProvider(): EnvironmentProvider {
  return {
    name: "toy",
    version: "1",
    stepLimit: 20,
    panelNames: ["train"],
    panel: async (): Promise<Panel> => ({ id: "toy/train@1", tasks: ["t0", "t1", "t2"], hash: "00" }),
    create: async () => new ToyEnvironment(),
    close: async () => undefined,
  };
}
