/** The two environments that the recordings were made with, rebuilt from what they answered. */
import { randomUUID } from "node:crypto";
import {
  METADATA_FIELD,
  type ServedEnvironment,
  type ServedSession,
} from "../../../src/environments/openenv/served.js";

const NO_SCHEMA = { action: {}, observation: {}, reset_observation: {}, state: {} };

/** A 5 x 5 grid with its goal in the corner. */
export const grid: ServedEnvironment = {
  name: "grid_world_env",
  className: "GridWorldEnvironment",
  version: "1.0.0",
  actionFields: [METADATA_FIELD, { name: "action", kind: "enum", values: ["UP", "DOWN", "LEFT", "RIGHT"] }],
  schema: NO_SCHEMA,
  create: async () => {
    let x = 0;
    let y = 0;
    let steps = 0;
    let episode: string = randomUUID();
    const session: ServedSession = {
      reset: async () => {
        [x, y, steps, episode] = [0, 0, 0, randomUUID()];
        return { fields: { x, y, message: "Welcome to Grid World! Goal is at [4, 4]." }, reward: 0, done: false };
      },
      step: async ({ action }) => {
        steps++;
        const clip = (value: number): number => Math.max(0, Math.min(4, value));
        x = clip(x + (action === "DOWN" ? 1 : action === "UP" ? -1 : 0));
        y = clip(y + (action === "RIGHT" ? 1 : action === "LEFT" ? -1 : 0));
        const done = x === 4 && y === 4;
        const message = done ? "You found the goal!" : "Keep going...";
        return { fields: { x, y, message }, reward: done ? 1 : -0.1, done };
      },
      state: async () => ({ episode_id: episode, step_count: steps }),
      close: async () => undefined,
    };
    return session;
  },
};

/** An environment that does what it is told, faults included. */
export const probe: ServedEnvironment = {
  name: "probe",
  className: "ProbeEnv",
  version: "1.0.0",
  actionFields: [
    METADATA_FIELD,
    { name: "op", kind: "string", minLength: 1 },
    { name: "n", kind: "integer", least: 0, most: 100_000_000, fallback: 0 },
    { name: "x", kind: "number", nullable: true, fallback: null },
  ],
  schema: NO_SCHEMA,
  create: async () => {
    let episode: string | null = null;
    let steps = 0;
    let last: string | null = null;
    let open = false;
    const session: ServedSession = {
      reset: async (data) => {
        if (data.mode === "raise") throw new Error("probe reset told to fail");
        const known = ["seed", "episode_id", "mode"];
        [episode, steps, last, open] = [String(data.episode_id ?? "ep-default"), 0, null, true];
        const seed = Number.isNaN(data.seed) ? "nan" : (data.seed ?? "None");
        const kw = Object.keys(data).filter((key) => !known.includes(key));
        const text = `ready seed=${seed} mode=${data.mode ?? "plain"}`;
        return { fields: { text, extra: { kw } }, reward: null, done: false };
      },
      step: async ({ op, n, x }) => {
        steps++;
        last = String(op);
        const plain = (text: string, reward: number | boolean | null = null, extra: unknown = null) => ({
          fields: { text, extra },
          reward,
          done: false,
        });
        switch (op) {
          case "raise":
            throw new Error("probe step told to fail");
          case "raise_empty":
            throw new Error("'k'");
          case "bytes":
            throw new Error("Error serializing to JSON: invalid utf-8 sequence of 1 bytes from index 0");
          case "notobs":
            throw new Error("'dict' object has no attribute 'model_dump'");
          case "bool":
            return plain("b", true);
          case "int":
            return plain("i", Number(n));
          case "float":
            return plain("float", Number(x));
          case "none":
            return plain("none");
          case "unicode":
            return plain('é漢字😀\u2028\n\t"\\\u0000end');
          case "nan":
            return plain("nan", Number.NaN);
          case "inf":
            return plain("inf", Number.POSITIVE_INFINITY);
          case "set":
            return plain("set", null, [1, 3]);
          case "big":
            return plain("x".repeat(Number(n)));
          case "sleep":
            await new Promise((resolve) => setTimeout(resolve, Number(n)));
            return plain(`slept ${n}`);
          case "done":
            open = false;
            return { fields: { text: "over", extra: null }, reward: 1, done: true, metadata: { why: "told" } };
        }
        return plain(`${op}:${n}:None`, 0.5, { kw: [] });
      },
      state: async () => ({ episode_id: episode, step_count: steps, last_op: last, episode_open: open }),
      close: async () => undefined,
    };
    return session;
  },
};

/** The same, whose making fails. */
export const brokenProbe: ServedEnvironment = {
  ...probe,
  create: async () => {
    throw new Error("told to fail");
  },
};
