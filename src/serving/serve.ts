/**
 * `serve` as the package exports it: the server and what it needs are loaded when one is started, so that importing the
 * package does not take longer for them.
 */
import type { Policy } from "../engine/policy.js";
import type { ChatTemplate } from "../tokens/chat-template.js";
import type { ModelServer, ServeEvents, ServeOptions } from "./server.js";

/**
 * Serves a policy over HTTP as the OpenAI API does, and records the episodes played through it; see docs/serving.md.
 *
 * @throws ActError `CONFIG_*` for bad options, `SERVE_ADDRESS` where the address cannot be listened on.
 */
export async function serve(
  policy: Policy,
  chat: ChatTemplate,
  options: ServeOptions = {},
  events: ServeEvents = {},
): Promise<ModelServer> {
  return (await import("./server.js")).serve(policy, chat, options, events);
}
