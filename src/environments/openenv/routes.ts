/**
 * OpenEnv's HTTP routes. Reset, step and state make a fresh environment for each call, outside the session limit, as
 * the original does: good for a look at an environment, useless for an episode.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import { checkFields, type Field, isObject } from "../pydantic/fields.js";
import {
  type BodyRules,
  notFound,
  onlyMethod,
  Refused,
  readBody,
  readBodyFields,
  respond,
  targetOf,
} from "../pydantic/http.js";
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
const BODY: BodyRules = { strictContentType: true, extra: "keep", missing: null };
const TASK_ROUTES: Readonly<Record<string, readonly [string, string]>> = {
  splits: ["GET", "list_splits"],
  tasks: ["POST", "list_tasks"],
  num_tasks: ["POST", "num_tasks"],
  task: ["POST", "get_task"],
  task_range: ["POST", "get_task_range"],
};

/** Answers one HTTP request. Never throws. */
export async function handleHttp(
  request: IncomingMessage,
  response: ServerResponse,
  environment: ServedEnvironment,
  sessions: Sessions,
): Promise<void> {
  await respond(response, () => route(request, environment, sessions));
}

async function route(request: IncomingMessage, environment: ServedEnvironment, sessions: Sessions): Promise<unknown> {
  const { path } = targetOf(request);
  switch (path) {
    case "/health":
      onlyMethod(request, "GET");
      return { status: "healthy" };
    case "/metadata":
      onlyMethod(request, "GET");
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
      onlyMethod(request, "GET");
      return environment.schema;
    case "/state":
      onlyMethod(request, "GET");
      return once(sessions, async (session) => session.state());
    case "/reset": {
      onlyMethod(request, "POST");
      const data = await readBodyFields(request, RESET_FIELDS, { ...BODY, missing: {} });
      return once(sessions, async (session) => httpObservation(await session.reset(withoutNulls(data))));
    }
    case "/step": {
      onlyMethod(request, "POST");
      const body = await readBodyFields(request, STEP_FIELDS, BODY);
      const given = isObject(body.action) ? body.action : {};
      const action = checkFields(environment.actionFields, given, { extra: "forbid", url: true });
      if (!action.ok) throw new Refused(422, { detail: action.errors });
      return once(sessions, async (session) => httpObservation(await session.step(action.values)));
    }
    case "/mcp":
      onlyMethod(request, "POST");
      return answerRpc(await readBody(request), sessions);
    case "/list_environments":
      onlyMethod(request, "GET");
      return [environment.name];
  }
  const [, name = "", part = "", ...rest] = path.split("/");
  const task = rest.length === 0 && Object.hasOwn(TASK_ROUTES, part) ? TASK_ROUTES[part] : undefined;
  if (task === undefined) throw notFound();
  onlyMethod(request, task[0]);
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
