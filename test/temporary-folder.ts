/**
 * Gives a test run one temporary folder of its own, and takes it away with everything the tests left there.
 */
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Called by vitest before the first test file; workers and what they start find the folder as `os.tmpdir()`. */
export default function setup(): () => void {
  const folder = mkdtempSync(join(tmpdir(), "act-trainer-test-"));
  chmodSync(folder, 0o755); // Some tests become another user, who has to get here.
  process.env.TMPDIR = folder;
  return () => rmSync(folder, { recursive: true, force: true });
}
