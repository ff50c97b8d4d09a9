/** Reading of TextWorld's `.twl2` text: actions with command templates, and rules of a context-sensitive grammar. */

/** One alternative of a rule; alternatives are tried in order and the first whose condition holds is taken. */
export interface Alternative {
  /** Conjunction of facts, e.g. `openable(r:receptacle) & opened(r:receptacle)`; empty for always. */
  readonly condition: string;
  /** Text with `{expression}`, `[{list | query}]` and `#rule#` in it. */
  readonly rhs: string;
}

/** A `.twl2` text without interpretation. */
export interface Grammar {
  /** By lower-cased action name: template of its command and feedback (text or `#rule#`). */
  readonly actions: ReadonlyMap<string, { readonly template: string; readonly feedback: string }>;
  /** By rule name. */
  readonly rules: ReadonlyMap<string, readonly Alternative[]>;
}

/** Thrown with what was expected; callers add the file's name. */
export class GrammarError extends Error {
  override readonly name = "GrammarError";
}

const TOKEN = /\s+|#[^\n]*|"""[\s\S]*?"""|"[^"]*"|::|[{};]|[\w/-]+/y;

/** Reads a `.twl2` text. Throws {@link GrammarError}. */
export function parseGrammar(text: string): Grammar {
  const tokens = tokenize(text);
  const actions = new Map<string, { template: string; feedback: string }>();
  const rules = new Map<string, readonly Alternative[]>();
  let at = 0;
  const expect = (token: string): void => {
    if (tokens[at] !== token) throw new GrammarError(`expected \`${token}\`, got \`${tokens[at] ?? "the end"}\``);
    at++;
  };
  /** `name :: "value" ;` with the quotes taken off. */
  const field = (): { name: string; value: string } => {
    const name = tokens[at++] ?? "";
    expect("::");
    const value = tokens[at++] ?? "";
    expect(";");
    return { name, value: value.startsWith('"""') ? value.slice(3, -3) : value.slice(1, -1) };
  };
  while (at < tokens.length) {
    if (tokens[at] === "action") {
      const name = (tokens[at + 1] ?? "").toLowerCase();
      at += 2;
      expect("{");
      const action = { template: "", feedback: "" };
      while (tokens[at] !== "}") {
        const { name: key, value } = field();
        if (key === "template" || key === "feedback") action[key] = value;
        else if (key === "grammar") addRules(value, rules);
        else if (key !== "pddl") throw new GrammarError(`action ${name} has an unknown field \`${key}\``);
      }
      expect("}");
      actions.set(name, action);
    } else {
      const { name, value } = field();
      if (name !== "grammar") throw new GrammarError(`expected \`action\` or \`grammar\`, got \`${name}\``);
      addRules(value, rules);
    }
  }
  return { actions, rules };
}

function tokenize(text: string): string[] {
  const tokens: string[] = [];
  TOKEN.lastIndex = 0;
  while (TOKEN.lastIndex < text.length) {
    const start = TOKEN.lastIndex;
    const token = TOKEN.exec(text)?.[0];
    if (token === undefined) throw new GrammarError(`cannot read \`${text.slice(start, start + 20)}\``);
    if (!/^[\s#]/.test(token)) tokens.push(token);
  }
  return tokens;
}

function addRules(json: string, rules: Map<string, readonly Alternative[]>): void {
  const lines = json.split("\n").filter((line) => !line.trimStart().startsWith("#"));
  let parsed: unknown;
  try {
    parsed = JSON.parse(lines.join("\n"));
  } catch (cause) {
    throw new GrammarError(`a grammar block is not JSON (${String(cause)})`);
  }
  if (typeof parsed !== "object" || parsed === null) throw new GrammarError("a grammar block is not a JSON object");
  for (const [name, alternatives] of Object.entries(parsed)) {
    if (!Array.isArray(alternatives)) throw new GrammarError(`rule ${name} is not a list`);
    rules.set(
      name,
      alternatives.map((alternative: { condition?: unknown; rhs?: unknown }) => {
        if (typeof alternative?.rhs !== "string") throw new GrammarError(`rule ${name} has an alternative without rhs`);
        return { condition: String(alternative.condition ?? ""), rhs: alternative.rhs };
      }),
    );
  }
}
