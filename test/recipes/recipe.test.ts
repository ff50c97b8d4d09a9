import { mkdtemp, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { isPerSeed, parseRecipe, parseResolvedRecipe, readRecipe } from "../../src/recipes/recipe.js";
import { resolveStage, stageKeyParts } from "../../src/recipes/resolve.js";
import { hashValue } from "../../src/runs/hash.js";

const base = {
  name: "test",
  models: { small: { path: "models/small" } },
  environments: { house: { name: "household" } },
  stages: {
    evaluated: { stage: "evaluate", model: "trained", environment: "house", panels: { in: "test-in" } },
    trained: { stage: "imitate", model: "small", expert: "expert" },
    expert: { stage: "collect", environment: "house", panel: "train" },
  },
};

/** The base recipe with one key, given by its dotted path, set; undefined removes it. */
function changed(path: string, value: unknown): unknown {
  const copy = structuredClone(base) as Record<string, unknown>;
  const keys = path.split(".");
  let at = copy;
  for (const key of keys.slice(0, -1)) at = at[key] as Record<string, unknown>;
  const last = keys.at(-1) ?? "";
  if (value === undefined) delete at[last];
  else at[last] = value;
  return copy;
}

const parse = (value: unknown): ReturnType<typeof parseRecipe> => parseRecipe(value, "recipe.yaml", "/recipes");

describe("parseRecipe", () => {
  it("orders stages by what they need and makes paths absolute", () => {
    const recipe = parse(base);
    expect(recipe.stages.map((s) => s.name)).toEqual(["expert", "trained", "evaluated"]);
    expect(recipe.models.small?.path).toBe("/recipes/models/small");
    expect(recipe.seeds).toEqual([0]);
    expect(parseResolvedRecipe(JSON.parse(JSON.stringify(recipe)), "run")).toEqual(recipe);
  });

  it.each([
    ["a key of the recipe", "stagez", {}, "CONFIG_UNKNOWN_KEY", "`stages`"],
    ["a key of a stage", "stages.trained.epoch", 1, "CONFIG_UNKNOWN_KEY", "`epochs`"],
    ["a key deep in a stage", "stages.trained.optimizer", { learnRate: 1 }, "CONFIG_UNKNOWN_KEY", "`learningRate`"],
    ["a key of the engine", "engine", { dtypes: "fp32" }, "CONFIG_UNKNOWN_KEY", "`dtype`"],
    ["a key of a stage's prompts", "stages.trained.prompt", { reason: true }, "CONFIG_UNKNOWN_KEY", "`reasoning`"],
    ["a kind of stage", "stages.trained.stage", "imitat", "CONFIG_BAD_VALUE", "`imitate`"],
    ["a missing kind", "stages.trained.stage", undefined, "CONFIG_MISSING_KEY", "stage"],
    ["a missing key", "stages.expert.panel", undefined, "CONFIG_MISSING_KEY", "stages.expert"],
    [
      "a value",
      "stages.trained.batch",
      "many",
      "CONFIG_BAD_VALUE",
      "stages.trained: Expected an integer >= 1 for `batch`",
    ],
    ["a reference", "stages.trained.expert", "experts", "CONFIG_BAD_REFERENCE", "`expert`"],
    ["a reference of another kind", "stages.trained.expert", "evaluated", "CONFIG_BAD_REFERENCE", "expert"],
    ["an environment", "stages.expert.environment", "home", "CONFIG_BAD_REFERENCE", "house"],
    ["a policy of the summary", "summary", { policies: { a: "trained" } }, "CONFIG_BAD_REFERENCE", "evaluated"],
    ["a name used twice", "models.trained", { path: "x" }, "CONFIG_BAD_VALUE", "Rename"],
    ["a seed given twice", "seeds", [1, 1], "CONFIG_BAD_VALUE", "seeds that all differ for `seeds`"],
    [
      "a form that does not exist",
      "stages.trained",
      { stage: "reinforce", form: "episode", model: "small" },
      "CONFIG_BAD_VALUE",
      "Did you mean `episodes`?",
    ],
    ["a circle", "stages.trained.model", "trained", "CONFIG_BAD_REFERENCE", "its own result"],
  ])("refuses %s and says what to write", (_, path, value, code, text) => {
    expect(() => parse(changed(path, value))).toThrowError(
      expect.objectContaining({ code, message: expect.stringContaining(text) }) as Error,
    );
  });

  it("tells stages that draw from those that do not", () => {
    const { stages } = parse(base);
    expect(stages.map((s) => [s.name, isPerSeed(s, stages)])).toEqual([
      ["expert", false],
      ["trained", true],
      ["evaluated", true],
    ]);
  });

  it("runs a stage with a seed of its own once, unless it needs one that runs for every seed", () => {
    const own = { stage: "evaluate", environment: "house", panels: { in: "test-in" }, seed: 7 };
    const { stages } = parse(changed("stages.own", { ...own, model: "small" }));
    expect(stages.filter((s) => s.name === "own").map((s) => isPerSeed(s, stages))).toEqual([false]);
    const other = parse(changed("stages.own", { ...own, model: "trained" })).stages;
    expect(other.filter((s) => s.name === "own").map((s) => isPerSeed(s, other))).toEqual([true]);
  });

  it("compares only policies that are evaluated equally often", () => {
    const own = { stage: "evaluate", model: "small", environment: "house", panels: { in: "test-in" }, seed: 7 };
    const recipe = {
      ...(changed("stages.own", own) as object),
      summary: { policies: { a: "own", b: "evaluated" }, comparisons: [{ left: "a", right: "b" }] },
    };
    expect(parse(recipe).seeds).toEqual([0]);
    expect(() => parse({ ...recipe, seeds: [0, 1] })).toThrowError(
      expect.objectContaining({ code: "CONFIG_BAD_VALUE", hint: expect.stringContaining("stages.own") }) as Error,
    );
  });

  it("keeps documented defaults beside keys that are given", () => {
    const given = { optimizer: { weightDecay: 0.1 }, objective: { kl: { coefficient: 0 } } };
    const stage = { stage: "reinforce", model: "small", expert: "expert", ...given };
    const recipe = parse({ ...(changed("stages.rl", stage) as object) });
    const optionsOf = (name: string): unknown => {
      const found = recipe.stages.find((s) => s.name === name);
      if (found === undefined) throw new Error(`no stage ${name}`);
      return resolveStage(found, recipe, 0).options;
    };
    expect(optionsOf("rl")).toMatchObject({
      optimizer: { learningRate: 1e-6, weightDecay: 0.1 },
      objective: { name: "grpo", kl: { coefficient: 0 } },
    });
    expect(optionsOf("trained")).toMatchObject({ optimizer: { learningRate: 1e-5 } });
  });

  it.each([
    ["dr-grpo", {}, { normalizationLength: 64 }],
    ["dr-grpo", { normalizationLength: 9 }, { normalizationLength: 9 }],
    ["dr-grpo", { aggregation: "token-mean" }, { name: "dr-grpo", aggregation: "token-mean" }],
    ["grpo", { aggregation: "seq-mean-token-sum-norm" }, { normalizationLength: 64 }],
    ["dapo", {}, { overlong: { maxLength: 64, cacheLength: 13 } }],
    ["dapo", { overlong: null }, { overlong: null }],
    ["grpo", {}, { name: "grpo" }],
  ])("fills in the lengths of %s %j", (name, settings, wanted) => {
    const stage = { stage: "reinforce", model: "small", expert: "expert", sampling: { maxNewTokens: 64 } };
    const recipe = parse(changed("stages.rl", { ...stage, objective: { name, ...settings } }));
    const rl = recipe.stages.find((s) => s.name === "rl");
    if (rl === undefined) throw new Error("no stage");
    const { objective } = resolveStage(rl, recipe, 0).options as { objective: object };
    expect(objective).toMatchObject(wanted);
    expect("overlong" in objective).toBe(name === "dapo");
  });

  it("takes all turns of a whole episode for its length, where their number is known", () => {
    const stage = { stage: "reinforce", form: "episodes", model: "small", environment: "house", panel: "train" };
    const of = (more: object, house: object = {}): unknown => {
      const rl = { ...stage, objective: { name: "dr-grpo" }, sampling: { maxNewTokens: 10 }, ...more };
      const recipe = parse({
        ...(changed("stages.rl", rl) as object),
        environments: { house: { name: "household", ...house } },
      });
      const found = recipe.stages.find((s) => s.name === "rl");
      return found && resolveStage(found, recipe, 0).options.objective;
    };
    expect(of({ stepLimit: 6 }, { stepLimit: 30 })).toMatchObject({ normalizationLength: 60 });
    expect(of({}, { stepLimit: 30 })).toMatchObject({ normalizationLength: 300 });
    expect(of({})).toEqual({ name: "dr-grpo" });
  });

  it("refuses a damaged configuration of a run", () => {
    expect(() => parseResolvedRecipe({ name: "x" }, "run")).toThrowError(
      expect.objectContaining({ code: "RUN_DAMAGED" }) as Error,
    );
  });
});

describe("readRecipe", () => {
  it("merges YAML anchors and takes changes from outside", async () => {
    const file = join(await mkdtemp(join(tmpdir(), "act-recipe-")), "r.yaml");
    await writeFile(
      file,
      `name: r
models: { m: { path: m } }
files: { e: { path: e.jsonl, kind: expert } }
stages:
  one: &one { stage: imitate, model: m, expert: e, batch: 2 }
  two: { <<: *one, batch: 4 }
`,
    );
    const recipe = await readRecipe(file, [{ path: ["stages", "one", "optimizer", "learningRate"], value: 0.5 }]);
    expect(recipe.stages.map((s) => s.options)).toEqual([{ batch: 2, optimizer: { learningRate: 0.5 } }, { batch: 4 }]);
    expect(recipe.models.m?.path).toBe(join(file, "..", "m"));
    await writeFile(file, "name: [");
    await expect(readRecipe(file)).rejects.toMatchObject({ code: "CONFIG_BAD_YAML" });
    await expect(readRecipe(`${file}.none`)).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
  });
});

describe("stage keys", () => {
  const keyOf = (value: unknown, seed = 0, hash = "h"): string => {
    const recipe = parse(value);
    const stage = recipe.stages[1];
    if (stage === undefined) throw new Error("no stage");
    return hashValue(stageKeyParts(resolveStage(stage, recipe, seed), { expert: { path: "p", hash } }));
  };

  it("change with options, seed and inputs, not with what changes no result", () => {
    const key = keyOf(base);
    expect(keyOf(changed("stages.trained.batch", 16))).toBe(key); // the default, written out
    expect(keyOf(changed("engine", { threads: 3, memoryLimit: 5, offloadOptimizer: true }))).toBe(key);
    expect(keyOf(changed("engine", { dtype: "bf16" }))).not.toBe(key);
    expect(keyOf(changed("prompt", { template: "compact" }))).not.toBe(key);
    expect(keyOf(changed("stages.trained.batch", 8))).not.toBe(key);
    expect(keyOf(base, 1)).not.toBe(key);
    expect(keyOf(base, 0, "other")).not.toBe(key);
  });
});
