import { describe, expect, it } from "vitest";
import type { EpisodeRecord, JudgmentRecord, PairRecord } from "../../src/data/records.js";
import { comparePolicies } from "../../src/evaluation/compare.js";
import { alternativeKind, judgmentResult, poolJudgments } from "../../src/evaluation/judgment.js";
import { panelResult } from "../../src/evaluation/panel.js";
import { judgmentResultSchema, panelResultSchema } from "../../src/evaluation/summary.js";

function pair(id: string, changes: Partial<PairRecord> = {}): PairRecord {
  return {
    id,
    task_id: "t",
    category: null,
    state: { task: "put a mug", observation: "You see a mug 1.", history: [], step: 0, admissible: null },
    expert_action: "take mug 1 from desk 1",
    thought: null,
    alternative: "go to desk 2",
    alternative_admissible: true,
    expert_first: true,
    draws: 1,
    ...changes,
  };
}

function verdicts(
  id: string,
  whenFirst: JudgmentRecord["picked"],
  whenSecond: JudgmentRecord["picked"],
): JudgmentRecord[] {
  return [true, false].map((first) => ({
    pair_id: id,
    expert_first: first,
    picked: first ? whenFirst : whenSecond,
    malformed_reason: null,
    truncated: false,
    tokens: 3,
    reply: "",
  }));
}

describe("judgmentResult", () => {
  it("tells accuracy, consistency and position bias apart", () => {
    const pairs = ["a", "b", "c", "d"].map((id) => pair(id));
    const judgments = [
      ...verdicts("a", "expert", "expert"), // right both times
      ...verdicts("b", "expert", "alternative"), // always the first
      ...verdicts("c", "alternative", "alternative"), // wrong both times, but consistent
      ...verdicts("d", "malformed", "malformed"), // the same, but no verdict
    ];
    const result = judgmentResult(pairs, judgments, 1);
    expect(result).toMatchObject({ accuracy: 3 / 8, consistency: 2 / 4, malformed: 2 / 8, pairs: 4 });
    // Picks: a first, second; b first, first; c second, first: 4 of 6 fell on the first.
    expect(result.first_share).toBeCloseTo(4 / 6, 12);
    expect(judgmentResultSchema.parse(result)).toEqual(result);
  });

  it("ignores pairs that were not asked in both orders", () => {
    const judgments = [...verdicts("a", "expert", "expert"), ...verdicts("b", "expert", "expert").slice(0, 1)];
    expect(judgmentResult([pair("a"), pair("b")], judgments, 1).pairs).toBe(1);
  });

  it("breaks accuracy down by kind of alternative", () => {
    const pairs = [
      pair("a", { alternative: "take mug 2 from desk 1" }),
      pair("b", { alternative: "fly", alternative_admissible: false }),
      pair("c"),
    ];
    expect(pairs.map(alternativeKind)).toEqual(["near-miss", "inadmissible", "other"]);
    const judgments = [
      ...verdicts("a", "expert", "alternative"),
      ...verdicts("b", "expert", "expert"),
      ...verdicts("c", "alternative", "alternative"),
    ];
    expect(judgmentResult(pairs, judgments, 1).by_alternative).toEqual({
      inadmissible: { pairs: 1, accuracy: 1 },
      "near-miss": { pairs: 1, accuracy: 0.5 },
      other: { pairs: 1, accuracy: 0 },
    });
  });

  it("pools seeds by their pairs", () => {
    const right = verdicts("a", "expert", "expert");
    const malformed = ["a", "b"].flatMap((id) => verdicts(id, "malformed", "malformed"));
    const one = judgmentResult([pair("a")], right, 1);
    const two = judgmentResult([pair("a"), pair("b")], malformed, 2);
    expect(poolJudgments([one, two], [...right, ...malformed])).toMatchObject({
      accuracy: 1 / 3,
      pairs: 3,
      seconds: 3,
    });
  });

  it("pools the position bias by picks: a seed that picked less, or nothing, counts less, or not", () => {
    const seeds = [
      [...verdicts("a", "malformed", "malformed"), ...verdicts("b", "malformed", "malformed")], // 0 picks
      [...verdicts("a", "expert", "expert"), ...verdicts("b", "expert", "malformed")], // 3, 2 of them the first
      [...verdicts("a", "expert", "expert"), ...verdicts("b", "expert", "alternative")], // 4, 3 of them the first
    ];
    const results = seeds.map((judgments) => judgmentResult([pair("a"), pair("b")], judgments, 1));
    expect(results.map((r) => r.first_share)).toEqual([0.5, 2 / 3, 3 / 4]);
    expect(poolJudgments(results, seeds.flat()).first_share).toBeCloseTo(5 / 7, 12);
    expect(poolJudgments([], []).first_share).toBe(0.5);
  });
});

function episode(task: string, outcome: EpisodeRecord["outcome"], changes: Partial<EpisodeRecord> = {}): EpisodeRecord {
  return {
    task_id: task,
    category: "pick",
    repeat: 0,
    outcome,
    truncation: null,
    steps: 4,
    score: outcome === "success" ? 1 : 0,
    reward: 0,
    tokens: 10,
    malformed: 1,
    rejected: 1,
    actions: ["a", "b", "c", null],
    fault: null,
    ...changes,
  };
}

const header = {
  panel: { id: "house/test@1", hash: "0".repeat(64) },
  environment: { name: "house", version: "1" },
};

describe("panelResult", () => {
  it("counts failed environments apart", () => {
    const episodes = [
      episode("1", "success"),
      episode("2", "failure", { category: "look" }),
      episode("3", "truncated"),
      episode("4", "environment_failed"),
    ];
    const result = panelResult(header, episodes, 2);
    expect(result).toMatchObject({
      episodes: 3,
      successes: 1,
      rate: 1 / 3,
      truncated: 1 / 3,
      environment_failed: 1,
      score: 1 / 3,
      steps: 4,
      malformed: 3 / 12,
      rejected: 3 / 9,
      categories: { look: { episodes: 1, successes: 0 }, pick: { episodes: 2, successes: 1 } },
    });
    expect(panelResultSchema.parse(result)).toEqual(result);
  });

  it("gives the mean score an interval that shrinks with the episodes", () => {
    const width = (n: number): number => {
      const episodes = Array.from({ length: n }, (_, i) => episode(String(i), "failure", { score: (i % 10) / 10 - 1 }));
      const { score, score_low = 1, score_high = 0 } = panelResult(header, episodes, 1);
      expect(score).toBeCloseTo(-0.55, 12);
      expect(score_low).toBeLessThan(score);
      expect(score_high).toBeGreaterThan(score);
      return score_high - score_low;
    };
    // The standard deviation of 0, .1, ..., .9 is 0.287: 2 * 1.96 * 0.287 / sqrt(n), within the bootstrap's own spread.
    for (const n of [20, 200]) expect(width(n) / ((2 * 1.96 * 0.287) / Math.sqrt(n))).toBeCloseTo(1, 0);
    expect(width(200)).toBeLessThan(width(20) / 2.5);
  });

  it("makes no rate of nothing", () => {
    expect(panelResult(header, [episode("1", "environment_failed")], 1)).toMatchObject({
      episodes: 0,
      rate: 0,
      low: 0,
      high: 1,
    });
  });
});

describe("comparePolicies", () => {
  const names = { left: "a", right: "b", panel: "p" };

  it("pairs by seed and task, and leaves out what either could not play", () => {
    const left = [
      [episode("1", "failure"), episode("2", "success"), episode("3", "failure"), episode("4", "failure")],
      [episode("1", "failure")],
    ];
    const right = [
      [episode("4", "environment_failed"), episode("3", "success"), episode("2", "success"), episode("1", "success")],
      [episode("1", "success")],
    ];
    const result = comparePolicies(names, left, right, 0n);
    expect(result).toMatchObject({ pairs: 4, only_left: 0, only_right: 3, difference: 0.75 });
    expect(result.p).toBeCloseTo(0.25, 12);
  });

  it("refuses policies that were not evaluated equally often", () => {
    const once = [[episode("1", "success")]];
    expect(() => comparePolicies(names, once, [...once, ...once], 0n)).toThrowError(/1 times on .* 2 times/u);
  });

  it("refuses policies that share no task", () => {
    expect(() => comparePolicies(names, [[episode("1", "success")]], [[episode("2", "success")]], 0n)).toThrowError(
      /share no task/u,
    );
  });
});
