/** Recipes that would fail after hours: all are refused before their first stage. */
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { writeRecords } from "../../src/data/records-file.js";
import { checkRecipe } from "../../src/recipes/check.js";
import { parseRecipe, type Recipe } from "../../src/recipes/recipe.js";
import { tinyModelFolder } from "../stages/tiny-model.js";

const folder = mkdtempSync(join(tmpdir(), "act-check-"));
let model: string;
beforeAll(async () => {
  model = await tinyModelFolder();
});

const short = { steps: 1, sampling: { maxNewTokens: 8 } };

/** A recipe of stages that all could run, with keys given by their dotted paths set. */
function recipe(changes: Readonly<Record<string, unknown>> = {}): Recipe {
  const value: Record<string, unknown> = {
    name: "check",
    models: { base: { path: model } },
    environments: { house: { name: "household" } },
    engine: { dtype: "fp32", threads: 1 },
    stages: {
      expert: { stage: "collect", environment: "house", panel: "train", tasks: 2 },
      warm: { stage: "imitate", model: "base", expert: "expert", steps: 1 },
      rl: { stage: "reinforce", model: "warm", expert: "expert", ...short },
      play: { stage: "reinforce", form: "episodes", model: "rl", environment: "house", panel: "train", ...short },
      eval: { stage: "evaluate", model: "play", environment: "house", panels: { in: "test-in" } },
    },
  };
  for (const [path, inner] of Object.entries(changes)) {
    const keys = path.split(".");
    let at = value;
    for (const key of keys.slice(0, -1)) {
      at[key] ??= {};
      at = at[key] as Record<string, unknown>;
    }
    at[keys.at(-1) ?? ""] = inner;
  }
  return parseRecipe(value, "recipe.yaml", folder);
}

describe("checkRecipe", () => {
  it("lets pass what can run", async () => {
    await checkRecipe(recipe());
    await checkRecipe(
      recipe({ "stages.rl.objective": { name: "dr-grpo" }, "stages.play.objective": { name: "dapo" } }),
    );
  });

  it.each([
    [
      "an objective that lacks a length",
      { "stages.play.objective": { name: "dr-grpo" } },
      "OBJECTIVE_BAD_OPTIONS",
      "stages.play.objective: Objective dr-grpo needs `normalizationLength`.",
      "stepLimit",
    ],
    [
      "a panel of collect",
      { "stages.expert.panel": "trian" },
      "ENVIRONMENT_UNKNOWN_PANEL",
      'stages.expert.panel: household has no panel "trian".',
      "Did you mean `train`?",
    ],
    [
      "a panel of whole-episode reinforce",
      { "stages.play.panel": "validation" },
      "ENVIRONMENT_UNKNOWN_PANEL",
      "stages.play.panel",
      "Panels: train, test-in, test-out.",
    ],
    [
      "a panel of evaluate",
      { "stages.eval.panels": { in: "test-in", out: "test-uot" } },
      "ENVIRONMENT_UNKNOWN_PANEL",
      "stages.eval.panels.out",
      "test-out",
    ],
    [
      "a panel of a server that does not run",
      {
        "environments.house": {
          name: "openenv",
          url: "http://127.0.0.1:9",
          panels: { train: ["a"], "test-in": ["b"] },
        },
        "stages.eval.panels": { in: "test-ni" },
      },
      "ENVIRONMENT_UNKNOWN_PANEL",
      "stages.eval.panels.in",
      "test-in",
    ],
    [
      "an option of an environment",
      { "environments.house.foo": 1 },
      "ENVIRONMENT_BAD_OPTIONS",
      "environments.house: ",
      "wording",
    ],
    [
      "an option of a server's environment",
      { "environments.house": { name: "openenv", url: "http://127.0.0.1:9", panel: {} } },
      "ENVIRONMENT_BAD_OPTIONS",
      "environments.house: OpenEnv: Unknown key `panel` of `options`.",
      "`panels`",
    ],
    [
      "an environment",
      { "environments.house.name": "housefold" },
      "ENVIRONMENT_UNKNOWN",
      "environments.house: ",
      "Did you mean `household`?",
    ],
    ["a model folder that is not there", { "models.base.path": "nowhere" }, "FILE_NOT_FOUND", "models.base: ", ""],
    ["adapters that are not there", { "models.base.adapter": "nowhere" }, "FILE_NOT_FOUND", "models.base: ", ""],
    [
      "a record file that is not there",
      {
        "files.old": { path: "old.jsonl", kind: "pairs" },
        "stages.before": { stage: "assess", model: "base", pairs: "old" },
      },
      "FILE_NOT_FOUND",
      "files.old: ",
      "",
    ],
    [
      "a file to import that is not there",
      { "stages.others": { stage: "import", file: "others.json" } },
      "FILE_NOT_FOUND",
      "stages.others.file: ",
      "",
    ],
    [
      "settings of the engine that contradict each other",
      { "engine.optimizerState": "compact" },
      "BAD_ARGUMENT",
      "stages.warm.engine: ",
      "",
    ],
    [
      "a memory limit that a late stage exceeds",
      { "stages.play.engine": { memoryLimit: 100_000 } },
      "MEMORY_PLAN",
      "stages.play.engine: ",
      "",
    ],
  ])("refuses %s", async (_, changes, code, message, hint) => {
    await expect(checkRecipe(recipe(changes))).rejects.toMatchObject({
      code,
      message: expect.stringContaining(message),
      hint: expect.stringContaining(hint),
    });
  });

  it("refuses record files of another kind, and takes those of the right one", async () => {
    const path = join(folder, "records.jsonl");
    const header = {
      environment: { name: "a", version: "1" },
      panel: null,
      source: "expert",
      config_hash: "0".repeat(64),
    };
    await writeRecords(path, "expert", header, []);
    const used = { stage: "imitate", model: "base", expert: "old", steps: 1 };
    await checkRecipe(recipe({ "files.old": { path, kind: "expert" }, "stages.warm": used }));
    await checkRecipe(recipe({ "files.unused": { path: "nowhere.jsonl", kind: "pairs" } }));
    const judged = { stage: "assess", model: "base", pairs: "old" };
    await expect(
      checkRecipe(recipe({ "files.old": { path, kind: "pairs" }, "stages.judged": judged })),
    ).rejects.toMatchObject({
      code: "DATA_WRONG_FORMAT",
      message: expect.stringContaining("files.old: "),
    });
  });

  it("plans a later stage by the dtype the model before it will have", async () => {
    const compact = { "stages.rl.engine": { optimizerState: "compact", dtype: "bf16" } };
    await checkRecipe(
      recipe({ ...compact, engine: { threads: 1 }, "stages.play.engine": { optimizerState: "compact" } }),
    );
    await expect(
      checkRecipe(recipe({ engine: { threads: 1 }, "stages.play.engine": { optimizerState: "compact" } })),
    ).rejects.toMatchObject({ code: "BAD_ARGUMENT", message: expect.stringContaining("stages.play.engine: ") });
  });
});
