import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type HeaderFields, type PairRecord, recordKinds } from "../../src/data/records.js";
import { openRecords, RecordWriter, readRecords, recordHeader, writeRecords } from "../../src/data/records-file.js";

const hash = "0".repeat(64);
const sampling = { temperature: 1, top_k: 0, top_p: 1, min_p: 0, max_new_tokens: 64, seed: 7 };
const prompt = { id: "compact", version: 1 };
const model = { id: "tiny", weight_hash: hash };
const header: HeaderFields<"pairs"> = {
  config_hash: hash,
  environment: { name: "household", version: "1" },
  panel: { id: "household/train@1", hash },
  source: "expert",
  expert_hash: hash,
  sampler: { model, prompt, sampling },
  pairs_per_state: 1,
  keep_inadmissible: true,
  order_seed: 3,
};
const pair: PairRecord = {
  id: "train-17#1/0",
  task_id: "train-17",
  category: null,
  state: {
    task: "put a mug on a shelf",
    observation: "You see a mug 1.",
    history: [{ observation: "You are in a room.", action: "go to table 1" }],
    step: 1,
    admissible: { actions: ["take mug 1", "look"], patterns: [] },
  },
  expert_action: "take mug 1",
  thought: null,
  alternative: "look",
  alternative_admissible: true,
  expert_first: false,
  draws: 1,
};

let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "records-"));
});
afterAll(() => rmSync(dir, { recursive: true }));

/** A file with these lines. */
function file(name: string, ...lines: unknown[]): string {
  const path = join(dir, name);
  writeFileSync(path, lines.map((line) => (typeof line === "string" ? line : JSON.stringify(line))).join("\n"));
  return path;
}

describe("record files", () => {
  it("come back as they were written", async () => {
    const path = join(dir, "pairs.jsonl");
    expect(await writeRecords(path, "pairs", header, [pair, { ...pair, id: "b" }])).toBe(2);
    const { header: found, records } = await readRecords(path, "pairs");
    expect(found).toMatchObject({ ...header, format: "act-trainer/pairs", version: 1 });
    expect(found.created_by).toMatch(/^act-trainer \d+\.\d+\.\d+/);
    expect(records).toEqual([pair, { ...pair, id: "b" }]);
  });

  it("are the same bytes for the same content", async () => {
    const paths = ["one.jsonl", "two.jsonl"].map((name) => join(dir, name));
    for (const path of paths) await writeRecords(path, "pairs", header, [pair]);
    const [one, two] = paths.map((path) => readFileSync(path));
    expect(one?.equals(two as Buffer)).toBe(true);
  });

  it("hold records of every kind", async () => {
    const common = { config_hash: hash, environment: header.environment, panel: { id: "household/test@1", hash } };
    const { expert_action, thought, state } = pair;
    const expert = { id: "a", task_id: "t", category: "put", state, expert_action, thought };
    await writeRecords(join(dir, "e.jsonl"), "expert", { ...common, panel: null, source: "scienceworld-gold" }, [
      expert,
    ]);
    expect((await readRecords(join(dir, "e.jsonl"), "expert")).records).toEqual([expert]);

    const verdict = {
      pair_id: "a",
      expert_first: true,
      picked: "malformed",
      malformed_reason: "no_action",
      truncated: true,
      tokens: 64,
      reply: "…",
    } as const;
    const judge = { config_hash: hash, model, pairs_hash: hash, prompt, sampling };
    await writeRecords(join(dir, "j.jsonl"), "judgments", judge, [verdict]);
    expect((await readRecords(join(dir, "j.jsonl"), "judgments")).records).toEqual([verdict]);

    const episode = {
      task_id: "t",
      category: null,
      repeat: 0,
      outcome: "truncated",
      truncation: "step_limit",
      steps: 2,
      score: 0,
      reward: 0,
      tokens: 40,
      malformed: 1,
      rejected: 0,
      actions: ["look", null],
      fault: null,
    } as const;
    const play = { ...common, model, prompt, sampling, form: "per-step", step_limit: 50 } as const;
    await writeRecords(join(dir, "p.jsonl"), "episodes", play, [episode]);
    expect((await readRecords(join(dir, "p.jsonl"), "episodes")).records).toEqual([episode]);
  });

  it("appear whole or not at all", async () => {
    const path = join(dir, "half.jsonl");
    const writer = await RecordWriter.create(path, "pairs", header);
    await writer.write(pair);
    await expect(writer.write({ ...pair, draws: 0 })).rejects.toMatchObject({
      code: "DATA_BAD_RECORD",
      message: expect.stringContaining("line 3: draws"),
    });
    await writer.discard();
    expect(readdirSync(dir).filter((name) => name.includes("half"))).toEqual([]);
    await expect(RecordWriter.create(path, "pairs", { ...header, order_seed: 0.5 })).rejects.toMatchObject({
      code: "DATA_BAD_RECORD",
    });
  });

  const whole = (): object => recordHeader("pairs", header);
  it.each(["nokind", "toString", "pair"])("of a kind that does not exist are refused, typed: %s", async (kind) => {
    const path = join(dir, "unknown.jsonl");
    writeFileSync(path, "{}\n");
    const refused = { code: "DATA_UNKNOWN_KIND", message: expect.stringContaining("for `kind`") };
    await expect(readRecords(path, kind as "pairs")).rejects.toMatchObject(refused);
    await expect(writeRecords(path, kind as "pairs", header, [])).rejects.toMatchObject(refused);
  });

  it.each([
    ["empty", [], "DATA_NO_HEADER", "empty"],
    ["a record first", [pair], "DATA_NO_HEADER", "line 1"],
    ["a number first", ["7"], "DATA_NO_HEADER", "line 1"],
    ["another kind", [{ ...whole(), format: "act-trainer/expert" }], "DATA_WRONG_FORMAT", "act-trainer/expert"],
    ["a later version", [{ ...whole(), version: 2 }], "DATA_WRONG_VERSION", "version 2"],
    ["an unknown key in the header", [{ ...whole(), note: 1 }], "DATA_BAD_RECORD", "note"],
    ["a bad hash", [{ ...whole(), expert_hash: "abc" }], "DATA_BAD_RECORD", "expert_hash"],
    ["an unknown key", [whole(), pair, { ...pair, extra: 1 }], "DATA_BAD_RECORD", "line 3"],
    ["a missing key", [whole(), { ...pair, state: undefined }], "DATA_BAD_RECORD", "line 2: state"],
    [
      "an alternative that is the expert's",
      [whole(), { ...pair, alternative: " TAKE mug  1" }],
      "DATA_BAD_RECORD",
      "equals",
    ],
    ["no alternative", [whole(), { ...pair, alternative: " \t " }], "DATA_BAD_RECORD", "line 2: alternative"],
    ["no action of the expert", [whole(), { ...pair, expert_action: " " }], "DATA_BAD_RECORD", "line 2: expert_action"],
    ["the same id twice", [whole(), pair, { ...pair, id: "b" }, "", pair], "DATA_BAD_RECORD", "line 5: id"],
    ["too long a history", [whole(), { ...pair, state: { ...pair.state, step: 0 } }], "DATA_BAD_RECORD", "history"],
    ["half a record", [whole(), JSON.stringify(pair).slice(0, 90)], "DATA_BAD_JSON", "line 2"],
  ])("are refused: %s", async (name, lines, code, text) => {
    await expect(readRecords(file(`${name}.jsonl`, ...lines), "pairs")).rejects.toMatchObject({
      code,
      message: expect.stringContaining(text),
    });
  });

  it("can be left before their end", async () => {
    const path = join(dir, "many.jsonl");
    await writeRecords(
      path,
      "pairs",
      header,
      Array.from({ length: 50 }, (_, i) => ({ ...pair, id: String(i) })),
    );
    const { records } = await openRecords(path, "pairs");
    for await (const record of records) if (record.id === "3") break;
    expect((await records.next()).done).toBe(true);
  });

  it("give a typed error or records for any bytes", async () => {
    const good = `${JSON.stringify(whole())}\n${JSON.stringify(pair)}\n`;
    const path = join(dir, "fuzz.jsonl");
    await fc.assert(
      fc.asyncProperty(fc.nat(good.length), fc.uint8Array({ maxLength: 4 }), async (at, bite) => {
        writeFileSync(
          path,
          Buffer.concat([Buffer.from(good.slice(0, at)), bite, Buffer.from(good.slice(at + bite.length))]),
        );
        try {
          await readRecords(path, "pairs");
        } catch (error) {
          expect(error).toMatchObject({ name: "ActError" });
        }
      }),
      { numRuns: 200 },
    );
  });
});

describe("records of one identity", () => {
  const expert = { id: "a", task_id: "t", category: null, state: pair.state, expert_action: "look", thought: null };
  const expertHeader = { config_hash: hash, environment: header.environment, panel: null, source: "expert" };
  const verdict = {
    ...{ pair_id: "a", expert_first: true, picked: "expert", malformed_reason: null },
    ...{ truncated: false, tokens: 1, reply: "" },
  } as const;
  const judge = { config_hash: hash, model, pairs_hash: hash, prompt, sampling };
  const episode = {
    ...{ task_id: "t", category: null, repeat: 0, outcome: "success", truncation: null, steps: 1, score: 1 },
    ...{ reward: 1, tokens: 4, malformed: 0, rejected: 0, actions: ["look"], fault: null },
  } as const;
  const panel = { id: "household/test@1", hash };
  const play = {
    ...{ config_hash: hash, environment: header.environment, panel, model, prompt, sampling },
    ...{ form: "per-step", step_limit: 50 },
  } as const;

  it.each([
    ["expert", expertHeader, expert, { id: "b" }, 'id ("a")'],
    ["pairs", header, pair, { id: "b" }, 'id ("train-17#1/0")'],
    ["judgments", judge, verdict, { expert_first: false }, 'pair_id and expert_first ("a", true)'],
    ["episodes", play, episode, { repeat: 1 }, 'task_id and repeat ("t", 0)'],
  ] as const)("are neither read nor written: %s", async (kind, head, record, changes, name) => {
    const same = { ...record, ...("reply" in record ? { reply: "another" } : { category: "another" }) };
    const lines = [record, { ...record, ...changes }, same];
    const refused = {
      code: "DATA_BAD_RECORD",
      message: expect.stringContaining(`line 4: ${name} must be unique, and line 2`),
    };
    const path = join(dir, `${kind}-twice.jsonl`);
    await expect(writeRecords(path, kind, head as never, lines as never)).rejects.toMatchObject(refused);
    expect(readdirSync(dir).filter((file) => file.includes(`${kind}-twice`))).toEqual([]);
    await expect(
      readRecords(file(`${kind}-2.jsonl`, recordHeader(kind, head as never), ...lines), kind),
    ).rejects.toMatchObject(refused);
    await writeRecords(path, kind, head as never, lines.slice(0, 2) as never);
    expect((await readRecords(path, kind)).records).toEqual(lines.slice(0, 2));
  });
});

describe("recordKinds", () => {
  it("are named by their format", () => {
    for (const [name, { format }] of Object.entries(recordKinds)) expect(format).toBe(`act-trainer/${name}`);
  });
});
