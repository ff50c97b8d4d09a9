/** Folders of real games: which of them are played, in which order, and the panels they make. */
import { createHash } from "node:crypto";
import { readdir } from "node:fs/promises";
import { join, sep } from "node:path";
import { EnvironmentError, type Panel } from "../environment.js";
import { parseGameFile, readBytes } from "./game.js";

/** Name of every game file. */
export const GAME_FILE = "game.tw-pddl";

/** Folders of ALFWorld's own release that are panels of their own. */
const SPLITS: readonly string[] = ["train", "valid_seen", "valid_unseen", "valid_train"];

/** Why a game of a folder is left out, as ALFWorld itself leaves it out. */
export interface SkippedGame {
  /** Path of the game's folder from the root, with slashes. */
  readonly game: string;
  readonly reason: "movable receptacle" | "sliced object" | "not solvable" | "solvability not stated";
}

/** The games of one panel. */
export interface GameFolder {
  readonly panel: Panel;
  readonly skipped: readonly SkippedGame[];
}

/** Names of a root's panels: the release's splits where it has them, else `all`. */
export async function panelNamesOf(root: string): Promise<readonly string[]> {
  let entries: string[];
  try {
    entries = (await readdir(root, { withFileTypes: true })).filter((e) => e.isDirectory()).map((e) => e.name);
  } catch (cause) {
    throw new EnvironmentError("ENVIRONMENT_BAD_OPTIONS", `Cannot list the games in ${root}.`, {
      hint: "The option `root` names a folder of games, e.g. json_2.1.1 of ALFWorld's release.",
      cause,
    });
  }
  const splits = SPLITS.filter((split) => entries.includes(split));
  return splits.length > 0 ? splits : ["all"];
}

/**
 * Reads all games of a panel. Tasks are the paths of the games' folders from the root, with slashes, sorted by code unit,
 * so that neither the order of the directory nor the system matters. The hash is over these paths and the sha256 of each
 * game file.
 *
 * @throws EnvironmentError with code `ENVIRONMENT_BAD_DATA` when a game file cannot be read or there is none.
 */
export async function readFolder(root: string, panel: string, version: string): Promise<GameFolder> {
  const games = (await findGames(join(root, panel === "all" ? "" : panel)))
    .map((game) => (panel === "all" ? game || "." : game === "" ? panel : `${panel}/${game}`))
    .sort();
  const tasks: string[] = [];
  const skipped: SkippedGame[] = [];
  const hash = createHash("sha256");
  for (const game of games) {
    const path = join(root, game, GAME_FILE);
    const bytes = await readBytes(path);
    const reason = whySkipped(game, () => parseGameFile(bytes, path).solvable);
    if (reason !== null) {
      skipped.push({ game, reason });
      continue;
    }
    tasks.push(game);
    hash.update(`${game} ${createHash("sha256").update(bytes).digest("hex")}\n`);
  }
  if (tasks.length === 0) {
    throw new EnvironmentError(
      "ENVIRONMENT_BAD_DATA",
      `No playable game in ${join(root, panel === "all" ? "" : panel)}.`,
      {
        hint: `Expected folders with a file ${GAME_FILE}; ${skipped.length} were skipped.`,
      },
    );
  }
  return { panel: { id: `alfworld/${panel}@${version}`, tasks, hash: hash.digest("hex") }, skipped };
}

/** ALFWorld's own rules of what to leave out; the first is about the path and needs no reading. */
function whySkipped(game: string, solvable: () => boolean | undefined): SkippedGame["reason"] | null {
  if (game.includes("movable")) return "movable receptacle";
  if (game.includes("Sliced")) return "sliced object";
  const stated = solvable();
  if (stated === undefined) return "solvability not stated";
  return stated ? null : "not solvable";
}

/** Folders with a game file below `folder`, relative to it, with slashes. */
async function findGames(folder: string): Promise<string[]> {
  const found: string[] = [];
  async function visit(relative: string): Promise<void> {
    const entries = await readdir(join(folder, relative), { withFileTypes: true });
    for (const entry of entries) {
      // Links are not followed: they could lead round in circles.
      if (entry.isDirectory()) await visit(join(relative, entry.name));
      else if (entry.name === GAME_FILE) found.push(relative.split(sep).join("/"));
    }
  }
  await visit("");
  return found;
}
