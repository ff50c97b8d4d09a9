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

interface WaitingCall {
  readonly kind: CallKind;
  readonly start: () => void;
  /** Rejects it unstarted; it is out of the queue already. */
  readonly giveUp: (reason: unknown) => void;
}

/** Starts calls, the first at once unless it has to wait. */
export class CallOrder {
  readonly #waiting: WaitingCall[] = [];
  #saves = 0;
  #loading = false;

  /**
   * Starts `call` when its turn comes: before this returns, if nothing is in its way. While it waits, an abort takes it
   * out again and rejects with the signal's reason; after that the signal is the call's own.
   */
  run<T>(kind: CallKind, call: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason);
      const onAbort = (): void => {
        this.#waiting.splice(this.#waiting.indexOf(waiting), 1);
        waiting.giveUp(signal?.reason);
        this.#startNext();
      };
      const start = async (): Promise<void> => {
        signal?.removeEventListener("abort", onAbort);
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
      const giveUp = (reason: unknown): void => {
        signal?.removeEventListener("abort", onAbort);
        reject(reason);
      };
      const waiting: WaitingCall = { kind, start: () => void start(), giveUp };
      this.#waiting.push(waiting);
      this.#startNext();
      if (this.#waiting.includes(waiting)) signal?.addEventListener("abort", onAbort, { once: true });
    });
  }

  /** Rejects every call that waits. */
  rejectWaiting(reason: unknown): void {
    for (const { giveUp } of this.#waiting.splice(0)) giveUp(reason);
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
