/**
 * ScienceWorld from Node.js: the official simulator jar, one JVM for each episode that runs, no Python.
 *
 * The jar is not part of this package; its path is an option or the environment variable `SCIENCEWORLD_JAR`.
 */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { availableParallelism, freemem } from "node:os";
import { dirname, join } from "node:path";
import { z } from "zod";
import { EnvironmentError, type EnvironmentProvider, type Panel } from "../environment.js";
import { parseEnvironmentOptions } from "../options.js";
import { ScienceWorldEnvironment } from "./environment.js";
import { ETO_SIMPLIFICATIONS, ETO_STEP_LIMITS, etoVariations } from "./eto_split.js";
import { TYPE_TABLE } from "./jvm.js";
import { type PoolStatistics, SimulatorPool } from "./pool.js";
import { Simulator } from "./simulator.js";
import { formatTaskId, type Split, shortVariations, simplificationFault, splitRange, TASKS } from "./tasks.js";

/** Memory of a JVM beside its heap, in MiB: 350 MiB resident were measured with a heap of 256 MiB. */
const JVM_OVERHEAD_MB = 100;

export const scienceWorldOptionsSchema = z.strictObject({
  /** Path of `scienceworld.jar`; without it that of `SCIENCEWORLD_JAR`. */
  jar: z.string().min(1).optional(),
  /** The `java` program, Java 8 or later. */
  java: z.string().min(1).default("java"),
  /** Simplifications of the tasks of all panels but ETO's: none, `easy`, or a list. */
  simplifications: z.string().default(""),
  /** Steps after which an episode is truncated: one number, ETO's by task (100 elsewhere), or numbers by task. */
  stepLimit: z.union([z.int().min(1), z.literal("eto"), z.record(z.string(), z.int().min(1))]).default(100),
  /**
   * What the limit counts. `actions`: every action of the agent. `moves`: the simulator's moves, as the Python package
   * does - looking is free, waiting costs several, and the episode ends at the first move beyond the limit.
   */
  limitCounts: z.enum(["actions", "moves"]).default("actions"),
  /** Wall-clock limit of an episode in milliseconds; it is then truncated at its next step. */
  episodeMs: z.int().min(1).nullable().default(null),
  /**
   * `on-demand`: the first question for the expert's action loads the task again, with its gold path (0.1 to 9 s).
   * `at-reset`: every reset does, which also serves the few tasks whose first state changes on loading them again.
   */
  goldPath: z.enum(["on-demand", "at-reset"]).default("on-demand"),
  /** Most JVMs at once; null for as many as processors, but no more than half of the free memory holds. */
  maxProcesses: z.int().min(1).nullable().default(null),
  /** Heap of a JVM in MiB; 160 were seen to be too few. */
  heapMb: z.int().min(16).default(256),
  /** Episodes a JVM plays. 1 makes every episode exactly repeatable; more spare the start of about a second. */
  episodesPerProcess: z.int().min(1).default(1),
  /** Longest waits, in milliseconds. */
  deadlines: z
    .strictObject({
      acquireMs: z.int().min(1).default(600_000),
      startMs: z.int().min(1).default(60_000),
      loadMs: z.int().min(1).default(60_000),
      goldMs: z.int().min(1).default(180_000),
      callMs: z.int().min(1).default(60_000),
    })
    .prefault({}),
});

export type ScienceWorldOptions = z.input<typeof scienceWorldOptionsSchema>;

/** Releases of the simulator by the sha256 of their jar. */
const RELEASES: Readonly<Record<string, string>> = {
  f4e1fdce0cdabe1bab7128a7e78ea820210d9db3c28d7272bcbbc3f3a1c5f0d7: "1.2.3",
};

/** Changes when this folder makes other episodes of the same jar. */
const REVISION = 1;

const PANELS = [
  ...(["train", "dev", "test", "test-first"] as const),
  ...(["short-train", "short-dev", "short-test"] as const),
  ...(["eto-train", "eto-dev", "eto-test"] as const),
];
const PANEL_VERSION = 1;

export class ScienceWorldProvider implements EnvironmentProvider {
  readonly name = "scienceworld";
  readonly version: string;
  readonly stepLimit: number;
  readonly panelNames: readonly string[] = PANELS;
  /** sha256 of the jar, in hex. */
  readonly jarHash: string;
  readonly #options: z.output<typeof scienceWorldOptionsSchema>;
  readonly #pool: SimulatorPool<Simulator>;

  private constructor(
    options: z.output<typeof scienceWorldOptionsSchema>,
    jar: string,
    jarHash: string,
    tableHash: string | null,
  ) {
    this.#options = options;
    this.jarHash = jarHash;
    const table = tableHash === null ? "untyped" : tableHash.slice(0, 6);
    this.version = `${RELEASES[jarHash] ?? `jar-${jarHash.slice(0, 12)}`}+${REVISION}.${table}`;
    this.stepLimit = limitOf(options.stepLimit, null);
    const { deadlines, java, heapMb } = options;
    this.#pool = new SimulatorPool({
      maxProcesses: options.maxProcesses ?? defaultProcesses(heapMb),
      episodesPerProcess: options.episodesPerProcess,
      acquireMs: deadlines.acquireMs,
      start: (signal) => Simulator.start({ java, jar, heapMb }, deadlines, signal),
    });
  }

  /**
   * Checks the options and reads the jar's hash; no JVM is started.
   *
   * @throws EnvironmentError `ENVIRONMENT_BAD_OPTIONS`.
   */
  static async open(options: ScienceWorldOptions = {}): Promise<ScienceWorldProvider> {
    const settings = parseEnvironmentOptions(scienceWorldOptionsSchema, options, "ScienceWorld");
    const { stepLimit, simplifications } = settings;
    for (const task of TASKS) {
      // `easy` and lists apply to whole panels, so they have to fit every task.
      const fault = simplificationFault(task, simplifications);
      if (fault !== null) throw badOptions(`simplifications: ${fault}`, "");
    }
    if (typeof stepLimit === "object")
      for (const name of Object.keys(stepLimit))
        if (!TASKS.some((task) => task.name === name)) throw badOptions(`stepLimit: there is no task ${name}`, "");
    const jar = settings.jar ?? process.env.SCIENCEWORLD_JAR;
    const hint = "It is in the Python package `scienceworld` (scienceworld/scienceworld.jar).";
    if (jar === undefined || jar === "")
      throw badOptions("no simulator: set `jar` or SCIENCEWORLD_JAR to the path of scienceworld.jar", hint);
    let bytes: Buffer;
    try {
      bytes = await readFile(jar);
    } catch (cause) {
      throw badOptions(
        `cannot read the simulator ${jar}: ${cause instanceof Error ? cause.message : cause}`,
        hint,
        cause,
      );
    }
    const sha256 = (content: Buffer): string => createHash("sha256").update(content).digest("hex");
    // Without the table episodes can be played, but the order of some lists is another: the version tells.
    const table = await readFile(join(dirname(jar), TYPE_TABLE)).catch(() => null);
    return new ScienceWorldProvider(settings, jar, sha256(bytes), table === null ? null : sha256(table));
  }

  /** How many simulators were started, recycled and lost. */
  get statistics(): PoolStatistics {
    return this.#pool.statistics;
  }

  /** Process ids of the JVMs that play an episode now, for watching their memory. */
  get processIds(): readonly number[] {
    return this.#pool.lent.flatMap((simulator) => (simulator.pid === undefined ? [] : [simulator.pid]));
  }

  /**
   * `train`, `dev`, `test`: the published split, all variations. `test-first`: the first test variation of each task.
   * `short-*`: some variations of the tasks that take few actions, of the same split. `eto-*`: ETO's lists, always with `easy`.
   */
  async panel(name: string): Promise<Panel> {
    const tasks = this.#panelTasks(name);
    const id = `${this.name}/${name}@${PANEL_VERSION}`;
    // What a task is lies in the jar and in its id.
    const hash = createHash("sha256")
      .update([this.jarHash, ...tasks].join("\n"))
      .digest("hex");
    return { id, tasks, hash };
  }

  async create(): Promise<ScienceWorldEnvironment> {
    const { stepLimit, limitCounts, episodeMs, goldPath } = this.#options;
    return new ScienceWorldEnvironment(this.#pool, {
      stepLimit: (task) => limitOf(stepLimit, task),
      limitCounts,
      episodeMs,
      goldPath,
    });
  }

  async close(): Promise<void> {
    await this.#pool.close();
  }

  #panelTasks(name: string): string[] {
    const { simplifications } = this.#options;
    const ranged = (split: Split, most: number): string[] =>
      TASKS.flatMap((task) => {
        const [first, end] = splitRange(task, split);
        return Array.from({ length: Math.min(most, end - first) }, (_, i) =>
          formatTaskId(task.name, first + i, simplifications),
        );
      });
    const short = (split: Split): string[] =>
      shortVariations(split).map(({ task, variation }) => formatTaskId(task, variation, simplifications));
    const eto = (split: Split): string[] =>
      etoVariations(split).map(({ task, variation }) => formatTaskId(task, variation, ETO_SIMPLIFICATIONS));
    switch (name as (typeof PANELS)[number]) {
      case "train":
      case "dev":
      case "test":
        return ranged(name as Split, Number.POSITIVE_INFINITY);
      case "test-first":
        return ranged("test", 1);
      case "short-train":
        return short("train");
      case "short-dev":
        return short("dev");
      case "short-test":
        return short("test");
      case "eto-train":
        return eto("train");
      case "eto-dev":
        return eto("dev");
      case "eto-test":
        return eto("test");
    }
    throw new EnvironmentError("ENVIRONMENT_UNKNOWN_PANEL", `ScienceWorld has no panel ${JSON.stringify(name)}.`, {
      hint: `Panels: ${PANELS.join(", ")}.`,
    });
  }
}

/** The limit of a task; of the whole provider (the largest there is) for null. */
function limitOf(limit: number | "eto" | Readonly<Record<string, number>>, task: string | null): number {
  if (typeof limit === "number") return limit;
  const byTask = limit === "eto" ? ETO_STEP_LIMITS : limit;
  if (task !== null) return byTask[task] ?? DEFAULT_STEP_LIMIT;
  return Math.max(...TASKS.map(({ name }) => byTask[name] ?? DEFAULT_STEP_LIMIT));
}

const DEFAULT_STEP_LIMIT = 100;

function defaultProcesses(heapMb: number): number {
  const fit = Math.floor(freemem() / 2 / ((heapMb + JVM_OVERHEAD_MB) * 2 ** 20));
  return Math.max(1, Math.min(availableParallelism(), fit));
}

function badOptions(message: string, hint: string, cause?: unknown): EnvironmentError {
  return new EnvironmentError("ENVIRONMENT_BAD_OPTIONS", `ScienceWorld: ${message}.`, { hint, cause });
}
