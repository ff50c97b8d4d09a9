/**
 * Environments of ours behind AgentGym's HTTP calls, for trainers that speak them.
 *
 * Shapes, error texts and quirks are the original servers', recorded for ScienceWorld and read in the sources for
 * ALFWorld and WebShop. One is left out on purpose: calls on one number are answered one after the other.
 */
import { createServer, type Server } from "node:http";
import { z } from "zod";
import { EnvironmentError, type EnvironmentProvider } from "../environment.js";
import { parseEnvironmentOptions } from "../options.js";
import { respond, targetOf } from "../pydantic/http.js";
import { DATA_INDEX_COUNT, dataIndexTask } from "../scienceworld/tasks.js";
import { type AgentGymKind, agentGymKinds } from "./dialects.js";
import { Rooms } from "./rooms.js";
import { routesOf } from "./server-routes.js";

export const agentGymServerOptionsSchema = z.strictObject({
  /** Whose calls it answers. */
  kind: z.enum(agentGymKinds),
  /** Address to listen on. There is no authentication: anything but this machine is a decision. */
  host: z.string().default("127.0.0.1"),
  /** 0 for any free port. */
  port: z.int().min(0).max(65535).default(36001),
  /** Panel whose tasks are the items; for ScienceWorld by default the original's 4,639, else the first panel. */
  panel: z.string().min(1).nullable().default(null),
  /** Environments at once; null: as many as are made. Beyond it status 503. */
  maxEnvironments: z.int().min(1).nullable().default(null),
});

export type AgentGymServerOptions = z.input<typeof agentGymServerOptionsSchema>;

export class AgentGymServer {
  readonly #http: Server;
  readonly #rooms: Rooms;

  private constructor(http: Server, rooms: Rooms) {
    this.#http = http;
    this.#rooms = rooms;
  }

  /**
   * Starts serving.
   *
   * @throws EnvironmentError `ENVIRONMENT_BAD_OPTIONS`, also for an address that cannot be listened on.
   */
  static async start(provider: EnvironmentProvider, options: AgentGymServerOptions): Promise<AgentGymServer> {
    const settings = parseEnvironmentOptions(agentGymServerOptionsSchema, options, "AgentGym server");
    const { kind, host, port, panel, maxEnvironments } = settings;
    const rooms = new Rooms(provider, await itemsOf(provider, kind, panel), maxEnvironments);
    const routes = routesOf(kind, rooms);
    const http = createServer((request, response) => {
      void respond(response, () => {
        const { path, query } = targetOf(request);
        return routes(request, path, query);
      });
    });
    // As the original: an idle connection is closed after five seconds, without a word.
    http.keepAliveTimeout = 5000;
    http.on("clientError", (_, socket) => socket.destroy());
    try {
      await new Promise<void>((resolve, reject) => {
        http.once("error", reject);
        http.listen(port, host, resolve);
      });
    } catch (cause) {
      throw new EnvironmentError("ENVIRONMENT_BAD_OPTIONS", `AgentGym server: cannot listen on ${host}:${port}.`, {
        hint: "Choose another `port`, or 0 for any.",
        cause,
      });
    }
    return new AgentGymServer(http, rooms);
  }

  /** Address as a client wants it, e.g. `http://127.0.0.1:36001`. */
  get url(): string {
    const address = this.#http.address();
    if (address === null || typeof address === "string") return "";
    const host = address.family === "IPv6" ? `[${address.address}]` : address.address;
    return `http://${host}:${address.port}`;
  }

  /** Environments that are open now. */
  get openEnvironments(): number {
    return this.#rooms.open;
  }

  /** Answers what is being asked, then ends, with all environments. Safe to call twice. */
  async close(): Promise<void> {
    const stopped = new Promise<void>((resolve) => this.#http.close(() => resolve()));
    this.#http.closeIdleConnections();
    await stopped;
    await this.#rooms.close();
  }
}

/** Task ids by item number. */
async function itemsOf(
  provider: EnvironmentProvider,
  kind: AgentGymKind,
  panel: string | null,
): Promise<readonly string[]> {
  if (panel === null && kind === "sciworld" && provider.name === "scienceworld")
    return Array.from({ length: DATA_INDEX_COUNT }, (_, i) => dataIndexTask(i) ?? "");
  return (await provider.panel(panel ?? provider.panelNames[0] ?? "")).tasks;
}
