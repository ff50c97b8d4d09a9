/**
 * Progress on stderr: one line redrawn in place in a terminal, plain lines otherwise.
 */
import type { WriteStream } from "node:tty";

/** Where progress goes; `process.stderr` fits. */
export type ProgressStream = NodeJS.WritableStream & Partial<Pick<WriteStream, "isTTY" | "columns">>;

export interface ProgressOptions {
  readonly stream?: ProgressStream;
  /** Milliseconds between plain lines. */
  readonly plainInterval?: number;
  readonly now?: () => number;
}

/** Bars and lines of one command. */
export class Progress {
  readonly #stream: ProgressStream;
  readonly #terminal: boolean;
  readonly #interval: number;
  readonly #now: () => number;
  #bar: { label: string; total: number | null; began: number; done: number; printed: number } | null = null;

  constructor(options: ProgressOptions = {}) {
    this.#stream = options.stream ?? process.stderr;
    this.#terminal = this.#stream.isTTY === true && process.env.TERM !== "dumb" && process.env.CI === undefined;
    this.#interval = options.plainInterval ?? 10_000;
    this.#now = options.now ?? Date.now;
  }

  /** Begins a bar; ends the one before. `total` null: unknown. */
  start(label: string, total: number | null): void {
    this.end();
    this.#bar = { label, total, began: this.#now(), done: 0, printed: this.#now() };
    this.#draw("");
  }

  /** Moves the bar. `detail` is shown behind it, e.g. `reward 0.52`. */
  update(done: number, detail = ""): void {
    const bar = this.#bar;
    if (bar === null) return;
    bar.done = done;
    if (this.#terminal) {
      this.#draw(detail);
      return;
    }
    if (this.#now() - bar.printed < this.#interval && done !== bar.total) return;
    bar.printed = this.#now();
    this.#stream.write(`${this.#text(bar, detail)}\n`);
  }

  /** Ends the bar, leaving its last state to read. */
  end(): void {
    if (this.#bar !== null && this.#terminal) this.#stream.write("\n");
    this.#bar = null;
  }

  /** A line of its own. */
  line(text: string): void {
    if (this.#bar !== null && this.#terminal) this.#stream.write("\r\u001b[2K");
    this.#stream.write(`${text}\n`);
    if (this.#bar !== null) this.#draw("");
  }

  #draw(detail: string): void {
    if (!this.#terminal || this.#bar === null) return;
    const columns = this.#stream.columns ?? 80;
    this.#stream.write(`\r\u001b[2K${this.#text(this.#bar, detail).slice(0, Math.max(20, columns - 1))}`);
  }

  #text(bar: { label: string; total: number | null; began: number; done: number }, detail: string): string {
    const seconds = (this.#now() - bar.began) / 1000;
    const parts = [bar.label];
    if (bar.total === null) parts.push(String(bar.done));
    else {
      const share = bar.total === 0 ? 1 : Math.min(1, bar.done / bar.total);
      if (this.#terminal) parts.push(`[${"=".repeat(Math.round(share * 24)).padEnd(24)}]`);
      parts.push(`${bar.done}/${bar.total}`);
      if (bar.done > 0 && bar.done < bar.total)
        parts.push(`${duration((seconds * (bar.total - bar.done)) / bar.done)} left`);
    }
    parts.push(duration(seconds));
    if (detail !== "") parts.push(detail);
    return parts.join("  ");
  }
}

/** Seconds for people: `8s`, `3m05s`, `1h02m`. */
export function duration(seconds: number): string {
  const s = Math.round(seconds);
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m${String(s % 60).padStart(2, "0")}s`;
  return `${Math.floor(s / 3600)}h${String(Math.floor((s % 3600) / 60)).padStart(2, "0")}m`;
}
