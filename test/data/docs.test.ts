import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { metricsTables, recordTables } from "./tables.js";

/** The page as it should be: its own introduction, then the tables made from the code. */
function page(path: string, firstHeading: string, tables: string): string {
  const text = readFileSync(path, "utf8");
  const at = text.indexOf(firstHeading);
  return (at === -1 ? text : text.slice(0, at)) + tables;
}

describe("the tables in docs/ are those of the code", () => {
  it.each([
    ["metrics.md", "## metrics.jsonl", metricsTables()],
    ["data-files.md", "## act-trainer/expert", recordTables()],
  ])("%s", async (name, heading, tables) => {
    const path = fileURLToPath(new URL(`../../docs/${name}`, import.meta.url));
    await expect(page(path, heading, tables)).toMatchFileSnapshot(path);
  });
});
