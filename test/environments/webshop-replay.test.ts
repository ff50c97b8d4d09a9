import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { replayWebShop } from "../../src/environments/webshop/replay.js";
import { hasOracle, ORACLE } from "./webshop-oracle.js";

describe.skipIf(!hasOracle)("replay of recorded sessions", () => {
  test("every page, list of clickables, reward, URL and state", async () => {
    const report = await replayWebShop({ data: ORACLE, sessions: join(ORACLE, "sessions.jsonl.gz") });
    expect([report.episodes, report.steps, report.exact]).toEqual([250, 3280, 3280]);
    expect(report.mismatches).toEqual([]);
  });
});
