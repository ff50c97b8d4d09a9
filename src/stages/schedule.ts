/**
 * Learning rate over the steps of a stage.
 */
import { z } from "zod";

export const scheduleSchema = z.strictObject({
  /** Shape after warm-up. */
  kind: z.enum(["constant", "linear", "cosine"]).default("cosine").describe("shape of the learning rate after warm-up"),
  /** Steps of linear warm-up; below 1 a share of all steps. */
  warmup: z.number().min(0).default(0.03).describe("warm-up: steps, or a share of all steps when below 1"),
  /** Share of the peak that is left at the end (linear, cosine). */
  floor: z.number().min(0).max(1).default(0.1).describe("share of the peak rate left at the end"),
});
export type Schedule = z.infer<typeof scheduleSchema>;

/**
 * Factor of the peak learning rate for step `step` of `steps` (both counted so that step 0 is the first).
 *
 * With W warm-up steps: (step + 1) / W while step < W; then, with x = (step - W) / max(1, steps - 1 - W) in [0, 1],
 * constant 1; linear 1 - (1 - floor) x; cosine floor + (1 - floor) (1 + cos(pi x)) / 2.
 */
export function learningRateFactor(schedule: Schedule, step: number, steps: number): number {
  const warmup = schedule.warmup < 1 ? Math.round(schedule.warmup * steps) : Math.floor(schedule.warmup);
  if (step < warmup) return (step + 1) / warmup;
  const x = Math.min(1, (step - warmup) / Math.max(1, steps - 1 - warmup));
  if (schedule.kind === "constant") return 1;
  if (schedule.kind === "linear") return 1 - (1 - schedule.floor) * x;
  return schedule.floor + ((1 - schedule.floor) * (1 + Math.cos(Math.PI * x))) / 2;
}
