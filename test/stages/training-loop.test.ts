/** What the training loop keeps when it is stopped and the disk or the engine fails on top of that. */
import { mkdir, mkdtemp, readdir, readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, it, vi } from "vitest";
import { z } from "zod";
import { EngineError } from "../../src/engine/errors.js";
import { ActError } from "../../src/errors.js";
import { Journal } from "../../src/runs/journal.js";
import type { TrainablePolicy } from "../../src/stages/trainable.js";
import { abortSchema, runTrainingLoop, type TrainingResult } from "../../src/stages/training-loop.js";

/** A model whose weights are the number of its steps. */
class Counter {
  weights = 0;
  fault: Error | null = null;

  async zeroGradients(): Promise<void> {}
  stats(): { weightVersion: number } {
    return { weightVersion: this.weights };
  }
  async saveState(dir: string): Promise<void> {
    if (this.fault !== null) throw this.fault;
    await mkdir(dir);
    await writeFile(join(dir, "weights"), String(this.weights));
  }
  async loadState(dir: string): Promise<void> {
    this.weights = Number(await readFile(join(dir, "weights"), "utf8"));
  }
  async saveModel(dir: string): Promise<void> {
    await mkdir(dir);
    await writeFile(join(dir, "weights"), String(this.weights));
  }
}

interface Settings {
  readonly signal?: AbortSignal;
  readonly onStep?: (step: number) => void;
  /** Called when a step has updated the weights, and has its figures still to give. */
  readonly onUpdate?: (step: number) => void;
  readonly abort?: object;
}

/** Six steps, a checkpoint every second one. */
function train(folder: string, policy: Counter, settings: Settings = {}): Promise<TrainingResult> {
  const { signal, onStep, onUpdate, abort = {} } = settings;
  return runTrainingLoop<{ cursor: number }>({
    folder,
    policy: policy as unknown as TrainablePolicy,
    steps: 6,
    checkpoint: { every: 2, keep: 2 },
    abort: abortSchema.parse(abort),
    initial: { cursor: 0 },
    stateSchema: z.strictObject({ cursor: z.number() }),
    step: async (step, state) => {
      policy.weights++;
      onUpdate?.(step + 1);
      return {
        state: { cursor: state.cursor + 10 },
        metrics: { "policy/loss": policy.weights + state.cursor, "rollout/truncated_share": 1 },
        timing: {},
        samples: [{ task: `task ${step}` }],
      };
    },
    onStep,
    signal,
  });
}

const fresh = (): Promise<string> => mkdtemp(join(tmpdir(), "act-loop-"));
const files = ["metrics.jsonl", "samples.jsonl", "model/weights"];
const contents = (folder: string): Promise<string[]> =>
  Promise.all(files.map((name) => readFile(join(folder, name), "utf8")));
const noSpace = (): ActError => new ActError("FILE_NO_SPACE", "Failed writing x: no space.");

afterEach(() => {
  vi.restoreAllMocks();
});

describe("runTrainingLoop", () => {
  it.each(["metrics.jsonl", "timing.jsonl"])(
    "goes on to the same bytes when %s could not be written in the moment of a stop",
    async (journal) => {
      const whole = await fresh();
      await train(whole, new Counter());
      const stopped = await fresh();
      const controller = new AbortController();
      const append = Journal.prototype.append;
      vi.spyOn(Journal.prototype, "append").mockImplementation(async function (this: Journal, record) {
        if (this.path.endsWith(journal) && record.step === 3) {
          controller.abort(new Error("stopped"));
          throw noSpace();
        }
        return append.call(this, record);
      });
      const running = train(stopped, new Counter(), { signal: controller.signal });
      await expect(running).rejects.toMatchObject({ code: "FILE_NO_SPACE" });
      vi.restoreAllMocks();
      expect(await readdir(join(stopped, "checkpoints"))).toEqual(["step-00000002"]);
      expect(await train(stopped, new Counter())).toMatchObject({ resumedFrom: 2 });
      expect(await contents(stopped)).toEqual(await contents(whole));
    },
  );

  it("does not keep a step that failed after its update, also when it is stopped", async () => {
    const whole = await fresh();
    await train(whole, new Counter());
    const stopped = await fresh();
    const controller = new AbortController();
    const onUpdate = (step: number): void => {
      if (step !== 4) return;
      controller.abort(new Error("stopped"));
      throw new Error("not finite");
    };
    const running = train(stopped, new Counter(), { signal: controller.signal, onUpdate });
    await expect(running).rejects.toThrow("not finite");
    expect(await train(stopped, new Counter())).toMatchObject({ resumedFrom: 2 });
    expect(await contents(stopped)).toEqual(await contents(whole));
  });

  /** Stopped after step 3, when the engine cannot save any more. */
  async function stopUnsaved(reason: unknown, fault: Error): Promise<unknown> {
    const folder = await fresh();
    const controller = new AbortController();
    const policy = new Counter();
    const onStep = (step: number): void => {
      if (step !== 3) return;
      policy.fault = fault;
      controller.abort(reason);
    };
    const error = await train(folder, policy, { signal: controller.signal, onStep }).catch((cause: unknown) => cause);
    expect(await readdir(join(folder, "checkpoints"))).toEqual(["step-00000002"]);
    return error;
  }

  it("tells what stopped it, and that its last step was not kept", async () => {
    const reason = new ActError("INTERRUPTED", "Stopped by SIGINT.");
    const disposed = new EngineError("DISPOSED", "The engine was disposed of.", { hint: "Make a new engine." });
    expect(await stopUnsaved(reason, disposed)).toMatchObject({
      code: "INTERRUPTED",
      message:
        "Stopped by SIGINT. Resuming goes on from step 2: the checkpoint of step 3 was not written. " +
        "The engine was disposed of. Make a new engine.",
      cause: reason,
    });
    const plain = new Error("enough");
    expect(await stopUnsaved(plain, noSpace())).toMatchObject({
      code: "TRAINING_NOT_SAVED",
      message: expect.stringMatching(/^enough Resuming goes on from step 2.*no space/u),
      cause: plain,
    });
  });

  it("tells of a threshold, also when its last step was not kept", async () => {
    const policy = new Counter();
    policy.fault = noSpace();
    const running = train(await fresh(), policy, { abort: { truncated: 0.5, patience: 1 } });
    await expect(running).rejects.toMatchObject({
      code: "TRAINING_ABORTED",
      message: expect.stringMatching(
        /truncated_share was above.*from step 0: the checkpoint of step 1 was not written/u,
      ),
    });
  });
});
