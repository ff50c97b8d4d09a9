/**
 * OpenEnv's HTTP routes. Reset, step and state make a fresh environment for each call, outside the session limit, as
 * the original does: good for a look at an environment, useless for an episode.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import { checkFields, type Field, isObject } from "../pydantic/fields.js";
import { PythonJsonError, parsePythonJson } from "../pydantic/json.js";
import { answerRpc, observationData } from "./messages.js";
import type { ServedEnvironment, ServedSession } from "./served.js";
import type { Sessions } from "./sessions.js";

const RESET_FIELDS: readonly Field[] = [
  { name: "seed", kind: "integer", least: 0, nullable: true, fallback: null },
  { name: "episode_id", kind: "string", maxLength: 255, nullable: true, fallback: null },
];
const STEP_FIELDS: readonly Field[] = [
  { name: "action", kind: "object" },
  { name: "timeout_s", kind: "number", above: 0, nullable: true, fallback: null },
  { name: "request_id", kind: "string", maxLength: 255, nullable: true, fallback: null },
];
const TASK_ROUTES: Readonly<Record<string, readonly [string, string]>> = {
  splits: ["GET", "list_splits"],
  tasks: ["POST", "list_tasks"],
  num_tasks: ["POST", "num_tasks"],
  task: ["POST", "get_task"],
  task_range: ["POST", "get_task_range"],
};

/** An answer other than success. */
class Refused extends Error {
  constructor(
    readonly status: number,
    readonly body: object | string,
    readonly headers: Readonly<Record<string, string>> = {},
  ) {
    super(`status ${status}`);
  }
}

/** Longest body read, in bytes. */
const MAX_BODY = 16 * 1024 * 1024;

/** Answers one HTTP request. Never throws. */
export async function handleHttp(
  request: IncomingMessage,
  response: ServerResponse,
  environment: ServedEnvironment,
  sessions: Sessions,
): Promise<void> {
  try {
    send(response, 200, await route(request, environment, sessions));
  } catch (error) {
    if (error instanceof Refused) send(response, error.status, error.body, error.headers);
    else send(response, 500, "Internal Server Error");
  }
}

async function route(request: IncomingMessage, environment: ServedEnvironment, sessions: Sessions): Promise<object> {
  const path = new URL(request.url ?? "/", "http://localhost").pathname;
  const only = (method: string): void => {
    if (request.method !== method) throw new Refused(405, { detail: "Method Not Allowed" }, { allow: method });
  };
  switch (path) {
    case "/health":
      only("GET");
      return { status: "healthy" };
    case "/metadata":
      only("GET");
      // The original asks a fresh environment for it, so a broken factory shows here too.
      return once(sessions, async () => ({
        name: environment.className,
        description: `${environment.className} environment`,
        readme_content: null,
        version: environment.version,
        author: null,
        documentation_url: null,
      }));
    case "/schema":
      only("GET");
      return environment.schema;
    case "/state":
      only("GET");
      return once(sessions, async (session) => session.state());
    case "/reset": {
      only("POST");
      const data = await readFields(request, RESET_FIELDS, {});
      return once(sessions, async (session) => httpObservation(await session.reset(withoutNulls(data))));
    }
    case "/step": {
      only("POST");
      const body = await readFields(request, STEP_FIELDS, null);
      const given = isObject(body.action) ? body.action : {};
      const action = checkFields(environment.actionFields, given, { extra: "forbid", url: true });
      if (!action.ok) throw new Refused(422, { detail: action.errors });
      return once(sessions, async (session) => httpObservation(await session.step(action.values)));
    }
    case "/mcp":
      only("POST");
      return answerRpc(await readBody(request), sessions);
    case "/list_environments":
      only("GET");
      return [environment.name];
  }
  const [, name = "", part = "", ...rest] = path.split("/");
  const task = rest.length === 0 && Object.hasOwn(TASK_ROUTES, part) ? TASK_ROUTES[part] : undefined;
  if (task === undefined) throw new Refused(404, { detail: "Not Found" });
  only(task[0]);
  if (name !== environment.name) throw new Refused(404, { detail: `unknown environment '${name}'` });
  throw new Refused(501, { detail: `${task[1]} is not supported for this environment` });
}

/** Uses a fresh environment for one call. */
async function once<T>(sessions: Sessions, call: (session: ServedSession) => Promise<T>): Promise<T> {
  const session = await sessions.make();
  try {
    return await call(session);
  } finally {
    await session.close();
  }
}

/** Over HTTP the metadata key is always there, and a boolean reward becomes a number. */
function httpObservation(outcome: Parameters<typeof observationData>[0]): object {
  const reward = typeof outcome.reward === "boolean" ? Number(outcome.reward) : outcome.reward;
  return { ...observationData({ ...outcome, reward }), metadata: emptyToNull(outcome.metadata) };
}

function emptyToNull(metadata: Readonly<Record<string, unknown>> | undefined): object | null {
  return metadata === undefined || Object.keys(metadata).length === 0 ? null : metadata;
}

function withoutNulls(data: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(data).filter(([, value]) => value !== null));
}

async function readFields(
  request: IncomingMessage,
  fields: readonly Field[],
  missing: Readonly<Record<string, unknown>> | null,
): Promise<Readonly<Record<string, unknown>>> {
  const text = await readBody(request);
  if (text === "") {
    if (missing !== null) return missing;
    throw new Refused(422, { detail: [{ type: "missing", loc: ["body"], msg: "Field required", input: null }] });
  }
  const body = isJson(request) ? parseBody(text) : text;
  if (!isObject(body)) {
    const msg = "Input should be a valid dictionary or object to extract fields from";
    throw new Refused(422, { detail: [{ type: "model_attributes_type", loc: ["body"], msg, input: body }] });
  }
  const checked = checkFields(fields, body, { loc: ["body"], extra: "keep", url: false });
  if (!checked.ok) throw new Refused(422, { detail: checked.errors });
  return checked.values;
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

function isJson(request: IncomingMessage): boolean {
  const type = (request.headers["content-type"] ?? "").split(";")[0]?.trim().toLowerCase() ?? "";
  return type === "application/json" || /^application\/[^/]+\+json$/.test(type);
}

async function readBody(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > MAX_BODY) throw new Refused(413, { detail: "Request body too large" }, { connection: "close" });
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

function send(
  response: ServerResponse,
  status: number,
  body: object | string,
  headers: Readonly<Record<string, string>> = {},
): void {
  const text = typeof body === "string" ? body : JSON.stringify(body);
  const type = typeof body === "string" ? "text/plain; charset=utf-8" : "application/json";
  response.writeHead(status, { ...headers, "content-type": type, "content-length": Buffer.byteLength(text) });
  response.end(text);
}
