import { cpSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { nextAction, planPurchase } from "../../src/environments/webshop/expert.js";
import { PythonRandom } from "../../src/environments/webshop/python-random.js";
import { goalRecord, RECORDING_SEEDS, replayWebShop, rewardInfo } from "../../src/environments/webshop/replay.js";
import { WebShopSession } from "../../src/environments/webshop/session.js";
import { type WebShopProvider, webshopProvider } from "../../src/environments/webshop/webshop.js";
import { hasOracle, ORACLE } from "./webshop-oracle.js";

describe.skipIf(!hasOracle)("replay of recorded sessions", () => {
  test("every goal, page, list of clickables, reward, URL, state and error", async () => {
    const report = await replayWebShop({ data: ORACLE, sessions: join(ORACLE, "sessions.jsonl.gz") });
    expect(report.mismatches).toEqual([]);
    expect([report.episodes, report.steps, report.exact]).toEqual([250, 3280, 3280]);
  });
});

describe("replay on the made-up shop", () => {
  const data = mkdtempSync(join(tmpdir(), "webshop-replay-"));
  afterAll(() => rmSync(data, { recursive: true, force: true }));
  let provider: WebShopProvider;

  beforeAll(async () => {
    cpSync(resolve(import.meta.dirname, "../../assets/webshop/data"), data, { recursive: true });
    provider = await webshopProvider({ priceSeed: RECORDING_SEEDS.human });
    const nouns = provider.shop.products.map(({ name }) => ({ name, nouns: provider.shop.nounsOf(name) }));
    writeFileSync(join(data, "title_nouns.jsonl"), nouns.map((row) => JSON.stringify(row)).join("\n"));
  });

  /** A session of the expert after a detour, in the recordings' format. */
  function record(goalIndex: number) {
    const { shop } = provider;
    const goal = shop.goals[goalIndex]!;
    const random = new PythonRandom(0);
    const session = new WebShopSession(shop, goal, { id: String(goalIndex), showAttributes: true, random });
    const page = () => ({
      observation: session.text,
      observation_text_rich: session.richText,
      available: { has_search_bar: session.hasSearchBar, clickables: session.clickables },
      url: session.url,
      state: { ...session.state, options: Object.fromEntries(session.state.options) },
    });
    const steps: Record<string, unknown>[] = [{ action: null, ...page(), reward: null, done: false }];
    const play = (action: string, seed?: number) => {
      if (seed !== undefined) random.seed(seed);
      const { reward, done, error } = session.step(action);
      const outcome = error === null ? { reward, done } : { error };
      steps.push({ action, ...page(), ...outcome, ...(seed === undefined ? {} : { py_seed_before: seed }) });
    };
    play("search[<r>]", 17);
    play("search[<a>]");
    play("click[back to search]");
    const plan = planPurchase(shop, goal)!;
    for (let action = nextAction(shop, session, plan); action !== null; action = nextAction(shop, session, plan)) {
      play(action);
    }
    const purchase = session.purchase!;
    return {
      id: `made-up-${goalIndex}`,
      env: "human",
      show_attrs: true,
      session: goalIndex,
      goal: goalRecord(goal),
      instruction_text: `Instruction: ${goal.instructionText}`,
      steps,
      reward: purchase.total,
      reward_info: rewardInfo(purchase),
    };
  }

  async function replay(sessions: unknown[]) {
    const path = join(data, "sessions.jsonl.gz");
    writeFileSync(path, gzipSync(sessions.map((session) => JSON.stringify(session)).join("\n")));
    return replayWebShop({ data, sessions: path });
  }

  test("what was played replays exactly", async () => {
    const sessions = [record(0), record(7)];
    const steps = sessions.reduce((sum, session) => sum + session.steps.length - 1, 0);
    expect(await replay(sessions)).toEqual({ episodes: 2, steps, exact: steps, mismatches: [] });
  });

  test("each altered field is named with its step", async () => {
    const alter: [field: string, step: number, change: (session: ReturnType<typeof record>) => void][] = [
      ["goal", -1, (session) => Object.assign(session.goal, { price_upper: 5 })],
      ["observation", -1, ({ steps }) => Object.assign(steps[0]!, { observation: "x" })],
      ["observation", 0, ({ steps }) => Object.assign(steps[1]!, { observation: "x" })],
      ["error", 1, ({ steps }) => Object.assign(steps[2]!, { error: "KeyError: None" })],
      ["url", 2, ({ steps }) => Object.assign(steps[3]!, { url: "x" })],
      [
        "available",
        3,
        ({ steps }) => Object.assign(steps[4]!, { available: { has_search_bar: true, clickables: [] } }),
      ],
      ["reward", 3, ({ steps }) => Object.assign(steps[4]!, { reward: 0.5 })],
    ];
    for (const [field, step, change] of alter) {
      const session = record(3);
      change(session);
      const { steps, exact, mismatches } = await replay([session]);
      expect(mismatches[0], field).toMatchObject({ episode: "made-up-3", step, field });
      expect(exact, field).toBe(step < 0 ? steps : steps - 1);
    }
  });

  test("the purchase's parts count at its step, and a goal that is not there fails every step", async () => {
    const session = record(3);
    Object.assign(session.reward_info, { r_att: 0.123 });
    const { mismatches } = await replay([session]);
    expect(mismatches).toMatchObject([{ step: session.steps.length - 2, field: "reward_info" }]);
    const absent = { ...record(3), session: 4000 };
    expect(await replay([absent])).toMatchObject({ exact: 0, steps: absent.steps.length - 1 });
  });

  test("files that are no recordings", async () => {
    await expect(replay([{ id: "x" }])).rejects.toMatchObject({ code: "ENVIRONMENT_BAD_DATA" });
    await expect(replayWebShop({ data, sessions: join(data, "absent") })).rejects.toMatchObject({
      code: "ENVIRONMENT_BAD_DATA",
    });
    const bare = resolve(import.meta.dirname, "../../assets/webshop/data");
    await expect(replayWebShop({ data: bare, sessions: "x" })).rejects.toThrow("title_nouns.jsonl");
  });
});
