/**
 * Objectives by name. To add one: a file like grpo.ts, its name in `objectiveNames`, a line here, a case in the fixture
 * generator `test/fixtures/objectives/make.py`, a section in docs/objectives.md.
 */
import { ActError } from "../errors.js";
import { dapo, overlongShaping } from "./dapo.js";
import { drGrpo } from "./dr-grpo.js";
import { grpo } from "./grpo.js";
import {
  type Objective,
  type ObjectiveName,
  type ObjectiveOverrides,
  type ObjectiveSettings,
  parseObjectiveSettings,
} from "./objective.js";
import { rloo } from "./rloo.js";

const presets: Readonly<Record<ObjectiveName, (overrides: ObjectiveOverrides) => Objective>> = {
  grpo,
  "dr-grpo": drGrpo,
  dapo,
  rloo,
};

/** The objective a configuration asks for; `grpo` where it names none. Throws ActError `OBJECTIVE_BAD_OPTIONS`. */
export function resolveObjective(settings: ObjectiveSettings): Objective {
  const { name, ...overrides } = parseObjectiveSettings(settings);
  const objective = presets[name](overrides);
  if (objective.aggregation === "seq-mean-token-sum-norm" && objective.normalizationLength === null)
    throw new ActError("OBJECTIVE_BAD_OPTIONS", `Objective ${name} needs \`normalizationLength\`.`, {
      hint: "Set it to the most new tokens of a sample, or give a stage of whole episodes its `stepLimit`.",
    });
  return objective;
}

/**
 * Settings with what the length of samples decides, where it is left out: L of `seq-mean-token-sum-norm`, and DAPO's
 * overlong shaping.
 *
 * @param longest Most new tokens of a sample; null where nothing limits them, which leaves the settings as they are.
 */
export function withLengths(settings: ObjectiveSettings, longest: number | null): ObjectiveSettings {
  if (longest === null) return settings;
  const { name, ...overrides } = settings;
  const normalizes = presets[name](overrides).aggregation === "seq-mean-token-sum-norm";
  return {
    ...(normalizes ? { normalizationLength: longest } : {}),
    ...(name === "dapo" ? { overlong: overlongShaping(longest) } : {}),
    ...settings,
  };
}
