/** The household environment: generated rooms with ALFWorld's tasks, commands and sentences. */
import { z } from "zod";
import { EnvironmentError, type EnvironmentProvider, type Panel } from "../environment.js";
import { parseEnvironmentOptions } from "../options.js";
import { type EpisodeSetup, TextWorldEnvironment, TextWorldEpisode } from "../textworld/episode.js";
import { MOVE_WORDING, PUT_WORDING, type Wording } from "../textworld/world.js";
import { houseOf, PANEL_HASHES, PANEL_NAMES, PANEL_VERSION, panelHash, panelTasks } from "./panels.js";

const OPTIONS = z.strictObject({
  /** `move X to Y` (games of ALFWorld from 2.1.2 on) or `put X in/on Y` (before). */
  wording: z.enum(["move", "put"]).default("move"),
  /** Steps after which an episode is truncated. */
  stepLimit: z.int().min(1).default(50),
});

/** Options of the household environment; all have defaults. */
export type HouseholdOptions = z.input<typeof OPTIONS>;

/** Version of rules, texts and generator. */
export const HOUSEHOLD_VERSION = "1";

/**
 * The household provider. Panels: `train` (3,000 games), `test-in` (140) and `test-out` (134, with room layouts and
 * object-receptacle pairings never seen in training).
 *
 * @throws EnvironmentError with code `ENVIRONMENT_BAD_OPTIONS`.
 */
export function householdProvider(options: HouseholdOptions = {}): EnvironmentProvider & {
  create(): Promise<TextWorldEnvironment>;
} {
  const settings = parseEnvironmentOptions(OPTIONS, options, "Household");
  return {
    name: "household",
    version: HOUSEHOLD_VERSION,
    stepLimit: settings.stepLimit,
    panelNames: PANEL_NAMES,
    panel: async (name) => panelOf(name, settings.wording),
    create: async () => new TextWorldEnvironment((taskId) => setUp(taskId, settings)),
    close: async () => {},
  };
}

/**
 * A household episode to be played synchronously.
 *
 * @throws EnvironmentError with code `ENVIRONMENT_BAD_OPTIONS` or `ENVIRONMENT_UNKNOWN_TASK`.
 */
export function householdEpisode(taskId: string, options: HouseholdOptions = {}): TextWorldEpisode {
  return new TextWorldEpisode(setUp(taskId, parseEnvironmentOptions(OPTIONS, options, "Household")));
}

/** A panel by name; its hash is computed from the houses and must be the committed one. */
function panelOf(name: string, wording: Wording["put"]): Panel {
  const panel = PANEL_NAMES.find((known) => known === name);
  if (panel === undefined) {
    throw new EnvironmentError("ENVIRONMENT_UNKNOWN_PANEL", `The household environment has no panel "${name}".`, {
      hint: `Panels: ${PANEL_NAMES.join(", ")}.`,
    });
  }
  const hash = panelHash(panel, WORDINGS[wording]);
  if (hash !== PANEL_HASHES[wording][panel]) {
    throw new EnvironmentError(
      "ENVIRONMENT_BAD_DATA",
      `The household panel ${panel} has changed: its hash is ${hash}.`,
      {
        hint: "A changed generator needs a new PANEL_VERSION and new PANEL_HASHES.",
      },
    );
  }
  const version = wording === "move" ? PANEL_VERSION : `${PANEL_VERSION}+put`;
  return { id: `household/${panel}@${version}`, tasks: panelTasks(panel), hash };
}

const WORDINGS: Readonly<Record<Wording["put"], Wording>> = { move: MOVE_WORDING, put: PUT_WORDING };

function setUp(taskId: string, settings: z.output<typeof OPTIONS>): EpisodeSetup {
  const { world, task } = houseOf(taskId, WORDINGS[settings.wording]);
  return { world, task, walkthrough: null, expert: "handcoded", stepLimit: settings.stepLimit };
}
