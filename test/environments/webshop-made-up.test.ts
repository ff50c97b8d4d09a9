import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { beforeAll, describe, expect, test } from "vitest";
import { isAdmissible } from "../../src/environments/environment.js";
import { type WebShopProvider, webshopProvider } from "../../src/environments/webshop/webshop.js";

const ASSETS = resolve(import.meta.dirname, "../../assets/webshop");

let shop: WebShopProvider;
beforeAll(async () => {
  shop = await webshopProvider();
});

describe("the made-up shop", () => {
  test("its files are what the generator writes", async () => {
    const generator = (await import(pathToFileURL(`${ASSETS}/generate.mjs`).href)) as {
      makeShop(): Record<string, unknown>;
      fileText(content: unknown): string;
    };
    const files = generator.makeShop();
    expect(Object.keys(files)).toHaveLength(3);
    for (const [name, content] of Object.entries(files)) {
      expect(readFileSync(`${ASSETS}/data/${name}`, "utf8"), name).toBe(generator.fileText(content));
    }
  });

  test("a hundred products, all kinds of prices, panels that share no goal", async () => {
    expect(shop.shop.products).toHaveLength(100);
    const tags = shop.shop.products.map((product) => product.priceTag);
    expect(tags.some((tag) => tag === "$100.0")).toBe(true);
    expect(tags.some((tag) => tag.includes(" to "))).toBe(true);
    const panels = await Promise.all(shop.panelNames.map((name) => shop.panel(name)));
    const tasks = panels.flatMap((panel) => panel.tasks);
    expect(tasks).toHaveLength(400);
    expect(new Set(tasks).size).toBe(400);
    expect(panels.map((panel) => panel.tasks.length)).toEqual([100, 100, 200]);
  });

  test("panels are frozen", async () => {
    expect(
      Object.fromEntries(
        await Promise.all(
          shop.panelNames.map(async (name) => {
            const { id, hash } = await shop.panel(name);
            return [id, hash];
          }),
        ),
      ),
    ).toMatchInlineSnapshot(`
      {
        "webshop/human-dev-quarters@1": "97e4af94a6ff537a477db780d71d5c7b45b2b3533fe62956647d33bf916192ea",
        "webshop/human-test-quarters@1": "7ee169afd796a3b9b7c0d2689f67f1976ba99ad4f45d1e599754448fac765c9a",
        "webshop/human-train-quarters@1": "f38e5c201025fdf0e5505486f218a83347eb07cbbe302a361495ddbb76c04fad",
      }
    `);
  });

  test("a panel's hash changes with what its tasks hold", async () => {
    const hash = async (options: Parameters<typeof webshopProvider>[0]) =>
      (await (await webshopProvider(options)).panel("test")).hash;
    const hashes = [
      await hash({}),
      await hash({ priceSeed: 1 }),
      await hash({ goals: "synthetic" }),
      await hash({ numProducts: 99 }),
    ];
    expect(new Set(hashes).size).toBe(hashes.length);
    expect(await hash({ stepLimit: 3 })).toBe(hashes[0]);
  });

  test("published split: 0 to 499, 500 to 1,499, the rest", async () => {
    const provider = await webshopProvider({ split: "published" });
    expect((await provider.panel("test")).tasks.length).toBe(400);
    expect((await provider.panel("dev")).tasks).toEqual([]);
  });
});

describe("an episode", () => {
  test("search, open, choose, buy", async () => {
    const environment = await shop.create();
    const start = await environment.reset("human/0");
    expect(start.observation).toBe(`WebShop [SEP] Instruction: [SEP] ${start.task} [SEP] Search`);
    expect(await environment.admissibleActions()).toEqual({ actions: [], patterns: ["^search\\[.+\\]$"] });

    const results = await environment.step("search[wireless headphones]");
    expect(results.observation).toMatch(
      /Back to Search \[SEP\] Page 1 \(Total results: \d+\) \[SEP\] Next > \[SEP\] M\d+/,
    );
    expect(results).toMatchObject({ reward: 0, score: 0, success: false, terminated: false, accepted: true });
    const { actions, patterns } = await environment.admissibleActions();
    expect(patterns).toEqual([]);
    expect(actions.slice(0, 2)).toEqual(["click[back to search]", "click[next >]"]);

    await environment.step(actions[2]!);
    const nonsense = await environment.step("click[nothing of the kind]");
    expect(nonsense).toMatchObject({ accepted: false, reward: 0, terminated: false });
    const bought = await environment.step("click[Buy Now]");
    expect(bought).toMatchObject({ terminated: true, truncated: false, accepted: true });
    expect(bought.observation).toContain(`Your score (min 0.0, max 1.0) [SEP] ${bought.reward === 0 ? "0.0" : ""}`);
    expect(await environment.expertAction()).toBeNull();
    await expect(environment.step("search[more]")).rejects.toMatchObject({ code: "ENVIRONMENT_NO_EPISODE" });
  });

  test("the step limit truncates, and what is no text is no step", async () => {
    const provider = await webshopProvider({ stepLimit: 2 });
    const environment = await provider.create();
    await environment.reset("human/3");
    await expect(environment.step(5 as never)).rejects.toMatchObject({ code: "ENVIRONMENT_BAD_ACTION" });
    expect((await environment.step("look")).truncated).toBe(false);
    expect(await environment.step("search[tea]")).toMatchObject({ truncated: true, terminated: false });
    await expect(environment.step("search[tea]")).rejects.toMatchObject({ code: "ENVIRONMENT_NO_EPISODE" });
  });

  test("the instruction can be left out of pages", async () => {
    const environment = await (await webshopProvider({ instruction: "drop" })).create();
    const { task, observation } = await environment.reset("human/3");
    expect(observation).toBe("WebShop [SEP] Search");
    expect((await environment.step("search[tea]")).observation).not.toContain(task);
  });

  test("the rich mode marks what was clicked", async () => {
    const environment = await (await webshopProvider({ observation: "text_rich", data: null })).create();
    await environment.reset("human/3");
    const { observation } = await environment.step("search[herbal tea]");
    const asin = /\[button\] (M\w+) \[button_\]/.exec(observation)![1]!;
    const item = await environment.step(`click[${asin}]`);
    const option = /\n {2}\[button\] (.+) \[button_\]/.exec(item.observation)![1]!;
    const chosen = await environment.step(`click[${option}]`);
    expect(chosen.observation).toMatch(new RegExp(`^You have clicked ${option}\\.\\nInstruction:`));
    expect(chosen.observation).toContain(`  [clicked button] ${option} [clicked button_]`);
  });

  test("a random listing depends on the goal alone", async () => {
    const [a, b] = [await shop.create(), await shop.create()];
    await a.reset("human/5");
    await a.step("search[<r>]");
    await a.reset("human/8");
    await b.reset("human/8");
    expect((await a.step("search[<r>]")).observation).toBe((await b.step("search[<r>]")).observation);
  });

  test("an action on which the original raises is not accepted and leaves the page", async () => {
    const environment = await shop.create();
    const { observation } = await environment.reset("human/5");
    const failed = await environment.step("search[<a> gluten free]");
    expect(failed).toMatchObject({ accepted: false, observation, terminated: false });
  });

  test("faults are typed", async () => {
    const environment = await shop.create();
    await expect(environment.step("search[a]")).rejects.toMatchObject({ code: "ENVIRONMENT_NO_EPISODE" });
    for (const task of ["human/400", "synthetic/0", "human/-1", "human/00", "", "5"]) {
      await expect(environment.reset(task)).rejects.toMatchObject({ code: "ENVIRONMENT_UNKNOWN_TASK" });
    }
    await expect(shop.panel("valid")).rejects.toMatchObject({ code: "ENVIRONMENT_UNKNOWN_PANEL" });
    await expect(webshopProvider({ steps: 3 } as never)).rejects.toMatchObject({ code: "ENVIRONMENT_BAD_OPTIONS" });
    await expect(webshopProvider({ nouns: "recorded" })).rejects.toMatchObject({ code: "ENVIRONMENT_BAD_OPTIONS" });
    await environment.close();
    await environment.close();
    await expect(environment.reset("human/0")).rejects.toMatchObject({ code: "ENVIRONMENT_CLOSED" });
    const aborted = AbortSignal.abort(new Error("stop"));
    await expect((await shop.create()).reset("human/0", { signal: aborted })).rejects.toThrow("stop");
  });
});

describe.each(["human", "synthetic"] as const)("the expert on %s goals", (goals) => {
  test("reaches full reward on every goal with admissible actions within the step limit", async () => {
    const provider = await webshopProvider({ goals });
    const environment = await provider.create();
    for (let n = 0; n < provider.shop.goals.length; n++) {
      await environment.reset(`${goals}/${n}`);
      let reward = 0;
      for (let step = 0; step < provider.stepLimit; step++) {
        const action = await environment.expertAction();
        const admissible = await environment.admissibleActions();
        if (action === null || !isAdmissible(action, admissible)) throw new Error(`${goals}/${n}: ${action}`);
        const transition = await environment.step(action);
        reward = transition.score;
        if (transition.terminated) break;
      }
      expect(reward, `${goals}/${n}`).toBe(1);
    }
  });

  test("finds back from wherever it is asked", async () => {
    const provider = await webshopProvider({ goals });
    const environment = await provider.create();
    const detours = [
      ["search[tea]", "click[next >]", "click[next >]", "click[next >]"],
      ["search[search_results phone]", "click[next >]"],
      ["search[<c> beauty]"],
      ["search[<r>]"],
      ["search[zzzz]"],
    ];
    for (const [k, detour] of detours.entries()) {
      await environment.reset(`${goals}/${k}`);
      for (const action of detour) await environment.step(action);
      const { actions } = await environment.admissibleActions();
      const product = actions.find((action) => action.startsWith("click[m"));
      if (product !== undefined) {
        await environment.step(product);
        await environment.step("click[features]");
        await environment.step("search[<a>]");
      }
      let last = 0;
      for (let action = await environment.expertAction(); action !== null; action = await environment.expertAction()) {
        const transition = await environment.step(action);
        expect(transition.accepted, action).toBe(true);
        last = transition.score;
      }
      expect(last, detour.join(" ")).toBe(1);
    }
  });
});
