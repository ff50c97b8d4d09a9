import fc from "fast-check";
import { expect, test } from "vitest";
import { ForestBuilder } from "../../src/engine/forest-builder.js";
import { flat, tinyEngine, tokens } from "./tiny.js";

/** The tokens of a path, read back from the segments. */
function readBack(built: ReturnType<ForestBuilder["build"]>, handle: number): number[] {
  const flat = built.forest.segments.flatMap((s) => [...s.tokens]);
  return [...built.indices(handle)].map((i) => flat[i] as number);
}

const sequences = fc.array(
  fc.array(fc.integer({ min: 0, max: 2 }), { minLength: 1, maxLength: 30 }).map((a) => Int32Array.from(a)),
  { minLength: 1, maxLength: 12 },
);

test("every sequence can be read back, whatever is shared", () => {
  fc.assert(
    fc.property(sequences, fc.integer({ min: 1, max: 10 }), fc.integer({ min: 30, max: 80 }), (list, min, max) => {
      const builder = new ForestBuilder({ minSharedTokens: min, maxTreeTokens: max });
      const handles = list.map((tokens) => builder.add(tokens));
      const built = builder.build();
      handles.forEach((h, i) => {
        expect(readBack(built, h)).toEqual([...(list[i] as Int32Array)]);
      });
    }),
  );
});

test("a path is made of whole segments, each the parent of the next", () => {
  fc.assert(
    fc.property(sequences, (list) => {
      const builder = new ForestBuilder({ minSharedTokens: 1 });
      const handles = list.map((tokens) => builder.add(tokens));
      const { forest, indices } = builder.build();
      const owner = forest.segments.flatMap((s, i) => Array.from(s.tokens, () => i));
      for (const h of handles) {
        const path = [...new Set(Array.from(indices(h), (i) => owner[i] as number))];
        path.forEach((segment, k) => {
          expect(forest.segments[segment]?.parent).toBe(k === 0 ? null : path[k - 1]);
        });
      }
    }),
  );
});

test("with no minimum, no two siblings begin with the same token", () => {
  fc.assert(
    fc.property(sequences, (list) => {
      const builder = new ForestBuilder({ minSharedTokens: 1 });
      for (const tokens of list) builder.add(tokens);
      const seen = new Set<string>();
      for (const { parent, tokens } of builder.build().forest.segments) {
        const key = `${parent} ${tokens[0]}`;
        expect(seen.has(key)).toBe(false);
        seen.add(key);
      }
    }),
  );
});

test("trees stay within their bound, except for a single sequence that is longer", () => {
  const builder = new ForestBuilder({ maxTreeTokens: 6, minSharedTokens: 1 });
  for (const tail of [1, 2, 3, 4]) builder.add(Int32Array.of(9, 9, 9, tail));
  const built = builder.build();
  const sizes: number[] = [];
  const tree: number[] = [];
  built.forest.segments.forEach((s, i) => {
    tree[i] = s.parent === null ? sizes.push(0) - 1 : (tree[s.parent] as number);
    sizes[tree[i] as number] = (sizes[tree[i] as number] as number) + s.tokens.length;
  });
  expect(sizes).toEqual([6, 4]);
  expect(built.tokens).toBe(10);
  expect(built.flatTokens).toBe(16);
});

test("a tree has room for a sequence whose beginning it holds, however many nodes deep", () => {
  const builder = new ForestBuilder({ maxTreeTokens: 100 });
  const prompt = Int32Array.from({ length: 100 }, (_, i) => i);
  for (const length of [10, 20, 30, 60, 100]) builder.add(prompt.subarray(0, length));
  expect(builder.build().tokens).toBe(100);
});

test("a group stores its prompt once", () => {
  const builder = new ForestBuilder();
  const prompt = Array.from({ length: 20 }, (_, i) => i);
  for (let g = 0; g < 4; g++) builder.add(Int32Array.from([...prompt, 100 + g, 200 + g]));
  const built = builder.build();
  expect(built.tokens).toBe(20 + 4 * 2);
  expect(built.forest.segments).toHaveLength(5);
});

test("sequences that are all alike bring too many loss rows for one tree, and are trained on all the same", async () => {
  await using engine = await tinyEngine({ training: true, maxBatchTokens: 64 });
  const ids = tokens(30, 4);
  const group = 8;
  const builder = new ForestBuilder({ maxTreeTokens: engine.maxBatchTokens });
  const handles = Array.from({ length: group }, () => builder.add(ids.subarray(0, 29), 29));
  const built = builder.build();
  const rows = Int32Array.from(handles.flatMap((handle) => [...built.indices(handle)]));
  const targets = Int32Array.from(handles.flatMap(() => [...ids.subarray(1)]));
  const ceWeight = new Float32Array(rows.length).fill(1 / rows.length);
  const { logprob, terms } = await engine.accumulate(built.forest, { rows, targets, ceWeight });
  const { forest, rows: flatRows } = flat(ids);
  const alone = (await engine.score(forest, flatRows)).logprob;
  for (let g = 0; g < group; g++) expect(logprob.subarray(29 * g, 29 * (g + 1))).toEqual(alone);
  // 232 fp32 terms of at most a few nats each, added in double.
  expect(terms.ce).toBeCloseTo(-alone.reduce((sum, x) => sum + x, 0) / 29, 5);
  // Four trees of two sequences: 58 rows of 64.
  expect(built.tokens).toBe(4 * 29);
});

test("what is no Int32Array is refused", () => {
  for (const wrong of [undefined, [1, 2], new Float32Array(2)] as unknown as Int32Array[])
    expect(() => new ForestBuilder().add(wrong)).toThrowError(expect.objectContaining({ code: "BAD_ARGUMENT" }));
});
