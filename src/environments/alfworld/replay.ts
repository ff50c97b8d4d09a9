/** Replays recorded traces of the original engine (`shared/envs/alfworld/oracle` has their format) against this one. */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { throwIfAborted } from "../../errors.js";
import { EnvironmentError } from "../environment.js";
import type { ReplayMismatch, ReplayReport } from "../replay.js";
import { TextWorld } from "../textworld/rules.js";
import { compileGame, type Naming, readBytes } from "./game.js";

/** Where games and traces are. */
export interface AlfworldReplayOptions {
  /** Folder to which the traces' game paths are relative. */
  readonly games: string;
  /** JSON lines, plain or gzipped. */
  readonly traces: string;
  /** Called after every episode with the number of episodes so far. */
  readonly onProgress?: (episodes: number) => void;
  readonly signal?: AbortSignal;
}

/** A recorded state: what the engine said and what the state then was. Fields that are absent were not recorded. */
interface RecordedState {
  readonly obs?: unknown;
  readonly admissible_sha256?: unknown;
  readonly admissible?: unknown;
  readonly won?: unknown;
  readonly done?: unknown;
  readonly reward?: unknown;
  readonly score?: unknown;
  readonly was_listed?: unknown;
}

interface RecordedStep extends RecordedState {
  readonly command: string;
}

interface TraceLine {
  readonly type: "game" | "trace";
  readonly game: string;
  readonly kind?: string;
  readonly start?: RecordedState;
  readonly steps?: readonly RecordedStep[];
  readonly goal?: unknown;
  readonly intro?: unknown;
  readonly raw_intro?: unknown;
  readonly names?: Readonly<Record<string, unknown>>;
}

/**
 * Plays every trace again and compares all recorded fields: texts, admissible commands (as lists and by hash), `won`,
 * `done`, `reward`, `score`, and for game lines the first texts, the goal sentence and the shown names.
 *
 * Kind `raw` is played with ids as names, as the bare engine does. A game that cannot be loaded throws.
 *
 * @throws EnvironmentError with code `ENVIRONMENT_BAD_DATA` when games or traces cannot be read.
 */
export async function replayAlfworld(options: AlfworldReplayOptions): Promise<ReplayReport> {
  const mismatches: ReplayMismatch[] = [];
  const played = new GameCache(options.games);
  let episodes = 0;
  let steps = 0;
  let exact = 0;
  for (const line of readTraces(await readBytes(options.traces), options.traces)) {
    throwIfAborted(options.signal);
    if (line.type === "game") {
      await compareGame(line, played, mismatches);
      continue;
    }
    const episode = `${line.game} ${line.kind}`;
    const world = await played.world(line.game, line.kind === "raw" ? "ids" : "shown");
    const report = (step: number) => (field: string, expected: unknown, got: unknown) => {
      mismatches.push({ episode, step, field, expected, got });
    };
    const first = world.reset();
    if (line.start !== undefined) compareState(line.start, { obs: first, ...describeState(world) }, report(-1));
    (line.steps ?? []).forEach((recorded, index) => {
      const before = mismatches.length;
      const listed = world.admissible().includes(recorded.command);
      const { text, won } = world.step(recorded.command);
      const reward = won ? 1 : 0;
      const got = { obs: text, was_listed: listed, done: won, reward, score: reward, ...describeState(world), won };
      compareState(recorded, got, report(index));
      steps++;
      if (mismatches.length === before) exact++;
    });
    episodes++;
    options.onProgress?.(episodes);
  }
  return { episodes, steps, exact, mismatches };
}

/** Traces come grouped by game, so only the last game is kept. */
class GameCache {
  private last: { readonly key: string; readonly world: TextWorld } | null = null;

  constructor(private readonly root: string) {}

  async world(game: string, naming: Naming): Promise<TextWorld> {
    const key = `${naming} ${game}`;
    if (this.last?.key !== key) {
      const path = join(this.root, game);
      this.last = { key, world: new TextWorld(compileGame(await readBytes(path), path, naming).world) };
    }
    return this.last.world;
  }
}

async function compareGame(line: TraceLine, games: GameCache, mismatches: ReplayMismatch[]): Promise<void> {
  const compare = (field: string, expected: unknown, got: unknown): void => {
    if (expected !== undefined && expected !== got) {
      mismatches.push({ episode: `${line.game} game`, step: -1, field, expected, got });
    }
  };
  if (line.raw_intro !== undefined) compare("raw_intro", line.raw_intro, (await games.world(line.game, "ids")).reset());
  const shown = await games.world(line.game, "shown");
  compare("intro", line.intro, shown.reset());
  compare("goal", line.goal, shown.world.task);
  const entities = [...shown.world.receptacles, ...shown.world.objects, ...shown.world.locations];
  const names = new Map(entities.map(({ id, name }) => [id, name]));
  for (const [id, name] of Object.entries(line.names ?? {})) {
    // Types and the agent have names in the recording too, but no text ever shows them.
    const got = names.get(id);
    if (got !== undefined) compare(`names.${id}`, name, got);
  }
}

function describeState(world: TextWorld): RecordedState {
  const admissible = world.admissible();
  return {
    admissible,
    admissible_sha256: createHash("sha256").update(admissible.join("\n")).digest("hex"),
    won: world.won(),
  };
}

function compareState(
  recorded: RecordedState,
  got: RecordedState,
  report: (field: string, expected: unknown, got: unknown) => void,
): void {
  for (const field of ["obs", "won", "done", "reward", "score", "was_listed", "admissible_sha256"] as const) {
    if (recorded[field] !== undefined && recorded[field] !== got[field]) report(field, recorded[field], got[field]);
  }
  if (recorded.admissible !== undefined && JSON.stringify(recorded.admissible) !== JSON.stringify(got.admissible)) {
    report("admissible", recorded.admissible, got.admissible);
  }
}

function* readTraces(bytes: Uint8Array, path: string): Generator<TraceLine> {
  const bad = (why: string, cause?: unknown) =>
    new EnvironmentError("ENVIRONMENT_BAD_DATA", `Cannot read the traces ${path}: ${why}.`, {
      hint: "Expected JSON lines of type `game` and `trace`, plain or gzipped.",
      cause,
    });
  let text: string;
  try {
    // Gzip files begin with these two bytes, and no JSON text does.
    const plain = bytes[0] === 0x1f && bytes[1] === 0x8b ? gunzipSync(bytes) : bytes;
    text = new TextDecoder().decode(plain);
  } catch (cause) {
    throw bad("the file cannot be unpacked", cause);
  }
  for (const [index, row] of text.split("\n").entries()) {
    if (row.trim() === "") continue;
    let line: unknown;
    try {
      line = JSON.parse(row);
    } catch (cause) {
      throw bad(`line ${index + 1} is not JSON`, cause);
    }
    if (!isTraceLine(line)) throw bad(`line ${index + 1} is neither a game nor a trace`);
    yield line;
  }
}

function isTraceLine(line: unknown): line is TraceLine {
  if (typeof line !== "object" || line === null) return false;
  const { type, game, kind, steps } = line as Partial<TraceLine>;
  if (typeof game !== "string") return false;
  if (type === "game") return true;
  if (type !== "trace" || typeof kind !== "string") return false;
  return Array.isArray(steps) && steps.every((step) => typeof step?.command === "string");
}
