import { describe, expect, it } from "vitest";
import type { Summary } from "../../src/evaluation/summary.js";
import { curveSvg } from "../../src/report/curve.js";
import { html } from "../../src/report/html.js";
import { summaryTable } from "../../src/report/table.js";

describe("html", () => {
  it("escapes everything but markup", () => {
    const inner = html`<b>${"<script>alert('x')</script>"}</b>`;
    expect(html`${inner}${["&", inner]}`.text).toBe(
      "<b>&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;</b>&amp;<b>&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;</b>",
    );
  });
});

describe("curveSvg", () => {
  it("draws from corner to corner", () => {
    const points = [
      { step: 1, value: 0 },
      { step: 3, value: 1 },
    ];
    const { text } = curveSvg({ title: "reward", points });
    expect(text).toContain('d="M44.0 92.0L294.0 8.0"');
    expect(curveSvg({ title: "one point", points: points.slice(0, 1) }).text).toBe("");
    expect(curveSvg({ title: "flat", points: points.map((p) => ({ ...p, value: 2 })) }).text).not.toContain("NaN");
  });
});

describe("summaryTable", () => {
  it("shows every policy, judge and comparison", () => {
    const panel = {
      episodes: 4,
      successes: 1,
      rate: 0.25,
      low: 0.046,
      high: 0.699,
      score: 0.25,
      truncated: 0,
      environment_failed: 0,
      steps: 3,
      malformed: 0,
      rejected: 0,
      panel: "p",
      panel_hash: "h",
      environment_version: "1",
      categories: {},
      seconds: 1,
    };
    const summary: Summary = {
      format: "act-trainer/summary@1",
      name: "demo",
      policies: { initial: { in_distribution: panel }, act: {} },
      judge: {
        before: {
          accuracy: 0.5,
          low: 0.4,
          high: 0.6,
          consistency: 0.25,
          first_share: 0.75,
          malformed: 0,
          truncated: 0,
          pairs: 8,
          by_alternative: {},
          seconds: 1,
        },
      },
      comparisons: [
        {
          left: "initial",
          right: "act",
          panel: "in_distribution",
          pairs: 4,
          only_left: 0,
          only_right: 2,
          difference: 0.5,
          low: 0,
          high: 1,
          p: 0.5,
        },
      ],
      by_seed: {},
      seeds: [0],
      seconds: 12.4,
      commit: "0123456789abcdef",
      machine: "a machine",
      version: "1",
    };
    expect(summaryTable(summary)).toBe(`success  in distribution
-------  ------------------------
initial  25.0% [4.6%, 69.9%]  1/4
act      -

judge   accuracy  consistency  first picked  malformed  pairs
------  --------  -----------  ------------  ---------  -----
before  50.0%     25.0%        75.0%         0.0%       8

difference     panel            95% interval          p      tasks
-------------  ---------------  --------------------  -----  -----
act - initial  in distribution  +50.0 [+0.0, +100.0]  0.500  4

1 seed, 95% intervals (Wilson; scores: bootstrap; differences: paired bootstrap, exact McNemar test). 12 s on a machine, commit 0123456789ab.`);

    const lossy = { initial: { in_distribution: { ...panel, environment_failed: 3 } } };
    expect(
      summaryTable({ ...summary, policies: lossy })
        .split("\n\n")
        .at(-2),
    ).toBe(
      "initial, in distribution: the environment failed in 3 of 7 episodes, which are left out; " +
        "`fault` in episodes.in_distribution.jsonl says how.",
    );
    const scored = { ...panel, score: 0.4321, score_low: 0.3, score_high: 0.555 };
    const graded = { ...summary, policies: { initial: { in_distribution: panel }, act: { in_distribution: scored } } };
    expect(summaryTable(graded).split("\n\n")[1]).toBe(`mean score  in distribution
----------  -----------------
initial     0.25
act         0.43 [0.30, 0.56]`);
  });
});
