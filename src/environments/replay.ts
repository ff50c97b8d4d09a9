/**
 * The report of every `act-trainer replay <environment>`: recorded episodes played again, step by step, against an
 * environment, and where the two differ.
 */

/** One field of one step that came out other than recorded. */
export interface ReplayMismatch {
  /** Which recorded episode, in the recording's own words. */
  readonly episode: string;
  /** Index of the step in the episode from 0; -1 for the state before the first step. */
  readonly step: number;
  /** Name of the field as the recording calls it, e.g. `obs`. */
  readonly field: string;
  readonly expected: unknown;
  readonly got: unknown;
}

/** What a replay found. */
export interface ReplayReport {
  /** Episodes played. */
  readonly episodes: number;
  /** Steps played. */
  readonly steps: number;
  /** Steps of which every recorded field was equal. */
  readonly exact: number;
  /** Every difference, in the order of the recording. Empty means parity. */
  readonly mismatches: readonly ReplayMismatch[];
}
