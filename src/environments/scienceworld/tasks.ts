/**
 * The 30 tasks of ScienceWorld, their variations, and how a task of ours is named.
 *
 * A task id is `<task>/<variation>` or `<task>/<variation>/<simplifications>`, e.g. `boil/21/easy`. An id without the
 * third part is the task without simplifications.
 */
import { EnvironmentError } from "../environment.js";

/** One task of the simulator. */
export interface TaskInfo {
  /** Number in the paper, e.g. `1-1`. */
  readonly paperId: string;
  /** Name the simulator takes, e.g. `boil`. */
  readonly name: string;
  /** Number of variations, counted from 0. */
  readonly variations: number;
}

/** A task id taken apart. */
export interface TaskId {
  readonly task: TaskInfo;
  readonly variation: number;
  /** Comma-separated, empty for none. */
  readonly simplifications: string;
}

export type Split = "train" | "dev" | "test";

const ROWS: readonly (readonly [string, string, number])[] = [
  ["1-1", "boil", 30],
  ["1-2", "melt", 30],
  ["1-3", "freeze", 30],
  ["1-4", "change-the-state-of-matter-of", 30],
  ["2-1", "use-thermometer", 540],
  ["2-2", "measure-melting-point-known-substance", 436],
  ["2-3", "measure-melting-point-unknown-substance", 300],
  ["3-1", "power-component", 20],
  ["3-2", "power-component-renewable-vs-nonrenewable-energy", 20],
  ["3-3", "test-conductivity", 900],
  ["3-4", "test-conductivity-of-unknown-substances", 600],
  ["4-1", "find-living-thing", 300],
  ["4-2", "find-non-living-thing", 300],
  ["4-3", "find-plant", 300],
  ["4-4", "find-animal", 300],
  ["5-1", "grow-plant", 126],
  ["5-2", "grow-fruit", 126],
  ["6-1", "chemistry-mix", 32],
  ["6-2", "chemistry-mix-paint-secondary-color", 36],
  ["6-3", "chemistry-mix-paint-tertiary-color", 36],
  ["7-1", "lifespan-longest-lived", 125],
  ["7-2", "lifespan-shortest-lived", 125],
  ["7-3", "lifespan-longest-lived-then-shortest-lived", 125],
  ["8-1", "identify-life-stages-1", 14],
  ["8-2", "identify-life-stages-2", 10],
  ["9-1", "inclined-plane-determine-angle", 168],
  ["9-2", "inclined-plane-friction-named-surfaces", 1386],
  ["9-3", "inclined-plane-friction-unnamed-surfaces", 162],
  ["10-1", "mendelian-genetics-known-plant", 120],
  ["10-2", "mendelian-genetics-unknown-plant", 480],
];

/** All tasks, in the paper's order. */
export const TASKS: readonly TaskInfo[] = ROWS.map(([paperId, name, variations]) => ({ paperId, name, variations }));

const BY_NAME = new Map(TASKS.map((task) => [task.name, task]));

/** Simplifications the simulator knows; `easy` stands for a choice of them that fits every task. */
export const SIMPLIFICATIONS = [
  "teleportAction",
  "openContainers",
  "openDoors",
  "selfWateringFlowerPots",
  "noElectricalAction",
  "easy",
] as const;

/**
 * The published split: of n variations the first 2k are for training, the next k for development, the rest for
 * testing, k = floor(n / 4).
 *
 * @returns First variation and the one after the last.
 */
export function splitRange(task: TaskInfo, split: Split): readonly [number, number] {
  const k = Math.floor(task.variations / 4);
  if (split === "train") return [0, 2 * k];
  return split === "dev" ? [2 * k, 3 * k] : [3 * k, task.variations];
}

/** Tasks whose gold paths are short: 3 to 14 actions with `easy`. A small model can play them through. */
export const SHORT_TASKS: readonly string[] = [
  "lifespan-longest-lived",
  "lifespan-shortest-lived",
  "lifespan-longest-lived-then-shortest-lived",
  "find-non-living-thing",
  "find-living-thing",
  "find-plant",
  "find-animal",
];

/** Variations of each short task in a panel. */
const SHORT_COUNTS: Readonly<Record<Split, number>> = { train: 40, dev: 10, test: 10 };
/** Shares no factor with the counts, so that stepping by it meets every place once. */
const SHORT_STRIDE = 7;

/**
 * The short tasks in turn, each at variations that lie evenly over a split, in an order in which any first part of them
 * does so too.
 */
export function shortVariations(split: Split): { readonly task: string; readonly variation: number }[] {
  const count = SHORT_COUNTS[split];
  return Array.from({ length: count }, (_, round) => (round * SHORT_STRIDE) % count).flatMap((place) =>
    SHORT_TASKS.map((task) => {
      const [first, end] = splitRange(BY_NAME.get(task) as TaskInfo, split);
      return { task, variation: first + Math.floor((place * (end - first)) / count) };
    }),
  );
}

/** Writes a task id. */
export function formatTaskId(name: string, variation: number, simplifications: string): string {
  return simplifications === "" ? `${name}/${variation}` : `${name}/${variation}/${simplifications}`;
}

/**
 * Reads a task id.
 *
 * @throws EnvironmentError `ENVIRONMENT_UNKNOWN_TASK` saying which part does not fit.
 */
export function parseTaskId(id: string): TaskId {
  const [name = "", number = "", simplifications = "", ...rest] = id.split("/");
  const task = BY_NAME.get(name);
  if (task === undefined || rest.length > 0)
    throw unknown(id, "there is no such task", `Tasks: ${TASKS.map((t) => t.name).join(", ")}.`);
  const variation = /^(0|[1-9]\d*)$/.test(number) ? Number(number) : -1;
  if (variation < 0 || variation >= task.variations)
    throw unknown(id, `${name} has variations 0 to ${task.variations - 1}`, "");
  const fault = simplificationFault(task, simplifications);
  if (fault !== null) throw unknown(id, fault, "");
  return { task, variation, simplifications };
}

/** Why a list of simplifications does not fit a task, or null where it does. */
export function simplificationFault(task: TaskInfo, simplifications: string): string | null {
  if (simplifications === "") return null;
  for (const name of simplifications.split(","))
    if (!SIMPLIFICATIONS.some((known) => known === name))
      return `there is no simplification ${JSON.stringify(name)}, only ${SIMPLIFICATIONS.join(", ")}`;
  // Without electricity these tasks cannot be solved; `easy` leaves it on for them.
  if (simplifications.includes("noElectricalAction") && /power-component|conductivity/.test(task.name))
    return `${task.name} needs electricity, which noElectricalAction takes away`;
  return null;
}

function unknown(id: string, why: string, hint: string): EnvironmentError {
  return new EnvironmentError("ENVIRONMENT_UNKNOWN_TASK", `No ScienceWorld task ${JSON.stringify(id)}: ${why}.`, {
    hint: hint === "" ? "Expected `<task>/<variation>` or `<task>/<variation>/<simplifications>`." : hint,
  });
}

/** Tasks that AgentGym leaves out of its numbering, by paper id. */
const AGENTGYM_LEFT_OUT = /^(5-[12]|9-|10-)/;

/**
 * The task AgentGym's server and data sets mean by a number (`data_idx`): task by task in the paper's order, variation
 * by variation, 4,639 in all.
 *
 * @returns Task id without simplifications; null for a number beyond the last.
 */
export function dataIndexTask(index: number): string | null {
  let rest = index;
  for (const task of TASKS) {
    if (AGENTGYM_LEFT_OUT.test(task.paperId)) continue;
    if (rest < task.variations) return formatTaskId(task.name, rest, "");
    rest -= task.variations;
  }
  return null;
}

/** How many numbers {@link dataIndexTask} knows. */
export const DATA_INDEX_COUNT = TASKS.filter((task) => !AGENTGYM_LEFT_OUT.test(task.paperId)).reduce(
  (sum, task) => sum + task.variations,
  0,
);
