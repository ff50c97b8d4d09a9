/**
 * Keeps sampling and weight updates apart: completions run side by side, an update runs alone.
 *
 * `Engine.step` refuses to change weights while sequences are sampled. The gate lets an update wait for the completions
 * that run, and completions that come in the meantime wait for the update. What samples under one pass of the gate
 * therefore samples under one version of the weights.
 */
import type { TrainablePolicy } from "../stages/trainable.js";

/** Completions on one side, weight updates on the other; see the file's head. */
export class SamplingGate {
  #sampling = 0;
  #updating = false;
  #updates: (() => void)[] = [];
  #samplers: (() => void)[] = [];
  #pausedMilliseconds = 0;

  /** Milliseconds during which no completion could start, over all updates: running ones ending, then the update. */
  get pausedMilliseconds(): number {
    return this.#pausedMilliseconds;
  }

  /** Runs something that samples. Waits while an update runs or is due; the signal ends that wait. */
  async sample<T>(run: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    while (this.#updating || this.#updates.length > 0) await this.#turn(signal);
    signal?.throwIfAborted();
    this.#sampling++;
    try {
      return await run();
    } finally {
      this.#sampling--;
      this.#admit();
    }
  }

  /** Runs something that changes the weights: after all that samples now, before all that comes. */
  async update<T>(run: () => Promise<T>): Promise<T> {
    const began = performance.now();
    await new Promise<void>((resolve) => {
      this.#updates.push(resolve);
      this.#admit();
    });
    try {
      return await run();
    } finally {
      this.#updating = false;
      this.#pausedMilliseconds += performance.now() - began;
      this.#admit();
    }
  }

  /** The next update once nothing samples; else, with no update due, everybody who waits to sample. */
  #admit(): void {
    if (this.#updating) return;
    if (this.#updates.length > 0) {
      if (this.#sampling > 0) return;
      this.#updating = true;
      this.#updates.shift()?.();
      return;
    }
    for (const go of this.#samplers.splice(0)) go();
  }

  /** Until it may be this sampler's turn, or its signal aborts. */
  async #turn(signal: AbortSignal | undefined): Promise<void> {
    signal?.throwIfAborted();
    let onAbort: (() => void) | undefined;
    try {
      await new Promise<void>((resolve, reject) => {
        this.#samplers.push(resolve);
        onAbort = () => {
          this.#samplers = this.#samplers.filter((waiting) => waiting !== resolve);
          reject(signal?.reason);
        };
        signal?.addEventListener("abort", onAbort, { once: true });
      });
    } finally {
      if (onAbort !== undefined) signal?.removeEventListener("abort", onAbort);
    }
  }
}

/** The same policy, with every call that samples or changes weights going through the gate. */
export function gatedPolicy(policy: TrainablePolicy, gate: SamplingGate): TrainablePolicy {
  return {
    contextLength: policy.contextLength,
    vocabSize: policy.vocabSize,
    eosTokens: policy.eosTokens,
    generate: (request, options) => gate.sample(() => policy.generate(request, options), options?.signal),
    score: (forest, rows, options) => policy.score(forest, rows, options),
    accumulate: (forest, rows, options) => policy.accumulate(forest, rows, options),
    step: (options) => gate.update(() => policy.step(options)),
    zeroGradients: () => policy.zeroGradients(),
    stats: () => policy.stats(),
    saveState: (dir) => policy.saveState(dir),
    loadState: (dir) => gate.update(() => policy.loadState(dir)),
    saveModel: (dir) => policy.saveModel(dir),
  };
}
