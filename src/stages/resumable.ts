/**
 * Work item by item that survives being killed: finished items are kept in a journal until the stage writes its file.
 */
import { constants } from "node:buffer";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { readLines } from "../data/jsonl.js";
import { ActError } from "../errors.js";
import { followSignal } from "../rollouts/abort.js";
import { Journal, type JournalValue } from "../runs/journal.js";

export const PARTIAL_FILE = "partial.jsonl";

/** Finished items of a stage, by index. */
export class PartialResults<T> {
  readonly #journal: Journal;
  readonly #items: Map<number, T>;
  readonly #began = performance.now();
  /** Seconds of earlier sessions. */
  readonly #before: number;
  #tail: Promise<void> = Promise.resolve();

  private constructor(journal: Journal, items: Map<number, T>, before: number) {
    this.#journal = journal;
    this.#items = items;
    this.#before = before;
  }

  /**
   * Opens the journal of a stage. Items written under another key (another configuration or input) are dropped.
   *
   * @param folder Folder of the stage; must exist.
   * @throws ActError `FILE_*`; nothing is dropped then.
   */
  static async open<T>(folder: string, key: string): Promise<PartialResults<T>> {
    const path = join(folder, PARTIAL_FILE);
    const { length, items, seconds } = await readPartial<T>(path, key);
    const journal = await Journal.open(path, length);
    if (length === 0) await journal.append({ key });
    return new PartialResults<T>(journal, items, seconds);
  }

  /** Items finished so far. */
  get size(): number {
    return this.#items.size;
  }

  has(index: number): boolean {
    return this.#items.has(index);
  }

  /** Wall-clock seconds of the stage, over all its sessions. */
  get seconds(): number {
    return this.#before + (performance.now() - this.#began) / 1000;
  }

  /**
   * Keeps a finished item. Writes one after the other, whoever calls.
   *
   * @param durable False: only for this session; a resumed one does it again.
   */
  async add(index: number, item: T, durable = true): Promise<void> {
    this.#items.set(index, item);
    if (!durable) return;
    const write = this.#tail.then(() =>
      this.#journal.append({ index, seconds: this.seconds, item: item as JournalValue }),
    );
    // The caller gets the fault; the next write must still have its turn.
    this.#tail = write.catch(() => undefined);
    return write;
  }

  /** All items in the order of their indices. */
  inOrder(): T[] {
    return [...this.#items].sort(([a], [b]) => a - b).map(([, item]) => item);
  }

  async close(): Promise<void> {
    await this.#tail;
    await this.#journal.close();
  }

  /** Closes and removes the journal: the stage has written its file. */
  async finish(): Promise<void> {
    await this.close();
    await rm(this.#journal.path, { force: true });
  }
}

/**
 * Whole lines of a journal, read as a stream: it may be longer than any string. No file is an empty journal; any other
 * fault is thrown, since the journal is cut to the length that comes back.
 */
async function readPartial<T>(
  path: string,
  key: string,
): Promise<{ length: number; items: Map<number, T>; seconds: number }> {
  const nothing = { length: 0, items: new Map<number, T>(), seconds: 0 };
  const items = new Map<number, T>();
  let length = 0;
  let seconds = 0;
  try {
    for await (const { line, text, end } of readLines(path, { maxLineBytes: constants.MAX_STRING_LENGTH })) {
      if (end === null) break;
      let value: { key?: unknown; index?: unknown; seconds?: unknown; item?: unknown };
      try {
        value = JSON.parse(text) as typeof value;
      } catch {
        break; // cut in the middle by a crash of the machine; everything after it is done again
      }
      if (line === 1 && value.key !== key) return nothing;
      if (line > 1) {
        if (typeof value.index !== "number" || typeof value.seconds !== "number") break;
        items.set(value.index, value.item as T);
        seconds = value.seconds;
      }
      length = end;
    }
  } catch (cause) {
    // A line cut within a character counts as little as any other that was cut.
    const harmless = ["FILE_NOT_FOUND", "DATA_BAD_ENCODING"];
    if (!(cause instanceof ActError && harmless.includes(cause.code))) throw cause;
  }
  return { length, items, seconds };
}

/**
 * Runs `work` for every index that is not finished yet, `concurrency` at a time.
 *
 * @throws The first error, after all work under way has ended.
 */
export async function runResumable<T>(
  partial: PartialResults<T>,
  count: number,
  concurrency: number,
  work: (index: number, signal: AbortSignal) => Promise<T>,
  options: {
    readonly signal?: AbortSignal | undefined;
    readonly onDone?: ((done: number) => void) | undefined;
    /** Whether a resumed session may take the item as it is; default: always. */
    readonly durable?: (item: T) => boolean;
  } = {},
): Promise<void> {
  options.signal?.throwIfAborted();
  using controller = followSignal(options.signal);
  let done = partial.size;
  let next = 0;
  const worker = async (): Promise<void> => {
    for (let index = next++; index < count; index = next++) {
      if (partial.has(index)) continue;
      controller.signal.throwIfAborted();
      try {
        const item = await work(index, controller.signal);
        await partial.add(index, item, options.durable?.(item) ?? true);
        options.onDone?.(++done);
      } catch (cause) {
        controller.abort(cause);
        throw cause;
      }
    }
  };
  const workers = await Promise.allSettled(Array.from({ length: Math.min(concurrency, count) }, worker));
  if (workers.some((w) => w.status === "rejected")) throw controller.signal.reason;
}
