import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { expect, test } from "vitest";

const run = promisify(execFile);

/** sha256 of every file of a folder. */
async function hashes(folder: string): Promise<Record<string, string>> {
  const names = (await readdir(folder)).sort();
  const entries = await Promise.all(
    names.map(async (name) => {
      const digest = createHash("sha256").update(await readFile(join(folder, name)));
      return [name, digest.digest("hex")] as const;
    }),
  );
  return Object.fromEntries(entries);
}

test("the bundled model's recipe writes the same bytes again, whatever the number of threads", {
  timeout: 300_000,
}, async () => {
  const scratch = await mkdtemp(join(tmpdir(), "act-recipe-"));
  try {
    const make = async (name: string, threads: number): Promise<Record<string, string>> => {
      const out = join(scratch, name);
      const recipe = ["models/recipe/make.mjs", out, "--steps", "2", "--practice", "1", "--threads", String(threads)];
      await run(process.execPath, recipe);
      return hashes(out);
    };
    const one = await make("one", 1);
    expect(Object.keys(one)).toContain("model.safetensors");
    expect(await make("two", 2)).toEqual(one);
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
});

test("the bundled tokenizer is the recipe's", async () => {
  const { trainTokenizer } = (await import("../../models/recipe/bpe.mjs" as string)) as {
    trainTokenizer(texts: string[], options: object): { model: { vocab: Record<string, number> } };
  };
  const learned = trainTokenizer(["go to cabinet 12", "go to cabinet 1"], {
    vocabSize: 300,
    special: ["<|end|>"],
    added: [],
  });
  const bundled = JSON.parse(await readFile("models/household-tiny/tokenizer.json", "utf8")) as typeof learned;
  // The alphabet of bytes comes first in both.
  const alphabet = (t: typeof learned): string[] => Object.keys(t.model.vocab).slice(0, 256);
  expect(alphabet(learned)).toEqual(alphabet(bundled));
  expect(Object.keys(learned.model.vocab)).toContain("Ġcabinet");
});
