import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { TokenForest } from "../../src/engine/policy.js";
import { batchTotals } from "../../src/objectives/group.js";
import type { Objective, ObjectiveSettings } from "../../src/objectives/objective.js";
import { type PolicyBatch, policyBatch, withReference } from "../../src/objectives/policy-batch.js";
import { resolveObjective } from "../../src/objectives/registry.js";
import { type SampleGroup, sampleOfTranscript, sequenceOf } from "../../src/objectives/sample.js";
import { Transcript } from "../../src/tokens/transcript.js";
import { lossOfRows } from "./loss.js";

interface FixtureSample {
  tokens: number[];
  reward: number;
  truncated: boolean;
  new: number[];
  old: number[];
  sampling: number[];
  ref: number[];
  entropy: number[];
}
interface Fixture {
  groups: { prompt: number[]; samples: FixtureSample[] }[];
  cases: {
    settings: ObjectiveSettings;
    expected: {
      loss: number;
      advantage: number[];
      used: number[];
      grad_logprob: number[][];
      grad_entropy: number[][];
    };
  }[];
}

// Made by test/fixtures/objectives/make.py with PyTorch.
const fixture: Fixture = JSON.parse(
  readFileSync(new URL("../fixtures/objectives/objectives.json", import.meta.url), "utf8"),
);

/** Streams are fp32: advantage, weight, clip bound and their products lose at most half an ulp each. */
const FP32 = 2 ** -24;
const TOLERANCE = 6 * FP32;

const groups: SampleGroup[] = fixture.groups.map(({ prompt, samples }) => ({
  samples: samples.map((sample) => ({
    sequences: [
      sequenceOf(prompt, {
        tokens: Int32Array.from(sample.tokens),
        logprobs: Float32Array.from(sample.old),
        samplingLogprobs: Float32Array.from(sample.sampling),
      }),
    ],
    reward: sample.reward,
    truncated: sample.truncated,
    malformed: false,
  })),
}));
const samples = fixture.groups.flatMap((group) => group.samples);

/** Per row, the value of its token in lists by sample and token. Rows of a sample come in token order. */
function byRow(batch: PolicyBatch, lists: readonly (readonly number[])[]): number[] {
  const next = new Map<number, number>();
  return Array.from(batch.rowSample, (sample) => {
    const t = next.get(sample) ?? 0;
    next.set(sample, t + 1);
    return lists[sample]?.[t] ?? Number.NaN;
  });
}

const field = (name: "new" | "ref" | "entropy"): number[][] => samples.map((sample) => sample[name]);

function referenced(batch: PolicyBatch): PolicyBatch {
  return batch.needsReference ? withReference(batch, Float32Array.from(byRow(batch, field("ref")))) : batch;
}

/** Tokens from the root to a forest index, that token included. */
function pathTo(forest: TokenForest, index: number): number[] {
  const starts: number[] = [];
  let total = 0;
  for (const segment of forest.segments) {
    starts.push(total);
    total += segment.tokens.length;
  }
  let at = forest.segments.findIndex((segment, i) => index < (starts[i] ?? 0) + segment.tokens.length);
  const path = Array.from(forest.segments[at]?.tokens.subarray(0, index - (starts[at] ?? 0) + 1) ?? []);
  for (let parent = forest.segments[at]?.parent; parent !== null && parent !== undefined; ) {
    at = parent;
    path.unshift(...(forest.segments[at]?.tokens ?? []));
    parent = forest.segments[at]?.parent;
  }
  return path;
}

describe("policyBatch against PyTorch", () => {
  it.each(fixture.cases.map((c) => [JSON.stringify(c.settings), c] as const))("%s", (_, { settings, expected }) => {
    const batch = referenced(policyBatch(groups, resolveObjective(settings)));
    const result = lossOfRows(batch.rows, {
      logprob: byRow(batch, field("new")),
      entropy: byRow(batch, field("entropy")),
    });

    const scale = expected.grad_logprob.flat().reduce((sum, g) => sum + Math.abs(g), 0);
    expect(Math.abs(result.loss - expected.loss)).toBeLessThanOrEqual(
      TOLERANCE * Math.max(scale, Math.abs(expected.loss)),
    );

    // Where the batch has no row, the gradient must be 0.
    const gradient = expected.grad_logprob.map((list) => list.map(() => 0));
    const entropyGradient = expected.grad_entropy.map((list) => list.map(() => 0));
    const next = new Map<number, number>();
    batch.rowSample.forEach((sample, row) => {
      const t = next.get(sample) ?? 0;
      next.set(sample, t + 1);
      const [g, e] = [gradient[sample], entropyGradient[sample]];
      if (g === undefined || e === undefined) throw new Error(`no sample ${sample}`);
      g[t] = result.byLogprob[row] ?? Number.NaN;
      e[t] = result.byEntropy[row] ?? Number.NaN;
    });
    const largest = Math.max(...expected.grad_logprob.flat().map(Math.abs));
    gradient.forEach((list, s) => {
      list.forEach((g, t) => {
        const want = expected.grad_logprob[s]?.[t] ?? Number.NaN;
        expect(Math.abs(g - want), `sample ${s} token ${t}: ${g} for ${want}`).toBeLessThanOrEqual(TOLERANCE * largest);
      });
    });
    entropyGradient.forEach((list, s) => {
      list.forEach((e, t) => {
        const want = expected.grad_entropy[s]?.[t] ?? Number.NaN;
        expect(Math.abs(e - want)).toBeLessThanOrEqual(TOLERANCE * Math.abs(want));
      });
    });
    expected.used.forEach((used, s) => {
      const advantage = batch.advantages[s] ?? 0;
      if (used === 0) expect(advantage).toBeNaN();
      else expect(Math.abs(advantage - (expected.advantage[s] ?? Number.NaN))).toBeLessThanOrEqual(1e-14);
    });
  });
});

describe("policyBatch", () => {
  const grpo = resolveObjective({ name: "grpo" });

  it("puts every row after the tokens that came before its target, in shared and in bounded trees", () => {
    for (const options of [{}, { maxTreeTokens: 12 }, { maxTreeTokens: 1000 }]) {
      const batch = policyBatch(groups, grpo, options);
      const next = new Map<number, number>();
      batch.rowSample.forEach((s, row) => {
        const t = next.get(s) ?? 0;
        next.set(s, t + 1);
        const group = fixture.groups.find(({ samples: own }) => own.includes(samples[s] as FixtureSample));
        const before = [...(group?.prompt ?? []), ...(samples[s]?.tokens.slice(0, t) ?? [])];
        expect(pathTo(batch.forest, batch.rows.rows[row] ?? -1)).toEqual(before);
        expect(batch.rows.targets[row]).toBe(samples[s]?.tokens[t]);
      });
      expect(batch.counts.rows).toBe(samples.flatMap(({ tokens }) => tokens).length);
    }
  });

  it("holds each prompt once a group", () => {
    const prompt = Array.from({ length: 40 }, (_, i) => i);
    const sample = (token: number, reward: number) => ({
      sequences: [
        sequenceOf(prompt, {
          tokens: Int32Array.of(token, token),
          logprobs: new Float32Array(2),
          samplingLogprobs: new Float32Array(2),
        }),
      ],
      reward,
      truncated: false,
      malformed: false,
    });
    const batch = policyBatch([{ samples: [sample(1, 0), sample(2, 1), sample(3, 0)] }], grpo);
    expect(batch.counts.forestTokens).toBe(40 + 3);
    expect(batch.counts.flatTokens).toBe(3 * 41);
  });

  it("gives the same total however the batch is split", () => {
    const objectives: ObjectiveSettings[] = [
      { name: "grpo", kl: { coefficient: 0.01 }, entropyCoefficient: 0.01 },
      { name: "dr-grpo", normalizationLength: 8, truncation: "drop" },
      { name: "dapo" },
      { name: "rloo", truncation: "zero" },
    ];
    fc.assert(
      fc.property(
        fc.constantFrom(...objectives),
        fc.array(fc.integer({ min: 0, max: 3 }), { minLength: groups.length, maxLength: groups.length }),
        (settings, parts) => {
          const objective = resolveObjective(settings);
          const totals = batchTotals(groups, objective);
          const gradientOf = (
            chosen: readonly SampleGroup[],
            own: readonly FixtureSample[],
          ): Map<FixtureSample, number[]> => {
            const batch = policyBatch(chosen, objective, { totals });
            const lists = (name: "new" | "ref" | "entropy"): number[][] => own.map((sample) => sample[name]);
            const filled = batch.needsReference
              ? withReference(batch, Float32Array.from(byRow(batch, lists("ref"))))
              : batch;
            const { byLogprob } = lossOfRows(filled.rows, {
              logprob: byRow(batch, lists("new")),
              entropy: byRow(batch, lists("entropy")),
            });
            const result = new Map<FixtureSample, number[]>();
            batch.rowSample.forEach((s, row) => {
              const sample = own[s] as FixtureSample;
              result.set(sample, [...(result.get(sample) ?? []), byLogprob[row] as number]);
            });
            return result;
          };
          const whole = gradientOf(groups, samples);
          const split = new Map<FixtureSample, number[]>();
          for (const part of new Set(parts)) {
            const chosen = groups.filter((_, g) => parts[g] === part);
            const own = fixture.groups.filter((_, g) => parts[g] === part).flatMap((group) => group.samples);
            for (const [sample, gradient] of gradientOf(chosen, own)) split.set(sample, gradient);
          }
          expect(split).toEqual(whole);
        },
      ),
      { numRuns: 60 },
    );
  });

  it("is not normalized by a part of the batch: without totals a split changes the gradient", () => {
    const whole = policyBatch(groups, grpo).rows.policyWeight?.[0];
    const part = policyBatch(groups.slice(0, 1), grpo).rows.policyWeight?.[0];
    expect(part).not.toBe(whole);
  });

  it("counts what does not take part", () => {
    const dropped = policyBatch(groups, resolveObjective({ name: "rloo", truncation: "drop" })).counts;
    expect(dropped).toMatchObject({ groups: 4, zeroVarianceGroups: 2, samples: 13, truncatedSamples: 3 });
    expect(dropped.droppedSamples).toBe(3);
    expect(dropped.usedSamples).toBe(10);
    expect(dropped.weightlessSamples).toBe(5);
    const dynamic = policyBatch(groups, resolveObjective({ name: "dapo" })).counts;
    expect(dynamic.usedSamples).toBe(10);
    expect(dynamic.weightlessSamples).toBe(0);
  });

  it("lays weightless samples out on demand, at weight 0", () => {
    const rloo = resolveObjective({ name: "rloo" });
    const batch = policyBatch(groups, rloo, { includeWeightless: true });
    expect(batch.counts.rows).toBe(samples.flatMap(({ tokens }) => tokens).length);
    const rows = Array.from(batch.rowSample, (s, row) => ({ s, row })).filter(({ s }) => s >= 4 && s < 7);
    expect(rows.length).toBeGreaterThan(0);
    for (const { row } of rows) expect(batch.rows.advantage?.[row]).toBe(0);
  });

  it("leaves a group out when drops leave one sample", () => {
    const two = {
      samples: [0, 1].map((i) => ({
        ...(groups[0]?.samples[i] as SampleGroup["samples"][number]),
        truncated: i === 1,
      })),
    };
    const { counts } = policyBatch([two], resolveObjective({ name: "grpo", truncation: "drop" }));
    expect(counts).toMatchObject({ undersizedGroups: 1, usedSamples: 0, rows: 0, zeroVarianceGroups: 0 });
  });

  it("refuses a group of one, an aborted completion, a reward that is no number, log-probs that are missing", () => {
    const one = { samples: groups[0]?.samples.slice(0, 1) ?? [] };
    expect(() => policyBatch([one], grpo)).toThrowError(expect.objectContaining({ code: "OBJECTIVE_GROUP_TOO_SMALL" }));
    const bad = (change: object): SampleGroup => ({
      samples: (groups[0]?.samples ?? []).map((sample, i) => (i === 0 ? { ...sample, ...change } : sample)),
    });
    const refused = expect.objectContaining({ code: "OBJECTIVE_BAD_SAMPLE" });
    expect(() => policyBatch([bad({ reward: Number.NaN })], grpo)).toThrowError(refused);
    const sequence = sequenceOf([1], {
      tokens: Int32Array.of(2),
      logprobs: Float32Array.of(Number.NaN),
      samplingLogprobs: Float32Array.of(0),
    });
    expect(() => policyBatch([bad({ sequences: [sequence] })], grpo)).toThrowError(refused);
    const leading = { ...sequence, mask: Uint8Array.of(1, 1) };
    expect(() => policyBatch([bad({ sequences: [leading] })], grpo)).toThrowError(refused);
  });

  it.each(["mask", "logprobs", "samplingLogprobs"] as const)("refuses a %s that is not one entry a token", (name) => {
    for (const change of [-1, 1]) {
      const changed = structuredClone(groups[0] as SampleGroup);
      const sequence = changed.samples[0]?.sequences[0] as unknown as Record<string, ArrayLike<number>>;
      const list = sequence[name] as Float32Array;
      sequence[name] = new (list.constructor as Float32ArrayConstructor)(list.length + change);
      expect(() => policyBatch([changed], grpo)).toThrowError(
        expect.objectContaining({ code: "OBJECTIVE_BAD_SAMPLE", message: expect.stringContaining(`\`${name}\``) }),
      );
    }
  });

  it("asks for reference log-probs, one a row", () => {
    const batch = policyBatch(groups, grpo);
    expect(batch.needsReference).toBe(true);
    expect(() => withReference(batch, new Float32Array(3))).toThrowError(
      expect.objectContaining({ code: "OBJECTIVE_BAD_REFERENCE" }),
    );
    expect(policyBatch(groups, resolveObjective({ name: "rloo" })).needsReference).toBe(false);
  });

  it("gives importance weights of exactly 1 to tokens drawn from the policy itself", () => {
    const own: SampleGroup[] = groups.map((group) => ({
      samples: group.samples.map((sample) => ({
        ...sample,
        sequences: sample.sequences.map((sequence) => ({ ...sequence, samplingLogprobs: sequence.logprobs })),
      })),
    }));
    const corrected = policyBatch(own, grpo);
    const plain = policyBatch(own, resolveObjective({ name: "grpo", importanceCap: null }));
    expect(corrected.rows).toEqual(plain.rows);
    expect(corrected.importance).toEqual({ mean: 1, max: 1, cappedShare: 0 });
  });

  it("trains on the actions of a transcript only, and shares the first prompt of a group of episodes", () => {
    const episode = (first: number, reward: number) => {
      const transcript = new Transcript();
      transcript.append(
        "prompt",
        Int32Array.from({ length: 10 }, (_, i) => i),
      );
      for (const action of [first, first + 1]) {
        transcript.appendAction({
          tokens: Int32Array.of(action, 99),
          logprobs: Float32Array.of(-1, -2),
          samplingLogprobs: Float32Array.of(-1, -2),
          finishReason: "stop",
          weightVersion: 3,
        });
        transcript.append("observation", [70, 71]);
      }
      return sampleOfTranscript(transcript, { reward, malformed: false });
    };
    const batch = policyBatch([{ samples: [episode(20, 1), episode(30, 0)] }], grpo);
    expect(batch.counts.rows).toBe(8);
    expect(Array.from(batch.rows.targets)).toEqual([20, 99, 21, 99, 30, 99, 31, 99]);
    expect(Array.from(batch.rows.rows, (row) => pathTo(batch.forest, row).length)).toEqual([
      10, 11, 14, 15, 10, 11, 14, 15,
    ]);
    // 10 shared, then 5 tokens each up to the last action's first token
    expect(batch.counts.forestTokens).toBe(10 + 5 + 5);
  });

  it("counts an episode as cut by its last reply only", () => {
    const episode = (...reasons: readonly ("stop" | "length")[]) => {
      const transcript = new Transcript();
      transcript.append("prompt", [1, 2]);
      for (const finishReason of reasons) {
        const [logprobs, samplingLogprobs] = [Float32Array.of(-1), Float32Array.of(-1)];
        transcript.appendAction({
          tokens: Int32Array.of(9),
          logprobs,
          samplingLogprobs,
          finishReason,
          weightVersion: 0,
        });
        transcript.append("observation", [70]);
      }
      return sampleOfTranscript(transcript, { reward: 1, malformed: false });
    };
    expect(episode("length", "stop").truncated).toBe(false);
    expect(episode("stop", "length").truncated).toBe(true);
  });
});

describe("zero variance", () => {
  const group = (rewards: readonly number[]): SampleGroup => ({
    samples: rewards.map((reward, i) => ({
      ...(groups[0]?.samples[i % 4] as SampleGroup["samples"][number]),
      reward,
      truncated: false,
    })),
  });

  it("is found by comparison: equal rewards that no mean represents give advantages of exactly 0", () => {
    for (const reward of [0.1, 1 / 3, 1e-12, -0.5]) {
      for (const name of ["grpo", "rloo"] as const) {
        const objective: Objective = resolveObjective({ name });
        const batch = policyBatch([group([reward, reward, reward])], objective);
        expect(batch.counts.zeroVarianceGroups).toBe(1);
        expect(Array.from(batch.advantages)).toEqual([0, 0, 0]);
      }
    }
  });

  it("does not take a small difference for none", () => {
    const batch = policyBatch([group([1e-9, 0, 0])], resolveObjective({ name: "rloo" }));
    expect(batch.counts.zeroVarianceGroups).toBe(0);
    expect(batch.advantages[0]).toBeCloseTo(1e-9, 20);
  });
});
