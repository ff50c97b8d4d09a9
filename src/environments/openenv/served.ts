/**
 * What the OpenEnv server serves, and how an environment of ours becomes that.
 *
 * The server knows messages, sessions and limits; a served environment knows its fields.
 */
import { randomUUID } from "node:crypto";
import { describe } from "../../errors.js";
import { type Environment, EnvironmentError, type EnvironmentProvider, type Panel } from "../environment.js";
import type { Field } from "../pydantic/fields.js";

/** What reset and step answer. */
export interface ServedObservation {
  /** The observation's own fields, without reward, done and metadata. */
  readonly fields: Readonly<Record<string, unknown>>;
  readonly reward: number | boolean | null;
  readonly done: boolean;
  readonly metadata?: Readonly<Record<string, unknown>>;
}

/** One episode after the other, for one client. Methods are called one after the other. */
export interface ServedSession {
  /** `data` is what the client sent, unchecked: names the environment does not know are to be ignored. */
  reset(data: Readonly<Record<string, unknown>>): Promise<ServedObservation>;
  /** `action` fits {@link ServedEnvironment.actionFields}. */
  step(action: Readonly<Record<string, unknown>>): Promise<ServedObservation>;
  /** At least `episode_id` and `step_count`. Works before the first reset. */
  state(): Promise<Readonly<Record<string, unknown>>>;
  close(): Promise<void>;
}

/** JSON Schemas of `GET /schema`. */
export interface ServedSchema {
  readonly action: object;
  readonly observation: object;
  readonly reset_observation: object;
  readonly state: object;
}

export interface ServedEnvironment {
  /** Name in routes and lists, e.g. `household`. */
  readonly name: string;
  /** Name in messages, e.g. `HouseholdEnvironment`. */
  readonly className: string;
  readonly version: string;
  readonly actionFields: readonly Field[];
  readonly schema: ServedSchema;
  create(): Promise<ServedSession>;
}

export interface ServeOptions {
  /** Panel whose tasks are played when a client names none; the provider's first by default. */
  readonly panel?: string;
  /** Whether the state names the expert's action. */
  readonly expert?: boolean;
}

/** Field that every OpenEnv action has beside its own. */
export const METADATA_FIELD: Field = { name: "metadata", kind: "object", fallback: {} };

/**
 * Serves the environments of a provider.
 *
 * Action: `{"action": text}`. Reset takes `task_id`, or `seed` (the task of that number in the panel), or neither (the
 * panel's next task). The state carries the admissible actions, which so are listed only when asked for.
 */
export async function serveProvider(
  provider: EnvironmentProvider,
  options: ServeOptions = {},
): Promise<ServedEnvironment> {
  const panel = await provider.panel(options.panel ?? provider.panelNames[0] ?? "");
  let next = 0;
  const nextTask = (): string => panel.tasks[next++ % panel.tasks.length] ?? "";
  return {
    name: provider.name,
    className: `${provider.name.charAt(0).toUpperCase()}${provider.name.slice(1)}Environment`,
    version: provider.version,
    actionFields: [METADATA_FIELD, { name: "action", kind: "string" }],
    schema: SCHEMA,
    create: async () => new ProviderSession(await provider.create(), panel, nextTask, options.expert ?? false),
  };
}

class ProviderSession implements ServedSession {
  readonly #environment: Environment;
  readonly #panel: Panel;
  readonly #nextTask: () => string;
  readonly #expert: boolean;
  #episodeId: string | null = null;
  #taskId: string | null = null;
  #steps = 0;
  #open = false;
  #task = "";
  #category = "";

  constructor(environment: Environment, panel: Panel, nextTask: () => string, expert: boolean) {
    this.#environment = environment;
    this.#panel = panel;
    this.#nextTask = nextTask;
    this.#expert = expert;
  }

  async reset(data: Readonly<Record<string, unknown>>): Promise<ServedObservation> {
    const taskId = this.#taskOf(data);
    this.#open = false;
    const start = await this.#environment.reset(taskId);
    this.#episodeId = typeof data.episode_id === "string" ? data.episode_id : randomUUID();
    this.#taskId = taskId;
    this.#steps = 0;
    this.#open = true;
    this.#task = start.task;
    this.#category = start.category;
    return {
      fields: this.#fields(start.observation, 0, false, false, true),
      reward: null,
      done: false,
    };
  }

  async step(action: Readonly<Record<string, unknown>>): Promise<ServedObservation> {
    const t = await this.#environment.step(String(action.action));
    this.#steps++;
    const done = t.terminated || t.truncated;
    this.#open = !done;
    return {
      fields: this.#fields(t.observation, t.score, t.success, t.truncated, t.accepted),
      reward: t.reward,
      done,
    };
  }

  async state(): Promise<Readonly<Record<string, unknown>>> {
    return {
      episode_id: this.#episodeId,
      step_count: this.#steps,
      task_id: this.#taskId,
      admissible: this.#open ? await this.#environment.admissibleActions() : null,
      expert_action: this.#open && this.#expert ? await this.#environment.expertAction() : null,
    };
  }

  async close(): Promise<void> {
    await this.#environment.close();
  }

  #fields(
    text: string,
    score: number,
    success: boolean,
    truncated: boolean,
    accepted: boolean,
  ): Readonly<Record<string, unknown>> {
    return { task: this.#task, text, category: this.#category, score, success, truncated, accepted };
  }

  #taskOf(data: Readonly<Record<string, unknown>>): string {
    const { task_id: id, seed } = data;
    if (typeof id === "string") return id;
    if (id !== undefined && id !== null)
      throw new EnvironmentError(
        "ENVIRONMENT_UNKNOWN_TASK",
        `Expected a string for \`task_id\`, got ${describe(id)}.`,
        { hint: "Leave it out for the panel's next task." },
      );
    if (seed === undefined || seed === null) return this.#nextTask();
    if (typeof seed !== "number" || !Number.isInteger(seed) || seed < 0)
      throw new EnvironmentError(
        "ENVIRONMENT_UNKNOWN_TASK",
        `Expected a whole number from 0 for \`seed\`, got ${describe(seed)}.`,
        { hint: "Leave it out for the panel's next task." },
      );
    return this.#panel.tasks[seed % this.#panel.tasks.length] ?? "";
  }
}

const METADATA_SCHEMA = { type: "object", title: "Metadata", additionalProperties: true };
const OBSERVATION_PROPERTIES = {
  done: { type: "boolean", title: "Done", default: false },
  reward: { anyOf: [{ type: "number" }, { type: "null" }], title: "Reward", default: null },
  metadata: METADATA_SCHEMA,
  task: { type: "string", title: "Task", description: "the goal" },
  text: { type: "string", title: "Text", description: "what the agent sees" },
  category: { type: "string", title: "Category", description: "kind of task" },
  score: { type: "number", title: "Score", description: "score so far; 1 is the best possible" },
  success: { type: "boolean", title: "Success", description: "the goal holds" },
  truncated: { type: "boolean", title: "Truncated", description: "a limit ended the episode" },
  accepted: { type: "boolean", title: "Accepted", description: "the action could be carried out" },
};
const OBSERVATION_SCHEMA = {
  type: "object",
  title: "TextObservation",
  additionalProperties: false,
  properties: OBSERVATION_PROPERTIES,
  required: ["task", "text", "category", "score", "success", "truncated", "accepted"],
};
const NULLABLE_STRING = { anyOf: [{ type: "string" }, { type: "null" }], default: null };

const SCHEMA: ServedSchema = {
  action: {
    type: "object",
    title: "TextAction",
    additionalProperties: false,
    properties: { metadata: METADATA_SCHEMA, action: { type: "string", title: "Action", description: "what to do" } },
    required: ["action"],
  },
  observation: OBSERVATION_SCHEMA,
  reset_observation: OBSERVATION_SCHEMA,
  state: {
    type: "object",
    title: "TextState",
    additionalProperties: true,
    properties: {
      episode_id: { ...NULLABLE_STRING, title: "Episode Id" },
      step_count: { type: "integer", title: "Step Count", minimum: 0, default: 0 },
      task_id: { ...NULLABLE_STRING, title: "Task Id" },
      admissible: { title: "Admissible", default: null, description: "{actions, patterns} of the present state" },
      expert_action: { ...NULLABLE_STRING, title: "Expert Action" },
    },
  },
};
