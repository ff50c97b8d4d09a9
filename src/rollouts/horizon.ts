/**
 * ScalingInter: the number of steps an episode may take grows over training (AgentGym-RL, arXiv 2509.08755).
 *
 * Short episodes first, where rewards are dense and mistakes few; longer ones once the short ones work.
 */
import { z } from "zod";
import { invalid } from "../errors.js";

export const horizonSchema = z
  .array(
    z.strictObject({
      fromStep: z.number().int().min(0).describe("optimizer step from which this limit holds; the first is 0"),
      stepLimit: z.number().int().min(1).describe("steps of an episode"),
    }),
  )
  .min(1);
export type HorizonSchedule = z.infer<typeof horizonSchema>;

/** Step limit at an optimizer step. Throws ActError `BAD_ARGUMENT` for a schedule that does not begin at 0 or goes back. */
export function horizonAt(schedule: HorizonSchedule, step: number): number {
  schedule.forEach((phase, i) => {
    const previous = schedule[i - 1];
    if (i === 0 ? phase.fromStep !== 0 : previous !== undefined && phase.fromStep <= previous.fromStep)
      throw invalid("BAD_ARGUMENT", `horizon.${i}.fromStep`, "0 first, then growing steps", phase.fromStep);
  });
  const phase = schedule.findLast((p) => p.fromStep <= step);
  if (phase === undefined) throw invalid("BAD_ARGUMENT", "step", "a step >= 0", step);
  return phase.stepLimit;
}
