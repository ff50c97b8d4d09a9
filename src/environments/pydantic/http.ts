/**
 * The parts of FastAPI that its clients see: how bodies are read, and what a request that does not fit is answered.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import { checkFields, type Field, isObject } from "./fields.js";
import { PythonJsonError, parsePythonJson } from "./json.js";

/** An answer other than success. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    readonly body: unknown,
    readonly headers: Readonly<Record<string, string>> = {},
  ) {
    super(`status ${status}`);
  }
}

/** Path and query of a request, whatever a client wrote there; the URL class throws at some of it. */
export function targetOf(request: IncomingMessage): { readonly path: string; readonly query: URLSearchParams } {
  const url = request.url ?? "/";
  const mark = url.indexOf("?");
  if (mark === -1) return { path: url, query: new URLSearchParams() };
  return { path: url.slice(0, mark), query: new URLSearchParams(url.slice(mark + 1)) };
}

/** Status 404. */
export function notFound(): Refused {
  return new Refused(404, { detail: "Not Found" });
}

/** @throws Refused 405 for any other method. */
export function onlyMethod(request: IncomingMessage, method: string): void {
  if (request.method !== method) throw new Refused(405, { detail: "Method Not Allowed" }, { allow: method });
}

export interface BodyRules {
  /** Whether a body without a content type is refused; older releases took it for JSON. */
  readonly strictContentType: boolean;
  readonly extra: "keep" | "drop";
  /** What stands for no body; null: the body is required. */
  readonly missing: Readonly<Record<string, unknown>> | null;
}

/** Longest body read, in bytes. */
const MAX_BODY = 16 * 1024 * 1024;

/** The fields of a request's body. Throws Refused 422 with FastAPI's complaints, 413 for too long a body. */
export async function readBodyFields(
  request: IncomingMessage,
  fields: readonly Field[],
  rules: BodyRules,
): Promise<Readonly<Record<string, unknown>>> {
  const text = await readBody(request);
  if (text === "") {
    if (rules.missing !== null) return rules.missing;
    throw new Refused(422, { detail: [{ type: "missing", loc: ["body"], msg: "Field required", input: null }] });
  }
  const body = isJson(request, rules.strictContentType) ? parseBody(text) : text;
  if (!isObject(body)) {
    const msg = "Input should be a valid dictionary or object to extract fields from";
    throw new Refused(422, { detail: [{ type: "model_attributes_type", loc: ["body"], msg, input: body }] });
  }
  const checked = checkFields(fields, body, { loc: ["body"], extra: rules.extra, url: false });
  if (!checked.ok) throw new Refused(422, { detail: checked.errors });
  return checked.values;
}

/** The fields of a request's query; a missing one is reported with input null. Throws Refused 422. */
export function readQueryFields(query: URLSearchParams, fields: readonly Field[]): Readonly<Record<string, unknown>> {
  const checked = checkFields(fields, Object.fromEntries(query), { loc: ["query"], extra: "drop", url: false });
  if (checked.ok) return checked.values;
  const detail = checked.errors.map((error) => (error.type === "missing" ? { ...error, input: null } : error));
  throw new Refused(422, { detail });
}

/** A request's body as text. Throws Refused 413. */
export async function readBody(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > MAX_BODY) throw new Refused(413, { detail: "Request body too large" }, { connection: "close" });
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

/**
 * Sends what `run` gives, as JSON; a {@link Refused} as it says; anything else that is thrown as status 500. Never
 * throws.
 */
export async function respond(response: ServerResponse, run: () => Promise<unknown>): Promise<void> {
  try {
    send(response, 200, JSON.stringify(await run()), {});
  } catch (error) {
    if (error instanceof Refused) send(response, error.status, JSON.stringify(error.body), error.headers);
    else send(response, 500, "Internal Server Error", { "content-type": "text/plain; charset=utf-8" });
  }
}

function send(response: ServerResponse, status: number, text: string, headers: Readonly<Record<string, string>>): void {
  // The peer may be gone, or a fault came after an answer was begun.
  if (response.headersSent || response.destroyed) return;
  const length = String(Buffer.byteLength(text));
  response.writeHead(status, { "content-type": "application/json", "content-length": length, ...headers });
  response.end(text);
}

function parseBody(text: string): unknown {
  try {
    return parsePythonJson(text);
  } catch (error) {
    if (!(error instanceof PythonJsonError)) throw error;
    const detail = {
      type: "json_invalid",
      loc: ["body", error.position],
      msg: "JSON decode error",
      input: {},
      ctx: { error: error.reason },
    };
    throw new Refused(422, { detail: [detail] });
  }
}

function isJson(request: IncomingMessage, strict: boolean): boolean {
  const header = request.headers["content-type"];
  if (header === undefined) return !strict;
  const type = header.split(";")[0]?.trim().toLowerCase() ?? "";
  return type === "application/json" || /^application\/[^/]+\+json$/.test(type);
}
