/**
 * The loss of loss rows and its gradient, transcribed from `struct LossRows` in native/ops/ops.h, in fp64.
 */
import type { LossRows } from "../../src/engine/policy.js";

/** Values of the rows under some policy: log-prob of the target, entropy. */
export interface RowValues {
  readonly logprob: ArrayLike<number>;
  readonly entropy: ArrayLike<number>;
}

export interface RowLoss {
  readonly loss: number;
  /** [rows] Derivatives of the loss. */
  readonly byLogprob: number[];
  readonly byEntropy: number[];
}

export function lossOfRows(rows: LossRows, values: RowValues): RowLoss {
  let loss = 0;
  const byLogprob: number[] = [];
  const byEntropy: number[] = [];
  for (let i = 0; i < rows.rows.length; i++) {
    const at = (stream: Float32Array | undefined): number => stream?.[i] ?? 0;
    const logprob = values.logprob[i] ?? Number.NaN;
    let gradient = 0;

    loss -= at(rows.ceWeight) * logprob;
    gradient -= at(rows.ceWeight);

    const advantage = at(rows.advantage);
    const ratio = Math.exp(logprob - at(rows.oldLogprob));
    const lower = rows.clipLow === undefined ? Number.NEGATIVE_INFINITY : 1 - at(rows.clipLow);
    const upper = rows.clipHigh === undefined ? Number.POSITIVE_INFINITY : 1 + at(rows.clipHigh);
    const clipped = Math.min(Math.max(ratio, lower), upper) * advantage;
    loss -= at(rows.policyWeight) * Math.min(ratio * advantage, clipped);
    if (ratio * advantage <= clipped) gradient -= at(rows.policyWeight) * ratio * advantage;

    const d = at(rows.refLogprob) - logprob;
    const weight = at(rows.klWeight);
    if (weight !== 0) {
      const estimator = rows.klEstimator ?? "k3";
      loss += weight * { k1: -d, k2: (d * d) / 2, k3: Math.exp(d) - d - 1 }[estimator];
      gradient += weight * { k1: 1, k2: -d, k3: 1 - Math.exp(d) }[estimator];
    }

    loss -= at(rows.entropyWeight) * (values.entropy[i] ?? Number.NaN);
    byEntropy.push(-at(rows.entropyWeight));
    byLogprob.push(gradient);
  }
  return { loss, byLogprob, byEntropy };
}
