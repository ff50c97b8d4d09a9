/**
 * The recorded exchanges of openenv 0.10.0, played against our server: what the client sent is sent again, and what
 * the original answered has to come back.
 *
 * Left out because they are the recorded environments' own or Python's: tools (`echo_*`), TextArena, the web pages,
 * the page `/docs`, schemas, and one fault of a Python call signature. The Python client's own behavior is no server
 * matter.
 */
import { existsSync, readFileSync } from "node:fs";
import { request as httpRequest } from "node:http";
import { resolve } from "node:path";
import { describe, expect, it } from "vitest";
import WebSocket from "ws";
import type { ServedEnvironment } from "../../../src/environments/openenv/served.js";
import { OpenEnvServer } from "../../../src/environments/openenv/server.js";
import { brokenProbe, grid, probe } from "./worlds.js";

const wire = resolve(import.meta.dirname, "../../../../shared/envs/openenv/wire.jsonl");
if (!existsSync(wire)) console.warn(`OpenEnv recordings are skipped: there is no ${wire}.`);

interface Row {
  readonly scenario: string;
  readonly server: string;
  readonly conn: number | null;
  readonly dir: "c2s" | "s2c" | null;
  readonly kind: string;
  readonly line?: string;
  readonly status?: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly payload?: string;
  readonly code?: number;
  readonly reason?: string;
  readonly frames?: number;
}

const rows = existsSync(wire)
  ? readFileSync(wire, "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as Row)
  : [];

const UUID = /[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g;
const normal = (text: string): unknown => {
  const masked = text.replace(UUID, "<uuid>");
  try {
    return JSON.parse(masked);
  } catch {
    return masked;
  }
};

/** An extension header whose parameters are in alphabetical order. */
const extensions = (header: string | undefined): string => header?.split("; ").sort().join("; ") ?? "plain";

/** What one recorded connection is here. */
class Client {
  readonly #socket: WebSocket;
  readonly #events: string[] = [];
  #wake: () => void = () => undefined;

  constructor(url: string, headers: Readonly<Record<string, string>>) {
    const protocol = headers["sec-websocket-protocol"];
    this.#socket = new WebSocket(url, {
      perMessageDeflate: headers["sec-websocket-extensions"] !== undefined,
      headers: {
        ...(headers.origin === undefined ? {} : { origin: headers.origin }),
        // As a bare header: the library would insist on an echo, which the server does not send.
        ...(protocol === undefined ? {} : { "sec-websocket-protocol": protocol }),
      },
    });
    const push = (event: string): void => {
      this.#events.push(event);
      this.#wake();
    };
    this.#socket.on("upgrade", (response) => push(`101 ${extensions(response.headers["sec-websocket-extensions"])}`));
    this.#socket.on("unexpected-response", (_, response) => push(`refused ${response.statusCode}`));
    this.#socket.on("message", (data) => push(`text ${String(data)}`));
    this.#socket.on("pong", (data) => push(`pong ${data.toString("hex")}`));
    this.#socket.on("close", (code, reason) => push(`close ${code} ${String(reason)}`));
    this.#socket.on("error", () => undefined);
  }

  async next(): Promise<string> {
    const deadline = setTimeout(() => {
      this.#events.push("nothing within 5 s");
      this.#wake();
    }, 5000);
    while (this.#events.length === 0)
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    clearTimeout(deadline);
    return this.#events.shift() ?? "";
  }

  get opened(): boolean {
    return this.#socket.readyState === WebSocket.OPEN;
  }

  text(payload: string, frames: number): void {
    const size = Math.ceil(payload.length / frames);
    for (let i = 0; i < frames; i++)
      this.#socket.send(payload.slice(i * size, (i + 1) * size), { fin: i === frames - 1 }, () => undefined);
  }

  binary(payload: string): void {
    this.#socket.send(Buffer.from(payload), { binary: true }, () => undefined);
  }

  ping(hex: string): void {
    this.#socket.ping(Buffer.from(hex, "hex"));
  }

  close(code: number, reason: string): void {
    this.#socket.close(code, reason);
  }

  drop(): void {
    this.#socket.terminate();
  }
}

interface Http {
  readonly status: number;
  readonly allow: string | undefined;
  readonly type: string | undefined;
  readonly body: string;
}

function http(base: string, row: Row): Promise<Http> {
  const [method = "GET", path = "/"] = (row.line ?? "").split(" ");
  return new Promise((done, failed) => {
    const { host: _, ...headers } = row.headers ?? {};
    const request = httpRequest(base + path, { method, headers, agent: false }, (response) => {
      let body = "";
      response.setEncoding("utf8").on("data", (text: string) => {
        body += text;
      });
      response.on("end", () =>
        done({
          status: response.statusCode ?? 0,
          allow: response.headers.allow,
          type: response.headers["content-type"],
          body,
        }),
      );
    });
    request.on("error", failed);
    request.end(row.payload ?? "");
  });
}

interface Scenario {
  readonly environment: ServedEnvironment;
  readonly maxSessions: number;
  /** Rows left out, by a part of their payload or request line; their answers too. */
  readonly without?: readonly string[];
}

const GRID = { environment: grid, maxSessions: 1 };
const PROBE = { environment: probe, maxSessions: 2 };
const SCENARIOS: Readonly<Record<string, Scenario>> = {
  grid_episode_python_client: GRID,
  grid_generic_client: GRID,
  grid_step_before_reset: GRID,
  grid_bad_actions: GRID,
  grid_capacity_second_session: GRID,
  grid_capacity_python_client: GRID,
  grid_http_routes: { ...GRID, without: ["/docs", "GET /schema"] },
  probe_values: PROBE,
  // A fault of the call of a Python method that takes `self`.
  probe_reset_variants: { ...PROBE, without: ['"self"'] },
  probe_malformed_json: PROBE,
  probe_json_not_object: PROBE,
  probe_unknown_type: PROBE,
  probe_wrong_field_types: PROBE,
  probe_step_exception: PROBE,
  probe_binary_frame: PROBE,
  probe_mcp_on_plain_env: PROBE,
  probe_pipelined: PROBE,
  probe_fragmented_message: PROBE,
  probe_no_compression: PROBE,
  probe_extra_handshake: PROBE,
  probe_client_close_codes: PROBE,
  probe_ping_pong: PROBE,
  probe_disconnect_mid_episode: PROBE,
  // The socket /mcp is for tools, which no environment of ours has.
  probe_capacity_2: { ...PROBE, without: ["GET /mcp"] },
  probe_factory_error: { environment: brokenProbe, maxSessions: 2 },
  // The environment's own reading of `timeout_s` and of unknown step keys.
  probe_http_routes: { ...PROBE, without: ["GET /schema", "timeout_s"] },
  probe_http_mcp_session_and_ws_attach: PROBE,
};

async function play(name: string, scenario: Scenario): Promise<number> {
  const server = await OpenEnvServer.start(scenario.environment, { port: 0, maxSessions: scenario.maxSessions });
  const clients = new Map<number, Client>();
  const answers = new Map<number, Promise<Http>>();
  const closed = new Set<number>();
  // Ids of sessions are the server's choice: recorded ones stand for those given out now.
  const ids = new Map<string, string>();
  const translate = (text: string): string => text.replace(UUID, (id) => ids.get(id) ?? id);
  const skipped = (row: Row): boolean =>
    (scenario.without ?? []).some((part) => (row.payload ?? "").includes(part) || (row.line ?? "").includes(part));
  let compared = 0;
  const skipAnswer = new Map<number, number>();
  const skip = (conn: number): void => {
    skipAnswer.set(conn, (skipAnswer.get(conn) ?? 0) + 1);
  };
  try {
    for (const row of rows.filter((r) => r.scenario === name)) {
      const conn = row.conn ?? -1;
      const client = clients.get(conn);
      const where = `${name}, connection ${conn}, ${row.kind} ${(row.line ?? row.payload ?? "").slice(0, 120)}`;
      if (row.dir === "c2s") {
        if (skipped(row)) {
          skip(conn);
          continue;
        }
        const payload = translate(row.payload ?? "");
        if (row.kind === "ws_open_request") {
          const path = translate((row.line ?? "").split(" ")[1] ?? "");
          clients.set(conn, new Client(server.url.replace("http", "ws") + path, row.headers ?? {}));
        } else if (row.kind === "ws_text") client?.text(payload, row.frames ?? 1);
        else if (row.kind === "ws_binary") client?.binary(payload);
        else if (row.kind === "ws_ping") client?.ping(payload);
        else if (row.kind === "ws_close") {
          if (!closed.has(conn)) client?.close(row.code ?? 1000, row.reason ?? "");
          closed.add(conn);
        } else if (row.kind === "tcp_fin" && client !== undefined && !closed.has(conn)) {
          client.drop();
          closed.add(conn);
          await expect.poll(() => server.activeSessions).toBe(0);
        } else if (row.kind === "http_request")
          answers.set(conn, http(server.url, { ...row, payload, line: translate(row.line ?? "") }));
        continue;
      }
      if (row.dir !== "s2c" || ["tcp_fin", "tcp_reset"].includes(row.kind)) continue;
      if ((skipAnswer.get(conn) ?? 0) > 0) {
        // Every answer of a connection that was not made; one answer of a message that was not sent.
        if (client !== undefined) skipAnswer.set(conn, (skipAnswer.get(conn) ?? 0) - 1);
        continue;
      }
      compared++;
      if (row.kind === "http_response" && answers.has(conn)) {
        const got = await answers.get(conn);
        expect(got?.status, where).toBe(row.status);
        expect(got?.allow, where).toBe(row.headers?.allow);
        expect(got?.type, where).toBe(row.headers?.["content-type"]);
        const created = /"session_id":"([^"]+)"/;
        const [was, is] = [created.exec(row.payload ?? "")?.[1], created.exec(got?.body ?? "")?.[1]];
        if (was !== undefined && is !== undefined && !ids.has(was)) ids.set(was, is);
        expect(normal(got?.body ?? ""), where).toEqual(normal(row.payload ?? ""));
        continue;
      }
      const event = (await client?.next()) ?? "no connection";
      if (row.kind === "ws_open_response")
        expect(event, where).toBe(`101 ${extensions(row.headers?.["sec-websocket-extensions"])}`);
      else if (row.kind === "http_response") expect(event, where).toBe(`refused ${row.status}`);
      else if (row.kind === "ws_pong") expect(event, where).toBe(`pong ${row.payload ?? ""}`);
      else if (row.kind === "ws_close") {
        expect(event, where).toBe(`close ${row.code} ${row.reason ?? ""}`);
        closed.add(conn);
      } else {
        expect(event.slice(0, 5), where).toBe("text ");
        expect(normal(event.slice(5)), where).toEqual(normal(row.payload ?? ""));
      }
    }
    return compared;
  } finally {
    for (const client of clients.values()) client.drop();
    await server.close();
    expect(server.activeSessions).toBe(0);
  }
}

describe.skipIf(rows.length === 0)("our OpenEnv server answers as the original did", () => {
  for (const [name, scenario] of Object.entries(SCENARIOS))
    it(name, async () => {
      expect(await play(name, scenario)).toBeGreaterThan(0);
    });
});
