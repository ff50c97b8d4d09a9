#!/usr/bin/env node
/**
 * An environment of one's own, and a model that plays it:
 *
 *     node examples/custom-environment.mjs <model folder>
 *
 * The environment is text in, text out and a number; everything else (prompts, tokens, training) works with it as it is.
 */
import { createHash } from "node:crypto";
import { realpathSync } from "node:fs";
import { fileURLToPath } from "node:url";
import {
  ChatTemplate,
  countOutcomes,
  Dialogue,
  Engine,
  EnvironmentError,
  episodeForm,
  promptSchema,
  rollout,
  Tokenizer,
} from "act-trainer";

// --- the environment ---------------------------------------------------------------------------------------------

const TASKS = Array.from({ length: 20 }, (_, i) => `number/${i + 1}`);
const HASH = createHash("sha256").update(JSON.stringify(TASKS)).digest("hex");

/** @returns {import("act-trainer").Environment} One game of guessing a number from 1 to 20. */
function guessingGame() {
  let [secret, low, high, over] = [0, 1, 20, true];
  return {
    async reset(taskId) {
      if (!TASKS.includes(taskId)) throw new EnvironmentError("ENVIRONMENT_UNKNOWN_TASK", `No task ${taskId}.`);
      [secret, low, high, over] = [Number(taskId.slice("number/".length)), 1, 20, false];
      return { task: "guess the number", observation: "It is between 1 and 20.", category: "guess" };
    },
    async step(action) {
      if (over) throw new EnvironmentError("ENVIRONMENT_NO_EPISODE", "The game is over.");
      const accepted = /^guess ([1-9]|1\d|20)$/.test(action);
      const guess = Number(action.slice("guess ".length));
      over = accepted && guess === secret;
      if (accepted && guess < secret) low = Math.max(low, guess + 1);
      if (accepted && guess > secret) high = Math.min(high, guess - 1);
      const observation = over ? "That is it." : accepted ? `It is between ${low} and ${high}.` : "Guess a number.";
      return { observation, reward: +over, score: +over, success: over, terminated: over, truncated: false, accepted };
    },
    admissibleActions: async () => ({ actions: range(1, 20).map((n) => `guess ${n}`), patterns: [] }),
    expertAction: async () => (over ? null : `guess ${Math.floor((low + high) / 2)}`),
    close: async () => {},
  };
}

/** @type {import("act-trainer").EnvironmentProvider} */
export const guessing = {
  ...{ name: "guessing", version: "1", stepLimit: 8, panelNames: ["all"] },
  panel: async () => ({ id: "guessing/all@1", tasks: TASKS, hash: HASH }),
  create: async () => guessingGame(),
  close: async () => {},
};

// --- a small rollout ---------------------------------------------------------------------------------------------

/** @param {number} from @param {number} to */
function range(from, to) {
  return Array.from({ length: to - from + 1 }, (_, i) => from + i);
}

/**
 * Plays every task once, eight at a time.
 *
 * @param {import("act-trainer").Policy} policy
 * @param {Dialogue} dialogue
 */
export async function playAll(policy, dialogue) {
  const { tasks } = await guessing.panel("all");
  return rollout(
    tasks.map((taskId, index) => ({ index, taskId })),
    {
      policy,
      provider: guessing,
      form: episodeForm("transcript", dialogue),
      sampling: { maxNewTokens: 64, stopTokens: dialogue.stopTokens },
      seed: 1n,
      stepLimit: guessing.stepLimit,
      timeLimit: null,
      environmentTimeLimit: 1000,
      admissible: false,
      malformedLimit: 3,
      concurrency: 8,
      retries: 0,
    },
  );
}

/** @param {string} modelDir */
async function main(modelDir) {
  const tokenizer = await Tokenizer.load(modelDir);
  const dialogue = new Dialogue(await ChatTemplate.load(tokenizer), promptSchema.parse({ reasoning: false }));
  const policy = await Engine.load(modelDir, { maxSequences: 8 });
  try {
    const episodes = await playAll(policy, dialogue);
    console.log(JSON.stringify(countOutcomes(episodes)));
  } finally {
    await policy.dispose();
  }
}

if (process.argv[1] !== undefined && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  if (process.argv[2] === undefined) throw new Error("Usage: node examples/custom-environment.mjs <model folder>");
  await main(process.argv[2]);
}
