/**
 * Rotary frequencies as transformers computes them: every operation that is fp32 there is rounded to fp32 here.
 * Where PyTorch's vectorized power is off by an ulp, these are the correctly rounded values.
 */
import { EngineError } from "./errors.js";

/** A RoPE setting with every default filled in. */
export type RopeSettings =
  | { readonly type: "default"; readonly theta: number }
  | { readonly type: "linear"; readonly theta: number; readonly factor: number }
  | {
      readonly type: "llama3";
      readonly theta: number;
      readonly factor: number;
      readonly lowFreqFactor: number;
      readonly highFreqFactor: number;
      readonly originalMaxPositions: number;
    }
  | {
      readonly type: "yarn";
      readonly theta: number;
      readonly factor: number;
      readonly originalMaxPositions: number;
      readonly betaFast: number;
      readonly betaSlow: number;
      /** Multiplies cosine and sine. */
      readonly attentionFactor: number;
      readonly truncate: boolean;
    };

export interface RopeFrequencies {
  /** [headDim / 2] */
  readonly invFreq: Float32Array;
  /** Multiplies cosine and sine. */
  readonly factor: number;
}

const f = Math.fround;

/** Angle per position of each rotated pair, scaling applied. `headDim` is even. */
export function ropeFrequencies(rope: RopeSettings, headDim: number): RopeFrequencies {
  // theta^(2i / d), fp32
  const periods = Float32Array.from({ length: headDim / 2 }, (_, i) => rope.theta ** f((2 * i) / headDim));
  const base = periods.map((period) => 1 / period);
  switch (rope.type) {
    case "default":
      return { invFreq: base, factor: 1 };
    case "linear":
      return { invFreq: base.map((x) => x / f(rope.factor)), factor: 1 };
    case "llama3":
      return { invFreq: base.map((x) => llama3Frequency(x, rope)), factor: 1 };
    case "yarn":
      return { invFreq: yarnFrequencies(periods, rope, headDim), factor: f(rope.attentionFactor) };
    default:
      throw new EngineError("INTERNAL", `Unknown rotary settings ${JSON.stringify(rope)}.`);
  }
}

/** Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, those between interpolated. */
function llama3Frequency(frequency: number, rope: Extract<RopeSettings, { type: "llama3" }>): number {
  const { factor, lowFreqFactor: low, highFreqFactor: high, originalMaxPositions: context } = rope;
  const wavelength = f(f(2 * Math.PI) / frequency);
  if (wavelength > f(context / low)) return f(frequency / f(factor));
  if (wavelength < f(context / high)) return frequency;
  const smooth = f(f(f(context / wavelength) - f(low)) / f(high - low));
  return f(f(f(f(1 - smooth) * frequency) / f(factor)) + f(smooth * frequency));
}

/** YaRN (Peng et al. 2023, arXiv:2309.00071), section 3.2: a linear ramp from kept to interpolated dimensions. */
function yarnFrequencies(
  periods: Float32Array,
  rope: Extract<RopeSettings, { type: "yarn" }>,
  headDim: number,
): Float32Array {
  const dimensionOf = (rotations: number): number =>
    (headDim * Math.log(rope.originalMaxPositions / (rotations * 2 * Math.PI))) / (2 * Math.log(rope.theta));
  let low = dimensionOf(rope.betaFast);
  let high = dimensionOf(rope.betaSlow);
  if (rope.truncate) {
    low = Math.floor(low);
    high = Math.ceil(high);
  }
  low = Math.max(low, 0);
  high = Math.min(high, headDim - 1);
  if (low === high) high += 0.001; // as transformers: no division by zero
  return periods.map((period, i) => {
    const ramp = Math.min(Math.max(f(f(i - f(low)) / f(high - low)), 0), 1);
    const extrapolation = f(1 - ramp);
    const interpolated = f(f(1 / f(f(rope.factor) * period)) * f(1 - extrapolation));
    return f(interpolated + f(f(1 / period) * extrapolation));
  });
}
