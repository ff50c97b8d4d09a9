/**
 * An OpenEnv server: any environment of ours for other trainers, over the socket `/ws` and the HTTP routes.
 *
 * One socket is one session is one environment. Messages of a socket are answered strictly in order; keep-alive pings
 * are answered meanwhile. A client that drops keeps its place until its running step returns.
 */
import { createServer, type IncomingMessage, type Server } from "node:http";
import type { Duplex } from "node:stream";
import { type WebSocket, WebSocketServer } from "ws";
import { z } from "zod";
import { EnvironmentError } from "../environment.js";
import { parseEnvironmentOptions } from "../options.js";
import { targetOf } from "../pydantic/http.js";
import { answer, errorReply, type Reply, refusal } from "./messages.js";
import { handleHttp } from "./routes.js";
import type { ServedEnvironment } from "./served.js";
import { type HeldSession, Sessions } from "./sessions.js";

export const openEnvServerOptionsSchema = z.strictObject({
  /** Address to listen on. There is no authentication: anything but this machine is a decision. */
  host: z.string().default("127.0.0.1"),
  /** 0 for any free port. */
  port: z.int().min(0).max(65535).default(8000),
  /** Sessions at once; each holds an environment. */
  maxSessions: z.int().min(1).default(1),
  /** Idle sessions made over HTTP, without a socket, are ended after so many milliseconds; null: never. */
  sessionIdleMs: z.int().min(1).nullable().default(null),
  /** Longest message taken, in bytes. */
  maxMessageBytes: z
    .int()
    .min(1024)
    .default(16 * 1024 * 1024),
  /** Time between keep-alive pings, and longest wait for each answer, in milliseconds. */
  pingMs: z.int().min(10).default(20_000),
});

export type OpenEnvServerOptions = z.input<typeof openEnvServerOptionsSchema>;

/** Close code of a server that goes away. */
const SERVICE_RESTART = 1012;
/** Close code of a peer that stopped answering pings. */
const INTERNAL_ERROR = 1011;

export class OpenEnvServer {
  readonly #environment: ServedEnvironment;
  readonly #options: z.output<typeof openEnvServerOptionsSchema>;
  readonly #sessions: Sessions;
  readonly #http: Server;
  readonly #sockets: WebSocketServer;

  private constructor(environment: ServedEnvironment, options: z.output<typeof openEnvServerOptionsSchema>) {
    this.#environment = environment;
    this.#options = options;
    this.#sessions = new Sessions(environment, options.maxSessions, options.sessionIdleMs);
    this.#http = createServer((request, response) => {
      void handleHttp(request, response, environment, this.#sessions);
    });
    this.#sockets = new WebSocketServer({
      noServer: true,
      maxPayload: options.maxMessageBytes,
      perMessageDeflate: { serverMaxWindowBits: 12, clientMaxWindowBits: 12 },
      // The original echoes no subprotocol.
      handleProtocols: () => false,
    });
    this.#http.on("upgrade", (request, socket, head) => this.#upgrade(request, socket, head));
  }

  /**
   * Starts serving.
   *
   * @throws EnvironmentError `ENVIRONMENT_BAD_OPTIONS`, also for an address that cannot be listened on.
   */
  static async start(environment: ServedEnvironment, options: OpenEnvServerOptions = {}): Promise<OpenEnvServer> {
    const settings = parseEnvironmentOptions(openEnvServerOptionsSchema, options, "OpenEnv server");
    const server = new OpenEnvServer(environment, settings);
    const { host, port } = settings;
    try {
      await new Promise<void>((resolve, reject) => {
        server.#http.once("error", reject);
        server.#http.listen(port, host, resolve);
      });
    } catch (cause) {
      throw new EnvironmentError("ENVIRONMENT_BAD_OPTIONS", `OpenEnv server: cannot listen on ${host}:${port}.`, {
        hint: "Choose another `port`, or 0 for any.",
        cause,
      });
    }
    return server;
  }

  /** Address as a client wants it, e.g. `http://127.0.0.1:8000`. */
  get url(): string {
    const address = this.#http.address();
    if (address === null || typeof address === "string") return "";
    const host = address.family === "IPv6" ? `[${address.address}]` : address.address;
    return `http://${host}:${address.port}`;
  }

  /** Sessions that hold an environment now. */
  get activeSessions(): number {
    return this.#sessions.active;
  }

  /** Closes every socket with 1012 at once, also those in a step, then waits for running steps. Safe to call twice. */
  async close(): Promise<void> {
    const stopped = new Promise<void>((resolve) => this.#http.close(() => resolve()));
    for (const socket of this.#sockets.clients) socket.close(SERVICE_RESTART);
    this.#http.closeAllConnections();
    await this.#sessions.close();
    for (const socket of this.#sockets.clients) socket.terminate();
    await stopped;
  }

  #upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    // A peer that is gone before the handshake is over.
    socket.on("error", () => socket.destroy());
    const { path, query } = targetOf(request);
    if (path !== "/ws") {
      socket.end(
        "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n" +
          "content-type: text/plain; charset=utf-8\r\nconnection: close\r\n\r\n",
      );
      return;
    }
    this.#sockets.handleUpgrade(request, socket, head, (client) => {
      void this.#serve(client, query.get("session_id"));
    });
  }

  /** One client, from the handshake to the end. Never throws. */
  async #serve(client: WebSocket, sessionId: string | null): Promise<void> {
    // Messages that come while the session is opened, or while another is answered, wait here.
    const inbox: { data: Buffer; binary: boolean }[] = [];
    let wake: () => void = () => undefined;
    let open = true;
    client.on("message", (data, binary) => {
      inbox.push({ data: data as Buffer, binary });
      wake();
    });
    client.on("close", () => {
      open = false;
      wake();
    });
    // Too long a message, a broken frame: the library closes the socket with the code that says so.
    client.on("error", () => undefined);
    const stopPings = keepAlive(client, this.#options.pingMs);

    let session: HeldSession | null = null;
    try {
      session = await this.#open(sessionId);
      while (open) {
        const message = inbox.shift();
        if (message === undefined) {
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
          continue;
        }
        const reply = message.binary
          ? errorReply("SESSION_ERROR", "'text'", {}, true)
          : await answer(message.data.toString("utf8"), session, this.#environment);
        if (!open) break;
        deliver(client, reply);
        if (reply.close) break;
      }
    } catch (error) {
      deliver(client, refusal(error));
    } finally {
      stopPings();
      if (session !== null) {
        session.attached = false;
        // A session made over HTTP outlives its socket.
        if (sessionId === null) this.#sessions.end(session.id);
      }
    }
  }

  async #open(sessionId: string | null): Promise<HeldSession> {
    if (sessionId === null) {
      const session = await this.#sessions.open();
      session.attached = true;
      return session;
    }
    const session = this.#sessions.find(sessionId);
    if (session === undefined) throw new Error(`Unknown session_id: ${sessionId}`);
    if (session.attached) throw new Error(`Session ${sessionId} already has a connection`);
    session.attached = true;
    return session;
  }
}

function deliver(client: WebSocket, reply: Reply): void {
  if (reply.text !== null) client.send(reply.text, () => undefined);
  if (reply.close) client.close(1000);
}

/** Pings a peer and gives up on one that stops answering. */
function keepAlive(client: WebSocket, pingMs: number): () => void {
  let answered = true;
  client.on("pong", () => {
    answered = true;
  });
  const timer = setInterval(() => {
    if (!answered) {
      client.close(INTERNAL_ERROR, "keepalive ping timeout");
      client.terminate();
      return;
    }
    answered = false;
    client.ping(() => undefined);
  }, pingMs);
  client.once("close", () => clearInterval(timer));
  return () => clearInterval(timer);
}
