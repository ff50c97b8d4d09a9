import { readFileSync } from "node:fs";
import { request as httpRequest } from "node:http";
import { connect } from "node:net";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { servedEpisodesSchema } from "../../src/serving/served-episodes.js";
import { serveSchema } from "../../src/serving/server.js";
import { reinforceServedSchema } from "../../src/serving/train-served.js";
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
const user = (content: string): { role: string; content: string } => ({ role: "user", content });

describe("chat completions", () => {
  it("answer in the API's shape", async () => {
    const { server, policy, tokenizer, chat: template } = await start("take the mug");
    const { status, body } = await chat(server, [user("what now?")], {
      model: "act",
      max_tokens: 50,
      temperature: 0.5,
    });
    expect(status).toBe(200);
    const prompt = await template.encode([{ role: "user", content: "what now?" }]);
    const reply = await tokenizer.encode("take the mug");
    expect(body).toMatchObject({
      object: "chat.completion",
      model: "act",
      choices: [
        {
          index: 0,
          message: { role: "assistant", content: "take the mug", refusal: null },
          logprobs: null,
          finish_reason: "stop",
        },
      ],
      usage: { prompt_tokens: prompt.length, completion_tokens: reply.length + 1 },
      act: { weight_version: 0 },
    });
    expect(body.id).toMatch(/^chatcmpl-/u);
    expect(Array.from(policy.requests[0]?.prompt ?? [])).toEqual([...prompt]);
    expect(policy.requests[0]).toMatchObject({
      maxNewTokens: 50,
      temperature: 0.5,
      topP: 1,
      count: 1,
      stopTokens: [2, 0],
    });
  });

  it("give token ids and log-probs of exactly the sampled tokens", async () => {
    const { server, tokenizer, chat: template, reply } = await start("take é");
    const { body } = await chat(server, [user("x")], { logprobs: true, return_token_ids: true });
    const prompt = await template.encode([{ role: "user", content: "x" }]);
    const ids = await reply("take é");
    expect(body.prompt_token_ids).toEqual([...prompt]);
    expect(body.choices[0].token_ids).toEqual(ids);
    const { content } = body.choices[0].logprobs;
    expect(content.map((entry: { logprob: number }) => entry.logprob)).toEqual(
      ids.map((_, i) => Math.fround(logprobAt(prompt.length + i))),
    );
    expect(content.every((entry: { top_logprobs: unknown[] }) => entry.top_logprobs.length === 0)).toBe(true);
    const bytes = content.flatMap((entry: { bytes: number[] }) => entry.bytes);
    expect(Buffer.from(bytes).toString()).toBe("take é<|im_end|>");
    expect(content.at(-1).token).toBe(await tokenizer.decode([2]));
  });

  it("take content in parts, developer messages and parameters that ask for nothing", async () => {
    const { server, policy, tokenizer } = await start("ok");
    const { status } = await chat(
      server,
      [
        { role: "developer", content: "be brief" },
        {
          role: "user",
          content: [
            { type: "text", text: "a" },
            { type: "text", text: "b" },
          ] as unknown as string,
        },
      ],
      { frequency_penalty: 0, logit_bias: {}, tools: [], response_format: { type: "text" }, user: "me", stop: null },
    );
    expect(status).toBe(200);
    expect(await tokenizer.decode(policy.requests[0]?.prompt ?? [])).toContain(
      "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nab<|im_end|>",
    );
  });

  it("give n choices of one prompt, from consecutive random streams", async () => {
    const { server, policy } = await start((_, { stream }) => `reply ${stream}`);
    const { body } = await chat(server, [user("x")], { n: 3, seed: 11 });
    expect(body.choices.map((c: { index: number }) => c.index)).toEqual([0, 1, 2]);
    expect(policy.requests).toHaveLength(1);
    expect(policy.requests[0]).toMatchObject({ count: 3, seed: 11n, stream: 0n });
    await chat(server, [user("x")], { n: 2, seed: -1, stop: "never" });
    expect(policy.requests.slice(1).map(({ stream, count }) => [stream, count])).toEqual([
      [0n, 1],
      [1n, 1],
    ]);
    expect(policy.requests[1]?.seed).toBe(2n ** 64n - 1n);
  });

  it("draw new random numbers for every request without seed, the same ones for the same server seed", async () => {
    const seeds = async (seed: number): Promise<string[]> => {
      const { server, policy } = await start("ok", { seed });
      for (let i = 0; i < 3; i++) await chat(server, [user("x")]);
      await server.close();
      return policy.requests.map((r) => `${r.seed}/${r.stream}`);
    };
    const first = await seeds(1);
    expect(new Set(first).size).toBe(3);
    expect(await seeds(1)).toEqual(first);
    expect(await seeds(2)).not.toEqual(first);
  });

  it("say that a reply was cut", async () => {
    const { server } = await start("one two three four");
    const { body } = await chat(server, [user("x")], { max_completion_tokens: 3 });
    expect(body.choices[0].finish_reason).toBe("length");
    expect(body.usage.completion_tokens).toBe(3);
  });

  it("leave control tokens out of the text", async () => {
    const { server } = await start(() => [1, 104, 2]);
    const { body } = await chat(server, [user("x")], { return_token_ids: true });
    expect(body.choices[0].token_ids).toEqual([1, 104, 2]);
    expect(body.choices[0].message.content).not.toContain("<|im_start|>");
  });
});

describe("text completions", () => {
  it("answer texts and ids, one or several", async () => {
    const { server, policy, tokenizer } = await start("the mug");
    const ids = [...(await tokenizer.encode("in the drawer"))];
    for (const [prompt, prompts] of [
      ["in the drawer", 1],
      [ids, 1],
      [["in the drawer", "x"], 2],
      [[ids, ids], 2],
    ] as const) {
      policy.requests.length = 0;
      const { status, body } = await post(server, "/v1/completions", { prompt, n: 2, return_token_ids: true });
      expect(status).toBe(200);
      expect(body.object).toBe("text_completion");
      expect(body.choices.map((c: { index: number; text: string }) => [c.index, c.text])).toEqual(
        Array.from({ length: 2 * prompts }, (_, i) => [i, "the mug"]),
      );
      expect(Array.from(policy.requests[0]?.prompt ?? [])).toEqual(ids);
      expect(body.choices[0].prompt_token_ids).toEqual(ids);
      // No two completions of a job share a random number.
      const streams = policy.requests.flatMap(({ stream, count }) =>
        Array.from({ length: count ?? 1 }, (_, i) => BigInt(stream ?? 0) + BigInt(i)),
      );
      expect(new Set(streams).size).toBe(2 * prompts);
    }
  });

  it("give log-probs with offsets into prompt and completion", async () => {
    const { server, tokenizer } = await start("the mug");
    const { body } = await post(server, "/v1/completions", { prompt: "ab", logprobs: 0 });
    const { tokens, token_logprobs, text_offset, top_logprobs } = body.choices[0].logprobs;
    const whole = `ab${tokens.join("")}`;
    expect(top_logprobs).toBeNull();
    expect(token_logprobs[0]).toBe(Math.fround(logprobAt((await tokenizer.encode("ab")).length)));
    for (const [i, token] of tokens.entries()) expect(whole.startsWith(token, text_offset[i])).toBe(true);
  });
});

describe("stop strings", () => {
  // The rule of the reply is known, so that every cut can be checked against the whole text.
  const text = "take the mug from the drawer and see the cabinet";

  it.each([1, 2, 3, 16])("end a reply at the token that completes them, in slices of %i", async (sliceTokens) => {
    const { server, policy, tokenizer } = await start(text, { sliceTokens });
    for (const stop of ["drawer", "e mug", " from the", "zzz", ["cabinet", "mug"]]) {
      const { body } = await chat(server, [user("x")], { stop, return_token_ids: true });
      const stops = [stop].flat();
      const found = stops.map((s) => text.indexOf(s)).filter((at) => at !== -1);
      const at = found.length === 0 ? text.length : Math.min(...found);
      expect(body.choices[0].message.content).toBe(text.slice(0, at));
      expect(body.choices[0].finish_reason).toBe("stop");
      const sampled: number[] = body.choices[0].token_ids;
      const full = await tokenizer.decode(sampled, { skipSpecialTokens: true });
      const shorter = await tokenizer.decode(sampled.slice(0, -1), { skipSpecialTokens: true });
      const holds = (t: string): boolean => stops.some((s) => t.includes(s));
      if (found.length > 0) expect([holds(full), holds(shorter)]).toEqual([true, false]);
    }
    // Slices continue the prompt with the tokens so far.
    const lengths = policy.requests.map(({ maxNewTokens }) => maxNewTokens);
    expect(Math.max(...lengths)).toBe(sliceTokens);
  });
});

describe("streams", () => {
  it.each([1, 3, 16])("bring the whole reply in pieces of %i tokens", async (sliceTokens) => {
    const { server, reply } = await start("take é mug from 🙂 drawer", { sliceTokens });
    const body = { messages: [user("x")], stream: true, stop: ["drawn"], logprobs: true, return_token_ids: true };
    const options = { stream_options: { include_usage: true } };
    const { pieces, done } = await streamed(server, "/v1/chat/completions", { ...body, ...options });
    expect(done).toBe(true);
    expect(pieces[0].choices[0].delta).toEqual({ role: "assistant", content: "" });
    const choices = pieces.slice(1, -1).map((piece) => piece.choices[0]);
    const texts: string[] = choices.map((c) => c.delta.content ?? "");
    expect(texts.join("")).toBe("take é mug from 🙂 drawer");
    // A character of several tokens is never sent in halves.
    expect(texts.some((t) => t.includes("\ufffd"))).toBe(false);
    expect(choices.flatMap((c) => c.token_ids)).toEqual(await reply("take é mug from 🙂 drawer"));
    expect(choices.flatMap((c) => c.logprobs.content)).toHaveLength(choices.flatMap((c) => c.token_ids).length);
    expect(choices.map((c) => c.finish_reason)).toEqual([...choices.slice(1).map(() => null), "stop"]);
    if (sliceTokens === 1) expect(texts.length).toBeGreaterThan(5);
    expect(pieces.at(-1)).toMatchObject({
      choices: [],
      usage: { completion_tokens: choices.flatMap((c) => c.token_ids).length },
    });
  });

  it("never send what turns out to be a stop string", async () => {
    const { server } = await start("see the drawer", { sliceTokens: 1 });
    const { pieces } = await streamed(server, "/v1/completions", { prompt: "x", stream: true, stop: ["drawer"], n: 2 });
    for (const index of [0, 1]) {
      const own = pieces.map((p) => p.choices[0]).filter((c) => c.index === index);
      expect(own.map((c) => c.text).join("")).toBe("see the ");
      expect(own.at(-1).finish_reason).toBe("stop");
    }
  });

  it("report a fault in the middle of a stream as its last piece", async () => {
    let calls = 0;
    const { server, errors } = await start(
      () => {
        if (calls++ > 0) throw new Error("broken");
        return "see";
      },
      { sliceTokens: 1 },
    );
    const { pieces, done } = await streamed(server, "/v1/completions", { prompt: ["x", "y"], stream: true });
    expect(done).toBe(false);
    expect(pieces.at(-1).error).toMatchObject({ type: "server_error", code: "internal_error" });
    expect(JSON.stringify(pieces)).not.toContain("broken");
    expect(errors).toHaveLength(1);
  });
});

describe("faults", () => {
  it("of requests come with status, type, parameter and code", async () => {
    const { server } = await start("ok", { maxBodyBytes: 2000 }, "default", 200);
    const messages = [user("x")];
    const cases: [string, unknown, number, string, string | null][] = [
      ["/v1/chat/completions", { messages, temprature: 1 }, 400, "unknown_parameter", "temprature"],
      ["/v1/chat/completions", {}, 400, "missing_required_parameter", "messages"],
      ["/v1/chat/completions", { messages: [] }, 400, "invalid_value", "messages"],
      ["/v1/chat/completions", { messages, temperature: 3 }, 400, "invalid_value", "temperature"],
      ["/v1/chat/completions", { messages, n: 0 }, 400, "invalid_value", "n"],
      ["/v1/chat/completions", { messages, frequency_penalty: 0.5 }, 400, "unsupported_value", "frequency_penalty"],
      ["/v1/chat/completions", { messages, logprobs: true, top_logprobs: 3 }, 400, "unsupported_value", "top_logprobs"],
      ["/v1/chat/completions", { messages, tools: [{}] }, 400, "unsupported_value", "tools"],
      ["/v1/chat/completions", { messages, model: "gpt" }, 404, "model_not_found", "model"],
      ["/v1/chat/completions", { messages, max_tokens: 1000 }, 400, "context_length_exceeded", "messages"],
      ["/v1/chat/completions", { messages: [user("<|im_end|>")] }, 400, "control_token", null],
      ["/v1/chat/completions", "{", 400, "invalid_json", null],
      ["/v1/chat/completions", { messages: [user("x".repeat(3000))] }, 413, "body_too_large", null],
      ["/v1/completions", { prompt: [99999] }, 400, "token_out_of_range", null],
      ["/v1/completions", { prompt: "x", logprobs: 5 }, 400, "unsupported_value", "logprobs"],
      ["/v1/act/rewards", { episode_id: "none", reward: 1 }, 404, "episode_not_found", "episode_id"],
      ["/v1/act/rewards", { episode_id: "none" }, 400, "missing_required_parameter", "reward"],
      ["/v1/nothing", {}, 404, "not_found", null],
      ["/v1/models", {}, 405, "method_not_allowed", null],
    ];
    for (const [path, body, status, code, param] of cases) {
      const reply = await post(server, path, body);
      expect([path, reply.status, reply.body.error.code, reply.body.error.param]).toEqual([path, status, code, param]);
      expect(reply.body.error.type).toBe("invalid_request_error");
      expect(reply.body.error.message.length).toBeGreaterThan(10);
    }
    const form = await fetch(`${server.url}/v1/completions`, { method: "POST", body: "prompt=x" });
    expect(form.status).toBe(415);
    // The server is well after all of that.
    expect((await chat(server, messages)).status).toBe(200);
  });

  it("of bodies without a length are found while reading", async () => {
    const { server } = await start("ok", { maxBodyBytes: 1000 });
    const { hostname, port } = new URL(server.url);
    const status = await new Promise((resolve, reject) => {
      const request = httpRequest({ hostname, port, path: "/v1/completions", method: "POST" }, (r) => {
        r.resume();
        resolve(r.statusCode);
      });
      request.setHeader("content-type", "application/json");
      request.on("error", reject);
      request.write(`{"prompt": "${"x".repeat(900)}`);
      request.write("x".repeat(900));
      request.end('"}');
    });
    expect(status).toBe(413);
  });

  it("of the policy are the server's", async () => {
    const { server, errors } = await start(() => {
      throw new Error("secret detail");
    });
    const { status, body } = await chat(server, [user("x")]);
    expect([status, body.error.type, body.error.code]).toEqual([500, "server_error", "internal_error"]);
    expect(JSON.stringify(body)).not.toContain("secret");
    expect(String(errors[0])).toContain("secret detail");
  });

  it("of keys end before anything is read", async () => {
    const { server } = await start("ok", { apiKey: "sesame" });
    expect((await chat(server, [user("x")])).status).toBe(401);
    expect((await chat(server, [user("x")], {}, { authorization: "Bearer open" })).body.error.code).toBe(
      "invalid_api_key",
    );
    expect((await chat(server, [user("x")], {}, { authorization: "Bearer sesame" })).status).toBe(200);
    expect((await get(server, "/v1/models")).status).toBe(401);
  });

  it("of what is no HTTP at all are answered too", async () => {
    const { server } = await start("ok", { bodyTimeout: 300 });
    const raw = (text: string): Promise<string> =>
      new Promise((resolve, reject) => {
        const socket = connect(Number(new URL(server.url).port), "127.0.0.1", () => socket.write(text));
        let got = "";
        socket.on("data", (data) => {
          got += data;
        });
        socket.on("close", () => resolve(got));
        socket.on("error", reject);
      });
    expect(await raw("nonsense\r\n\r\n")).toMatch(/^HTTP\/1\.1 400 .*"code":"bad_request"/su);
    const slow =
      "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{";
    expect(await raw(slow)).toMatch(/^HTTP\/1\.1 408 .*"code":"request_timeout"/su);
  });
});

describe("limits", () => {
  it("answer many requests side by side, no more than allowed", async () => {
    const { server, policy } = await start("ok", { maxRequests: 4 });
    policy.hold = true;
    const running = Array.from({ length: 4 }, () => chat(server, [user("x")]));
    await expect.poll(() => policy.running, patience).toBe(4);
    const refused = await chat(server, [user("x")]);
    expect([refused.status, refused.body.error.type]).toEqual([429, "rate_limit_error"]);
    expect(refused.headers.get("retry-after")).toBe("1");
    policy.release();
    expect((await Promise.all(running)).map(({ status }) => status)).toEqual([200, 200, 200, 200]);
    expect((await chat(server, [user("x")])).status).toBe(200);
  });

  it("end a request at its deadline", async () => {
    const { server, policy } = await start("ok", { requestTimeout: 50 });
    policy.hold = true;
    const { status, body } = await chat(server, [user("x")]);
    expect([status, body.error.code]).toEqual([504, "timeout"]);
    await expect.poll(() => policy.running, patience).toBe(0);
  });

  it.each([false, true])("end the sampling when the client goes (stream: %s)", async (stream) => {
    const { server, policy, errors } = await start("one two three four five six", { sliceTokens: 1 });
    policy.hold = true;
    const controller = new AbortController();
    const pending = fetch(`${server.url}/v1/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ messages: [user("x")], stream }),
      signal: controller.signal,
    }).then((response) => response.text());
    await expect.poll(() => policy.running, patience).toBe(1);
    controller.abort();
    await expect(pending).rejects.toThrow();
    await expect.poll(() => [policy.aborted, policy.running], patience).toEqual([1, 0]);
    expect((await get(server, "/v1/act/status")).body.requests).toBe(0);
    expect(errors).toEqual([]);
  });

  it("close at once, with requests running", async () => {
    const { server, policy } = await start("ok");
    policy.hold = true;
    const pending = chat(server, [user("x")]).catch((error) => error);
    await expect.poll(() => policy.running, patience).toBe(1);
    await server.close();
    await server.close();
    expect(policy.running).toBe(0);
    expect(await pending).toBeInstanceOf(Error);
  });
});

describe("the server", () => {
  it("names its model", async () => {
    const { server, policy } = await start("ok", { modelName: "org/mine" });
    policy.weightVersion = 5;
    const { body } = await get(server, "/v1/models");
    expect(body).toMatchObject({
      object: "list",
      data: [{ id: "org/mine", object: "model", owned_by: "act-trainer" }],
    });
    expect((await get(server, "/v1/models/org%2Fmine")).body).toMatchObject({ id: "org/mine", weight_version: 5 });
    expect((await get(server, "/v1/models/other")).status).toBe(404);
  });

  it("has every option in its documentation", () => {
    const text = readFileSync(join(import.meta.dirname, "../../docs/serving.md"), "utf8");
    const { episodes: _, ...server } = serveSchema.shape;
    const keys = [
      ...Object.keys(server),
      ...Object.keys(servedEpisodesSchema.shape).map((key) => `episodes.${key}`),
      ...Object.keys(reinforceServedSchema.shape),
    ];
    expect(keys.filter((key) => !text.includes(`\`${key}\``))).toEqual([]);
  });

  it("refuses options and addresses it cannot use", async () => {
    await expect(start("ok", { prot: 1 } as object)).rejects.toMatchObject({ code: "CONFIG_UNKNOWN_KEY" });
    const { server } = await start("ok");
    const port = Number(new URL(server.url).port);
    await expect(serveScript("ok", { port })).rejects.toMatchObject({ code: "SERVE_ADDRESS" });
  });
});
