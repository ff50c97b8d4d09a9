import { describe, expect, it } from "vitest";
import { metricNames, metricsRecordSchema, timingNames, timingRecordSchema } from "../../src/data/records-metrics.js";

describe("metrics", () => {
  it("take known names only", () => {
    expect(metricsRecordSchema.safeParse({ step: 1, "reward/mean": 0.5, "policy/kl": null }).success).toBe(true);
    expect(metricsRecordSchema.safeParse({ step: 1, "reward/average": 0.5 }).success).toBe(false);
    expect(metricsRecordSchema.safeParse({ step: 1, "reward/mean": "0.5" }).success).toBe(false);
    expect(metricsRecordSchema.safeParse({ "reward/mean": 0.5 }).success).toBe(false);
  });

  it("keep what depends on the clock apart", () => {
    expect(metricsRecordSchema.safeParse({ step: 1, "rollout/tokens_per_s": 5 }).success).toBe(false);
    expect(timingRecordSchema.safeParse({ step: 1, "rollout/tokens_per_s": 5, step_s: 1, time: "x" }).success).toBe(
      true,
    );
    expect(timingRecordSchema.safeParse({ step: 1, "reward/mean": 5 }).success).toBe(false);
    expect(metricNames.filter((name) => timingNames.includes(name))).toEqual([]);
  });
});
