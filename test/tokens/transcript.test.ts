import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type SpanRole, Transcript } from "../../src/tokens/transcript.js";

interface Piece {
  role: SpanRole;
  tokens: number[];
  finish: "stop" | "length" | "aborted";
}
const pieces: fc.Arbitrary<Piece[]> = fc.array(
  fc.record({
    role: fc.constantFrom<SpanRole>("prompt", "observation", "template", "action"),
    tokens: fc.array(fc.nat(1000), { maxLength: 90 }),
    finish: fc.constantFrom("stop", "length", "aborted"),
  }),
  { maxLength: 12 },
);

function add(transcript: Transcript, { role, tokens, finish }: Piece): void {
  if (role !== "action") {
    transcript.append(role, tokens);
    return;
  }
  transcript.appendAction({
    tokens: Int32Array.from(tokens),
    logprobs: Float32Array.from(tokens, (t) => -(t + 1) / 8),
    samplingLogprobs: Float32Array.from(tokens, (t) => -(t + 1) / 16),
    finishReason: finish,
    weightVersion: 4,
  });
}

describe("Transcript", () => {
  it("only ever grows: what was there stays, and the new tokens follow", () => {
    fc.assert(
      fc.property(pieces, (list) => {
        const transcript = new Transcript();
        let before: number[] = [];
        for (const piece of list) {
          add(transcript, piece);
          const now = Array.from(transcript.tokens());
          expect(now).toEqual([...before, ...piece.tokens]);
          before = now;
        }
      }),
    );
  });

  it("has spans end to end, and a mask of sampled tokens that were not aborted", () => {
    fc.assert(
      fc.property(pieces, (list) => {
        const transcript = new Transcript();
        for (const piece of list) add(transcript, piece);
        let end = 0;
        for (const span of transcript.spans) {
          expect(span.start).toBe(end);
          expect(span.end).toBeGreaterThan(span.start);
          end = span.end;
        }
        expect(end).toBe(transcript.length);
        const want = list.flatMap(({ role, tokens, finish }) =>
          tokens.map(() => (role === "action" && finish !== "aborted" ? 1 : 0)),
        );
        expect(Array.from(transcript.trainableMask())).toEqual(want);
        const sampled = list.flatMap(({ role, tokens }) =>
          tokens.map((t) => (role === "action" ? -(t + 1) / 8 : Number.NaN)),
        );
        expect(Array.from(transcript.logprobs())).toEqual(sampled.map((x) => Math.fround(x)));
      }),
    );
  });

  it("survives a round through plain data", () => {
    fc.assert(
      fc.property(pieces, (list) => {
        const transcript = new Transcript();
        for (const piece of list) add(transcript, piece);
        const again = Transcript.fromData(JSON.parse(JSON.stringify(transcript.toData())));
        expect(again.toData()).toEqual(transcript.toData());
        expect(again.logprobs()).toEqual(transcript.logprobs());
        expect(again.samplingLogprobs()).toEqual(transcript.samplingLogprobs());
      }),
    );
  });

  it("hands out copies", () => {
    const transcript = new Transcript();
    transcript.append("prompt", [1, 2, 3]);
    transcript.tokens()[0] = 9;
    expect(Array.from(transcript.tokens(0, 2))).toEqual([1, 2]);
  });

  it("refuses actions and data that do not fit together", () => {
    const transcript = new Transcript();
    const action = {
      tokens: Int32Array.of(1, 2),
      logprobs: Float32Array.of(-1),
      samplingLogprobs: Float32Array.of(-1, -1),
      finishReason: "stop",
      weightVersion: 0,
    } as const;
    expect(() => transcript.appendAction(action)).toThrowError(
      expect.objectContaining({ code: "TRANSCRIPT_BAD_ACTION" }),
    );
    expect(transcript.length).toBe(0);
    const data = { tokens: [1], spans: [], logprobs: [null], sampling_logprobs: [null] };
    const refused = expect.objectContaining({ code: "TRANSCRIPT_BAD_DATA" });
    expect(() => Transcript.fromData(data)).toThrowError(refused);
    const span = { start: 0, end: 1, weightVersion: 0, finishReason: "stop", trainable: true } as const;
    expect(() => Transcript.fromData({ ...data, spans: [{ ...span, role: "action" }] })).toThrowError(refused);
    expect(() => Transcript.fromData({ ...data, spans: [{ ...span, start: 1, role: "prompt" }] })).toThrowError(
      refused,
    );
  });
});
