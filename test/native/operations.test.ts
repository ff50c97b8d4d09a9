import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { expect, test } from "vitest";

const run = promisify(execFile);

/** Builds the operations' own test program (plain CMake, no Node headers) and runs every case. */
test("every operation agrees with its reference on every instruction set of this processor", {
  timeout: 900_000,
}, async () => {
  const options = { maxBuffer: 1 << 26 };
  await run("cmake", ["-S", ".", "-B", "build/test", "-DACT_TESTS=ON"], options);
  await run("cmake", ["--build", "build/test", "--target", "act_ops_test", "--parallel", "2"], options);
  const { stdout } = await run("build/test/act_ops_test", [], options);
  expect(stdout).toMatch(/[1-9]\d* passed, 0 failed/u);
});
