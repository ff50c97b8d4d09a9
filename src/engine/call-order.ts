/**
 * Keeps an engine's calls in the order in which they are made, also around those that take many steps.
 *
 * Most calls are handed to the engine's thread whole, which takes them up in their order. A save reads tensor after
 * tensor and a load writes them so: what changes weights waits for saves, all calls wait for a load, and no call overtakes
 * one that waits.
 */

/**
 * `read`: leaves the weights as they are. `save`: a read of many steps. `change`: changes weights in one step.
 * `load`: changes them in many.
 */
export type CallKind = "read" | "save" | "change" | "load";

/** Starts calls, the first at once unless it has to wait. */
export class CallOrder {
  readonly #waiting: { readonly kind: CallKind; readonly start: () => void }[] = [];
  #saves = 0;
  #loading = false;

  /** Starts `call` when its turn comes: before this returns, if nothing is in its way. */
  run<T>(kind: CallKind, call: () => Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const start = async (): Promise<void> => {
        this.#count(kind, 1);
        try {
          resolve(await call());
        } catch (error) {
          reject(error);
        } finally {
          this.#count(kind, -1);
          this.#startNext();
        }
      };
      this.#waiting.push({ kind, start: () => void start() });
      this.#startNext();
    });
  }

  #startNext(): void {
    for (let next = this.#waiting[0]; next !== undefined && this.#mayStart(next.kind); next = this.#waiting[0]) {
      this.#waiting.shift();
      next.start();
    }
  }

  #mayStart(kind: CallKind): boolean {
    const changes = kind === "change" || kind === "load";
    return !this.#loading && !(changes && this.#saves > 0);
  }

  #count(kind: CallKind, by: 1 | -1): void {
    if (kind === "save") this.#saves += by;
    if (kind === "load") this.#loading = by === 1;
  }
}
