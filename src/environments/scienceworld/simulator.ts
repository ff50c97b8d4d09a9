/**
 * The simulator's methods, typed: a JVM, a connection to it and the one interface object in it.
 *
 * Every call has a deadline. After a fault the simulator is in an unknown state and is thrown away.
 */
import { EnvironmentError } from "../environment.js";
import { Py4jConnection, type RequestOptions } from "./connection.js";
import { Jvm, type JvmOptions } from "./jvm.js";
import { JAR_HINT, type JavaArgument, JavaReference, type JavaValue } from "./py4j.js";

const INTERFACE_CLASS = "scienceworld.runtime.pythonapi.PythonInterface";

/** Longest waits, in milliseconds. */
export interface Deadlines {
  /** JVM to its first answer. */
  readonly startMs: number;
  /** Loading a task without its gold path. */
  readonly loadMs: number;
  /** Loading a task with its gold path; up to 9 s for the genetics tasks on an idle core. */
  readonly goldMs: number;
  /** Any other call. */
  readonly callMs: number;
}

/** What a step led to. */
export interface SimulatorStep {
  readonly observation: string;
  /** 0..1; -1 after a fatal mistake. */
  readonly score: number;
  readonly completed: boolean;
  /** Moves so far, as the simulator counts them: looking costs none, `wait` several. */
  readonly moves: number;
}

/** What the simulator tells of a running episode beside its observations. */
export interface Inspection {
  readonly look: string;
  readonly inventory: string;
  /** Subgoals and which of them are reached, as a table in text. */
  readonly goals: string;
  /** Actions with `OBJ` in the place of objects, e.g. `move OBJ to OBJ`. */
  readonly templates: readonly string[];
  /** What `OBJ` may be now. */
  readonly objects: readonly string[];
  readonly moves: number;
}

export class Simulator {
  readonly #jvm: Jvm;
  readonly #connection: Py4jConnection;
  readonly #object: JavaReference;
  readonly #deadlines: Deadlines;
  #broken = false;
  /** Episodes begun in this JVM. */
  episodes = 0;

  private constructor(jvm: Jvm, connection: Py4jConnection, object: JavaReference, deadlines: Deadlines) {
    this.#jvm = jvm;
    this.#connection = connection;
    this.#object = object;
    this.#deadlines = deadlines;
  }

  /** Starts a JVM and makes the interface object. `deadlines.startMs` is for all of it. */
  static async start(options: JvmOptions, deadlines: Deadlines, signal?: AbortSignal): Promise<Simulator> {
    const end = performance.now() + deadlines.startMs;
    const wait = (): RequestOptions => ({ deadlineMs: Math.max(1, Math.round(end - performance.now())), signal });
    const jvm = await Jvm.start(options, wait());
    try {
      const connection = await Py4jConnection.connect(jvm.port, wait());
      const object = await connection.construct(INTERFACE_CLASS, wait());
      return new Simulator(jvm, connection, object, deadlines);
    } catch (error) {
      const told = await withEpitaph(error, jvm);
      await jvm.kill();
      throw told;
    }
  }

  get pid(): number | undefined {
    return this.#jvm.pid;
  }

  /** Whether it can be used at all; see {@link Simulator.healthy}. */
  get usable(): boolean {
    return !this.#broken && this.#jvm.alive;
  }

  /** Asks for an answer. False instead of a fault. */
  async healthy(deadlineMs: number): Promise<boolean> {
    if (!this.usable) return false;
    try {
      return typeof (await this.#call("getNumMoves", [], { deadlineMs })) === "number";
    } catch {
      return false;
    }
  }

  /**
   * Loads a task, which begins an episode.
   *
   * @throws EnvironmentError `ENVIRONMENT_UNKNOWN_TASK` with the simulator's own words, and the faults of any call.
   */
  async load(
    task: string,
    variation: number,
    simplifications: string,
    goldPath: boolean,
    signal?: AbortSignal,
  ): Promise<void> {
    const deadlineMs = goldPath ? this.#deadlines.goldMs : this.#deadlines.loadMs;
    const error = await this.#text("load", [task, variation, simplifications, goldPath], { deadlineMs, signal });
    if (error !== "")
      throw new EnvironmentError("ENVIRONMENT_UNKNOWN_TASK", `The simulator refused ${task}/${variation}: ${error}`, {
        hint: "Take tasks from `provider.panel(name)`, or change `simplifications`.",
      });
  }

  /** The goal in words. */
  async taskDescription(signal?: AbortSignal): Promise<string> {
    return this.#text("getTaskDescription", [], { signal });
  }

  /** What is around the agent, without costing a move. */
  async look(signal?: AbortSignal): Promise<string> {
    return this.#text("freeActionLook", [], { signal });
  }

  /** What the agent carries, without costing a move. */
  async inventory(signal?: AbortSignal): Promise<string> {
    return this.#text("freeActionInventory", [], { signal });
  }

  /**
   * Carries out an action: four round trips of about 0.2 ms beside the step itself.
   *
   * @throws EnvironmentError `ENVIRONMENT_FAILED` when the simulator broke inside, which it reports as a lost episode.
   */
  async step(action: string, signal?: AbortSignal): Promise<SimulatorStep> {
    const observation = await this.#text("step", [action], { signal });
    const score = await this.#number("getScore", signal);
    const completed = await this.#call("getCompleted", [], { signal });
    const moves = await this.#number("getNumMoves", signal);
    if (typeof completed !== "boolean") throw this.#unexpected("getCompleted", completed);
    if (score < 0 && (await this.#call("errorUnknownEnvironment", [], { signal })) === true)
      throw new EnvironmentError("ENVIRONMENT_FAILED", `The simulator broke at ${JSON.stringify(action)}.`);
    return { observation, score, completed, moves };
  }

  /** The actions that would change something now, in the simulator's order; one round trip. */
  async validActions(signal?: AbortSignal): Promise<string[]> {
    const method = "getValidActionObjectCombinationsJSON";
    const text = await this.#text(method, [], { signal });
    try {
      const list = (JSON.parse(text) as { validActions: { action: string }[] }).validActions;
      const actions = list.map((entry) => entry.action);
      if (actions.every((action) => typeof action === "string")) return [...new Set(actions)];
    } catch {
      // Falls through to the one error below.
    }
    throw this.#unexpected(method, text.slice(0, 80));
  }

  /** The same actions as the Python package reads them: three round trips. Kept for replaying its recordings. */
  async validActionList(signal?: AbortSignal): Promise<string[]> {
    return this.#list("getValidActionObjectCombinations", signal);
  }

  /** What can be asked beside an episode; none of it costs a move. */
  async inspect(signal?: AbortSignal): Promise<Inspection> {
    return {
      look: await this.look(signal),
      inventory: await this.inventory(signal),
      goals: await this.goalProgress(signal),
      templates: await this.#list("getPossibleActions", signal),
      objects: await this.#list("getPossibleObjects", signal),
      moves: await this.#number("getNumMoves", signal),
    };
  }

  /** Actions that reach the goal from the loaded state; needs a load with its gold path. */
  async goldPath(signal?: AbortSignal): Promise<string[]> {
    return this.#list("getGoldActionSequence", signal);
  }

  /** Number of variations of a task; -1 where there is no such task. */
  async variations(task: string, signal?: AbortSignal): Promise<number> {
    const count = await this.#call("getTaskMaxVariations", [task], { signal });
    if (typeof count !== "number") throw this.#unexpected("getTaskMaxVariations", count);
    return count;
  }

  /** Names of all tasks, in the simulator's order. */
  async taskNames(signal?: AbortSignal): Promise<string[]> {
    return this.#list("getTaskNames", signal);
  }

  /** Words on the subgoals reached and missed. */
  async goalProgress(signal?: AbortSignal): Promise<string> {
    return this.#text("getGoalProgressStr", [], { signal });
  }

  /** Ends the JVM and waits until it is gone. Safe to call twice, and during a call, which then ends typed. */
  async stop(): Promise<void> {
    this.#broken = true;
    this.#connection.close();
    await this.#jvm.kill();
  }

  /** A `List<String>` in three round trips, whatever its length. */
  async #list(method: string, signal: AbortSignal | undefined): Promise<string[]> {
    const list = await this.#call(method, [], { signal });
    if (!(list instanceof JavaReference)) throw this.#unexpected(method, list);
    const joined = await this.#raw("java.lang.String", "join", ["\n", list], { signal });
    await this.#guard(() => this.#connection.release(list, this.#wait({ signal })));
    if (typeof joined !== "string") throw this.#unexpected(method, joined);
    return joined === "" ? [] : joined.split("\n");
  }

  async #text(method: string, args: readonly JavaArgument[], options: CallOptions): Promise<string> {
    const value = await this.#call(method, args, options);
    if (typeof value !== "string") throw this.#unexpected(method, value);
    return value;
  }

  async #number(method: string, signal: AbortSignal | undefined): Promise<number> {
    const value = await this.#call(method, [], { signal });
    if (typeof value !== "number") throw this.#unexpected(method, value);
    return value;
  }

  async #call(method: string, args: readonly JavaArgument[], options: CallOptions): Promise<JavaValue> {
    return this.#raw(this.#object, method, args, options);
  }

  async #raw(
    target: JavaReference | string,
    method: string,
    args: readonly JavaArgument[],
    options: CallOptions,
  ): Promise<JavaValue> {
    return this.#guard(() => this.#connection.call(target, method, args, this.#wait(options)));
  }

  #wait(options: CallOptions): RequestOptions {
    return { deadlineMs: options.deadlineMs ?? this.#deadlines.callMs, signal: options.signal };
  }

  /** Marks the simulator broken at any fault and says how the JVM ended when that was the reason. */
  async #guard<T>(run: () => Promise<T>): Promise<T> {
    try {
      return await run();
    } catch (error) {
      this.#broken = true;
      throw await withEpitaph(error, this.#jvm);
    }
  }

  #unexpected(method: string, value: unknown): EnvironmentError {
    this.#broken = true;
    return new EnvironmentError("ENVIRONMENT_PROTOCOL", `The simulator's ${method} returned ${String(value)}.`, {
      hint: JAR_HINT,
    });
  }
}

interface CallOptions {
  readonly deadlineMs?: number;
  readonly signal?: AbortSignal | undefined;
}

/** A lost connection told by how the JVM ended, where that was the reason; any other fault as it is. */
async function withEpitaph(error: unknown, jvm: Jvm): Promise<unknown> {
  if (!(error instanceof EnvironmentError) || error.code !== "ENVIRONMENT_LOST") return error;
  // The socket closes a moment before the process is reaped.
  await Promise.race([jvm.exited, new Promise((resolve) => setTimeout(resolve, REAP_MS))]);
  const epitaph = jvm.epitaph;
  if (epitaph === null) return error;
  return new EnvironmentError("ENVIRONMENT_LOST", `The simulator's JVM ${epitaph.text}.`, {
    hint: epitaph.hint,
    cause: error,
  });
}

/** How long to wait for the exit status of a JVM whose connection broke. */
const REAP_MS = 500;
