/**
 * The wordings this package ships. `standard` is for instruct models, `compact` for models of a few million parameters.
 *
 * The paper's templates are not public; `standard` follows what is known of them (docs/prompts.md): the context of the
 * action prompt, then "Action 1", "Action 2", the question, and the answer as action text in tags.
 */
import { ActError } from "../errors.js";
import type { PromptTemplate } from "./template.js";

export const standardTemplate: PromptTemplate = {
  id: "standard",
  version: 1,
  historyLength: 2,
  keepFirstObservation: false,
  listAdmissible: true,
  singleLine: false,
  head: "You are an agent that completes tasks in a text environment, one action at a time.\nYour task: {task}\n",
  first: "The first observation was: {observation}\n",
  historyHead: "You have taken {step} action(s) so far. The last {shown}, oldest first:\n",
  historyItem: "[Observation {number}] {observation}\n[Action {number}] {action}\n",
  observation: "You are now at step {number}. Current observation: {observation}\n",
  admissible: "Admissible actions: [{actions}]\n",
  admissibleSeparator: ", ",
  admissibleQuote: "'",
  candidates: "\nTwo actions are proposed for this step.\nAction 1: {first}\nAction 2: {second}\n",
  actionInstruction: {
    reasoning:
      "\nChoose the next action. First reason step by step about the situation inside <think></think>, then give exactly one admissible action inside <action></action>.",
    direct:
      "\nChoose the next action. Answer with exactly one admissible action inside <action></action> and nothing else.",
  },
  judgmentInstruction: {
    reasoning:
      "\nWhich action is better for the task? First reason step by step inside <think></think>, then copy the better action exactly inside <action></action>.",
    direct:
      "\nWhich action is better for the task? Copy the better action exactly inside <action></action> and write nothing else.",
  },
  indexInstruction: {
    reasoning:
      "\nWhich action is better for the task? First reason step by step inside <think></think>, then write its number, 1 or 2, inside <action></action>.",
    direct:
      "\nWhich action is better for the task? Write its number, 1 or 2, inside <action></action> and nothing else.",
  },
};

export const compactTemplate: PromptTemplate = {
  id: "compact",
  version: 1,
  historyLength: 4,
  keepFirstObservation: true,
  listAdmissible: false,
  singleLine: true,
  head: "goal: {task}\n",
  first: "see: {observation}\n",
  historyHead: "",
  historyItem: "see: {observation}\ndo: {action}\n",
  observation: "see: {observation}\n",
  admissible: "can: {actions}\n",
  admissibleSeparator: "; ",
  admissibleQuote: "",
  candidates: "1: {first}\n2: {second}\n",
  actionInstruction: { reasoning: "next?\n", direct: "next!\n" },
  judgmentInstruction: { reasoning: "better?\n", direct: "better!\n" },
  indexInstruction: { reasoning: "better, 1 or 2?\n", direct: "better, 1 or 2!\n" },
};

/** All shipped templates by id. */
export const promptTemplates: Readonly<Record<"standard" | "compact", PromptTemplate>> = {
  standard: standardTemplate,
  compact: compactTemplate,
};

export type PromptName = keyof typeof promptTemplates;
export const promptNames = ["standard", "compact"] as const satisfies readonly PromptName[];

/** A shipped template by name. Throws ActError `PROMPT_UNKNOWN`. */
export function promptTemplate(name: string): PromptTemplate {
  const known = promptNames.find((id) => id === name);
  if (known !== undefined) return promptTemplates[known];
  throw new ActError("PROMPT_UNKNOWN", `There is no prompt template named ${JSON.stringify(name)}.`, {
    hint: `Known: ${promptNames.join(", ")}.`,
  });
}
