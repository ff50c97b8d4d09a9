import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type AdvantageEstimator, advantageEstimators, advantages } from "../../src/objectives/advantage.js";
import { aggregations, tokenWeight } from "../../src/objectives/aggregation.js";
import { isInformative, sampleInformative } from "../../src/objectives/dynamic-sampling.js";
import { imitationBatch, imitationExample, imitationTotals } from "../../src/objectives/imitation.js";
import { type ObjectiveSettings, objectiveNames, objectiveSettingsSchema } from "../../src/objectives/objective.js";
import { resolveObjective } from "../../src/objectives/registry.js";
import { type SampleGroup, sequenceOf } from "../../src/objectives/sample.js";
import { lossOfRows } from "./loss.js";

const group = (rewards: readonly number[], truncated: readonly boolean[] = []): SampleGroup => ({
  samples: rewards.map((reward, i) => ({
    sequences: [
      sequenceOf([1, 2], {
        tokens: Int32Array.of(3 + i),
        logprobs: Float32Array.of(-1),
        samplingLogprobs: Float32Array.of(-1),
      }),
    ],
    reward,
    truncated: truncated[i] ?? false,
    malformed: false,
  })),
});

describe("advantages", () => {
  it("follow the formulas on a worked example", () => {
    const rewards = [1, 0, 0, 0.6];
    // mean 0.4; squares 0.36 + 0.16 + 0.16 + 0.04 = 0.72; sample std sqrt(0.24)
    const std = Math.sqrt(0.24) + 1e-6;
    const close = (kind: AdvantageEstimator, want: number[]): void =>
      want.forEach((value, i) => {
        expect(Math.abs((advantages(kind, rewards)[i] ?? Number.NaN) - value)).toBeLessThanOrEqual(4e-16);
      });
    close("group-centered", [0.6, -0.4, -0.4, 0.2]);
    close("group-normalized", [0.6 / std, -0.4 / std, -0.4 / std, 0.2 / std]);
    close("leave-one-out", [1 - 0.2, 0 - 1.6 / 3, 0 - 1.6 / 3, 0.6 - 1 / 3]);
  });

  it("sum to nothing, whatever the rewards", () => {
    const rewards = fc.array(fc.constantFrom(1, 0.1, 0, -0.5), { minLength: 2, maxLength: 16 });
    fc.assert(
      fc.property(rewards, fc.constantFrom(...advantageEstimators), (values, kind) => {
        const result = advantages(kind, values);
        const sum = result.reduce((a, b) => a + b, 0);
        const size = result.reduce((a, b) => a + Math.abs(b), 0);
        expect(Math.abs(sum)).toBeLessThanOrEqual(size * values.length * Number.EPSILON);
      }),
    );
  });
});

describe("tokenWeight", () => {
  it("follows the formulas", () => {
    const totals = { samples: 4, tokens: 50 };
    const weights = aggregations.map((aggregation) => tokenWeight(aggregation, 5, totals, 25));
    expect(weights).toEqual([1 / 20, 1 / 50, 1 / 4, 1 / 100]);
  });

  it("needs the length that seq-mean-token-sum-norm divides by", () => {
    expect(() => tokenWeight("seq-mean-token-sum-norm", 5, { samples: 1, tokens: 5 }, null)).toThrowError(
      expect.objectContaining({ code: "OBJECTIVE_BAD_OPTIONS" }),
    );
  });
});

describe("objectives by name", () => {
  it("carry the settings of their papers", () => {
    expect(resolveObjective({ name: "dapo" })).toMatchObject({
      clip: { low: 0.2, high: 0.28 },
      aggregation: "token-mean",
      dynamicSampling: true,
      kl: { coefficient: 0 },
    });
    expect(resolveObjective({ name: "dr-grpo", normalizationLength: 9 })).toMatchObject({
      advantage: "group-centered",
      aggregation: "seq-mean-token-sum-norm",
    });
    expect(resolveObjective({ name: "rloo" })).toMatchObject({ advantage: "leave-one-out", clip: null });
    expect(resolveObjective({ name: "grpo" })).toMatchObject({
      advantage: "group-normalized",
      clip: { low: 0.2, high: 0.2 },
      aggregation: "seq-mean-token-mean",
      kl: { coefficient: 1e-3, estimator: "k3" },
    });
  });

  it("take overrides one by one", () => {
    for (const name of objectiveNames) {
      const preset = resolveObjective({ name, normalizationLength: 9 });
      const changed = resolveObjective({ name, normalizationLength: 9, kl: { estimator: "k1" }, clip: null });
      expect(changed).toEqual({ ...preset, clip: null, kl: { ...preset.kl, estimator: "k1" } });
    }
  });

  it("refuse unknown keys and values out of range", () => {
    expect(objectiveSettingsSchema.safeParse({ name: "grpo", klCoefficient: 1 }).success).toBe(false);
    expect(objectiveSettingsSchema.safeParse({ name: "ppo" }).success).toBe(false);
    expect(() => resolveObjective({ name: "grpo", entropyCoefficient: -1 })).toThrowError(
      expect.objectContaining({
        code: "OBJECTIVE_BAD_OPTIONS",
        message: expect.stringContaining("entropyCoefficient"),
      }),
    );
  });
});

describe("resolveObjective", () => {
  it.each([
    [{ name: "foo" }, "one of grpo, dr-grpo, dapo, rloo for `name`"],
    [{ name: "gpro" }, "Did you mean `grpo`?"],
    [{ name: "toString" }, "for `name`"],
    [{ name: "constructor" }, "for `name`"],
    [{ name: "grpo", klCoefficient: 1 }, "Unknown key `klCoefficient` of `objective`."],
    [{ name: "grpo", kl: { coeficient: 1 } }, "Unknown key `kl.coeficient`. Did you mean `coefficient`?"],
    [{ name: "dr-grpo" }, "needs `normalizationLength`"],
    [null, "Expected an object for `objective`, got null."],
  ])("refuses %j, typed", (settings, text) => {
    expect(() => resolveObjective(settings as ObjectiveSettings)).toThrowError(
      expect.objectContaining({ code: "OBJECTIVE_BAD_OPTIONS", message: expect.stringContaining(text) }),
    );
  });
});

describe("imitationBatch", () => {
  const examples = [
    imitationExample([1, 2, 3], [4, 5]),
    imitationExample([1, 2, 3], [6]),
    { tokens: Int32Array.of(7, 8, 9, 10), mask: Uint8Array.of(0, 1, 0, 1) },
  ];
  const logprob = [-1, -2, -4, -8, -16];

  it.each([
    ["token-mean", 31 / 5],
    ["seq-mean-token-mean", (1.5 + 4 + 12) / 3],
    ["seq-mean-token-sum", 31 / 3],
  ] as const)("%s", (aggregation, want) => {
    const batch = imitationBatch(examples, { aggregation });
    expect(Array.from(batch.rows.targets)).toEqual([4, 5, 6, 8, 10]);
    expect(Array.from(batch.rowExample)).toEqual([0, 0, 1, 2, 2]);
    const { loss } = lossOfRows(batch.rows, { logprob, entropy: logprob });
    expect(Math.abs(loss - want)).toBeLessThanOrEqual(want * 2 ** -24);
  });

  it("weighs by the whole step where examples are only a part of it", () => {
    const totals = imitationTotals(examples);
    expect(totals).toEqual({ samples: 3, tokens: 5 });
    const whole = Array.from(imitationBatch(examples).rows.ceWeight ?? []);
    const parts = examples.flatMap((example) => Array.from(imitationBatch([example], { totals }).rows.ceWeight ?? []));
    expect(parts).toEqual(whole);
  });

  it("shares prefixes over the batch only in bounded trees", () => {
    const long = Array.from({ length: 30 }, (_, i) => i);
    const two = [imitationExample(long, [40, 41]), imitationExample(long, [42, 43])];
    const count = (batch: { forest: { segments: readonly { tokens: Int32Array }[] } }): number =>
      batch.forest.segments.reduce((sum, { tokens }) => sum + tokens.length, 0);
    expect(count(imitationBatch(two))).toBe(62);
    expect(count(imitationBatch(two, { maxTreeTokens: 64 }))).toBe(32);
    expect(count(imitationBatch(two, { maxTreeTokens: 31 }))).toBe(62);
  });

  it("refuses an example with nothing to learn", () => {
    const refused = expect.objectContaining({ code: "OBJECTIVE_BAD_SAMPLE" });
    expect(() => imitationBatch([{ tokens: Int32Array.of(1, 2), mask: Uint8Array.of(0, 0) }])).toThrowError(refused);
    expect(() => imitationExample([1], [])).toThrowError(refused);
  });
});

describe("dynamic sampling", () => {
  const objective = resolveObjective({ name: "dapo" });

  it("tells groups that teach something", () => {
    expect(isInformative(group([1, 0]), objective)).toBe(true);
    expect(isInformative(group([1, 1]), objective)).toBe(false);
    const drop = resolveObjective({ name: "dapo", truncation: "drop" });
    expect(isInformative(group([1, 1, 0], [false, false, true]), drop)).toBe(false);
    expect(isInformative(group([1, 0], [false, true]), drop)).toBe(false);
  });

  it("fills the batch, asking each time for what is missing", async () => {
    const rounds = [
      [
        [1, 1],
        [1, 0],
        [0, 0],
      ],
      [
        [0, 1],
        [1, 1],
      ],
      [[0, 1]],
    ];
    const asked: number[] = [];
    const result = await sampleInformative({
      wanted: 3,
      maxAttempts: 10,
      objective,
      sample: async (count, attempt) => {
        asked.push(count);
        return rounds[attempt] ?? [];
      },
      groupOf: (rewards) => group(rewards),
    });
    expect(asked).toEqual([3, 2, 1]);
    expect(result.kept).toEqual([
      [1, 0],
      [0, 1],
      [0, 1],
    ]);
    expect(result.rejected).toHaveLength(3);
    expect(result).toMatchObject({ full: true, attempts: 3 });
  });

  it("gives up after the attempts it was given, and says so", async () => {
    const same = { objective, groupOf: (rewards: number[]) => group(rewards) };
    const result = await sampleInformative({ wanted: 2, maxAttempts: 3, sample: async () => [[1, 1]], ...same });
    expect(result).toMatchObject({ full: false, attempts: 3, kept: [] });
    const dry = await sampleInformative({ wanted: 2, maxAttempts: 3, sample: async () => [], ...same });
    expect(dry).toMatchObject({ full: false, attempts: 1 });
  });
});
