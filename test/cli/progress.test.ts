import { Writable } from "node:stream";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { EXIT, errorText, exitCodeOf, InterruptedError } from "../../src/cli/exit.js";
import { duration, Progress, type ProgressStream } from "../../src/cli/progress.js";
import { EnvironmentError } from "../../src/environments/environment.js";
import { ActError } from "../../src/errors.js";

function stream(isTTY: boolean): ProgressStream & { readonly text: () => string } {
  let text = "";
  const sink = new Writable({
    write(chunk, _, done) {
      text += String(chunk);
      done();
    },
  });
  return Object.assign(sink, { isTTY, columns: 60, text: () => text });
}

describe("Progress", () => {
  let ci: string | undefined;
  beforeEach(() => {
    ci = process.env.CI;
    delete process.env.CI;
  });
  afterEach(() => {
    if (ci !== undefined) process.env.CI = ci;
  });

  it("writes a plain line now and then, and the last one, where there is no terminal", () => {
    const out = stream(false);
    let now = 0;
    const progress = new Progress({ stream: out, plainInterval: 1000, now: () => now });
    progress.start("act", 10);
    for (let done = 1; done <= 10; done++) {
      now += 300;
      progress.update(done, "reward 0.5");
    }
    progress.end();
    expect(out.text()).toBe(
      "act  4/10  2s left  1s  reward 0.5\nact  8/10  1s left  2s  reward 0.5\nact  10/10  3s  reward 0.5\n",
    );
  });

  it("redraws one line in a terminal and keeps lines of others apart", () => {
    const out = stream(true);
    const progress = new Progress({ stream: out, now: () => 0 });
    progress.start("act", 4);
    progress.update(1);
    progress.line("a note");
    progress.update(4);
    progress.end();
    const lines = out.text().split("\n");
    expect(lines).toHaveLength(3);
    expect(lines[0]?.endsWith("a note")).toBe(true);
    expect(lines[1]).toContain("[========================]");
    // Never wider than the terminal.
    for (const drawn of out.text().split(/\r|\n/u)) expect(drawn.replace("\u001b[2K", "").length).toBeLessThan(60);
  });

  it("tells durations as people do", () => {
    expect([0, 59.4, 60, 185, 3725].map(duration)).toEqual(["0s", "59s", "1m00s", "3m05s", "1h02m"]);
  });
});

describe("exit codes", () => {
  it.each([
    [new ActError("CONFIG_UNKNOWN_KEY", "x"), EXIT.usage],
    [new ActError("DATA_BAD_RECORD", "x"), EXIT.usage],
    [new ActError("FILE_NO_SPACE", "x"), EXIT.file],
    [new ActError("RUN_LOCKED", "x"), EXIT.file],
    [new ActError("RUN_EXISTS", "x"), EXIT.usage],
    [new ActError("STAGE_NO_DATA", "x"), EXIT.usage],
    [new ActError("SERVE_ADDRESS", "x"), EXIT.usage],
    [new ActError("ADAPTER", "x"), EXIT.engine],
    [new EnvironmentError("ENVIRONMENT_UNKNOWN", "x"), EXIT.usage],
    [new EnvironmentError("ENVIRONMENT_LOST", "x"), EXIT.environment],
    [new ActError("TRAINING_ABORTED", "x"), EXIT.training],
    [new ActError("MEMORY_PLAN", "x"), EXIT.engine],
    [new InterruptedError("SIGINT"), EXIT.interrupted],
    [new TypeError("x"), EXIT.internal],
  ])("%s", (error, code) => {
    expect(exitCodeOf(error)).toBe(code);
  });

  it("show code, message and hint, the stack only when asked for", () => {
    const error = new ActError("FILE_NO_SPACE", "No space.", { hint: "Make room.", cause: new Error("ENOSPC") });
    expect(errorText(error, false)).toBe("error FILE_NO_SPACE: No space. Make room.");
    expect(errorText(error, true)).toMatch(/at .*\ncaused by Error: ENOSPC\n/su);
    expect(errorText(new TypeError("odd"), false)).toContain("--debug");
  });
});
