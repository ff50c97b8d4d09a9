import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";
import { EngineError } from "../../src/engine/errors.js";
import { duplicateKey } from "../../src/engine/json-keys.js";
import { readSafetensorsHeader, readStoredTensor, SafetensorsWriter } from "../../src/engine/safetensors.js";

const folder = mkdtempSync(join(tmpdir(), "act-safetensors-"));
afterAll(() => rmSync(folder, { recursive: true }));

let files = 0;
function fileOf(bytes: Uint8Array): string {
  const path = join(folder, `${files++}.safetensors`);
  writeFileSync(path, bytes);
  return path;
}

/** A file with this header text and so many bytes of data. */
function build(header: unknown, dataBytes: number, claimed?: bigint): string {
  const json = Buffer.from(typeof header === "string" ? header : JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(claimed ?? BigInt(json.length));
  return fileOf(Buffer.concat([length, json, Buffer.alloc(dataBytes)]));
}

async function reason(file: string): Promise<string> {
  const error = await readSafetensorsHeader(file).then(
    () => null,
    (cause: unknown) => cause,
  );
  expect(error).toBeInstanceOf(EngineError);
  expect((error as EngineError).code).toBe("SAFETENSORS");
  return (error as EngineError).message;
}

const tensor = (begin: number, end: number, shape = [(end - begin) / 4], dtype = "F32") => ({
  dtype,
  shape,
  data_offsets: [begin, end],
});

describe("readSafetensorsHeader", () => {
  it("reads a file that the official library wrote", async () => {
    const file = new URL("../fixtures/golden/qwen2/model.safetensors", import.meta.url).pathname;
    const { tensors, metadata } = await readSafetensorsHeader(file);
    expect(metadata).toEqual({ format: "pt" });
    const bias = tensors.get("model.layers.0.self_attn.q_proj.bias");
    expect(bias).toMatchObject({ dtype: "BF16", shape: [32], byteLength: 64 });
    expect(await readStoredTensor(bias!)).toHaveLength(64);
  });

  it("takes scalars, empty tensors and padding after the header", async () => {
    const header = { a: tensor(0, 4, []), b: tensor(4, 4, [0, 3]), c: tensor(4, 8, [1, 1]) };
    const { tensors } = await readSafetensorsHeader(build(`${JSON.stringify(header)}   `, 8));
    expect([...tensors.values()].map((t) => t.byteLength)).toEqual([4, 0, 4]);
  });

  it.each<[string, () => string, string]>([
    ["an empty file", () => fileOf(Buffer.alloc(0)), "0 bytes"],
    ["a truncated length", () => fileOf(Buffer.alloc(7)), "7 bytes"],
    ["a header longer than the file", () => build("{}", 0, 1000n), "the file ends"],
    ["a header over the format's limit", () => build("{}", 0, 100_000_001n), "at most"],
    ["a length with all bits set", () => build("{}", 0, 2n ** 64n - 1n), "at most"],
    ["a header of no bytes", () => build("", 0), "begin with"],
    ["a header that is an array", () => build("[]", 0), "begin with"],
    ["a header with leading spaces", () => build(" {}", 0), "begin with"],
    ["broken JSON", () => build('{"a": ', 0), "not JSON"],
    [
      "a header that is not UTF-8",
      () => {
        return fileOf(Buffer.concat([Buffer.from([4, 0, 0, 0, 0, 0, 0, 0]), Buffer.from([0x7b, 0x22, 0xff, 0x7d])]));
      },
      "UTF-8",
    ],
    ["data cut short", () => build({ a: tensor(0, 8) }, 7), "of 7 bytes"],
    ["bytes after the last tensor", () => build({ a: tensor(0, 8) }, 9), "after the last"],
    ["a gap", () => build({ a: tensor(0, 4), b: tensor(8, 12) }, 12), "unused"],
    ["an overlap", () => build({ a: tensor(0, 8), b: tensor(4, 12) }, 12), "overlaps"],
    ["one tensor inside another", () => build({ a: tensor(0, 12), b: tensor(4, 8) }, 12), "overlaps"],
    ["offsets that run backwards", () => build({ a: tensor(8, 0, [2]) }, 8), "lies at bytes"],
    ["a shape that does not match its bytes", () => build({ a: tensor(0, 8, [3]) }, 8), "takes 12"],
    ["a shape whose size overflows", () => build({ a: tensor(0, 8, [2 ** 40, 2 ** 40]) }, 8), "too large"],
    ["a shape whose product wraps to a match", () => build({ a: tensor(0, 0, [2 ** 52, 2 ** 52, 0]) }, 0), "too large"],
    ["a negative dimension", () => build({ a: tensor(0, 8, [-2]) }, 8), "shape"],
    ["a fractional dimension", () => build({ a: tensor(0, 8, [2.5]) }, 8), "shape"],
    [
      "a dimension beyond exact integers",
      () => build('{"a":{"dtype":"F32","shape":[1e300],"data_offsets":[0,8]}}', 8),
      "shape",
    ],
    ["a negative offset", () => build({ a: tensor(-8, 0, [2]) }, 8), "data_offsets"],
    ["three offsets", () => build({ a: { ...tensor(0, 8), data_offsets: [0, 4, 8] } }, 8), "data_offsets"],
    ["an unknown dtype", () => build({ a: tensor(0, 8, [2], "float32") }, 8), "dtype"],
    ["a dtype in lower case", () => build({ a: tensor(0, 8, [2], "f32") }, 8), "dtype"],
    ["a dtype from the prototype", () => build({ a: tensor(0, 8, [2], "constructor") }, 8), "dtype"],
    ["a missing shape", () => build({ a: { dtype: "F32", data_offsets: [0, 8] } }, 8), "shape"],
    ["an unknown key", () => build({ a: { ...tensor(0, 8), stride: [1] } }, 8), "stride"],
    ["a tensor that is no object", () => build({ a: 1 }, 0), "object"],
    [
      "a name twice",
      () =>
        build(
          '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
          4,
        ),
      "twice",
    ],
    [
      "a name twice under an escape",
      () =>
        build(
          '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"\\u0061":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
          4,
        ),
      "twice",
    ],
    [
      "a key of a tensor twice",
      () => build('{"a":{"dtype":"F32","dtype":"I32","shape":[1],"data_offsets":[0,4]}}', 4),
      "twice",
    ],
    ["metadata that is not text", () => build({ __metadata__: { a: 1 } }, 0), "__metadata__"],
  ])("refuses %s", async (_name, make, why) => {
    expect(await reason(make())).toContain(why);
  });

  it("gives typed errors for files that cannot be read", async () => {
    await expect(readSafetensorsHeader(join(folder, "none"))).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
    await expect(readSafetensorsHeader(folder)).rejects.toMatchObject({ code: "FILE_NOT_A_FILE" });
    const pipe = join(folder, "pipe");
    execFileSync("mkfifo", [pipe]);
    await expect(readSafetensorsHeader(pipe)).rejects.toMatchObject({ code: "FILE_NOT_A_FILE" });
  });

  it("answers any damage to a valid file with a header inside the file or a typed error", async () => {
    const valid = readFileSync(build({ a: tensor(0, 8), b: tensor(8, 16, [2, 1]) }, 16));
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.nat(valid.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 }),
        fc.nat(2),
        async (edits, cut) => {
          const bytes = Buffer.from(valid);
          for (const [at, value] of edits) bytes[at] = value;
          const path = fileOf(bytes.subarray(0, valid.length - cut));
          const size = valid.length - cut;
          try {
            const { tensors } = await readSafetensorsHeader(path);
            for (const t of tensors.values()) expect(t.offset + t.byteLength).toBeLessThanOrEqual(size);
          } catch (error) {
            expect(error).toBeInstanceOf(EngineError);
          }
        },
      ),
      { numRuns: 300 },
    );
  });
});

describe("SafetensorsWriter", () => {
  const tensors = [
    { name: "a", dtype: "F32" as const, shape: [2, 3] },
    { name: "b", dtype: "BF16" as const, shape: [5] },
  ];

  it("writes what the reader reads, with aligned data", async () => {
    const path = join(folder, "written.safetensors");
    const writer = await SafetensorsWriter.create(path, tensors);
    const a = Buffer.from(new Float32Array([1, 2, 3, 4, 5, 6]).buffer);
    await writer.write("a", a);
    await writer.write("b", Buffer.alloc(10, 7));
    expect(() => readFileSync(path)).toThrow(); // nothing under the name before commit
    await writer.commit();
    const header = await readSafetensorsHeader(path);
    expect(header.metadata).toEqual({ format: "pt" });
    expect([...header.tensors.keys()]).toEqual(["a", "b"]);
    expect(header.tensors.get("a")!.offset % 8).toBe(0);
    expect(Buffer.compare(await readStoredTensor(header.tensors.get("a")!), a)).toBe(0);
    expect(await readStoredTensor(header.tensors.get("b")!)).toEqual(Buffer.alloc(10, 7));
  });

  it("leaves nothing behind when it is misused or discarded", async () => {
    const before = readdirSync(folder).length;
    const path = join(folder, "never.safetensors");
    const misuse: ((w: SafetensorsWriter) => Promise<void>)[] = [
      (w) => w.write("b", Buffer.alloc(10)),
      (w) => w.write("a", Buffer.alloc(23)),
      (w) => w.commit(),
    ];
    for (const use of misuse)
      await expect(use(await SafetensorsWriter.create(path, tensors))).rejects.toMatchObject({ code: "BAD_ARGUMENT" });
    const writer = await SafetensorsWriter.create(path, tensors);
    await writer.discard();
    await writer.discard();
    await expect(SafetensorsWriter.create(path, [tensors[0]!, tensors[0]!])).rejects.toMatchObject({
      code: "BAD_ARGUMENT",
    });
    expect(readdirSync(folder)).toHaveLength(before);
  });
});

describe("duplicateKey", () => {
  it("takes keys as long and as deep as hostile files have them", () => {
    const long = "a".repeat(20_000_000);
    expect(duplicateKey(`{"${long}":1,"b":{"${long}":2}}`)).toBeNull();
    expect(duplicateKey(`{"${"\\n".repeat(5_000_000)}":1,"b":2,"b" :3}`)).toBe("b");
    expect(duplicateKey(`{"a":${"[".repeat(500_000)}${"]".repeat(500_000)}}`)).toBeNull();
  });

  it("is not misled by quotes and escapes", () => {
    expect(duplicateKey('{"a\\\\":1,"a\\\\":2}')).toBe("a\\");
    expect(duplicateKey('{"a\\"":1,"a":{"":[":"]},"":"a","\\u0061\\"":2}')).toBe('a"');
    expect(duplicateKey('{"":"","b":["","",{"":1}]}')).toBeNull();
  });

  it("agrees with an object that keeps its entries", () => {
    fc.assert(
      fc.property(fc.json(), (text) => {
        expect(duplicateKey(text)).toBeNull();
      }),
    );
    expect(duplicateKey('{"a":{"b":1},"b":[{"b":1},{"b":2}]}')).toBeNull();
    expect(duplicateKey('{"x":{"b":[1,"b"],"c":{},"b":2}}')).toBe("b");
    expect(duplicateKey('{"a":"\\"a\\":","b":1}')).toBeNull();
  });
});
