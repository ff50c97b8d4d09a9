/**
 * The OpenEnv client against a real server process with faults: long, because every fault is a server of its own here.
 */
import { createServer, type Server } from "node:http";
import { createServer as createTcpServer, type Socket, type Server as TcpServer } from "node:net";
import fc from "fast-check";
import { afterEach, describe, expect, it } from "vitest";
import WebSocket, { WebSocketServer } from "ws";
import { type Environment, EnvironmentError } from "../../../src/environments/environment.js";
import { type OpenEnvOptions, OpenEnvProvider } from "../../../src/environments/openenv/provider.js";
import { serveProvider } from "../../../src/environments/openenv/served.js";
import { OpenEnvServer, type OpenEnvServerOptions } from "../../../src/environments/openenv/server.js";
import { ActionRefused, OpenEnvSocket } from "../../../src/environments/openenv/socket.js";
import { ToyEnvironment, toyCounts, toyProvider } from "../toy.js";
import { grid } from "./worlds.js";

const cleanups: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
  expect(toyCounts.open).toBe(0);
});

async function toyServer(options: OpenEnvServerOptions = {}): Promise<OpenEnvServer> {
  const served = await serveProvider(toyProvider(), { expert: true });
  const server = await OpenEnvServer.start(served, { port: 0, ...options });
  cleanups.push(() => server.close());
  return server;
}

async function client(url: string, options: Partial<OpenEnvOptions> = {}): Promise<OpenEnvProvider> {
  const provider = await OpenEnvProvider.open({
    url,
    deadlines: { connectMs: 2000, capacityMs: 0, resetMs: 2000, stepMs: 2000 },
    ...options,
  });
  cleanups.push(() => provider.close());
  return provider;
}

const quick = { connectMs: 2000, capacityMs: 0, resetMs: 200, stepMs: 200 };
const limits = { connectMs: 2000, maxReplyBytes: 1 << 20 };

describe("an OpenEnv client and our server", () => {
  it("play what the environment itself plays", async () => {
    const remote = await (await client((await toyServer()).url)).create();
    const action = fc.constantFrom("add", "add", "add", "sleep 0", "nonsense", "cut", "long 300", "ä\n{");
    await fc.assert(
      fc.asyncProperty(fc.constantFrom("t0", "t7"), fc.array(action, { maxLength: 8 }), async (task, actions) => {
        const direct = new ToyEnvironment();
        try {
          expect(await remote.reset(task)).toEqual(await direct.reset(task));
          for (const text of actions) {
            expect(await remote.admissibleActions()).toEqual(await direct.admissibleActions());
            expect(await remote.expertAction()).toBe("add");
            const expected = await direct.step(text);
            expect(await remote.step(text)).toEqual(expected);
            if (expected.terminated || expected.truncated) {
              await expect(remote.step("add")).rejects.toMatchObject({ code: "ENVIRONMENT_NO_EPISODE" });
              break;
            }
          }
        } finally {
          await direct.close();
        }
      }),
      { numRuns: 60 },
    );
  });

  it("carry faults of the environment with their codes, and go on", async () => {
    const remote = await (await client((await toyServer()).url)).create();
    await expect(remote.reset("nowhere")).rejects.toMatchObject({
      code: "ENVIRONMENT_UNKNOWN_TASK",
      message: "No task nowhere.",
    });
    await remote.reset("t0");
    await expect(remote.step("break")).rejects.toMatchObject({ code: "ENVIRONMENT_LOST", message: "told to break" });
    await expect(remote.step("add")).rejects.toMatchObject({ code: "ENVIRONMENT_NO_EPISODE" });
    await remote.reset("t0");
    await expect(remote.step("throw")).rejects.toMatchObject({
      code: "ENVIRONMENT_FAILED",
      message: expect.stringContaining("told to throw"),
    });
    await remote.reset("t0");
    expect((await remote.step("add")).observation).toBe("The counter shows 1.");
  });

  it("choose tasks by id, by seed, by fields, or in turn", async () => {
    const server = await toyServer();
    const provider = await client(server.url, { panels: { fixed: ["t5"], many: { seeds: 4 } } });
    const remote = await provider.create();
    const task = async (id: string): Promise<string> => (await remote.reset(id)).task;
    expect((await provider.panel("many")).tasks).toEqual(["seed:0", "seed:1", "seed:2", "seed:3"]);
    expect(await task("t5")).toBe("count to 3 in t5");
    expect(await task("seed:4")).toBe("count to 3 in t1");
    expect(await task('{"task_id":"t9"}')).toBe("count to 3 in t9");
    expect(await task("{}")).toBe("count to 3 in t0");
    expect(await task("{}")).toBe("count to 3 in t1");
    await expect(task("{oops")).rejects.toMatchObject({ code: "ENVIRONMENT_UNKNOWN_TASK" });
    await expect(task('{"seed":-1}')).rejects.toMatchObject({ code: "ENVIRONMENT_UNKNOWN_TASK" });
    await expect(provider.panel("none")).rejects.toMatchObject({ code: "ENVIRONMENT_UNKNOWN_PANEL" });
  });

  it("take an environment that is not ours: text from its fields, success from its reward", async () => {
    const server = await OpenEnvServer.start(
      { ...grid, schema: { ...grid.schema, action: { required: ["action"] } } },
      { port: 0 },
    );
    cleanups.push(() => server.close());
    const provider = await client(server.url, { stepLimit: 9 });
    expect(provider.version).toBe("GridWorldEnvironment@1.0.0");
    const remote = await provider.create();
    expect((await remote.reset("seed:1")).observation).toBe("Welcome to Grid World! Goal is at [4, 4].");
    const refused = await remote.step("SIDEWAYS");
    expect(refused).toMatchObject({ accepted: false, reward: 0, terminated: false });
    expect(refused.observation).toContain("Input should be 'UP', 'DOWN', 'LEFT' or 'RIGHT'");
    for (const action of ["DOWN", '{"action":"RIGHT"}', "DOWN", "RIGHT", "DOWN", "RIGHT", "DOWN"])
      expect(await remote.step(action)).toMatchObject({ accepted: true, reward: -0.1, success: false });
    // The total is 1 - 0.7: no success unless the option says that this much is one.
    expect(await remote.step("RIGHT")).toMatchObject({ reward: 1, success: false, terminated: true });

    const easier = await client(server.url, { stepLimit: 2, successReward: 0.25, observationField: "nothing" });
    await remote.close();
    const other = await easier.create();
    await expect(other.reset("seed:1")).rejects.toMatchObject({
      code: "ENVIRONMENT_PROTOCOL",
      message: expect.stringContaining("`nothing`"),
    });
  });

  it("cut an episode at the client's step limit, and take only texts for steps", async () => {
    const remote = await (await client((await toyServer()).url, { stepLimit: 2 })).create();
    await remote.reset("t0");
    await expect(remote.step(null as never)).rejects.toMatchObject({ code: "ENVIRONMENT_BAD_ACTION" });
    expect(await remote.step("sleep 0")).toMatchObject({ truncated: false });
    expect(await remote.step("sleep 0")).toMatchObject({ truncated: true, terminated: false });
    await expect(remote.step("add")).rejects.toMatchObject({ code: "ENVIRONMENT_NO_EPISODE" });
  });

  it("share a server's sessions: wait for one, or say that there is none", async () => {
    const server = await toyServer({ maxSessions: 1 });
    const [first, second] = [await (await client(server.url)).create(), await (await client(server.url)).create()];
    await first.reset("t0");
    await expect(second.reset("t0")).rejects.toMatchObject({ code: "ENVIRONMENT_CAPACITY", retryable: true });
    const patient = await (
      await client(server.url, { deadlines: { ...quick, capacityMs: 5000, resetMs: 2000 } })
    ).create();
    const waiting = patient.reset("t0");
    setTimeout(() => void first.close(), 100);
    expect((await waiting).task).toBe("count to 3 in t0");
    expect(server.activeSessions).toBe(1);
  });

  it("keep a dropped client's place until its step returns", async () => {
    const server = await toyServer({ maxSessions: 1 });
    const first = await (await client(server.url, { deadlines: { ...quick, resetMs: 2000 } })).create();
    await first.reset("t0");
    await expect(first.step("sleep 700")).rejects.toMatchObject({ code: "ENVIRONMENT_TIMEOUT" });
    await expect(first.reset("t0")).rejects.toMatchObject({ code: "ENVIRONMENT_CAPACITY" });
    await expect.poll(() => server.activeSessions, { timeout: 3000 }).toBe(0);
    expect((await first.reset("t0")).task).toBe("count to 3 in t0");
  });

  it("survive a server that goes away and comes back", async () => {
    const server = await toyServer();
    const port = Number(new URL(server.url).port);
    const remote = await (await client(server.url)).create();
    await remote.reset("t0");
    const step = remote.step("sleep 300");
    const lost = expect(step).rejects.toMatchObject({
      code: "ENVIRONMENT_LOST",
      message: expect.stringContaining("shutting down"),
    });
    await new Promise((resolve) => setTimeout(resolve, 50));
    await server.close();
    await lost;
    await expect(remote.reset("t0")).rejects.toMatchObject({ code: "ENVIRONMENT_LOST" });
    await toyServer({ port });
    expect((await remote.reset("t0")).task).toBe("count to 3 in t0");
  });

  it("refuse messages beyond the limit, either way, with a name for it", async () => {
    const server = await toyServer({ maxMessageBytes: 4096 });
    const remote = await (await client(server.url, { maxReplyBytes: 8192 })).create();
    await remote.reset("t0");
    await expect(remote.step("y".repeat(5000))).rejects.toMatchObject({ code: "ENVIRONMENT_PROTOCOL" });
    await remote.reset("t0");
    expect((await remote.step("long 6000")).observation.length).toBe(6000);
    await expect(remote.step("long 10000")).rejects.toMatchObject({ code: "ENVIRONMENT_PROTOCOL" });
  });

  it("end a waiting call when its signal aborts", async () => {
    const remote = await (await client((await toyServer()).url)).create();
    await remote.reset("t0");
    const abort = new AbortController();
    const step = remote.step("sleep 1000", { signal: abort.signal });
    setTimeout(() => abort.abort(new Error("enough")), 20);
    await expect(step).rejects.toThrow("enough");
    await expect(remote.reset("t0", { signal: abort.signal })).rejects.toThrow("enough");
  });

  it("ping each other, and give up on a peer that stops answering", async () => {
    const server = await toyServer({ pingMs: 40 });
    const raw = new WebSocket(`${server.url.replace("http", "ws")}/ws`, { autoPong: false });
    const closed = new Promise<number>((resolve) => raw.once("close", resolve));
    await new Promise((resolve) => raw.once("open", resolve));
    expect(await closed).toBeGreaterThan(1000);
    await expect.poll(() => server.activeSessions).toBe(0);
  });

  it("leave nothing behind after many sessions", async () => {
    const server = await toyServer({ maxSessions: 4 });
    const provider = await client(server.url);
    const sockets = (): number => process.getActiveResourcesInfo().filter((name) => name.startsWith("TCP")).length;
    const before = sockets();
    for (let i = 0; i < 200; i++) {
      const remote = await provider.create();
      await remote.reset("t0");
      await remote.step("add");
      await remote.close();
      await remote.close();
    }
    await expect.poll(() => server.activeSessions).toBe(0);
    await expect.poll(() => sockets()).toBeLessThanOrEqual(before + 2);
    expect(toyCounts.open).toBe(0);
  });
});

describe("an OpenEnv client and a server that fails it", () => {
  /** A server that answers each message with what `answer` gives; null: never. */
  async function faulty(
    answer: (text: string, socket: WebSocket) => string | Buffer | null,
    greeting?: string,
  ): Promise<string> {
    const server = new WebSocketServer({ port: 0, host: "127.0.0.1" });
    server.on("connection", (socket) => {
      socket.on("error", () => undefined);
      if (greeting !== undefined) socket.send(greeting);
      socket.on("message", (data) => {
        const reply = answer(String(data), socket);
        if (reply !== null && socket.readyState === WebSocket.OPEN) socket.send(reply);
      });
    });
    await new Promise((resolve) => server.once("listening", resolve));
    cleanups.push(async () => {
      for (const socket of server.clients) socket.terminate();
      await new Promise((resolve) => server.close(resolve));
    });
    const address = server.address();
    return `ws://127.0.0.1:${typeof address === "object" && address !== null ? address.port : 0}/ws`;
  }

  async function ask(url: string, deadlineMs = 2000): Promise<unknown> {
    const socket = await OpenEnvSocket.connect(url, limits);
    try {
      return await socket.reset({}, deadlineMs);
    } finally {
      await socket.close();
    }
  }

  const good = '{"type":"observation","data":{"observation":{"text":"hi"},"reward":null,"done":false}}';

  it("names a wrong answer", async () => {
    const code = "ENVIRONMENT_PROTOCOL";
    for (const text of [
      "",
      "not json",
      "[]",
      "3",
      "null",
      "{}",
      '{"type":"observation"}',
      '{"type":"observation","data":{}}',
      '{"type":"observation","data":{"observation":"text","reward":1,"done":false}}',
      '{"type":"observation","data":{"observation":{},"reward":"1","done":false}}',
      '{"type":"observation","data":{"observation":{},"reward":1,"done":"no"}}',
      '{"type":"state","data":{}}',
      '{"type":"error"}',
      '{"type":"error","data":{"message":"odd","code":"NEW_CODE"}}',
      '{"type":"error","data":{"message":"\'text\'","code":"SESSION_ERROR"}}',
    ])
      await expect(ask(await faulty(() => text)), text).rejects.toMatchObject({ code });
    await expect(ask(await faulty(() => Buffer.from(good)))).rejects.toMatchObject({ code });
    expect(await ask(await faulty(() => good))).toMatchObject({ done: false, reward: null });
  });

  it("names each error a server sends", async () => {
    const told = async (code: string): Promise<unknown> =>
      ask(await faulty(() => JSON.stringify({ type: "error", data: { message: "m", code } })));
    await expect(told("EXECUTION_ERROR")).rejects.toMatchObject({ code: "ENVIRONMENT_FAILED", retryable: false });
    await expect(told("FACTORY_ERROR")).rejects.toMatchObject({ code: "ENVIRONMENT_FAILED" });
    await expect(told("CAPACITY_REACHED")).rejects.toMatchObject({ code: "ENVIRONMENT_CAPACITY", retryable: true });
    await expect(told("VALIDATION_ERROR")).rejects.toBeInstanceOf(ActionRefused);
  });

  it("reads a refusal that comes unasked, before and after its first message", async () => {
    const refusal = '{"type":"error","data":{"message":"full","code":"CAPACITY_REACHED"}}';
    const url = await faulty(() => null, refusal);
    await expect(ask(url)).rejects.toMatchObject({ code: "ENVIRONMENT_CAPACITY" });
    const socket = await OpenEnvSocket.connect(url, limits);
    await new Promise((resolve) => setTimeout(resolve, 50));
    await expect(socket.reset({}, 500)).rejects.toMatchObject({ code: "ENVIRONMENT_CAPACITY" });
    expect(socket.usable).toBe(false);
  });

  it("refuses answers nobody asked for", async () => {
    const url = await faulty((_, socket) => {
      socket.send(good);
      socket.send(good);
      return good;
    });
    const socket = await OpenEnvSocket.connect(url, limits);
    await socket.reset({}, 2000);
    await new Promise((resolve) => setTimeout(resolve, 50));
    await expect(socket.reset({}, 2000)).rejects.toMatchObject({ code: "ENVIRONMENT_PROTOCOL" });
    await socket.close();
  });

  it("ends a call at its deadline, and does not take the late answer for the next", async () => {
    const url = await faulty((_, socket) => {
      setTimeout(() => socket.readyState === WebSocket.OPEN && socket.send(good), 150);
      return null;
    });
    const socket = await OpenEnvSocket.connect(url, limits);
    await expect(socket.reset({}, 50)).rejects.toMatchObject({ code: "ENVIRONMENT_TIMEOUT" });
    await expect(socket.state(500)).rejects.toMatchObject({ code: "ENVIRONMENT_LOST" });
    await socket.close();
  });

  it("names a connection that closes or drops during a call", async () => {
    for (const end of [
      (socket: WebSocket) => socket.close(1000),
      (socket: WebSocket) => socket.close(1012),
      (socket: WebSocket) => socket.terminate(),
    ])
      await expect(
        ask(
          await faulty((_, socket) => {
            end(socket);
            return null;
          }),
        ),
      ).rejects.toMatchObject({ code: "ENVIRONMENT_LOST" });
  });

  /** A server of bare bytes: does the handshake, then sends what it is given, then hangs up. */
  async function bytes(after: Buffer): Promise<string> {
    const { createHash } = await import("node:crypto");
    const open = new Set<Socket>();
    const server: TcpServer = createTcpServer((socket) => {
      open.add(socket);
      socket.on("error", () => undefined);
      let head = "";
      let shaken = false;
      socket.on("data", (chunk) => {
        if (shaken) {
          socket.write(after);
          setTimeout(() => socket.destroy(), 30);
          return;
        }
        head += String(chunk);
        const key = /sec-websocket-key: (.+)\r\n/i.exec(head)?.[1];
        if (!head.includes("\r\n\r\n") || key === undefined) return;
        shaken = true;
        const accept = createHash("sha1").update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64");
        socket.write(
          "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
            `Sec-WebSocket-Accept: ${accept}\r\n\r\n`,
        );
      });
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    cleanups.push(async () => {
      for (const socket of open) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    });
    const address = server.address();
    return `ws://127.0.0.1:${typeof address === "object" && address !== null ? address.port : 0}/ws`;
  }

  it("names half a message and broken frames", async () => {
    const frame = Buffer.concat([Buffer.from([0x81, good.length]), Buffer.from(good)]);
    expect(good.length).toBeLessThan(126);
    expect(await ask(await bytes(frame))).toMatchObject({ done: false });
    await expect(ask(await bytes(frame.subarray(0, 40)))).rejects.toMatchObject({ code: "ENVIRONMENT_LOST" });
    for (const bad of [
      Buffer.from([0xf1, 0x01, 0x41]), // reserved bits
      Buffer.from([0x81, 0x81, 0, 0, 0, 0, 0x41]), // a server must not mask
      Buffer.from([0x81, 0x02, 0xc3, 0x28]), // no UTF-8
      Buffer.from([0x80, 0x00]), // continues nothing
      Buffer.from([0x81, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), // absurd length
    ])
      await expect(ask(await bytes(bad))).rejects.toMatchObject({ code: "ENVIRONMENT_PROTOCOL" });
  });

  it("names a server that refuses, is absent, is silent, or is something else", async () => {
    const plain = async (status: number, body: string): Promise<Server> => {
      const server = createServer((_, response) => response.writeHead(status).end(body));
      server.on("upgrade", (_, socket) => socket.end(`HTTP/1.1 ${status} X\r\ncontent-length: 0\r\n\r\n`));
      await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
      cleanups.push(async () => {
        server.closeAllConnections();
        await new Promise((resolve) => server.close(resolve));
      });
      return server;
    };
    const portOf = (server: Server | TcpServer): number => {
      const address = server.address();
      return typeof address === "object" && address !== null ? address.port : 0;
    };
    for (const [status, code] of [
      [503, "ENVIRONMENT_LOST"],
      [403, "ENVIRONMENT_PROTOCOL"],
      [200, "ENVIRONMENT_PROTOCOL"],
    ] as const) {
      const port = portOf(await plain(status, "{}"));
      await expect(ask(`ws://127.0.0.1:${port}/ws`)).rejects.toMatchObject({ code });
      if (status !== 200)
        await expect(OpenEnvProvider.open({ url: `http://127.0.0.1:${port}` })).rejects.toMatchObject({ code });
    }
    const garbage = portOf(await plain(200, "<html>"));
    await expect(OpenEnvProvider.open({ url: `http://127.0.0.1:${garbage}` })).rejects.toMatchObject({
      code: "ENVIRONMENT_PROTOCOL",
    });

    const held = new Set<Socket>();
    const silent = createTcpServer((socket) => held.add(socket));
    await new Promise<void>((resolve) => silent.listen(0, "127.0.0.1", resolve));
    const port = portOf(silent);
    await expect(
      OpenEnvSocket.connect(`ws://127.0.0.1:${port}/ws`, { ...limits, connectMs: 80 }),
    ).rejects.toMatchObject({ code: "ENVIRONMENT_TIMEOUT" });
    await expect(
      OpenEnvProvider.open({ url: `http://127.0.0.1:${port}`, deadlines: { connectMs: 80 } }),
    ).rejects.toMatchObject({ code: "ENVIRONMENT_TIMEOUT" });
    for (const socket of held) socket.destroy();
    await new Promise((resolve) => silent.close(resolve));
    await expect(ask(`ws://127.0.0.1:${port}/ws`)).rejects.toMatchObject({ code: "ENVIRONMENT_LOST" });
    await expect(OpenEnvProvider.open({ url: `http://127.0.0.1:${port}` })).rejects.toMatchObject({
      code: "ENVIRONMENT_LOST",
    });
  });

  it("refuses options it does not know", async () => {
    const twice = { url: "http://x", panels: { test: ["a", "b", "a"] } };
    for (const bad of [{ url: "nowhere" }, { url: "ftp://x" }, { url: "http://x", uri: 1 }, twice, {}])
      await expect(OpenEnvProvider.open(bad as never)).rejects.toMatchObject({ code: "ENVIRONMENT_BAD_OPTIONS" });
  });

  /** Messages near the protocol, so that some are valid. */
  const noise = fc.oneof(
    fc.constant(good),
    fc.json({ maxDepth: 2 }),
    fc.string({ maxLength: 30 }),
    fc
      .record(
        {
          type: fc.oneof(fc.constantFrom("observation", "state", "error", "reset", "step", "mcp"), fc.jsonValue()),
          data: fc.oneof(
            fc.record(
              {
                observation: fc.oneof(fc.dictionary(fc.string(), fc.jsonValue()), fc.jsonValue()),
                reward: fc.oneof(fc.double(), fc.jsonValue()),
                done: fc.oneof(fc.boolean(), fc.jsonValue()),
                message: fc.string(),
                code: fc.constantFrom("EXECUTION_ERROR", "VALIDATION_ERROR", "CAPACITY_REACHED", "X"),
              },
              { requiredKeys: [] },
            ),
            fc.jsonValue(),
          ),
        },
        { requiredKeys: [] },
      )
      .map((value) => JSON.stringify(value)),
  );

  it("ends each of 10,000 random answers in a value or a typed error", { timeout: 120_000 }, async () => {
    let text = "";
    const url = await faulty(() => text);
    let socket = await OpenEnvSocket.connect(url, limits);
    const counts = { valid: 0, refused: 0, typed: 0 };
    for (const message of fc.sample(noise, { numRuns: 10_000, seed: 7 })) {
      text = message;
      if (!socket.usable) socket = await OpenEnvSocket.connect(url, limits);
      try {
        const outcome = await socket.reset({}, 5000);
        expect(typeof outcome.done).toBe("boolean");
        counts.valid++;
      } catch (error) {
        if (error instanceof ActionRefused) counts.refused++;
        else if (error instanceof EnvironmentError) counts.typed++;
        else throw error;
      }
    }
    await socket.close();
    expect(counts.valid).toBeGreaterThan(1000);
    expect(counts.typed).toBeGreaterThan(1000);
  });

  it("lets our server answer each of 10,000 random messages, or close", { timeout: 120_000 }, async () => {
    const server = await toyServer({ maxSessions: 3 });
    const url = `${server.url.replace("http", "ws")}/ws`;
    let raw: WebSocket | null = null;
    let answered = 0;
    let closed = 0;
    for (const message of fc.sample(noise, { numRuns: 10_000, seed: 11 })) {
      if (raw === null) {
        raw = new WebSocket(url);
        raw.on("error", () => undefined);
        await new Promise((resolve) => raw?.once("open", resolve));
      }
      const socket: WebSocket = raw;
      const outcome = await new Promise<string>((resolve) => {
        socket.once("message", (data) => resolve(String(data)));
        socket.once("close", () => resolve("closed"));
        socket.send(message);
      });
      socket.removeAllListeners("message");
      socket.removeAllListeners("close");
      if (outcome === "closed") closed++;
      else {
        const { type, data } = JSON.parse(outcome) as { type: string; data: { code?: string } };
        expect(["observation", "state", "error", "mcp"]).toContain(type);
        answered++;
        // Followed by the server's close.
        if (data.code !== "SESSION_ERROR" && data.code !== "CAPACITY_REACHED") continue;
      }
      raw.terminate();
      raw = null;
      // The place is free a moment after the drop.
      await expect.poll(() => server.activeSessions, { interval: 1 }).toBe(0);
    }
    raw?.terminate();
    expect(answered).toBeGreaterThan(5000);
    expect(answered + closed).toBe(10_000);
    const remote: Environment = await (await client(server.url)).create();
    expect((await remote.reset("t0")).task).toBe("count to 3 in t0");
  });
});
