import { afterEach, describe, expect, it } from "vitest";
import { sequenceOfTranscript } from "../../src/objectives/sample.js";
import { Transcript, type TranscriptData } from "../../src/tokens/transcript.js";
import { chat, get, logprobAt, post, type Served, serveScript, streamed } from "./scripted-policy.js";

let served: Served | null = null;
async function start(...args: Parameters<typeof serveScript>): Promise<Served> {
  served = await serveScript(...args);
  return served;
}
afterEach(async () => {
  await served?.server.close();
  served = null;
});
const patience = { timeout: 20_000 };
type Message = { role: string; content: string };
const user = (content: string): Message => ({ role: "user", content });
const assistant = (content: string): Message => ({ role: "assistant", content });
const of = (id: string, group?: string): Record<string, string> => ({
  "x-act-episode": id,
  ...(group === undefined ? {} : { "x-act-group": group }),
});

// biome-ignore lint/suspicious/noExplicitAny: records of many shapes
async function onlyEpisode(): Promise<any> {
  const { body } = await get((served as Served).server, "/v1/act/episodes");
  expect(body.data).toHaveLength(1);
  return body.data[0];
}

/** What the trained tokens of a record read as, and whether their log-probs are those of their places. */
async function trainedTexts(data: TranscriptData): Promise<string[]> {
  const transcript = Transcript.fromData(data);
  const { tokens, mask, logprobs } = sequenceOfTranscript(transcript);
  for (const [at, bit] of mask.entries()) {
    if (bit === 1) expect(logprobs[at]).toBe(Math.fround(logprobAt(at)));
    else expect(logprobs[at]).toBeNaN();
  }
  const actions = transcript.spans.filter(({ role }) => role === "action");
  return Promise.all(actions.map(({ start, end }) => (served as Served).tokenizer.decode(tokens.subarray(start, end))));
}

describe("an episode", () => {
  it("is one transcript of exactly the sampled tokens, however they would be tokenized again", async () => {
    // "the" letter by letter: tokenizing the text again gives one token.
    const odd = [..."the"].map((letter) => letter);
    const {
      server,
      policy,
      tokenizer,
      chat: template,
    } = await start((prompt) => {
      const letters = odd.map((letter) => tokenizer.tokenId(letter) ?? -1);
      return prompt.includes("second") ? [...letters, 2] : [...letters, tokenizer.tokenId("Ġmug") ?? -1, 2];
    });
    const messages = [user("first")];
    const first = await chat(server, messages, { return_token_ids: true }, of("e"));
    expect(first.body.choices[0].message.content).toBe("the mug");
    expect(first.body.act).toEqual({ weight_version: 0, episode_id: "e", turn: 0, continued: false });
    const again = await tokenizer.encode("the mug");
    expect([...again]).not.toEqual(first.body.choices[0].token_ids.slice(0, -1));

    policy.weightVersion = 1;
    messages.push(assistant("the mug"), user("second"));
    const second = await chat(server, messages, { return_token_ids: true }, of("e"));
    expect(second.body.act).toMatchObject({ weight_version: 1, turn: 1, continued: true });
    // The prompt reads as the template renders it, and begins with the tokens of the first turn.
    const prompt: number[] = second.body.prompt_token_ids;
    expect(await tokenizer.decode(prompt)).toBe(template.render(messages as never));
    const recorded = [...first.body.prompt_token_ids, ...first.body.choices[0].token_ids];
    expect(prompt.slice(0, recorded.length)).toEqual(recorded);

    const closed = await post(server, "/v1/act/rewards", { episode_id: "e", reward: 0.5, outcome: "success" });
    expect(closed.body).toMatchObject({ status: "finished", turns: 2, separate_turns: 0, reward: 0.5 });
    const record = await onlyEpisode();
    expect(record).toMatchObject({ episode_id: "e", outcome: "success", weight_versions: [0, 1], truncated: false });
    expect(record.transcripts).toHaveLength(1);
    expect(record.transcripts[0].tokens).toEqual([...prompt, ...second.body.choices[0].token_ids]);
    expect(record.transcripts[0].spans.map((s: { role: string }) => s.role)).toEqual([
      "prompt",
      "action",
      "observation",
      "action",
    ]);
    expect(await trainedTexts(record.transcripts[0])).toEqual(["the mug<|im_end|>", "the<|im_end|>"]);
  });

  it("ends the turn itself after a reply that was cut", async () => {
    const { server, tokenizer } = await start("one two three four five");
    const first = await chat(server, [user("x")], { max_tokens: 4 }, of("e"));
    const reply = first.body.choices[0].message.content;
    const second = await chat(server, [user("x"), assistant(reply), user("y")], { return_token_ids: true }, of("e"));
    expect(second.body.act.continued).toBe(true);
    expect(await tokenizer.decode(second.body.prompt_token_ids)).toContain(`${reply}<|im_end|>\n<|im_start|>user\ny`);
    await post(server, "/v1/act/rewards", { episode_id: "e", reward: 1 });
    expect((await onlyEpisode()).truncated).toBe(false);
  });

  it("is truncated where the last reply was cut", async () => {
    const { server } = await start("one two three four five");
    await chat(server, [user("x")], { max_tokens: 4 }, of("e"));
    await post(server, "/v1/act/rewards", { episode_id: "e", reward: 1 });
    expect((await onlyEpisode()).truncated).toBe(true);
  });

  it("is not where a cut reply was answered in another conversation", async () => {
    const { server } = await start("one two three four five");
    await chat(server, [user("x")], { max_tokens: 4 }, of("e"));
    const second = await chat(server, [user("y")], {}, of("e"));
    expect(second.body.act.continued).toBe(false);
    await post(server, "/v1/act/rewards", { episode_id: "e", reward: 1 });
    expect((await onlyEpisode()).truncated).toBe(false);
  });

  it("begins another transcript where the history is not what was sampled, and counts it", async () => {
    const { server } = await start("take it");
    await chat(server, [user("x")], {}, of("e"));
    await chat(server, [user("x"), assistant("I said something else"), user("y")], {}, of("e"));
    await chat(server, [user("summary of x"), user("z")], {}, of("e"));
    // Goes on with the first one.
    await chat(server, [user("x"), assistant("take it"), user("w")], {}, of("e"));
    await post(server, "/v1/act/rewards", { episode_id: "e", reward: 1 });
    const record = await onlyEpisode();
    expect(record).toMatchObject({ turns: 4, separate_turns: 2 });
    const lengths = await Promise.all(
      record.transcripts.map(async (t: TranscriptData) => (await trainedTexts(t)).length),
    );
    expect(lengths).toEqual([2, 1, 1]);
  });

  it.each([
    ["rendered", 3],
    ["sampled", 1],
  ] as const)("with a template that strips thoughts from past turns, history %s", async (history, transcripts) => {
    const { server, tokenizer } = await start("<think>why</think>\n\ngo", { episodes: { history } }, "strips");
    const messages = [user("a")];
    for (const next of ["b", "c", "d"]) {
      const { body } = await chat(server, messages, { return_token_ids: true }, of("e"));
      const shown = await tokenizer.decode(body.prompt_token_ids);
      expect(shown.includes("why")).toBe(history === "sampled" && next !== "b");
      messages.push(assistant(body.choices[0].message.content), user(next));
    }
    await post(server, "/v1/act/rewards", { episode_id: "e", reward: 1 });
    const record = await onlyEpisode();
    expect(record.transcripts).toHaveLength(transcripts);
    expect(record.separate_turns).toBe(transcripts - 1);
  });

  it("branches for several choices: the sampled tokens of each are trained on once", async () => {
    const { server } = await start("go");
    await chat(server, [user("x")], {}, of("e"));
    await chat(server, [user("x"), assistant("go"), user("y")], { n: 3 }, of("e"));
    await post(server, "/v1/act/rewards", { episode_id: "e", reward: 1 });
    const record = await onlyEpisode();
    expect(record).toMatchObject({ turns: 4, separate_turns: 0 });
    const texts = await Promise.all(record.transcripts.map(trainedTexts));
    expect(texts).toEqual([["go<|im_end|>", "go<|im_end|>"], ["go<|im_end|>"], ["go<|im_end|>"]]);
  });

  it("gives requests that come at once transcripts of their own", async () => {
    const { server, policy } = await start("go");
    await chat(server, [user("x")], {}, of("e"));
    policy.hold = true;
    const next = [user("x"), assistant("go"), user("y")];
    const pending = [chat(server, next, {}, of("e")), chat(server, next, {}, of("e"))];
    await expect.poll(() => policy.running, patience).toBe(2);
    policy.release();
    const both = await Promise.all(pending);
    expect(both.map(({ body }) => body.act.continued).sort()).toEqual([false, true]);
    await post(server, "/v1/act/rewards", { episode_id: "e", reward: 1 });
    const record = await onlyEpisode();
    expect(record.separate_turns).toBe(1);
    expect((await Promise.all(record.transcripts.map(trainedTexts))).map((t) => t.length)).toEqual([2, 1]);
  });

  it("takes texts and ids, stop strings included", async () => {
    const { server } = await start("act: go\nsee: nothing", { sliceTokens: 1 });
    const metadata = { episode_id: "e", group: "g" };
    const first = await post(server, "/v1/completions", { prompt: "task\n", stop: "\nsee:", metadata });
    expect(first.body.choices[0].text).toBe("act: go");
    // The stop string is in the transcript; who sends it back goes on with it.
    const second = await post(server, "/v1/completions", {
      prompt: "task\nact: go\nsee: a mug\n",
      stop: "\nsee:",
      metadata,
      return_token_ids: true,
    });
    expect(second.body.act.continued).toBe(true);
    const { prompt_token_ids, token_ids } = second.body.choices[0];
    const third = await post(server, "/v1/completions", {
      prompt: [...prompt_token_ids, ...token_ids, 5, 6],
      metadata,
      max_tokens: 2,
    });
    expect(third.body.act.continued).toBe(true);
    await post(server, "/v1/act/rewards", { episode_id: "e", reward: 1 });
    const record = await onlyEpisode();
    expect(record).toMatchObject({ turns: 3, separate_turns: 0, group: "g" });
    expect((await trainedTexts(record.transcripts[0])).slice(0, 2)).toEqual(["act: go\nsee:", "act: go\nsee:"]);
  });

  it("records what was streamed before the client can know that it is over", async () => {
    const { server } = await start("go to the drawer", { sliceTokens: 2 });
    const body = { messages: [user("x")], stream: true, metadata: { episode_id: "e" } };
    const { pieces } = await streamed(server, "/v1/chat/completions", body);
    expect(pieces.at(-1).act).toMatchObject({ episode_id: "e", continued: false });
    const closed = await post(server, "/v1/act/rewards", { episode_id: "e", reward: 1 });
    expect(closed.body.turns).toBe(1);
    expect(await trainedTexts((await onlyEpisode()).transcripts[0])).toEqual(["go to the drawer<|im_end|>"]);
  });

  it("draws the same numbers whenever it is played", async () => {
    const numbers = async (before: number): Promise<string[]> => {
      const { server, policy } = await start("go");
      for (let i = 0; i < before; i++) await chat(server, [user("x")], {}, of(`other ${i}`));
      policy.requests.length = 0;
      await chat(server, [user("x")], {}, of("e"));
      await chat(server, [user("x"), assistant("go"), user("y")], { n: 2 }, of("e"));
      await server.close();
      return policy.requests.map(({ seed, stream }) => `${seed}/${stream}`);
    };
    const first = await numbers(0);
    expect(new Set(first).size).toBe(2);
    expect(await numbers(3)).toEqual(first);
  });
});

describe("episodes end", () => {
  it("once: the same reward again is no fault, another is", async () => {
    const { server } = await start("go");
    await chat(server, [user("x")], {}, of("e", "g"));
    const reward = { episode_id: "e", reward: 1, outcome: "success" };
    const first = await post(server, "/v1/act/rewards", reward);
    expect(await post(server, "/v1/act/rewards", reward)).toMatchObject({ status: 200, body: first.body });
    const other = await post(server, "/v1/act/rewards", { ...reward, reward: 0 });
    expect([other.status, other.body.error.code]).toEqual([409, "episode_ended"]);
    const late = await chat(server, [user("x")], {}, of("e"));
    expect([late.status, late.body.error.code]).toEqual([409, "episode_ended"]);
    expect(server.episodes.counts).toMatchObject({ opened: 1, open: 0, finished: 1 });
  });

  it("without what was being sampled", async () => {
    const { server, policy } = await start("go");
    await chat(server, [user("x")], {}, of("e"));
    policy.hold = true;
    const pending = chat(server, [user("y")], {}, of("e"));
    await expect.poll(() => policy.running, patience).toBe(1);
    expect((await post(server, "/v1/act/rewards", { episode_id: "e", reward: 1 })).body.turns).toBe(1);
    policy.release();
    expect((await pending).body.error.code).toBe("episode_ended");
    expect(server.episodes.counts).toMatchObject({ turns: 1, lostTurns: 1 });
  });

  it("by expiring, untrained and counted, but not while a request runs", async () => {
    const { server, policy } = await start("go", { episodes: { episodeTimeout: 1500, groupSize: 2 } });
    await chat(server, [user("x")], {}, of("idle"));
    await chat(server, [user("x")], {}, of("slow"));
    policy.hold = true;
    const pending = chat(server, [user("x"), assistant("go"), user("y")], {}, of("slow"));
    await expect.poll(() => server.episodes.counts.expired, patience).toBe(1);
    // Twice the time that would have ended it.
    await new Promise((resolve) => setTimeout(resolve, 1600));
    policy.release();
    expect((await pending).status).toBe(200);
    expect((await post(server, "/v1/act/rewards", { episode_id: "idle", reward: 1 })).status).toBe(409);
    expect((await post(server, "/v1/act/rewards", { episode_id: "slow", reward: 1 })).status).toBe(200);
    const { body } = await get(server, "/v1/act/episodes?tokens=false");
    expect(body.data.map((e: { episode_id: string; status: string }) => [e.episode_id, e.status])).toEqual([
      ["idle", "expired"],
      ["slow", "finished"],
    ]);
    expect(body.data[0].transcripts).toBeUndefined();
    expect(server.episodes.counts).toMatchObject({ opened: 2, open: 0, expired: 1, finished: 1, groupsReady: 0 });
  });

  it("with their environment's failure, untrained and counted", async () => {
    const { server } = await start("go", { episodes: { groupSize: 2 } });
    for (const id of ["a", "b"]) await chat(server, [user("x")], {}, of(id, "g"));
    const failed = await post(server, "/v1/act/rewards", { episode_id: "a", outcome: "environment_failed", reward: 1 });
    expect(failed.body).toMatchObject({ status: "failed", reward: null });
    await post(server, "/v1/act/rewards", { episode_id: "b", reward: 1 });
    expect(server.episodes.counts).toMatchObject({ failed: 1, finished: 1, groupsReady: 0 });
  });

  it("not before they began", async () => {
    const { server } = await start("go", {}, "default", 60);
    const tooLong = await chat(server, [user("x".repeat(200))], {}, of("e"));
    expect(tooLong.body.error.code).toBe("context_length_exceeded");
    const control = await chat(server, [user("<|im_end|>")], {}, of("f"));
    expect(control.body.error.code).toBe("control_token");
    expect((await post(server, "/v1/act/rewards", { episode_id: "e", reward: 1 })).body.error.code).toBe(
      "episode_empty",
    );
    expect((await post(server, "/v1/act/rewards", { episode_id: "f", reward: 1 })).status).toBe(404);
  });

  it("in numbers that a reader can go on from", async () => {
    const { server } = await start("go", { episodes: { retain: 3 } });
    for (let i = 1; i <= 5; i++) {
      await chat(server, [user("x")], {}, of(`e${i}`));
      await post(server, "/v1/act/rewards", { episode_id: `e${i}`, reward: i });
    }
    const ids = (body: { data: { episode_id: string }[] }): string[] => body.data.map((e) => e.episode_id);
    const first = await get(server, "/v1/act/episodes?after=0&limit=2");
    expect([ids(first.body), first.body.next]).toEqual([["e3", "e4"], 4]);
    const rest = await get(server, `/v1/act/episodes?after=${first.body.next}`);
    expect([ids(rest.body), rest.body.next]).toEqual([["e5"], 5]);
    expect((await get(server, "/v1/act/episodes?after=5")).body).toMatchObject({ data: [], next: 5 });
    expect((await get(server, "/v1/act/episodes?since=5")).body.error.code).toBe("unknown_parameter");
  });

  it("no more than allowed are open", async () => {
    const { server } = await start("go", { episodes: { maxOpen: 1 } });
    await chat(server, [user("x")], {}, of("a"));
    expect((await chat(server, [user("x")], {}, of("b"))).body.error.code).toBe("too_many_episodes");
    await post(server, "/v1/act/rewards", { episode_id: "a", reward: 1 });
    expect((await chat(server, [user("x")], {}, of("b"))).status).toBe(200);
  });
});

describe("groups", () => {
  async function finish(
    server: Served["server"],
    id: string,
    reward: number,
    group?: string,
    prompt = "x",
  ): Promise<void> {
    await chat(server, [user(prompt)], {}, of(id, group));
    await post(server, "/v1/act/rewards", { episode_id: id, reward });
  }

  it("gather by their name, or by the first prompt", async () => {
    const { server } = await start("go", { episodes: { groupSize: 2 } });
    await finish(server, "a", 1, "g");
    await finish(server, "b", 2, undefined, "task 1");
    await finish(server, "c", 3, undefined, "task 2");
    await finish(server, "d", 4, "g", "another prompt");
    await finish(server, "e", 5, undefined, "task 1");
    const groups = await server.episodes.takeGroups(2);
    expect(groups.map(({ episodes }) => episodes.map(({ id }) => id))).toEqual([
      ["a", "d"],
      ["b", "e"],
    ]);
    expect(groups.map(({ group }) => group.samples.map(({ reward }) => reward))).toEqual([
      [1, 4],
      [2, 5],
    ]);
    expect(server.episodes.counts.groupsReady).toBe(0);
  });

  it("keep their name", async () => {
    const { server } = await start("go");
    await chat(server, [user("x")], {}, of("e", "g"));
    expect((await chat(server, [user("x")], {}, of("e", "h"))).body.error.code).toBe("group_changed");
    const reward = { episode_id: "e", reward: 1, group: "h" };
    expect((await post(server, "/v1/act/rewards", reward)).body.error.code).toBe("group_changed");
    const differing = await post(
      server,
      "/v1/chat/completions",
      { messages: [user("x")], metadata: { episode_id: "f" } },
      of("e"),
    );
    expect(differing.body.error.param).toBe("metadata.episode_id");
    expect((await chat(server, [user("x")], { metadata: { group: "g" } })).status).toBe(400);
  });

  it("are taken short at their time limit, single episodes counted", async () => {
    const { server } = await start("go", { episodes: { groupSize: 3, groupTimeout: 2000 } });
    await finish(server, "a", 1, "g");
    await finish(server, "b", 2, "g");
    await finish(server, "c", 3, "h");
    const [group] = await server.episodes.takeGroups(1);
    expect(group?.episodes.map(({ id }) => id)).toEqual(["a", "b"]);
    await expect.poll(() => server.episodes.counts.ungrouped, patience).toBe(1);
  });

  it("wait to be taken, within bounds", async () => {
    const { server } = await start("go", { episodes: { groupSize: 2, retain: 3 } });
    const waiting = server.episodes.takeGroups(3);
    const controller = new AbortController();
    const aborted = server.episodes.takeGroups(1, { signal: controller.signal });
    controller.abort(new Error("enough"));
    await expect(aborted).rejects.toThrow("enough");
    for (let i = 0; i < 4; i++) await finish(server, `e${i}`, i, "g");
    // The oldest episode had to go; the one it was to be compared with has nobody left.
    expect(server.episodes.counts).toMatchObject({ finished: 4, dropped: 1, ungrouped: 1, groupsReady: 1 });
    for (let i = 4; i < 6; i++) await finish(server, `e${i}`, i, "g");
    expect(server.episodes.counts).toMatchObject({ dropped: 2, ungrouped: 2, groupsReady: 1 });
    void waiting.catch(() => undefined);
  });
});
