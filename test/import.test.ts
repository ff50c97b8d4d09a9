import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { describe, expect, it } from "vitest";

const root = join(import.meta.dirname, "..");
const built = existsSync(join(root, "dist/index.js"));
if (!built) console.warn("What importing the package reads is not tested: there is no build (npm run build:ts).");

/** What a module prints as JSON, run in the package's folder, where Node finds the package by its own name. */
async function printed(...lines: string[]): Promise<unknown> {
  const args = ["--input-type=module", "--eval", lines.join("\n")];
  return JSON.parse((await promisify(execFile)(process.execPath, args, { cwd: root })).stdout);
}

describe.skipIf(!built)("the built package", () => {
  // Modules are counted rather than milliseconds: they make most of the time and are the same on every machine.
  it("is imported from a handful of files, without zod's own", async () => {
    const files = (await printed(
      'import { Session } from "node:inspector";',
      "const session = new Session();",
      "const files = [];",
      'session.on("Debugger.scriptParsed", ({ params }) => params.url.startsWith("file:") && files.push(params.url));',
      "session.connect();",
      'session.post("Debugger.enable");',
      'await import("act-trainer");',
      "console.log(JSON.stringify(files));",
    )) as string[];
    expect(files.some((url) => url.endsWith("/dist/index.js"))).toBe(true);
    expect(files.filter((url) => url.includes("/node_modules/zod/"))).toEqual([]);
    expect(files.length).toBeLessThanOrEqual(6);
  });

  it("has one copy of each module, whichever way it is reached", async () => {
    const same = await printed(
      'import { EngineError, EnvironmentError } from "act-trainer";',
      'import { householdProvider } from "act-trainer/environments/household";',
      'const engine = await import("./dist/engine/errors.js");',
      "let fault;",
      "try { householdProvider({ unknown: 1 }); } catch (error) { fault = error; }",
      "console.log(JSON.stringify([engine.EngineError === EngineError, fault instanceof EnvironmentError]));",
    );
    expect(same).toEqual([true, true]);
  });
});
