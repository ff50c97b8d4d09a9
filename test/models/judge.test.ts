import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, test } from "vitest";

const run = promisify(execFile);

interface Judgments {
  readonly accuracy: number;
  readonly first_share: number;
  readonly pairs: number;
}

/** Half of the recipe's games, three quarters of its steps. The pairs are asked in both orders, so a habit of position scores one half. */
test("the judge stage brings the bundled model to 90 % on pairs it was not trained on", {
  timeout: 1_200_000,
}, async () => {
  const folder = await mkdtemp(join(tmpdir(), "act-judge-"));
  try {
    const shorter = ["--set", "stages.experts.tasks=300", "--set", "stages.critic.steps=150"];
    const cli = ["dist/cli/main.js", "run", "examples/judge.yaml", "--run", folder, "--overwrite", ...shorter];
    await run(process.execPath, cli, { maxBuffer: 1 << 26 });
    const summary = JSON.parse(await readFile(join(folder, "summary.json"), "utf8")) as {
      readonly judge: { readonly before: Judgments; readonly after: Judgments };
    };
    const { before, after } = summary.judge;
    expect(after.pairs).toBeGreaterThan(250);
    expect(before.accuracy).toBeLessThan(0.7);
    expect(after.accuracy).toBeGreaterThanOrEqual(0.9);
    // Of n pairs asked in both orders a judge without a bias picks the first in n of 2n: within four standard errors.
    expect(Math.abs(after.first_share - 0.5)).toBeLessThan(4 * Math.sqrt(0.25 / (2 * after.pairs)));
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});
