import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    globalSetup: "test/temporary-folder.ts",
    // Time limits are against hangs only: on a machine that others use too, everything may take many times longer.
    testTimeout: 300_000,
    hookTimeout: 300_000,
    // The engine brings its own threads: more test files at once than cores only slows every one down.
    maxWorkers: 2,
  },
});
