import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    testTimeout: 60_000,
    // The engine brings its own threads: more test files at once than cores only slows every one down.
    maxWorkers: 2,
  },
});
