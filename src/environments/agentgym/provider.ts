/** Environments of AgentGym's HTTP servers. */
import { createHash } from "node:crypto";
import { z } from "zod";
import { EnvironmentError, type EnvironmentProvider, type Panel } from "../environment.js";
import { eachOnce, parseEnvironmentOptions } from "../options.js";
import { type AgentGymKind, agentGymKinds, type Dialect, dialects } from "./dialects.js";
import { AgentGymEnvironment } from "./environment.js";

export const agentGymOptionsSchema = z.strictObject({
  /** Address of the server, e.g. `http://127.0.0.1:36001`. */
  url: z.url({ protocol: /^https?$/ }),
  /** Which of AgentGym's servers it is. */
  kind: z.enum(agentGymKinds),
  /** Panels by name, as lists of the server's item numbers; these are added to the known ones. */
  panels: z.record(z.string(), eachOnce(z.array(z.int().min(0)).min(1))).default({}),
  /** Steps after which an episode is truncated. */
  stepLimit: z.int().min(1).default(100),
  /** Times a request is sent again that did not reach the server or was turned away with status 503. */
  retries: z.int().min(0).default(3),
  /** Longest waits, in milliseconds, sendings again included. A first reset may start a simulator. */
  deadlines: z
    .strictObject({ resetMs: z.int().min(1).default(120_000), stepMs: z.int().min(1).default(60_000) })
    .prefault({}),
  /** Longest answer taken, in bytes. */
  maxReplyBytes: z
    .int()
    .min(1024)
    .default(64 * 1024 * 1024),
});

export type AgentGymOptions = z.input<typeof agentGymOptionsSchema>;
export type AgentGymSettings = z.output<typeof agentGymOptionsSchema>;

export class AgentGymProvider implements EnvironmentProvider {
  readonly name = "agentgym";
  /** The servers do not tell their version: the kind is all that is known. */
  readonly version: string;
  readonly stepLimit: number;
  readonly panelNames: readonly string[];
  readonly #settings: AgentGymSettings;
  readonly #dialect: Dialect;
  readonly #environments = new Set<AgentGymEnvironment>();

  private constructor(settings: AgentGymSettings) {
    this.#settings = settings;
    this.#dialect = dialects[settings.kind];
    this.version = settings.kind;
    this.stepLimit = settings.stepLimit;
    this.panelNames = [...new Set([...Object.keys(settings.panels), ...Object.keys(this.#dialect.panels)])];
  }

  /**
   * Checks the options; the server is first asked by a reset.
   *
   * @throws EnvironmentError `ENVIRONMENT_BAD_OPTIONS`.
   */
  static async open(options: AgentGymOptions): Promise<AgentGymProvider> {
    const settings = parseEnvironmentOptions(agentGymOptionsSchema, options, "AgentGym");
    const provider = new AgentGymProvider(settings);
    if (provider.panelNames.length === 0)
      throw new EnvironmentError(
        "ENVIRONMENT_BAD_OPTIONS",
        `AgentGym: the items of a ${settings.kind} server are not known.`,
        { hint: "List them in `panels`, e.g. `panels: { test: [0, 1, 2] }`." },
      );
    return provider;
  }

  /** Tasks are item numbers. Their content is the server's: the hash is over its kind and the numbers. */
  async panel(name: string): Promise<Panel> {
    const given = this.#settings.panels[name];
    const known = this.#dialect.panels[name];
    if (given === undefined && known === undefined)
      throw new EnvironmentError("ENVIRONMENT_UNKNOWN_PANEL", `AgentGym has no panel ${JSON.stringify(name)}.`, {
        hint: `Panels: ${this.panelNames.join(", ")}.`,
      });
    const [first, end] = known ?? [0, 0];
    const items = given ?? Array.from({ length: end - first }, (_, i) => first + i);
    const tasks = items.map(String);
    const kind: AgentGymKind = this.#settings.kind;
    const hash = createHash("sha256")
      .update([kind, ...tasks].join("\n"))
      .digest("hex");
    return { id: `${this.name}/${kind}-${name}@1`, tasks, hash };
  }

  async create(): Promise<AgentGymEnvironment> {
    const environment = new AgentGymEnvironment(this.#settings, this.#dialect, () =>
      this.#environments.delete(environment),
    );
    this.#environments.add(environment);
    return environment;
  }

  async close(): Promise<void> {
    await Promise.all([...this.#environments].map((environment) => environment.close()));
  }
}
