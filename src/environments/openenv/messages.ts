/**
 * OpenEnv's messages on the server's side: what a client may send, what it is answered, fault by fault.
 *
 * Words, codes and their order are those of openenv 0.10.0, recorded from it.
 */
import { checkFields, describeFieldErrors, type Field, type FieldError, isObject } from "../pydantic/fields.js";
import { PythonJsonError, parsePythonJson, pythonStr, pythonType } from "../pydantic/json.js";
import type { ServedEnvironment, ServedObservation } from "./served.js";
import { CapacityReached, FactoryFailed, type HeldSession, type Sessions } from "./sessions.js";

/** An answer, and whether the socket is closed after it. */
export interface Reply {
  /** Null for none. */
  readonly text: string | null;
  readonly close: boolean;
}

const ENVELOPES: Readonly<Record<string, readonly Field[]>> = {
  reset: [
    { name: "type", kind: "literal", value: "reset" },
    { name: "data", kind: "object", fallback: {} },
  ],
  step: [
    { name: "type", kind: "literal", value: "step" },
    { name: "data", kind: "object" },
  ],
  state: [{ name: "type", kind: "literal", value: "state" }],
  close: [{ name: "type", kind: "literal", value: "close" }],
  mcp: [
    { name: "type", kind: "literal", value: "mcp" },
    { name: "data", kind: "object" },
  ],
};

/** An error message. */
export function errorReply(code: string, message: string, more: object = {}, close = false): Reply {
  return { text: JSON.stringify({ type: "error", data: { message, code, ...more } }), close };
}

/** What a client is told whose session could not be opened. */
export function refusal(error: unknown): Reply {
  if (error instanceof CapacityReached)
    return errorReply(
      "CAPACITY_REACHED",
      error.message,
      { active_sessions: error.active, max_sessions: error.most },
      true,
    );
  if (error instanceof FactoryFailed)
    return errorReply("FACTORY_ERROR", error.message, { factory_name: error.factoryName }, true);
  return errorReply("SESSION_ERROR", messageOf(error), {}, true);
}

/** Answers one message of the socket `/ws`. Never throws. */
export async function answer(text: string, session: HeldSession, environment: ServedEnvironment): Promise<Reply> {
  let message: unknown;
  try {
    message = parsePythonJson(text);
  } catch (error) {
    if (error instanceof PythonJsonError) return errorReply("INVALID_JSON", `Invalid JSON: ${error.message}`);
    return errorReply("SESSION_ERROR", messageOf(error), {}, true);
  }
  if (!isObject(message))
    return errorReply("SESSION_ERROR", `'${pythonType(message)}' object has no attribute 'get'`, {}, true);
  const type = Object.hasOwn(message, "type") ? message.type : "";
  const envelope = typeof type === "string" && Object.hasOwn(ENVELOPES, type) ? ENVELOPES[type] : undefined;
  if (envelope === undefined) return errorReply("UNKNOWN_TYPE", `Unknown message type: ${pythonStr(type)}`);
  const checked = checkFields(envelope, message, { extra: "forbid", url: true });
  if (!checked.ok) return validationReply(checked.errors);
  const data = isObject(checked.values.data) ? checked.values.data : {};
  try {
    switch (type) {
      case "reset":
        return reply("observation", observationData(await session.run((s) => s.reset(data))));
      case "step": {
        const action = checkFields(environment.actionFields, data, { extra: "forbid", url: true });
        if (!action.ok) return validationReply(action.errors);
        return reply("observation", observationData(await session.run((s) => s.step(action.values))));
      }
      case "state":
        return reply("state", await session.run((s) => s.state()));
      case "mcp":
        return reply("mcp", toolless(data));
      default:
        return { text: null, close: true };
    }
  } catch (error) {
    return errorReply("EXECUTION_ERROR", messageOf(error));
  }
}

/** An observation's JSON: its metadata in it, and again beside it when there is any. */
export function observationData(outcome: ServedObservation): object {
  const metadata = outcome.metadata ?? {};
  return {
    observation: { metadata, ...outcome.fields },
    reward: outcome.reward,
    done: outcome.done,
    ...(Object.keys(metadata).length > 0 ? { metadata } : {}),
  };
}

/** The text of a fault, with its code in front where it has one, so that our client can read it back. */
export function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const code = "code" in error && typeof error.code === "string" ? error.code : "";
  return /^ENVIRONMENT_[A-Z_]+$/.test(code) ? `[${code}] ${error.message}` : error.message;
}

const RPC_FIELDS: readonly Field[] = [
  { name: "jsonrpc", kind: "literal", value: "2.0" },
  { name: "method", kind: "string" },
  { name: "params", kind: "object", fallback: {} },
  { name: "id", kind: "any", fallback: null },
];

interface Rpc {
  readonly id: unknown;
  readonly method: string;
  readonly params: Readonly<Record<string, unknown>>;
}

/** Answers a JSON-RPC message of `POST /mcp`: sessions, and that there are no tools. Throws FactoryFailed. */
export async function answerRpc(body: string, sessions: Sessions): Promise<object> {
  let message: unknown;
  try {
    message = parsePythonJson(body);
  } catch {
    return rpcError(null, -32700, "Parse error");
  }
  if (!isObject(message)) return rpcError(null, -32700, "Parse error");
  const rpc = readRpc(message);
  if (!("method" in rpc)) return rpc;
  const { id, method, params } = rpc;
  const sessionId = params.session_id;
  const unknown = (): object => rpcError(id, -32602, `Unknown session_id: ${pythonStr(sessionId)}`);
  switch (method) {
    case "openenv/session/create":
      try {
        const { id: created } = await sessions.open();
        return { jsonrpc: "2.0", id, result: { session_id: created } };
      } catch (error) {
        if (error instanceof CapacityReached)
          return rpcError(id, -32000, error.message, { active_sessions: error.active, max_sessions: error.most });
        if (error instanceof FactoryFailed)
          return rpcError(id, -32000, error.message, { factory_name: error.factoryName });
        throw error;
      }
    case "openenv/session/close":
      if (typeof sessionId !== "string" || sessionId === "")
        return rpcError(id, -32602, "Invalid params - 'session_id' is required");
      if (!sessions.end(sessionId)) return unknown();
      return { jsonrpc: "2.0", id, result: { session_id: sessionId, closed: true } };
    case "tools/list":
    case "tools/call":
      if (typeof sessionId === "string") {
        if (sessions.find(sessionId) === undefined) return unknown();
      } else await (await sessions.make()).close();
      return toolless(message);
    default:
      return rpcError(id, -32601, `Method not found: ${method}`);
  }
}

/** The answer of an environment without tools to a JSON-RPC message on its socket. */
function toolless(message: Readonly<Record<string, unknown>>): object {
  const rpc = readRpc(message);
  if (!("method" in rpc)) return rpc;
  if (rpc.method === "tools/list" || rpc.method === "tools/call")
    return rpcError(rpc.id, -32603, "Environment does not support MCP");
  return rpcError(rpc.id, -32601, `Method not found: ${rpc.method}`);
}

function readRpc(message: Readonly<Record<string, unknown>>): Rpc | object {
  const checked = checkFields(RPC_FIELDS, message, { extra: "drop", url: true });
  if (!checked.ok)
    return rpcError(null, -32600, `Invalid request: ${describeFieldErrors("JsonRpcRequest", checked.errors)}`);
  const { id, method, params } = checked.values;
  return { id, method: String(method), params: isObject(params) ? params : {} };
}

function rpcError(id: unknown, code: number, message: string, data: object | null = null): object {
  return { jsonrpc: "2.0", id, error: { code, message, data } };
}

function validationReply(errors: readonly FieldError[]): Reply {
  return errorReply("VALIDATION_ERROR", "Invalid message", { errors });
}

function reply(type: string, data: object): Reply {
  return { text: JSON.stringify({ type, data }), close: false };
}
