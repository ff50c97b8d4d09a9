/** The frozen panels of the household environment. */
import { createHash } from "node:crypto";
import { EnvironmentError } from "../environment.js";
import { TASK_KINDS, type TaskKind } from "../textworld/task.js";
import type { Wording, World } from "../textworld/world.js";
import { type Distribution, generateHouse, type House, type HouseSettings } from "./generator.js";

/** Name of a panel. */
export type PanelName = "train" | "test-in" | "test-out";

/** The panels' names. */
export const PANEL_NAMES: readonly PanelName[] = ["train", "test-in", "test-out"];

/** Version of the panels. Any change that alters a house needs a new version and new hashes. */
export const PANEL_VERSION = "1";

/** Houses of version 1: small enough that a list of admissible commands has 10 to 25 entries. */
export const SETTINGS: HouseSettings = {
  receptacles: [6, 11],
  objects: [8, 16],
  copies: 3,
  openable: 80,
  opened: 5,
  sharedSpots: 15,
};

interface PanelPlan {
  readonly distribution: Distribution;
  /** Games of each kind, in the order of {@link TASK_KINDS}; the test panels have ALFWorld's own numbers. */
  readonly counts: readonly number[];
}

const PLANS: Readonly<Record<PanelName, PanelPlan>> = {
  train: { distribution: "in", counts: [500, 500, 500, 500, 500, 500] },
  "test-in": { distribution: "in", counts: [35, 13, 27, 16, 25, 24] },
  "test-out": { distribution: "out", counts: [24, 18, 31, 23, 21, 17] },
};

/** sha256 of each panel as {@link panelHash} computes it. */
export const PANEL_HASHES: Readonly<Record<Wording["put"], Readonly<Record<PanelName, string>>>> = {
  move: {
    train: "cc0c1903816c2c1855fbcf6d82f889a16d77d7b79dd213f609efcbbc6f9c374d",
    "test-in": "09b04efb42966d9158c07d671912bbd789c72037393684bdee0fa28e2efa51ab",
    "test-out": "8b44899ab58b38e70e42c310a565fbb9297870af7066197bfbec706fb535d8ab",
  },
  put: {
    train: "e1d47e41c2be6146f3492b6c7ad39fc527065afe31683273e6090bda81dee00b",
    "test-in": "fa97be469db1200b41685eaa8f99dba2811c87d047ff9441a85e234d60e29ee0",
    "test-out": "5c19877e07195e55c21530e50d67bae918734b720fa195a71bf0336b2b89345c",
  },
};

/** Kind of each game of a panel: the kinds take turns until their number is used up. */
function kindsOf(panel: PanelName): readonly TaskKind[] {
  const left = [...PLANS[panel].counts];
  const kinds: TaskKind[] = [];
  while (left.some((count) => count > 0)) {
    TASK_KINDS.forEach((kind, k) => {
      if ((left[k] ?? 0) === 0) return;
      left[k] = (left[k] ?? 0) - 1;
      kinds.push(kind);
    });
  }
  return kinds;
}

const KINDS: Readonly<Record<PanelName, readonly TaskKind[]>> = {
  train: kindsOf("train"),
  "test-in": kindsOf("test-in"),
  "test-out": kindsOf("test-out"),
};

/** Task ids of a panel, e.g. `household/train/000123`, in their fixed order. */
export function panelTasks(panel: PanelName): string[] {
  return KINDS[panel].map((_, index) => `household/${panel}/${String(index).padStart(6, "0")}`);
}

/**
 * The house of a task id.
 *
 * @throws EnvironmentError with code `ENVIRONMENT_UNKNOWN_TASK`.
 */
export function houseOf(taskId: string, wording: Wording): House {
  const [, name = "", digits = ""] = /^household\/([a-z-]+)\/(\d{6})$/.exec(taskId) ?? [];
  const panel = PANEL_NAMES.find((known) => known === name);
  const kind = panel === undefined ? undefined : KINDS[panel][Number(digits)];
  if (panel === undefined || kind === undefined) {
    throw new EnvironmentError("ENVIRONMENT_UNKNOWN_TASK", `There is no household task "${taskId}".`, {
      hint: `Ids look like household/train/000123; panels: ${PANEL_NAMES.map((p) => `${p} (${KINDS[p].length})`).join(", ")}.`,
    });
  }
  const seed = `household@${PANEL_VERSION}/${panel}/${digits}`;
  return generateHouse(seed, kind, PLANS[panel].distribution, SETTINGS, wording);
}

/** sha256 over ids and full content of a panel's worlds, in hex. Generates all of them the first time. */
export function panelHash(panel: PanelName, wording: Wording): string {
  const known = hashes.get(wording)?.get(panel);
  if (known !== undefined) return known;
  const hash = createHash("sha256");
  for (const id of panelTasks(panel)) hash.update(`${id} ${worldText(houseOf(id, wording).world)}\n`);
  const digest = hash.digest("hex");
  hashes.set(wording, (hashes.get(wording) ?? new Map()).set(panel, digest));
  return digest;
}

/** Hashes computed so far; houses depend on nothing but panel, index and wording. */
const hashes = new Map<Wording, Map<PanelName, string>>();

/** A world as one line of JSON: equal lines are equal worlds. */
export function worldText(world: World): string {
  return JSON.stringify({
    ...world,
    canContain: [...world.canContain].sort(),
    otherFacts: [...world.otherFacts].sort(),
    entities: [...world.entities].sort(([a], [b]) => (a < b ? -1 : 1)),
  });
}
