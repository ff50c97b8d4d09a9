import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it, test } from "vitest";
import { Tokenizer } from "../../src/tokens/tokenizer.js";

interface ExpectedText {
  ids: number[];
  with_special: number[];
  decoded: string;
  skipped: string;
}
const fixtures = fileURLToPath(new URL("../fixtures/tokens/", import.meta.url));
// Made by test/fixtures/tokens/make.py with the Python tokenizers.
const expected: { texts: string[] } & Record<"byte-level" | "byte-fallback", ExpectedText[]> = JSON.parse(
  readFileSync(join(fixtures, "expected.json"), "utf8"),
);

const families = ["byte-level", "byte-fallback"] as const;
const loaded = new Map<string, Tokenizer>();
const folders: string[] = [];
const of = (family: string): Tokenizer => loaded.get(family) as Tokenizer;

beforeAll(async () => {
  for (const family of families) loaded.set(family, await Tokenizer.load(join(fixtures, family)));
});
afterAll(() => {
  for (const folder of folders) rmSync(folder, { recursive: true });
});

function folder(files: Readonly<Record<string, string>>): string {
  const dir = mkdtempSync(join(tmpdir(), "tokenizer-"));
  folders.push(dir);
  for (const [name, text] of Object.entries(files)) writeFileSync(join(dir, name), text);
  return dir;
}

test("what is no text is refused", async () => {
  const wrong = undefined as unknown as string;
  const refused = { name: "ActError", code: "BAD_ARGUMENT" };
  await expect(Tokenizer.load(wrong)).rejects.toMatchObject(refused);
  await expect(of("byte-level").encode(wrong)).rejects.toMatchObject(refused);
  await expect(of("byte-level").encodeBatch(["x", wrong])).rejects.toMatchObject({
    ...refused,
    message: "Expected a text for `texts.1`, got undefined.",
  });
});

describe.each(families)("%s tokenizer", (family) => {
  it("encodes and decodes as the Python package does, uncut and unpadded", async () => {
    const tokenizer = of(family);
    const rows = expected[family];
    const batch = await tokenizer.encodeBatch(expected.texts);
    for (const [i, text] of expected.texts.entries()) {
      const row = rows[i] as ExpectedText;
      expect(Array.from(await tokenizer.encode(text)), JSON.stringify(text)).toEqual(row.ids);
      expect(Array.from(batch[i] ?? [])).toEqual(row.ids);
      expect(Array.from(await tokenizer.encode(text, { addSpecialTokens: true }))).toEqual(row.with_special);
      expect(await tokenizer.decode(row.ids)).toBe(row.decoded);
      expect(await tokenizer.decode(row.ids, { skipSpecialTokens: true })).toBe(row.skipped);
    }
  });

  it("knows the bytes of every token", () => {
    const tokenizer = of(family);
    const { bytes, offsets } = tokenizer.tokenBytes();
    expect(offsets).toHaveLength(tokenizer.vocabSize + 1);
    expect(offsets.at(-1)).toBe(bytes.length);
    for (const [text, id] of tokenizer.addedTokens)
      expect(Buffer.from(bytes.subarray(offsets[id], offsets[id + 1])).toString()).toBe(text);
    expect(tokenizer.tokenBytes()).toBe(tokenizer.tokenBytes());
  });

  it("has token bytes that add up to the text", async () => {
    const tokenizer = of(family);
    const { bytes, offsets } = tokenizer.tokenBytes();
    await fc.assert(
      fc.asyncProperty(fc.string({ unit: "grapheme", minLength: 1 }), async (text) => {
        const ids = await tokenizer.encode(text);
        const joined = Buffer.concat(Array.from(ids, (id) => bytes.subarray(offsets[id], offsets[id + 1])));
        // SentencePiece-like tokenizers put a space before every text, and write a space as U+2581: the two are one to them.
        const written = family === "byte-fallback" ? ` ${text.replaceAll("\u2581", " ")}` : text;
        expect(joined.toString("utf8")).toBe(written);
      }),
      { numRuns: 300, examples: [["\u2581 "]] },
    );
  });
});

describe("Tokenizer", () => {
  it("tells control tokens from other added tokens", () => {
    const tokenizer = of("byte-level");
    expect([...tokenizer.specialTokens.keys()]).toEqual(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]);
    expect(tokenizer.addedTokens.has("<think>")).toBe(true);
    expect(tokenizer.specialTokens.has("<think>")).toBe(false);
    expect(tokenizer.token(tokenizer.tokenId("<think>") ?? -1)).toBe("<think>");
    expect(tokenizer.tokenId("no such token")).toBeNull();
    expect(tokenizer.token(tokenizer.vocabSize)).toBeNull();
  });

  it("takes end-of-sequence ids from generation_config.json, then config.json, then the named token", async () => {
    const source = readFileSync(join(fixtures, "byte-level/tokenizer.json"), "utf8");
    expect(of("byte-level").eosTokens).toEqual([2, 0]);
    expect(of("byte-fallback").eosTokens).toEqual([2]);
    const config = JSON.stringify({ eos_token_id: 1 });
    const both = folder({ "tokenizer.json": source, "config.json": config, "generation_config.json": "{}" });
    expect((await Tokenizer.load(both)).eosTokens).toEqual([1]);
    expect((await Tokenizer.load(folder({ "tokenizer.json": source }))).eosTokens).toEqual([]);
  });

  it("gives typed errors for what cannot be used", async () => {
    const source = readFileSync(join(fixtures, "byte-level/tokenizer.json"), "utf8");
    const refuses = async (files: Readonly<Record<string, string>>, code: string): Promise<void> => {
      await expect(Tokenizer.load(folder(files))).rejects.toMatchObject({ name: "ActError", code });
    };
    await refuses({}, "TOKENIZER_MISSING");
    await refuses({ "tokenizer.json": "{" }, "TOKENIZER_MALFORMED");
    await refuses({ "tokenizer.json": "[]" }, "TOKENIZER_MALFORMED");
    await refuses({ "tokenizer.json": "{}" }, "TOKENIZER_MALFORMED");
    await refuses({ "tokenizer.json": source.slice(0, source.length / 2) }, "TOKENIZER_MALFORMED");
    // Ids that would make a list of four thousand million tokens.
    for (const id of [2 ** 24 + 1, 2 ** 32 - 1]) {
      const huge = { ...JSON.parse(source), added_tokens: [], model: { type: "BPE", vocab: { a: id }, merges: [] } };
      await refuses({ "tokenizer.json": JSON.stringify(huge) }, "TOKENIZER_MALFORMED");
    }
    await refuses({ "tokenizer.json": source, "tokenizer_config.json": "nope" }, "TOKENIZER_MALFORMED");
    for (const id of ["[2, 99999]", "-1", "2.5", '"two"'])
      await refuses(
        { "tokenizer.json": source, "generation_config.json": `{"eos_token_id": ${id}}` },
        "TOKENIZER_MALFORMED",
      );
    await refuses(
      { "tokenizer.json": source, "tokenizer_config.json": '{"eos_token": "</s>"}' },
      "TOKENIZER_MALFORMED",
    );
    await expect(Tokenizer.load(join(fixtures, "expected.json"))).rejects.toMatchObject({
      code: "TOKENIZER_UNREADABLE",
    });
  });

  it("survives any tokenizer.json: a tokenizer or a typed error", async () => {
    const source = readFileSync(join(fixtures, "byte-level/tokenizer.json"), "utf8");
    await fc.assert(
      fc.asyncProperty(fc.nat(source.length - 1), fc.string({ minLength: 1, maxLength: 3 }), async (at, bite) => {
        const text = source.slice(0, at) + bite + source.slice(at + bite.length);
        try {
          const tokenizer = await Tokenizer.load(folder({ "tokenizer.json": text }));
          await tokenizer.encode("go to shelf 1");
        } catch (error) {
          expect(error).toMatchObject({ name: "ActError" });
        }
      }),
      { numRuns: 150 },
    );
  });

  it("refuses what is no id", async () => {
    const tokenizer = of("byte-level");
    for (const id of [-1, 1.5, Number.NaN])
      await expect(tokenizer.decode([id])).rejects.toMatchObject({ code: "TOKEN_OUT_OF_RANGE" });
    expect(await tokenizer.decode([])).toBe("");
  });

  it("gives ids of a padded embedding no text", async () => {
    const tokenizer = of("byte-level");
    const ids = [...(await tokenizer.encode("go to shelf 1"))];
    expect(await tokenizer.decode([tokenizer.vocabSize, ...ids, tokenizer.vocabSize + 7])).toBe("go to shelf 1");
    expect(await tokenizer.decode([tokenizer.vocabSize])).toBe("");
  });

  it("has no token bytes for a tokenizer of words", async () => {
    const words = {
      version: "1.0",
      added_tokens: [],
      model: { type: "WordLevel", vocab: { a: 0, "[UNK]": 1 }, unk_token: "[UNK]" },
    };
    const tokenizer = await Tokenizer.load(folder({ "tokenizer.json": JSON.stringify(words) }));
    expect(() => tokenizer.tokenBytes()).toThrowError(expect.objectContaining({ code: "TOKENIZER_NO_BYTES" }));
  });
});
