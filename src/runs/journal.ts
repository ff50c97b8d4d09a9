/**
 * A file that only grows, one JSON object a line: metrics and timings.
 *
 * A checkpoint records the journal's length. A resumed run cuts the file back to it, so that lines written after the
 * last checkpoint are written again instead of twice.
 */
import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { fileError, withFileErrors } from "../data/files.js";
import { ActError } from "../errors.js";

/** One line: numbers, texts, and lists of them. */
export type JournalRecord = Readonly<Record<string, JournalValue>>;
export type JournalValue = string | number | boolean | null | readonly JournalValue[];

export class Journal {
  readonly path: string;
  readonly #handle: FileHandle;
  #length: number;
  #closed = false;

  private constructor(path: string, handle: FileHandle, length: number) {
    this.path = path;
    this.#handle = handle;
    this.#length = length;
  }

  /**
   * Opens a journal, made if absent, and cuts it to `length` bytes.
   *
   * Throws ActError `FILE_*`, or `RUN_DAMAGED` when the file is shorter than `length`.
   */
  static async open(path: string, length = 0): Promise<Journal> {
    const handle = await withFileErrors("opening", path, () => open(path, constants.O_RDWR | constants.O_CREAT));
    try {
      const { size } = await handle.stat();
      if (size < length)
        throw new ActError("RUN_DAMAGED", `${path} has ${size} bytes, but a checkpoint was made at ${length}.`, {
          hint: "Restore the file or start the run again with --overwrite.",
        });
      await handle.truncate(length);
    } catch (cause) {
      await handle.close();
      throw fileError("opening", path, cause);
    }
    return new Journal(path, handle, length);
  }

  /** Bytes written so far. */
  get length(): number {
    return this.#length;
  }

  /** Appends a line. A failed write (disk full) is undone, so that no half line stays. */
  async append(record: JournalRecord): Promise<void> {
    const bytes = Buffer.from(`${JSON.stringify(record)}\n`);
    try {
      let written = 0;
      while (written < bytes.length) {
        const result = await this.#handle.write(bytes, written, bytes.length - written, this.#length + written);
        written += result.bytesWritten;
      }
    } catch (cause) {
      // The write's own fault is the one to report.
      await this.#handle.truncate(this.#length).catch(() => undefined);
      throw fileError("writing", this.path, cause);
    }
    this.#length += bytes.length;
  }

  /** Puts the lines on disk. */
  async sync(): Promise<void> {
    await withFileErrors("writing", this.path, () => this.#handle.sync());
  }

  /** Safe to call twice. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#handle.close();
  }
}
