/** What an agent's words say it thinks and does, in the notations of the published data sets. */

export interface ParsedReply {
  readonly thought: string | null;
  /** Null where the words name no action. */
  readonly action: string | null;
}

/**
 * Takes a reply apart. Known: `Thought: ... Action: ...` (any case, label and text on one line or two; what follows the
 * last label is the action), `<think>..</think><action>..</action>`, and a JSON object with `thought` and `action`.
 */
export function parseReply(text: string): ParsedReply {
  const words = text.replace(/<\/s>\s*$/, "").trim();
  return tagged(words) ?? labeled(words) ?? json(words) ?? { thought: nullIfEmpty(words), action: null };
}

function tagged(words: string): ParsedReply | null {
  const action = /<action>([\s\S]*?)<\/action>/.exec(words)?.[1];
  if (action === undefined) return null;
  const thought = /<think>([\s\S]*?)<\/think>/.exec(words)?.[1] ?? "";
  return { thought: nullIfEmpty(thought), action: nullIfEmpty(action) };
}

function labeled(words: string): ParsedReply | null {
  const label = [...words.matchAll(/^[ \t]*action[ \t]*:[ \t]*/gim)].at(-1);
  if (label === undefined) return null;
  const before = words.slice(0, label.index).trim();
  const after = words.slice(label.index + label[0].length).trim();
  const thought = before.replace(/^thought[ \t]*:\s*/i, "");
  return { thought: nullIfEmpty(thought), action: nullIfEmpty(after.split("\n")[0] ?? "") };
}

function json(words: string): ParsedReply | null {
  if (!words.startsWith("{")) return null;
  let value: unknown;
  try {
    value = JSON.parse(words);
  } catch {
    return null;
  }
  if (typeof value !== "object" || value === null || !("action" in value) || typeof value.action !== "string")
    return null;
  const thought = "thought" in value && typeof value.thought === "string" ? value.thought : "";
  return { thought: nullIfEmpty(thought), action: nullIfEmpty(value.action) };
}

/** Trimmed, or null where nothing is left. */
export function nullIfEmpty(text: string): string | null {
  const trimmed = text.trim();
  return trimmed === "" ? null : trimmed;
}
