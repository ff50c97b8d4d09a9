import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import { engineOptionsSchema } from "../../src/engine/engine-options.js";
import { ENGINE_ERROR_CODES } from "../../src/engine/errors.js";

const page = readFileSync(new URL("../../docs/engine.md", import.meta.url), "utf8");

it("docs/engine.md explains every option of the engine, and no other", () => {
  const table = page.slice(page.indexOf("## Options"), page.indexOf("## Files"));
  const rows = table.split("\n").filter((line) => line.startsWith("| `"));
  const documented = rows.flatMap((row) => [...(row.split("|")[1] ?? "").matchAll(/`(\w+)`/gu)].map(([, key]) => key));
  expect(documented.sort()).toEqual(Object.keys(engineOptionsSchema.shape).sort());
  for (const row of rows) expect(row.split("|")[3]?.trim()).not.toBe("");
});

it("every code of an engine error says what it means", () => {
  for (const [code, meaning] of Object.entries(ENGINE_ERROR_CODES)) {
    expect(code).toMatch(/^[A-Z_]+$/u);
    expect(meaning.length).toBeGreaterThan(10);
  }
});
