import { mkdir, mkdtemp, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { canonicalJson, hashPath } from "../../src/runs/hash.js";

describe("canonicalJson", () => {
  it("is JSON of the same value, whatever the order of keys", () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        const text = canonicalJson(value);
        expect(JSON.parse(text)).toEqual(JSON.parse(JSON.stringify(value)));
        expect(canonicalJson(reversed(value))).toBe(text);
      }),
    );
  });

  it("leaves out undefined and refuses what JSON cannot hold", () => {
    expect(canonicalJson({ b: undefined, a: 1 })).toBe('{"a":1}');
    expect(() => canonicalJson({ a: Number.NaN })).toThrowError(/finite/u);
    expect(() => canonicalJson({ a: () => 1 })).toThrowError(/JSON/u);
  });
});

describe("hashPath", () => {
  it("changes with contents and names, not with hidden files", async () => {
    const folder = await mkdtemp(join(tmpdir(), "act-hash-"));
    await mkdir(join(folder, "sub"));
    await writeFile(join(folder, "sub", "a"), "1");
    const before = await hashPath(folder);
    await writeFile(join(folder, ".hidden"), "x");
    expect(await hashPath(folder)).toBe(before);
    await writeFile(join(folder, "sub", "a"), "2");
    expect(await hashPath(folder)).not.toBe(before);
    await writeFile(join(folder, "sub", "a"), "1");
    await writeFile(join(folder, "sub", "b"), "");
    expect(await hashPath(folder)).not.toBe(before);
  });
});

function reversed(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(reversed);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(
    Object.entries(value)
      .map(([k, v]) => [k, reversed(v)])
      .reverse(),
  );
}
