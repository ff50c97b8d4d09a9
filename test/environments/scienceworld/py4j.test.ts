import { readFileSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import fc from "fast-check";
import { afterEach, describe, expect, it } from "vitest";
import { EnvironmentError } from "../../../src/environments/environment.js";
import { Py4jConnection } from "../../../src/environments/scienceworld/connection.js";
import {
  callRequest,
  constructRequest,
  escapeText,
  JavaReference,
  parseReply,
  releaseRequest,
  unescapeText,
} from "../../../src/environments/scienceworld/py4j.js";
import { recordings } from "./live.js";

const wait = { deadlineMs: 2000 };
const servers: Server[] = [];
const sockets: Socket[] = [];

afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  await Promise.all(servers.splice(0).map((server) => new Promise((resolve) => server.close(resolve))));
});

/** A server that answers every whole request with what `answer` writes. */
async function serve(answer: (request: string, socket: Socket) => void): Promise<number> {
  const server = createServer((socket) => {
    sockets.push(socket);
    socket.on("error", () => undefined);
    let text = "";
    socket.setEncoding("utf8").on("data", (chunk: string) => {
      text += chunk;
      for (let end = text.indexOf("\ne\n"); end !== -1; end = text.indexOf("\ne\n")) {
        const request = text.slice(0, end + 3);
        text = text.slice(end + 3);
        answer(request, socket);
      }
    });
  });
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("no port");
  return address.port;
}

/** Calls a method of a server that answers with `bytes`. */
async function callAnsweredBy(bytes: string): Promise<unknown> {
  const connection = await Py4jConnection.connect(await serve((_, socket) => socket.write(bytes)), wait);
  try {
    return await connection.call(new JavaReference("o0"), "step", ["look"], wait);
  } finally {
    connection.close();
  }
}

describe("the py4j text protocol", () => {
  it("carries any text in one line, there and back", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), (text) => {
        expect(escapeText(text)).not.toMatch(/[\r\n]/);
        expect(unescapeText(escapeText(text))).toBe(text);
      }),
    );
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom("\\", "\n", "\r", "n", "r", "x") }), (text) => {
        expect(unescapeText(escapeText(text))).toBe(text);
      }),
    );
  });

  it("reads each kind of value", () => {
    const value = (line: string): unknown => {
      const reply = parseReply(line);
      return reply.kind === "value" ? reply.value : reply;
    };
    expect(value("!ysa\\nb\\\\c")).toBe("a\nb\\c");
    expect(value("!ys")).toBe("");
    expect(value("!yi-12")).toBe(-12);
    expect(value("!yL9007199254740993")).toBe(9007199254740993n);
    expect(value("!yd0.8333333333333333")).toBe(0.8333333333333333);
    expect(value("!yd1.0E-5")).toBe(1e-5);
    expect(value("!ydNaN")).toBeNaN();
    expect(value("!ybtrue")).toBe(true);
    expect(value("!yn")).toBe(null);
    expect(value("!yv")).toBe(undefined);
    expect(value("!ylo12")).toEqual(new JavaReference("o12"));
    expect(parseReply("!xsno such method\\n\tat")).toEqual({
      kind: "exception",
      message: "no such method\n\tat",
      reference: null,
    });
    expect(parseReply("!xro5")).toMatchObject({ kind: "exception", reference: { id: "o5" } });
  });

  it("answers any line with a value or a typed error", () => {
    const alphabet = fc.constantFrom(..."!yxzsiLdbnvrlahtgo01.5eE-\\trufals \u00e9");
    fc.assert(
      fc.property(fc.string({ unit: alphabet }), fc.boolean(), (text, prefixed) => {
        try {
          parseReply(prefixed ? `!y${text}` : text);
        } catch (error) {
          expect(error).toBeInstanceOf(EnvironmentError);
          expect(error).toMatchObject({ code: "ENVIRONMENT_PROTOCOL" });
        }
      }),
      { numRuns: 5000 },
    );
  });

  it("refuses numbers a Java int cannot hold", () => {
    for (const bad of [1.5, 2 ** 31, Number.NaN])
      expect(() => callRequest("java.lang.Math", "abs", [bad])).toThrow(/32-bit integer/);
    expect(callRequest("java.lang.Math", "abs", [-(2 ** 31)])).toBe("c\nz:java.lang.Math\nabs\ni-2147483648\ne\n");
  });
});

describe.skipIf(recordings === null)("the recorded exchange", () => {
  interface Pair {
    readonly note: string;
    readonly request: string;
    readonly reply: string;
  }
  const pairs = (recordings === null ? "" : readFileSync(join(recordings, "py4j_wire_sample.jsonl"), "utf8"))
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Pair);

  /** Takes a recorded request apart, so that our encoder has to put it together again. */
  async function send(connection: Py4jConnection, request: string): Promise<unknown> {
    const [command = "", ...rest] = request.split("\n");
    const parts = rest.slice(0, -2);
    if (command === "i") return connection.construct(parts[0] ?? "", wait);
    if (command === "m") return connection.release(new JavaReference(parts[1] ?? ""), wait);
    const [target = "", method = "", ...args] = parts;
    const decoded = args.map((arg) => {
      const text = arg.slice(1);
      if (arg[0] === "i") return Number(text);
      if (arg[0] === "b") return text === "True";
      return arg[0] === "r" ? new JavaReference(text) : unescapeText(text);
    });
    return connection.call(
      target.startsWith("z:") ? target.slice(2) : new JavaReference(target),
      method,
      decoded,
      wait,
    );
  }

  it("plays from the first to the last pair, byte for byte", async () => {
    let next = 0;
    const port = await serve((request, socket) => {
      const pair = pairs[next++];
      socket.write(request === pair?.request ? pair.reply : "!xswrong request\n");
    });
    const connection = await Py4jConnection.connect(port, wait);
    for (const { note, request, reply } of pairs) {
      if (reply.startsWith("!x")) {
        const message = JSON.stringify(reply.slice(3, 40)).slice(1, -1);
        await expect(send(connection, request), note).rejects.toMatchObject({
          code: "ENVIRONMENT_FAILED",
          message: expect.stringContaining(message),
        });
        continue;
      }
      const parsed = parseReply(reply.slice(0, -1));
      expect(await send(connection, request), note).toEqual(parsed.kind === "value" ? parsed.value : null);
    }
    expect(next).toBe(pairs.length);
    expect(pairs.length).toBe(41);
    connection.close();
  });

  it("is what our encoders write", () => {
    expect(pairs[0]?.request).toBe(constructRequest("scienceworld.runtime.pythonapi.PythonInterface"));
    expect(pairs[4]?.request).toBe(callRequest("java.lang.String", "join", ["\n", new JavaReference("o1")]));
    expect(pairs[5]?.request).toBe(releaseRequest(new JavaReference("o1")));
    expect(pairs[7]?.request).toBe(
      callRequest(new JavaReference("o0"), "load", ["lifespan-longest-lived", 0, "easy", true]),
    );
  });
});

describe("a connection that goes wrong", () => {
  it("ends a call without an answer at its deadline, and stays closed", async () => {
    const connection = await Py4jConnection.connect(await serve(() => undefined), wait);
    const started = performance.now();
    await expect(connection.call(new JavaReference("o0"), "step", ["look"], { deadlineMs: 60 })).rejects.toMatchObject({
      code: "ENVIRONMENT_TIMEOUT",
      retryable: true,
    });
    expect(performance.now() - started).toBeLessThan(1000);
    // The late answer must not be taken for the next one's.
    await expect(connection.call(new JavaReference("o0"), "step", ["look"], wait)).rejects.toMatchObject({
      code: "ENVIRONMENT_LOST",
    });
  });

  it("ends a call that is cancelled with the reason given", async () => {
    const connection = await Py4jConnection.connect(await serve(() => undefined), wait);
    const abort = new AbortController();
    const call = connection.call(new JavaReference("o0"), "step", ["look"], { ...wait, signal: abort.signal });
    abort.abort(new Error("no longer needed"));
    await expect(call).rejects.toThrow("no longer needed");
  });

  it("names a connection that closes, before or in the middle of an answer", async () => {
    for (const bytes of ["", "!yshalf of"]) {
      const port = await serve((_, socket) => socket.end(bytes));
      const connection = await Py4jConnection.connect(port, wait);
      await expect(connection.call(new JavaReference("o0"), "step", [], wait)).rejects.toMatchObject({
        code: "ENVIRONMENT_LOST",
      });
    }
  });

  it("names a port nobody listens on", async () => {
    const port = await serve(() => undefined);
    await new Promise((resolve) => servers.pop()?.close(resolve));
    await expect(Py4jConnection.connect(port, wait)).rejects.toMatchObject({ code: "ENVIRONMENT_LOST" });
  });

  it("refuses answers the protocol does not allow", async () => {
    for (const bytes of ["hello\n", "!yq\n", "!yione\n", "!ys1\n!ys2\n", "\n"])
      await expect(callAnsweredBy(bytes)).rejects.toMatchObject({ code: "ENVIRONMENT_PROTOCOL" });
  });

  it("reads an answer that comes in pieces, cut inside a character", async () => {
    const bytes = Buffer.from("!ysü\\n€\n");
    const port = await serve((_, socket) => {
      socket.setNoDelay(true);
      for (let i = 0; i < bytes.length; i++) setTimeout(() => socket.write(bytes.subarray(i, i + 1)), 5 * i);
    });
    const connection = await Py4jConnection.connect(port, wait);
    expect(await connection.call(new JavaReference("o0"), "step", [], wait)).toBe("ü\n€");
    connection.close();
  });

  it("refuses a second request while one waits", async () => {
    const connection = await Py4jConnection.connect(await serve(() => undefined), wait);
    const first = connection.call(new JavaReference("o0"), "step", [], { deadlineMs: 100 });
    await expect(connection.call(new JavaReference("o0"), "step", [], wait)).rejects.toThrow(/busy/);
    await expect(first).rejects.toMatchObject({ code: "ENVIRONMENT_TIMEOUT" });
  });

  it("ends each of 10,000 random answers in a value or a typed error", { timeout: 600_000 }, async () => {
    // However slow the machine: only what is answered counts here.
    const patient = { deadlineMs: 60_000 };
    let bytes = Buffer.alloc(0);
    const port = await serve((_, socket) => socket.write(bytes));
    const words = fc.string({ unit: fc.constantFrom(..."!yxsidbnr01\\e\u00e9 ") });
    const answer = fc.oneof(
      // The shape of an answer, whatever its content; anything in one line; several lines at once; any bytes.
      fc
        .tuple(fc.constantFrom("!ys", "!yi", "!yd", "!yb", "!yr", "!xs", "!xr", "!y", "!"), words)
        .map((p) => `${p.join("")}\n`),
      words.map((text) => `${text}\n`),
      fc.tuple(words, words).map(([a, b]) => `!ys${a}\n${b}\n`),
      fc.uint8Array({ maxLength: 40 }).map((content) => Buffer.concat([content, Buffer.from("\n")])),
    );
    const counts = new Map<string, number>();
    let connection = await Py4jConnection.connect(port, patient);
    for (const next of fc.sample(answer, { numRuns: 10_000, seed: 5 })) {
      bytes = Buffer.from(next);
      let outcome = "value";
      try {
        await connection.call(new JavaReference("o0"), "step", [], patient);
      } catch (error) {
        if (!(error instanceof EnvironmentError)) throw error;
        outcome = error.code;
        connection.close();
        connection = await Py4jConnection.connect(port, patient);
      }
      counts.set(outcome, (counts.get(outcome) ?? 0) + 1);
    }
    connection.close();
    // The rest of an answer in several lines may still be on its way when the connection is given up.
    expect([...counts.keys()].sort()).toEqual(["ENVIRONMENT_FAILED", "ENVIRONMENT_PROTOCOL", "value"]);
    expect(counts.get("value")).toBeGreaterThan(300);
    expect(counts.get("ENVIRONMENT_PROTOCOL")).toBeGreaterThan(1000);
  });
});
