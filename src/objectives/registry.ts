/**
 * Objectives by name. To add one: a file like grpo.ts, its name in `objectiveNames`, a line here, a case in the fixture
 * generator `test/fixtures/objectives/make.py`, a section in docs/objectives.md.
 */
import { dapo } from "./dapo.js";
import { drGrpo } from "./dr-grpo.js";
import { grpo } from "./grpo.js";
import type { Objective, ObjectiveName, ObjectiveOverrides, ObjectiveSettings } from "./objective.js";
import { rloo } from "./rloo.js";

const presets: Readonly<Record<ObjectiveName, (overrides: ObjectiveOverrides) => Objective>> = {
  grpo,
  "dr-grpo": drGrpo,
  dapo,
  rloo,
};

/** The objective a configuration asks for. Throws ActError `OBJECTIVE_BAD_OPTIONS`. */
export function resolveObjective({ name, ...overrides }: ObjectiveSettings): Objective {
  return presets[name](overrides);
}
