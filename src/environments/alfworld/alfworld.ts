/** The ALFWorld environment: real game folders, played natively without Python or a planner. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { EnvironmentError, type EnvironmentProvider, type Panel } from "../environment.js";
import { parseEnvironmentOptions } from "../options.js";
import { type EpisodeSetup, TextWorldEnvironment, TextWorldEpisode } from "../textworld/episode.js";
import { GAME_FILE, type GameFolder, panelNamesOf, readFolder, type SkippedGame } from "./folders.js";
import { loadGame } from "./game.js";

const OPTIONS = z.strictObject({
  /** Folder of games: `json_2.1.1` of ALFWorld's release, or any folder with `game.tw-pddl` files below it. */
  root: z.string().min(1),
  /** The stored plan, which knows what it cannot see, or the hand-coded expert, which searches. */
  expert: z.enum(["walkthrough", "handcoded"]).default("walkthrough"),
  /** Steps after which an episode is truncated. */
  stepLimit: z.int().min(1).default(50),
});

/** Options of the ALFWorld environment; `root` is required. */
export type AlfworldOptions = z.input<typeof OPTIONS>;

/** Version of rules, texts and of the order of panels. */
export const ALFWORLD_VERSION = "1";

/** The ALFWorld provider, which can also say which games it leaves out. */
export interface AlfworldProvider extends EnvironmentProvider {
  /** Games of a panel that are left out, with reasons. Throws as {@link EnvironmentProvider.panel} does. */
  skipped(panel: string): Promise<readonly SkippedGame[]>;
  create(): Promise<TextWorldEnvironment>;
}

/**
 * A provider over a folder of games. Its panels are `train`, `valid_seen`, `valid_unseen` (and `valid_train`) as far as
 * the folder has them, and `all` for a folder without any of them. Task ids are paths of games' folders from the root,
 * e.g. `valid_seen/pick_and_place_simple-Mug-None-Desk-308/trial_T2019...`.
 *
 * @throws EnvironmentError with code `ENVIRONMENT_BAD_OPTIONS`.
 */
export async function alfworldProvider(options: AlfworldOptions): Promise<AlfworldProvider> {
  const settings = parseEnvironmentOptions(OPTIONS, options, "ALFWorld");
  const panelNames = await panelNamesOf(settings.root);
  const folders = new Map<string, Promise<GameFolder>>();
  const folder = (name: string): Promise<GameFolder> => {
    if (!panelNames.includes(name)) {
      throw new EnvironmentError("ENVIRONMENT_UNKNOWN_PANEL", `${settings.root} has no panel "${name}".`, {
        hint: `Panels: ${panelNames.join(", ")}.`,
      });
    }
    let read = folders.get(name);
    if (read === undefined) {
      read = readFolder(settings.root, name, ALFWORLD_VERSION);
      folders.set(name, read);
      // A folder that could not be read may be readable the next time.
      read.catch(() => folders.delete(name));
    }
    return read;
  };
  return {
    name: "alfworld",
    version: ALFWORLD_VERSION,
    stepLimit: settings.stepLimit,
    panelNames,
    panel: async (name): Promise<Panel> => (await folder(name)).panel,
    skipped: async (name) => (await folder(name)).skipped,
    create: async () => new TextWorldEnvironment((taskId) => setUp(taskId, settings)),
    close: async () => {},
  };
}

/**
 * An ALFWorld episode to be played synchronously.
 *
 * @throws EnvironmentError with code `ENVIRONMENT_BAD_OPTIONS`, `ENVIRONMENT_UNKNOWN_TASK` or `ENVIRONMENT_BAD_DATA`.
 */
export async function alfworldEpisode(taskId: string, options: AlfworldOptions): Promise<TextWorldEpisode> {
  return new TextWorldEpisode(await setUp(taskId, parseEnvironmentOptions(OPTIONS, options, "ALFWorld")));
}

async function setUp(taskId: string, settings: z.output<typeof OPTIONS>): Promise<EpisodeSetup> {
  if (taskId.split("/").some((part) => part === ".." || part === "") || /[\\\0]/.test(taskId)) {
    throw new EnvironmentError("ENVIRONMENT_UNKNOWN_TASK", `"${taskId}" is not the path of a game's folder.`, {
      hint: "Task ids are paths from the root with slashes, as a panel lists them.",
    });
  }
  const path = join(settings.root, taskId, GAME_FILE);
  if (!existsSync(path)) {
    throw new EnvironmentError("ENVIRONMENT_UNKNOWN_TASK", `There is no game at ${path}.`, {
      hint: "Task ids are paths of games' folders from the option `root`, as a panel lists them.",
    });
  }
  const { world, task, walkthrough } = await loadGame(path);
  return { world, task, walkthrough, expert: settings.expert, stepLimit: settings.stepLimit };
}
