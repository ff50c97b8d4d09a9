/**
 * One recorded episode, in text: what the agent saw, what it thought where that is known, and what it did.
 *
 * The one shape every importer writes and every stage reads. A trajectory says nothing of tokens or prompts.
 */
import { z } from "zod";
import { ActError } from "../errors.js";

/** Value of `format` in every record; changes when a reader of the old shape would misread the new one. */
export const TRAJECTORY_FORMAT = "act-trainer/trajectory@1";

/** One decision of the agent. */
export const trajectoryStepSchema = z.strictObject({
  /** What the agent saw before acting. For the first step this is the episode's first observation, without the goal. */
  observation: z.string(),
  /** Words before the action; null where none were recorded. */
  thought: z.string().nullable(),
  /** The action as sent to the environment. */
  action: z.string().refine((text) => text.trim() !== "", "expected an action, got nothing"),
  /** What could have been done instead; null where it was not recorded. */
  admissible: z
    .strictObject({ actions: z.array(z.string()).readonly(), patterns: z.array(z.string()).readonly() })
    .nullable(),
});

/** One episode. */
export const trajectorySchema = z.strictObject({
  format: z.literal(TRAJECTORY_FORMAT),
  /** Unique within a file. */
  id: z.string().min(1),
  /** Name of the environment, as {@link EnvironmentProvider.name}. */
  environment: z.string().min(1),
  /** {@link EnvironmentProvider.version} it was recorded in; null where that is not known. */
  environment_version: z.string().nullable(),
  /** Task id for {@link Environment.reset}. Imported records keep their source's item id where it names no task. */
  task_id: z.string().min(1),
  /** Kind of task, for break-downs; null where not known. */
  category: z.string().nullable(),
  /** The goal in words. */
  task: z.string(),
  /** At least one. */
  steps: z.array(trajectoryStepSchema).min(1).readonly(),
  /** What the last action led to; null where not recorded. */
  final_observation: z.string().nullable(),
  /** Whether the goal held at the end; null where not known. */
  success: z.boolean().nullable(),
  /** Final score, scaled so that 1 is the best possible; may be negative; null where not known. */
  score: z.number().max(1).nullable(),
  /** Where the record comes from, e.g. `scienceworld-gold` or a data set's name. */
  source: z.string().min(1),
});

/** One decision of a {@link Trajectory}. */
export type TrajectoryStep = z.infer<typeof trajectoryStepSchema>;
/** One recorded episode; see the file's head and {@link trajectorySchema}. */
export type Trajectory = z.infer<typeof trajectorySchema>;

/**
 * A value checked to be a trajectory.
 *
 * @param where Names the value in the error, e.g. `expert.jsonl, line 3`.
 * @throws ActError `DATA_BAD_RECORD` naming the first key that does not fit.
 */
export function parseTrajectory(value: unknown, where: string): Trajectory {
  const result = trajectorySchema.safeParse(value);
  if (result.success) return result.data;
  throw new ActError("DATA_BAD_RECORD", `${where}: not a trajectory: ${describeIssues(result.error)}`, {
    hint: `Expected the shape of \`${TRAJECTORY_FORMAT}\`; other shapes go through an importer first.`,
    cause: result.error,
  });
}

/** The first three complaints of zod as one line: `steps.0.action: ...; id: ...`. */
export function describeIssues(error: z.ZodError): string {
  const lines = error.issues.map((i) => `${i.path.length === 0 ? "value" : i.path.join(".")}: ${i.message}`);
  const more = lines.length > 3 ? `; and ${lines.length - 3} more` : "";
  return `${lines.slice(0, 3).join("; ")}${more}.`;
}
