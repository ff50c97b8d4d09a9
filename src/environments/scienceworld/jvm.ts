/**
 * One JVM running the ScienceWorld simulator: started, watched, and always gone in the end.
 *
 * The JVM ends by itself when its standard input closes, so it never outlives this process, not even after `kill -9`.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join, resolve as resolvePath } from "node:path";
import { EnvironmentError } from "../environment.js";
import { type RequestOptions, withDeadline } from "./connection.js";

export interface JvmOptions {
  /** The `java` program. */
  readonly java: string;
  /** Path of `scienceworld.jar`. */
  readonly jar: string;
  /** Largest heap, in MiB. The process takes about 100 MiB more. */
  readonly heapMb: number;
}

/** Exit status of `-XX:+ExitOnOutOfMemoryError`. */
const OUT_OF_MEMORY_STATUS = 3;
/** Bytes of output kept for error messages. */
const OUTPUT_TAIL = 4096;

export class Jvm {
  readonly #child: ChildProcess;
  readonly #heapMb: number;
  /** Port of the py4j server on 127.0.0.1. */
  readonly port: number;
  /** Settles, without a fault, when the process is gone. */
  readonly exited: Promise<void>;
  readonly #tail: () => string;

  private constructor(child: ChildProcess, heapMb: number, port: number, exited: Promise<void>, tail: () => string) {
    this.#child = child;
    this.#heapMb = heapMb;
    this.port = port;
    this.exited = exited;
    this.#tail = tail;
  }

  /**
   * Starts a JVM and waits for its port.
   *
   * @throws EnvironmentError `ENVIRONMENT_BAD_OPTIONS` when `java` cannot be run, `ENVIRONMENT_TIMEOUT`,
   *   `ENVIRONMENT_LOST` when the JVM ended at once.
   */
  static async start(options: JvmOptions, wait: RequestOptions): Promise<Jvm> {
    wait.signal?.throwIfAborted();
    const folder = await workingFolder(options.jar);
    const child = spawn(
      options.java,
      [
        `-Xmx${options.heapMb}m`,
        // Identity hashes, and with them the order of some lists, come from a per-thread generator that is seeded by how
        // many threads and symbols the JVM made before. Collector and processor count must not vary between machines.
        "-XX:+UseG1GC",
        "-XX:ActiveProcessorCount=2",
        // Without it a JVM out of memory lingers half-dead; gone, it is a fault with a name.
        "-XX:+ExitOnOutOfMemoryError",
        "-Djava.awt.headless=true",
        "-Dfile.encoding=UTF-8",
        "-cp",
        resolvePath(options.jar),
        "py4j.GatewayServer",
        "--die-on-broken-pipe",
        "0",
      ],
      { cwd: folder, stdio: ["pipe", "pipe", "pipe"] },
    );
    let tail = "";
    const keep = (text: string): void => {
      tail = (tail + text).slice(-OUTPUT_TAIL);
    };
    let spawnFault: Error | null = null;
    const exited = new Promise<void>((resolve) => {
      child.once("exit", () => resolve());
      child.once("error", (error) => {
        spawnFault = error;
        resolve();
      });
    }).then(() => rm(folder, { recursive: true, force: true }).catch(() => undefined));
    // A write into a JVM that is gone; its exit is what gets reported.
    child.stdin?.on("error", () => undefined);
    child.stderr?.setEncoding("utf8").on("data", keep);
    const firstLine = new Promise<string>((resolve) => {
      let head: string | null = "";
      // The simulator prints a lot: a pipe that nobody drains would block it.
      child.stdout?.setEncoding("utf8").on("data", (text: string) => {
        keep(text);
        if (head === null) return;
        head += text;
        const end = head.indexOf("\n");
        if (end === -1) return;
        resolve(head.slice(0, end).trim());
        head = null;
      });
    });
    unref(child);
    try {
      const line = await withDeadline(
        Promise.race([firstLine, exited.then(() => null)]),
        wait,
        "starting the simulator's JVM",
      );
      if (line === null) throw spawnFault === null ? null : startFault(options.java, spawnFault);
      const port = Number(line);
      if (Number.isInteger(port) && port > 0 && port < 65536) {
        await withDeadline(settled(child.pid), wait, "starting the simulator's JVM");
        return new Jvm(child, options.heapMb, port, exited, () => tail);
      }
      throw new EnvironmentError(
        "ENVIRONMENT_PROTOCOL",
        `Expected a port number as the first line of the simulator's JVM, got ${JSON.stringify(line.slice(0, 80))}.`,
        { hint: "Check that `jar` is the ScienceWorld simulator." },
      );
    } catch (error) {
      child.kill("SIGKILL");
      if (error !== null) throw error;
      throw new EnvironmentError("ENVIRONMENT_LOST", `The simulator's JVM ended at once: ${lastLine(tail)}.`, {
        hint: "Check that `jar` is the ScienceWorld simulator and that `java` is Java 8 or later.",
        retryable: false,
      });
    }
  }

  /** Id of the process; undefined once it failed to start. */
  get pid(): number | undefined {
    return this.#child.pid;
  }

  get alive(): boolean {
    return this.#child.exitCode === null && this.#child.signalCode === null;
  }

  /** How the process ended, for an error message; null while it runs. */
  get epitaph(): { readonly text: string; readonly hint: string } | null {
    const { exitCode, signalCode } = this.#child;
    if (exitCode === OUT_OF_MEMORY_STATUS)
      return {
        text: `ran out of its heap of ${this.#heapMb} MiB`,
        hint: "Raise `heapMb`.",
      };
    if (signalCode !== null) return { text: `was ended by ${signalCode}`, hint: "" };
    if (exitCode !== null) return { text: `ended with status ${exitCode}: ${lastLine(this.#tail())}`, hint: "" };
    return null;
  }

  /** Ends the process at once and waits until it is gone. Safe to call twice. */
  async kill(): Promise<void> {
    if (this.alive) {
      // Unreferenced, its end would not be waited for: the host would run out of things to do and exit here.
      this.#child.ref();
      this.#child.kill("SIGKILL");
    }
    await this.exited;
  }
}

/**
 * A folder for one JVM, with the simulator's table of object types in it.
 *
 * The simulator reads the table from its working folder, gives new types the next numbers and writes it back; the order
 * of its lists depends on it. Beside the jar, as the Python package has it, the table is complete. A copy for each JVM
 * keeps episodes from changing one another.
 */
async function workingFolder(jar: string): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "act-trainer-scienceworld-"));
  const table = await readFile(join(dirname(jar), TYPE_TABLE)).catch(() => null);
  if (table !== null) await writeFile(join(folder, TYPE_TABLE), table);
  return folder;
}

/** Name of the simulator's table of object types. */
export const TYPE_TABLE = "object_type_ids.tsv";

/**
 * Waits until the threads of a fresh JVM that load classes or compile sleep, but not for ever.
 *
 * The port is printed before the main thread is done loading classes. A connection made meanwhile would seed its
 * thread's identity hashes differently from one run to the next.
 */
async function settled(pid: number | undefined): Promise<void> {
  const end = performance.now() + SETTLE_MS;
  let quiet = 0;
  while (quiet < SETTLED_POLLS && performance.now() < end) {
    await new Promise((resolve) => setTimeout(resolve, SETTLED_POLL_MS));
    if (pid === undefined) return;
    let threads: string[];
    try {
      const tasks = await readdir(`/proc/${pid}/task`);
      threads = await Promise.all(tasks.map((task) => readFile(`/proc/${pid}/task/${task}/stat`, "utf8")));
    } catch {
      // Not Linux, or the process is gone: the wait for so many polls is all there is.
      quiet++;
      continue;
    }
    quiet = threads.every(sleeps) ? quiet + 1 : 0;
  }
}

/** Whether a thread sleeps, or is one of the JVM's own that wake up again and again for ever. */
function sleeps(stat: string): boolean {
  // `pid (name) state ...`; the name may hold spaces and brackets.
  const close = stat.lastIndexOf(")");
  const name = stat.slice(stat.indexOf("(") + 1, close);
  return /^(VM |G1 |GC )/.test(name) || stat.charAt(close + 2) === "S";
}

const SETTLED_POLL_MS = 5;
const SETTLED_POLLS = 4;
/** Longest wait; on a machine busy enough to need it, exact repetition is not certain. */
const SETTLE_MS = 15_000;

/** A forgotten `close()` must not keep the host process alive; the JVM then ends with its standard input. */
function unref(child: ChildProcess): void {
  child.unref();
  for (const stream of [child.stdin, child.stdout, child.stderr])
    if (stream !== null && "unref" in stream && typeof stream.unref === "function") stream.unref();
}

function startFault(java: string, cause: Error): EnvironmentError {
  return new EnvironmentError("ENVIRONMENT_BAD_OPTIONS", `Cannot run \`${java}\`: ${cause.message}.`, {
    hint: "Install Java 8 or later, or set `java` to its program.",
    cause,
  });
}

function lastLine(output: string): string {
  return output.trim().split("\n").at(-1) ?? "no output";
}
