import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { readRecords } from "../../src/data/records-file.js";
import type { Dialogue } from "../../src/rollouts/dialogue.js";
import { assess, assessSchema } from "../../src/stages/assess.js";
import { collect, collectSchema } from "../../src/stages/collect.js";
import { pair, pairSchema } from "../../src/stages/pair.js";
import type { StageContext } from "../../src/stages/stage.js";
import { agreement, verdictShares } from "../../src/stages/verdict.js";
import { countingProvider, type Script, ScriptedPolicy, testDialogue } from "../rollouts/scripted.js";

const model = { id: "scripted", weightHash: "d".repeat(64) };
let dialogue: Dialogue;
let expert: string;

async function context(): Promise<StageContext> {
  return { folder: await mkdtemp(join(tmpdir(), "act-stage-")), configHash: "c".repeat(64) };
}

beforeAll(async () => {
  dialogue = await testDialogue();
  expert = (await collect(countingProvider(), collectSchema.parse({ panel: "all" }), await context())).file;
});

describe("pair", () => {
  const draws =
    (...texts: string[]): Script =>
    (_, __, i) =>
      texts[i] ?? "";

  it("drops what equals the expert, canonicalizes, and keeps distinct alternatives in the order drawn", async () => {
    const said = draws(
      "<action>GO </action>",
      "none",
      "<action>STOP</action>",
      "<action>stop</action>",
      "<action>Jump  high</action>",
    );
    const policy = new ScriptedPolicy(dialogue, said);
    const options = pairSchema.parse({ draws: 5, pairsPerState: 3 });
    const result = await pair({ policy, dialogue }, model, expert, options, await context());
    expect(result).toMatchObject({
      states: 21,
      pairs: 42,
      draws: 105,
      malformed: 21,
      expertMatches: 21,
      onlyExpert: 0,
    });
    const { header, records } = await readRecords(result.file, "pairs");
    expect(records.slice(0, 2).map((p) => [p.id, p.alternative, p.alternative_admissible])).toEqual([
      ["1#0/0", "stop", true],
      ["1#0/1", "jump high", false],
    ]);
    expect(header.sampler?.model).toEqual({ id: "scripted", weight_hash: model.weightHash });
    // Orders are balanced exactly over an even number of pairs.
    expect(records.filter((p) => p.expert_first)).toHaveLength(21);
  });

  it("keeps one a state by default, and none that cannot be carried out when told so", async () => {
    const said = draws("<action>fly</action>", "<action>wait</action>");
    const run = async (options: object): Promise<string[]> => {
      const policy = new ScriptedPolicy(dialogue, said);
      const { file } = await pair(
        { policy, dialogue },
        model,
        expert,
        pairSchema.parse({ draws: 2, ...options }),
        await context(),
      );
      return [...new Set((await readRecords(file, "pairs")).records.map((p) => p.alternative))];
    };
    expect(await run({})).toEqual(["fly"]);
    expect(await run({ keepInadmissible: false })).toEqual(["wait"]);
  });

  it("says why there is no pair", async () => {
    const only = (text: string, context_ = 4096): Promise<unknown> =>
      context().then((where) =>
        pair(
          { policy: new ScriptedPolicy(dialogue, () => text, context_), dialogue },
          model,
          expert,
          pairSchema.parse({}),
          where,
        ),
      );
    await expect(only("<action>go</action>")).rejects.toMatchObject({ code: "STAGE_NO_DATA" });
    await expect(only("mumble")).rejects.toMatchObject({ code: "STAGE_NO_DATA" });
  });

  it("chooses states by the seed alone", async () => {
    const ids = async (seed: number): Promise<string[]> => {
      const policy = new ScriptedPolicy(dialogue, () => "<action>wait</action>");
      const options = pairSchema.parse({ states: 8, seed });
      const { file } = await pair({ policy, dialogue }, model, expert, options, await context());
      return (await readRecords(file, "pairs")).records.map((p) => p.id);
    };
    expect(await ids(1)).toEqual(await ids(1));
    expect(await ids(1)).not.toEqual(await ids(2));
    expect(await ids(1)).toHaveLength(8);
  });
});

describe("assess", () => {
  const GO = "<action>go</action>";
  let pairs: string;
  beforeAll(async () => {
    const policy = new ScriptedPolicy(dialogue, () => "<action>wait</action>");
    pairs = (await pair({ policy, dialogue }, model, expert, pairSchema.parse({}), await context())).file;
  });

  const judged = async (script: Script): Promise<unknown> => {
    const policy = new ScriptedPolicy(dialogue, script);
    return (await assess({ policy, dialogue }, model, pairs, assessSchema.parse({}), await context())).result;
  };

  it("tells a good judge from one that always picks the first, and from one that mumbles", async () => {
    expect(await judged(() => GO)).toMatchObject({ accuracy: 1, consistency: 1, first_share: 0.5, pairs: 21 });
    const first: Script = (prompt) => `<action>${/1: (.*)\n2: /u.exec(prompt)?.[1] ?? ""}</action>`;
    expect(await judged(first)).toMatchObject({ accuracy: 0.5, consistency: 0, first_share: 1 });
    const cut: Script = () => ({ text: "<think>well", cut: true });
    expect(await judged(cut)).toMatchObject({ accuracy: 0, malformed: 1, truncated: 1, first_share: 0.5 });
  });
});

describe("verdicts", () => {
  const verdict = (picked: "expert" | "alternative" | "other" | "malformed", first: boolean | null = null) => ({
    picked,
    first,
  });

  it("agree as often as two replies picked the same candidate", () => {
    const half = [verdict("expert"), verdict("alternative")];
    expect(agreement(half, half)).toBe(0.5);
    expect(agreement([verdict("malformed")], [verdict("malformed")])).toBe(0);
    expect(agreement([verdict("alternative")], [verdict("alternative")])).toBe(1);
  });

  it("have no shares where there is nothing", () => {
    expect(verdictShares([])).toEqual({ accuracy: null, firstShare: null });
    expect(verdictShares([verdict("malformed")])).toEqual({ accuracy: 0, firstShare: null });
    expect(verdictShares([verdict("expert", true), verdict("alternative", true)])).toEqual({
      accuracy: 0.5,
      firstShare: 1,
    });
  });
});
