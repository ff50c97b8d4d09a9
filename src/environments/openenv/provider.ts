/**
 * Environments in another process, or on another machine, that speak OpenEnv.
 *
 * Works with any server of the protocol: how its actions and observations become text is an option, with rules that
 * fit our own server and the common text environments.
 */
import { createHash } from "node:crypto";
import { z } from "zod";
import { EnvironmentError, type EnvironmentProvider, type Panel } from "../environment.js";
import { eachOnce, parseEnvironmentOptions } from "../options.js";
import { isObject } from "../pydantic/fields.js";
import { OpenEnvEnvironment } from "./environment.js";

export const openEnvOptionsSchema = z.strictObject({
  /** Address of the server, e.g. `http://127.0.0.1:8000` (or `ws://...`). */
  url: z.url({ protocol: /^(https?|wss?)$/ }),
  /**
   * Panels by name: task ids, or a number of seeds. Task `seed:7` resets with `{"seed": 7}`, a task that is a JSON
   * object with its fields, any other with `{"task_id": <task>}`.
   */
  panels: z
    .record(
      z.string(),
      z.union([eachOnce(z.array(z.string().min(1)).min(1)), z.strictObject({ seeds: z.int().min(1) })]),
    )
    .default({ seeds: { seeds: 100 } }),
  /** More fields of every reset. */
  reset: z.record(z.string(), z.unknown()).default({}),
  /** Field of an action that takes the agent's text; null: the one field the server's schema requires. */
  actionField: z.string().min(1).nullable().default(null),
  /** Field of an observation that the agent sees; null: `text`, `prompt`, `message` or the whole as JSON. */
  observationField: z.string().min(1).nullable().default(null),
  /** Total reward from which a finished episode counts as success, where the server does not say so itself. */
  successReward: z.number().default(1),
  /** Steps after which an episode is truncated. */
  stepLimit: z.int().min(1).default(50),
  /** Longest waits, in milliseconds. `capacityMs`: for a free session. */
  deadlines: z
    .strictObject({
      connectMs: z.int().min(1).default(10_000),
      capacityMs: z.int().min(0).default(30_000),
      resetMs: z.int().min(1).default(120_000),
      stepMs: z.int().min(1).default(60_000),
    })
    .prefault({}),
  /** Longest answer taken, in bytes. */
  maxReplyBytes: z
    .int()
    .min(1024)
    .default(100 * 1024 * 1024),
});

export type OpenEnvOptions = z.input<typeof openEnvOptionsSchema>;
export type OpenEnvSettings = z.output<typeof openEnvOptionsSchema>;

export class OpenEnvProvider implements EnvironmentProvider {
  readonly name = "openenv";
  /** Name and version of the served environment. */
  readonly version: string;
  readonly stepLimit: number;
  readonly panelNames: readonly string[];
  readonly #settings: OpenEnvSettings;
  readonly #actionField: string;
  readonly #environments = new Set<OpenEnvEnvironment>();

  private constructor(settings: OpenEnvSettings, version: string, actionField: string) {
    this.#settings = settings;
    this.version = version;
    this.stepLimit = settings.stepLimit;
    this.panelNames = Object.keys(settings.panels);
    this.#actionField = actionField;
  }

  /**
   * The panels that options define. Asks no server.
   *
   * @throws EnvironmentError `ENVIRONMENT_BAD_OPTIONS`.
   */
  static panelNamesOf(options: OpenEnvOptions): string[] {
    return Object.keys(parseEnvironmentOptions(openEnvOptionsSchema, options, "OpenEnv").panels);
  }

  /**
   * Asks a server for its name and for what its actions look like.
   *
   * @throws EnvironmentError `ENVIRONMENT_BAD_OPTIONS`, `ENVIRONMENT_LOST`, `ENVIRONMENT_TIMEOUT`,
   *   `ENVIRONMENT_PROTOCOL`.
   */
  static async open(options: OpenEnvOptions): Promise<OpenEnvProvider> {
    const settings = parseEnvironmentOptions(openEnvOptionsSchema, options, "OpenEnv");
    const { connectMs } = settings.deadlines;
    const metadata = await getJson(settings.url, "metadata", connectMs);
    const version = `${String(metadata.name ?? "unknown")}@${String(metadata.version ?? "unknown")}`;
    const field = settings.actionField ?? requiredField(await getJson(settings.url, "schema", connectMs), settings.url);
    return new OpenEnvProvider(settings, version, field);
  }

  /** The content of remote tasks is not known: the hash is over the server's version and the tasks' resets. */
  async panel(name: string): Promise<Panel> {
    const given = this.#settings.panels[name];
    if (given === undefined)
      throw new EnvironmentError(
        "ENVIRONMENT_UNKNOWN_PANEL",
        `OpenEnv options name no panel ${JSON.stringify(name)}.`,
        {
          hint: `Panels: ${this.panelNames.join(", ")}.`,
        },
      );
    const tasks = Array.isArray(given) ? given : Array.from({ length: given.seeds }, (_, seed) => `seed:${seed}`);
    const content = [this.version, JSON.stringify(this.#settings.reset), ...tasks];
    const hash = createHash("sha256").update(content.join("\n")).digest("hex");
    return { id: `${this.name}/${name}@1`, tasks, hash };
  }

  async create(): Promise<OpenEnvEnvironment> {
    const environment = new OpenEnvEnvironment(this.#settings, this.#actionField, () =>
      this.#environments.delete(environment),
    );
    this.#environments.add(environment);
    return environment;
  }

  async close(): Promise<void> {
    await Promise.all([...this.#environments].map((environment) => environment.close()));
  }
}

/** The one field an action must have: verifiers' rule for text agents. */
function requiredField(schema: Readonly<Record<string, unknown>>, url: string): string {
  const required: unknown = isObject(schema.action) ? (schema.action.required ?? []) : [];
  if (Array.isArray(required) && required.length === 1 && typeof required[0] === "string") return required[0];
  throw new EnvironmentError("ENVIRONMENT_BAD_OPTIONS", `${url}: an action there has no single required field.`, {
    hint: "Set `actionField` to the field that takes the agent's text.",
  });
}

const NOT_OPENENV = "Check that `url` is an OpenEnv server.";

async function getJson(url: string, path: string, deadlineMs: number): Promise<Readonly<Record<string, unknown>>> {
  const base = url.replace(/^ws/, "http").replace(/\/(ws)?$/, "");
  const address = `${base}/${path}`;
  let body: unknown;
  try {
    const response = await fetch(address, {
      signal: AbortSignal.timeout(deadlineMs),
      headers: { connection: "close" },
    });
    if (!response.ok)
      throw new EnvironmentError(
        response.status >= 500 ? "ENVIRONMENT_LOST" : "ENVIRONMENT_PROTOCOL",
        `${address} answered with status ${response.status}.`,
        { hint: NOT_OPENENV },
      );
    body = await response.json();
  } catch (cause) {
    if (cause instanceof EnvironmentError) throw cause;
    if (cause instanceof Error && cause.name === "TimeoutError")
      throw new EnvironmentError("ENVIRONMENT_TIMEOUT", `${address} did not answer within ${deadlineMs} ms.`, {
        hint: "Check that the server runs, or raise `deadlines.connectMs`.",
        cause,
      });
    if (cause instanceof SyntaxError)
      throw new EnvironmentError("ENVIRONMENT_PROTOCOL", `${address} answered what is no JSON.`, {
        hint: NOT_OPENENV,
        cause,
      });
    const inner = cause instanceof Error && cause.cause instanceof Error ? cause.cause.message : String(cause);
    throw new EnvironmentError("ENVIRONMENT_LOST", `${address} cannot be reached: ${inner}.`, {
      hint: "Check that the server runs and that `url` is right.",
      cause,
    });
  }
  if (isObject(body)) return body;
  throw new EnvironmentError("ENVIRONMENT_PROTOCOL", `${address} answered JSON that is no object.`, {
    hint: NOT_OPENENV,
  });
}
