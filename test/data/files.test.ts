import { spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { isRunning } from "../../src/data/files.js";

describe("isRunning", () => {
  it("tells living processes from pids nobody has", () => {
    expect(isRunning(process.pid)).toBe(true);
    expect(isRunning(1)).toBe(true); // another user's, unless this is root
    expect(isRunning(2 ** 30)).toBe(false);
  });

  it.skipIf(!existsSync("/proc/self/stat"))(
    "counts a killed process out before its parent has asked for its end",
    () => {
      const child = spawn(process.execPath, ["-e", "setInterval(() => undefined, 1000)"]);
      const pid = child.pid as number;
      expect(isRunning(pid)).toBe(true);
      child.kill("SIGKILL");
      // Nothing is awaited: this process, its parent, cannot hear of the end. It stays until the test is over.
      const end = Date.now() + 60_000;
      while (isRunning(pid) && Date.now() < end) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5);
      expect(isRunning(pid)).toBe(false);
      expect(readFileSync(`/proc/${pid}/stat`, "utf8")).toMatch(/\) Z /u);
    },
  );
});
