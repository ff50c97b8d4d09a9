import { describe, expect, it } from "vitest";
import { EnvironmentError } from "../../src/environments/environment.js";
import { episodeForm } from "../../src/rollouts/form.js";
import { pauseBeforeRetry, retryDelay } from "../../src/rollouts/retry.js";
import { rollout } from "../../src/rollouts/rollout.js";
import { countingProvider, ScriptedPolicy, testDialogue } from "./scripted.js";

describe("the pause before a new attempt", () => {
  it("grows fourfold to a bound, and is drawn from the upper half", () => {
    for (const [attempt, longest] of [1000, 4000, 16_000, 60_000, 60_000].entries()) {
      const pauses = Array.from({ length: 200 }, (_, episode) => retryDelay(1000, attempt, episode));
      expect(Math.min(...pauses)).toBeGreaterThanOrEqual(longest / 2);
      expect(Math.max(...pauses)).toBeLessThanOrEqual(longest);
      // Episodes that fell together are spread: each quarter of the range has its share, about 50 of 200.
      for (const quarter of [0, 1, 2, 3])
        expect(
          pauses.filter((p) => Math.min(3, Math.floor((p / longest - 0.5) * 8)) === quarter).length,
        ).toBeGreaterThan(25);
    }
    expect(retryDelay(0, 3, 1)).toBe(0);
  });

  it("is the same in every run", () => {
    expect(retryDelay(1000, 1, 7)).toBe(retryDelay(1000, 1, 7));
    expect(new Set([retryDelay(1000, 0, 7), retryDelay(1000, 0, 8), retryDelay(1000, 0, "boil/1")]).size).toBe(3);
  });

  it("ends with the signal's reason", async () => {
    const controller = new AbortController();
    const began = performance.now();
    setTimeout(() => controller.abort(new Error("enough")), 20);
    await expect(pauseBeforeRetry(60_000, controller.signal)).rejects.toThrow("enough");
    await expect(pauseBeforeRetry(60_000, controller.signal)).rejects.toThrow("enough");
    expect(performance.now() - began).toBeLessThan(30_000);
  });

  it("lets an episode outlive a server that is down for a while", async () => {
    const dialogue = await testDialogue();
    let down = true;
    const provider = countingProvider({
      fault: () => (down ? new EnvironmentError("ENVIRONMENT_LOST", "connection refused") : null),
    });
    const play = (retryPause: number): ReturnType<typeof rollout> =>
      rollout([{ index: 0, taskId: "1" }], {
        ...{ provider, policy: new ScriptedPolicy(dialogue, () => "<action>go</action>"), retryPause, retries: 3 },
        ...{ form: episodeForm("per-step", dialogue), sampling: { maxNewTokens: 64 }, seed: 7n, stepLimit: 10 },
        ...{ timeLimit: null, environmentTimeLimit: 1000, admissible: true, malformedLimit: null, concurrency: 1 },
      });
    // Without a pause four attempts are over before the server is back.
    const [lost] = await play(0);
    expect(lost).toMatchObject({ outcome: "environment_failed", faults: { length: 4 } });
    setTimeout(() => {
      down = false;
    }, 300);
    const [played] = await play(100);
    expect(played?.outcome).toBe("success");
    expect(played?.faults.length).toBeGreaterThan(0);
  });
});
