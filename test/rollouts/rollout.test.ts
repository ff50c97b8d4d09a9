import { beforeAll, describe, expect, it } from "vitest";
import { EnvironmentError } from "../../src/environments/environment.js";
import type { Dialogue } from "../../src/rollouts/dialogue.js";
import type { Episode } from "../../src/rollouts/episode.js";
import { episodeForm } from "../../src/rollouts/form.js";
import { countOutcomes, type RolloutOptions, rollout } from "../../src/rollouts/rollout.js";
import { countingProvider, type Script, ScriptedPolicy, testDialogue } from "./scripted.js";

let dialogue: Dialogue;
beforeAll(async () => {
  dialogue = await testDialogue();
});

const GO = "<think>go on</think><action>go</action>";

function options(script: Script, changes: Partial<RolloutOptions> = {}): RolloutOptions & { policy: ScriptedPolicy } {
  const policy = new ScriptedPolicy(dialogue, script);
  return {
    provider: countingProvider(),
    form: episodeForm("per-step", dialogue),
    sampling: { maxNewTokens: 64 },
    seed: 7n,
    stepLimit: 10,
    timeLimit: null,
    environmentTimeLimit: 1000,
    admissible: true,
    malformedLimit: null,
    concurrency: 3,
    retries: 2,
    retryPause: 1,
    ...changes,
    policy,
  };
}

const requests = (...tasks: string[]): { index: number; taskId: string }[] =>
  tasks.map((taskId, index) => ({ index, taskId }));

/** An episode without what depends on the clock. */
const content = (episode: Episode): unknown => ({ ...episode, seconds: 0 });

describe("rollout", () => {
  it("types every outcome", async () => {
    const script: Script = (prompt) =>
      prompt.includes("go 3 times")
        ? "<action>stop</action>"
        : prompt.includes("go 6 times")
          ? "no tags at all"
          : prompt.includes("go 5 times")
            ? "<action>wait</action>"
            : GO;
    const episodes = await rollout(requests("2", "3", "6", "5"), options(script, { stepLimit: 4 }));
    expect(episodes.map((e) => [e.taskId, e.outcome, e.truncation, e.steps.length])).toEqual([
      ["2", "success", null, 2],
      ["3", "failure", null, 1],
      ["6", "truncated", "step_limit", 4],
      ["5", "truncated", "step_limit", 4],
    ]);
    expect(countOutcomes(episodes)).toEqual({ success: 1, failure: 1, truncated: 2, environment_failed: 0, faults: 0 });
    expect(episodes[0]?.steps[0]).toMatchObject({
      action: "go",
      thought: "go on",
      accepted: true,
      observation: "start",
    });
    expect(episodes[2]?.steps[1]).toMatchObject({
      action: null,
      accepted: false,
      observation: "No action was found in the reply.",
    });
  });

  it("gives the same episodes whatever the concurrency", async () => {
    // Replies depend on nothing but the request's random stream.
    const script: Script = (_, request) => {
      const draw = Number((BigInt(request.stream ?? 0) * 2654435761n) >> 13n) % 5;
      return [GO, GO, "<action>wait</action>", "nothing", "<action>jump</action>"][draw] ?? GO;
    };
    const tasks = requests("1", "2", "3", "4", "5", "6", "2", "3");
    const one = await rollout(tasks, options(script, { concurrency: 1 }));
    const many = await rollout(tasks, options(script, { concurrency: 8 }));
    expect(many.map(content)).toEqual(one.map(content));
    expect(new Set(one.map((e) => e.outcome)).size).toBeGreaterThan(1);
  });

  it("fills a slot as soon as its episode ends and never runs more than asked for", async () => {
    const provider = countingProvider();
    const settings = options(() => GO, { provider, concurrency: 2 });
    const ended: number[] = [];
    await rollout(requests("6", "1", "1", "1", "1"), { ...settings, onEpisode: (e) => ended.push(e.index) });
    // All short episodes end while the long one runs.
    expect(ended.at(-1)).toBe(0);
    expect(settings.policy.peak).toBe(2);
    expect(provider.made()).toBe(2);
    expect(provider.open()).toBe(0);
  });

  it("retries what may be retried, with the same draws, and counts it", async () => {
    const lost = (): EnvironmentError => new EnvironmentError("ENVIRONMENT_LOST", "The process died.");
    const provider = countingProvider({
      fault: (task, step, attempt) => (task === "3" && step === 1 && attempt < 3 ? lost() : null),
    });
    const calm = await rollout(
      requests("2", "3"),
      options(() => GO),
    );
    const shaken = await rollout(
      requests("2", "3"),
      options(() => GO, { provider }),
    );
    expect(shaken.map((e) => ({ ...(content(e) as Episode), faults: [] }))).toEqual(calm.map(content));
    expect(shaken[1]?.faults).toEqual([
      { code: "ENVIRONMENT_LOST", message: "The process died.", steps: 1 },
      { code: "ENVIRONMENT_LOST", message: "The process died.", steps: 1 },
    ]);
    expect(provider.open()).toBe(0);
  });

  it("ends as environment_failed what may not be retried, or failed too often, or threw anything", async () => {
    const faults: Record<string, Error> = {
      "1": new EnvironmentError("ENVIRONMENT_FAILED", "Its own fault."),
      "2": new EnvironmentError("ENVIRONMENT_LOST", "Gone again."),
      "3": new TypeError("undefined is not a function"),
    };
    const provider = countingProvider({ fault: (task) => faults[task] ?? null });
    const episodes = await rollout(
      requests("1", "2", "3", "4"),
      options(() => GO, { provider }),
    );
    expect(episodes.map((e) => [e.outcome, e.faults.length])).toEqual([
      ["environment_failed", 1],
      ["environment_failed", 3],
      ["environment_failed", 1],
      ["success", 0],
    ]);
    expect(episodes[2]?.faults[0]?.code).toBe("ENVIRONMENT_FAILED");
  });

  it("does not wait for an environment that hangs", async () => {
    const provider = countingProvider({ hang: (task) => task === "2" });
    const settings = options(() => GO, { provider, environmentTimeLimit: 30, retries: 0 });
    const [episode] = await rollout(requests("2"), settings);
    expect(episode).toMatchObject({ outcome: "environment_failed", faults: [{ code: "ENVIRONMENT_TIMEOUT" }] });
  });

  it("stops at a full context, at malformed replies in a row, and where the caller says so", async () => {
    const tight = options(() => GO);
    const small = new ScriptedPolicy(dialogue, () => GO, 60);
    const [full] = await rollout(requests("6"), { ...tight, policy: small });
    expect(full).toMatchObject({ outcome: "truncated", truncation: "context_limit" });
    for (const request of small.requests) expect(request.prompt.length + request.maxNewTokens).toBeLessThanOrEqual(60);
    const [mute] = await rollout(
      requests("6"),
      options(() => "?", { malformedLimit: 2 }),
    );
    expect(mute).toMatchObject({ outcome: "truncated", truncation: "stop_condition" });
    expect(mute?.steps).toHaveLength(2);
    const [told] = await rollout(
      requests("6"),
      options(() => GO, { stop: (steps) => steps.length === 3 }),
    );
    expect(told).toMatchObject({ truncation: "stop_condition" });
    expect(told?.steps).toHaveLength(3);
  });

  it("sends actions in the environment's spelling only where it was asked for", async () => {
    const loud: Script = () => "<action> GO </action>";
    const [known] = await rollout(requests("1"), options(loud));
    expect(known).toMatchObject({ outcome: "success", steps: [{ action: "go" }] });
    const [unknown] = await rollout(requests("1"), options(loud, { admissible: false, stepLimit: 1 }));
    expect(unknown?.steps[0]).toMatchObject({ action: "GO", accepted: false, admissible: null });
  });

  it("ends at an abort, closes every environment and lets go of the signal", async () => {
    const provider = countingProvider();
    const controller = new AbortController();
    const reason = new Error("enough");
    let replies = 0;
    const script: Script = () => {
      if (++replies === 4) controller.abort(reason);
      return GO;
    };
    const running = rollout(requests("6", "6", "6", "6"), options(script, { provider, signal: controller.signal }));
    await expect(running).rejects.toBe(reason);
    expect(provider.open()).toBe(0);
    await expect(
      rollout(
        requests("1"),
        options(() => GO, { signal: controller.signal }),
      ),
    ).rejects.toBe(reason);
  });

  it("passes on the policy's own errors", async () => {
    const provider = countingProvider();
    const broken: Script = () => {
      throw new RangeError("out of memory");
    };
    await expect(rollout(requests("1", "2"), options(broken, { provider }))).rejects.toThrow("out of memory");
    expect(provider.open()).toBe(0);
  });
});

describe("transcript form", () => {
  it("appends tokens and never changes them", async () => {
    const settings = options(() => GO, { form: episodeForm("transcript", dialogue) });
    const [episode] = await rollout(requests("3"), settings);
    const transcript = episode?.transcript;
    if (episode === undefined || transcript == null) throw new Error("no transcript");
    const prompts = settings.policy.requests.map((r) => Array.from(r.prompt));
    // Each prompt is the one before, the completion as sampled, and what was added.
    for (let i = 1; i < prompts.length; i++) {
      const before = [...(prompts[i - 1] ?? []), ...(episode.steps[i - 1]?.completion.tokens ?? [])];
      expect(prompts[i]?.slice(0, before.length)).toEqual(before);
      expect(prompts[i]?.slice(before.length)).toEqual(Array.from(episode.steps[i]?.prompt ?? []));
    }
    const all = Array.from(transcript.tokens());
    expect(all.slice(0, prompts.at(-1)?.length)).toEqual(prompts.at(-1));
    expect(transcript.spans.map((s) => s.role)).toEqual([
      "prompt",
      "action",
      "observation",
      "action",
      "observation",
      "action",
    ]);
    const text = await dialogue.chat.tokenizer.decode(all);
    expect(text).toContain("gone 1");
    // The goal is said once: later turns only show what is new.
    expect(text.split("go 3 times")).toHaveLength(2);
    const trained = transcript.trainableMask().reduce((sum, x) => sum + x, 0);
    expect(trained).toBe(episode.steps.reduce((sum, s) => sum + s.completion.tokens.length, 0));
  });

  it("ends a cut turn before the next one", async () => {
    let said = 0;
    const script: Script = () => (said++ === 0 ? { text: "<think>on and on", cut: true } : GO);
    const [episode] = await rollout(requests("1"), options(script, { form: episodeForm("transcript", dialogue) }));
    const text = await dialogue.chat.tokenizer.decode(episode?.transcript?.tokens() ?? []);
    expect(text).toContain("<think>on and on<|im_end|>\n<|im_start|>user\n");
    expect(text).not.toContain("<|im_end|><|im_end|>");
  });
});
