#!/usr/bin/env node
/**
 * An agent that knows nothing of act-trainer: it plays through the OpenAI API and posts back what its episodes were
 * worth. Start the model under training first:
 *
 *     act-trainer serve --model <model folder> --train runs/served --steps 20 --set optimizer.learningRate=1e-5
 *     node examples/agent-over-http.mjs --url http://127.0.0.1:8000/v1 --rounds 20
 *
 * Its world: a lamp behind one of four doors; the agent opens doors until it finds it. Reward: 1, 0.5 or 0.25 for the
 * first, second or third door, less 0.1 for every reply that names no door.
 */
import { parseArgs } from "node:util";

const { values } = parseArgs({
  options: {
    url: { type: "string", default: "http://127.0.0.1:8000/v1" },
    key: { type: "string", default: process.env.OPENAI_API_KEY ?? "" },
    rounds: { type: "string", default: "1" },
    "group-size": { type: "string", default: "8" },
    "max-tokens": { type: "string", default: "64" },
  },
});
const DOORS = ["red", "blue", "green", "black"];

/** @param {string} path @param {unknown} body @param {Record<string, string>} headers */
async function post(path, body, headers = {}) {
  const authorization = values.key === "" ? {} : { authorization: `Bearer ${values.key}` };
  for (;;) {
    const response = await fetch(`${values.url}${path}`, {
      method: "POST",
      headers: { "content-type": "application/json", ...authorization, ...headers },
      body: JSON.stringify(body),
    });
    const answer = await response.json();
    if (response.ok) return answer;
    if (response.status !== 429) throw new Error(`${path}: ${response.status} ${answer.error?.message}`);
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

/** Plays one episode. All completions carry its id; episodes of one group are compared with each other. */
async function play(id, group, behind) {
  const messages = [
    { role: "system", content: `You look for a lamp. Doors: ${DOORS.join(", ")}. Answer with the color of a door.` },
    { role: "user", content: "Which door do you open?" },
  ];
  let reward = 0;
  let found = false;
  for (let turn = 0; turn < 3 && !found; turn++) {
    const answer = await post(
      "/chat/completions",
      { messages, max_tokens: Number(values["max-tokens"]) },
      { "x-act-episode": id, "x-act-group": group },
    );
    const reply = answer.choices[0].message.content;
    const door = DOORS.find((color) => reply.toLowerCase().includes(color));
    found = door === behind;
    reward += found ? 1 / 2 ** turn : door === undefined ? -0.1 : 0;
    messages.push({ role: "assistant", content: reply });
    messages.push({ role: "user", content: door === undefined ? "Name a door." : `Nothing behind the ${door} door.` });
  }
  await post("/act/rewards", { episode_id: id, reward, outcome: found ? "success" : "failure" });
  return reward;
}

const run = `${Date.now()}`;
for (let round = 0; round < Number(values.rounds); round++) {
  const behind = DOORS[round % DOORS.length];
  const group = `${run}/${round}`;
  const ids = Array.from({ length: Number(values["group-size"]) }, (_, i) => `${group}/${i}`);
  const rewards = await Promise.all(ids.map((id) => play(id, group, behind)));
  console.log(JSON.stringify({ round, mean: rewards.reduce((a, b) => a + b, 0) / rewards.length }));
}
