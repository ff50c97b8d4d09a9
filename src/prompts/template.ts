/**
 * Prompt templates as data, and the one renderer that fills them.
 *
 * A template is plain text with `{placeholders}`; a run records its id and version, so a wording can be found again.
 * Values are filled in one pass: braces in an observation are never read as placeholders.
 */
import { ActError } from "../errors.js";
import type { DecisionState } from "./state.js";

/** How the reply is asked for, with and without reasoning before the answer. */
export interface InstructionTexts {
  readonly reasoning: string;
  readonly direct: string;
}

/** The wording of a family of prompts. Sections are laid one after the other exactly as written, newlines included. */
export interface PromptTemplate {
  /** Name in configuration files. */
  readonly id: string;
  /** Goes up whenever any text below changes. */
  readonly version: number;
  /** Past decisions shown unless the options say otherwise; null: all. */
  readonly historyLength: number | null;
  /** Whether the first observation of the episode is kept in sight when the window has moved past it. */
  readonly keepFirstObservation: boolean;
  /** Whether admissible actions are listed unless the options say otherwise. */
  readonly listAdmissible: boolean;
  /** Observations become one line each (for wordings in which a line is a unit). */
  readonly singleLine: boolean;
  /** `{task}`. First, because it is the same over an episode: its keys and values are computed once. */
  readonly head: string;
  /** `{observation}`: the first observation, where it is shown apart. */
  readonly first: string;
  /** `{step}`, `{shown}`: introduces the history; left out where there is none. */
  readonly historyHead: string;
  /** `{number}`, `{observation}`, `{action}`: one past decision. */
  readonly historyItem: string;
  /** `{number}`, `{observation}`: the present. */
  readonly observation: string;
  /** `{actions}`. */
  readonly admissible: string;
  /** Between the listed actions. */
  readonly admissibleSeparator: string;
  /** Before and after each listed action. */
  readonly admissibleQuote: string;
  /** `{first}`, `{second}`: candidates and question of a judgment. */
  readonly candidates: string;
  readonly actionInstruction: InstructionTexts;
  readonly judgmentInstruction: InstructionTexts;
  /** Instead of `judgmentInstruction` where answers by index are asked for. */
  readonly indexInstruction: InstructionTexts;
}

export interface PromptOptions {
  /** Past decisions shown, >= 0; null: all. Default: the template's. */
  readonly historyLength?: number | null;
  /** Default: the template's. Nothing is listed where the state does not know them. */
  readonly listAdmissible?: boolean;
  /** Ask for reasoning before the answer. Default true. */
  readonly reasoning?: boolean;
}

export interface JudgmentOptions extends PromptOptions {
  /** Ask for the number of the better action instead of its text. Default false. */
  readonly indexAnswers?: boolean;
}

/** The two candidates as the prompt shows them. */
export interface Candidates {
  readonly first: string;
  readonly second: string;
}

/** The user's message that asks for an action. The context is a prefix shared with {@link judgmentPrompt}. */
export function actionPrompt(template: PromptTemplate, state: DecisionState, options: PromptOptions = {}): string {
  const { reasoning, direct } = template.actionInstruction;
  return context(template, state, options) + ((options.reasoning ?? true) ? reasoning : direct);
}

/**
 * The user's message that asks which of two actions is better, over the very same context as {@link actionPrompt}.
 */
export function judgmentPrompt(
  template: PromptTemplate,
  state: DecisionState,
  candidates: Candidates,
  options: JudgmentOptions = {},
): string {
  const { reasoning, direct } = options.indexAnswers ? template.indexInstruction : template.judgmentInstruction;
  const { first, second } = candidates;
  return (
    context(template, state, options) +
    fill(template.candidates, { first, second }) +
    ((options.reasoning ?? true) ? reasoning : direct)
  );
}

/** The part that action and judgment prompts have in common, stable parts first. */
export function context(template: PromptTemplate, state: DecisionState, options: PromptOptions = {}): string {
  const wanted = options.historyLength === undefined ? template.historyLength : options.historyLength;
  if (wanted !== null && !(Number.isInteger(wanted) && wanted >= 0))
    throw new ActError("PROMPT_BAD_OPTIONS", `Expected an integer >= 0 or null for \`historyLength\`, got ${wanted}.`, {
      hint: "Give the number of past steps to show, or null for all.",
    });
  const shown = wanted === null ? state.history : state.history.slice(Math.max(0, state.history.length - wanted));
  const text = (observation: string): string =>
    template.singleLine ? observation.replace(/\s+/gu, " ").trim() : observation;

  const parts = [fill(template.head, { task: state.task })];
  const beginning = state.history.length === state.step ? state.history[0] : undefined;
  if (template.keepFirstObservation && beginning !== undefined && shown.length < state.history.length)
    parts.push(fill(template.first, { observation: text(beginning.observation) }));
  if (shown.length > 0) parts.push(fill(template.historyHead, { step: state.step, shown: shown.length }));
  shown.forEach((past, i) => {
    const number = state.step - shown.length + i + 1;
    parts.push(fill(template.historyItem, { number, observation: text(past.observation), action: past.action }));
  });
  parts.push(fill(template.observation, { number: state.step + 1, observation: text(state.observation) }));
  if ((options.listAdmissible ?? template.listAdmissible) && state.admissible !== null) {
    const quote = template.admissibleQuote;
    const listed = [...state.admissible.actions, ...state.admissible.patterns.map(describePattern)];
    const actions = listed.map((action) => `${quote}${action}${quote}`).join(template.admissibleSeparator);
    parts.push(fill(template.admissible, { actions }));
  }
  return parts.join("");
}

/** `^search\[.+\]$` as a person would write it: `search[...]`. */
function describePattern(pattern: string): string {
  return pattern
    .replace(/^\^|\$$/gu, "")
    .replace(/\.[+*]\??/gu, "...")
    .replace(/\\(.)/gu, "$1");
}

/** Replaces every `{name}` in one pass. A placeholder without a value is a fault of the template. */
function fill(text: string, values: Readonly<Record<string, string | number>>): string {
  return text.replace(/\{(\w+)\}/gu, (_, name: string) => {
    const value = values[name];
    if (value === undefined)
      throw new ActError("PROMPT_BAD_TEMPLATE", `The template has a placeholder {${name}} that this section lacks.`, {
        hint: `Known here: ${Object.keys(values).join(", ")}.`,
      });
    return String(value);
  });
}
