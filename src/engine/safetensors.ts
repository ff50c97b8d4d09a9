/**
 * Reads and writes safetensors files (https://github.com/huggingface/safetensors, "Format"): eight bytes of header
 * length, a JSON header, the tensors' bytes without gaps.
 *
 * Files come from anywhere: no length, shape or offset is believed before it is checked against the file's size.
 */
import { type FileHandle, open, stat } from "node:fs/promises";
import { AtomicFile, withFileErrors } from "../data/files.js";
import { ActError, describe } from "../errors.js";
import { EngineError } from "./errors.js";
import { duplicateKey } from "./json-keys.js";

/** Bytes an element takes, of every dtype the format knows. The engine itself loads F32, F16 and BF16. */
const ELEMENT_BYTES = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E5M2: 1,
  F8_E4M3: 1,
  I16: 2,
  U16: 2,
  F16: 2,
  BF16: 2,
  I32: 4,
  U32: 4,
  F32: 4,
  I64: 8,
  U64: 8,
  F64: 8,
} as const;
export type SafetensorsDType = keyof typeof ELEMENT_BYTES;

/**
 * Room for some 70,000 tensors, where supported models have fewer than 2,000. The format allows 100 MB, but a header of
 * that size would stop the event loop for seconds while it is parsed: here it is half a second at most.
 */
const MAX_HEADER_BYTES = 8 << 20;
const LENGTH_BYTES = 8;

/** A tensor in a file. */
export interface StoredTensor {
  readonly name: string;
  readonly dtype: SafetensorsDType;
  readonly shape: readonly number[];
  readonly file: string;
  /** Of the first byte, from the beginning of the file. */
  readonly offset: number;
  readonly byteLength: number;
}

export interface SafetensorsHeader {
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  readonly metadata: Readonly<Record<string, string>>;
}

function malformed(file: string, reason: string, cause?: unknown): EngineError {
  return new EngineError("SAFETENSORS", `${file} is not a valid safetensors file: ${reason}.`, {
    hint: "Download or save the file again.",
    cause,
  });
}

/** Reads and checks the header. Throws EngineError `SAFETENSORS` and the file errors of data/files.ts. */
export async function readSafetensorsHeader(file: string): Promise<SafetensorsHeader> {
  const found = await withFileErrors("opening", file, () => stat(file));
  // Opening a pipe would wait for its writer.
  if (!found.isFile())
    throw new ActError("FILE_NOT_A_FILE", `Failed opening ${file}: it is a folder, a device or a pipe.`, {
      hint: "Give the path of a file.",
    });
  const { size } = found;
  const handle = await withFileErrors("opening", file, () => open(file, "r"));
  try {
    if (size < LENGTH_BYTES)
      throw malformed(file, `it has ${size} bytes, fewer than the ${LENGTH_BYTES} of its length field`);
    const declared = (await readExactly(handle, file, 0, LENGTH_BYTES)).readBigUInt64LE();
    if (declared > BigInt(MAX_HEADER_BYTES))
      throw malformed(file, `its header claims ${declared} bytes; this reader takes at most ${MAX_HEADER_BYTES}`);
    const length = Number(declared);
    if (LENGTH_BYTES + length > size)
      throw malformed(file, `its header claims ${length} bytes, but the file ends after ${size}`);
    const bytes = await readExactly(handle, file, LENGTH_BYTES, length);
    return parseHeader(file, bytes, LENGTH_BYTES + length, size);
  } finally {
    await handle.close();
  }
}

async function readExactly(handle: FileHandle, file: string, offset: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length);
  let done = 0;
  while (done < length) {
    const { bytesRead } = await withFileErrors("reading", file, () =>
      handle.read(buffer, done, length - done, offset + done),
    );
    if (bytesRead === 0) throw malformed(file, `it ended at byte ${offset + done} while being read`);
    done += bytesRead;
  }
  return buffer;
}

/** @param dataStart First byte of tensor data. @param size Of the whole file. */
function parseHeader(file: string, bytes: Buffer, dataStart: number, size: number): SafetensorsHeader {
  if (bytes[0] !== 0x7b) throw malformed(file, "its header does not begin with `{`");
  let text: string;
  let json: unknown;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    json = JSON.parse(text);
  } catch (cause) {
    throw malformed(file, "its header is not JSON in UTF-8", cause);
  }
  if (!isObject(json)) throw malformed(file, "its header is not a JSON object");
  const duplicate = duplicateKey(text);
  if (duplicate !== null) throw malformed(file, `its header has the key ${describe(duplicate)} twice`);

  const tensors = new Map<string, StoredTensor>();
  let metadata: Record<string, string> = {};
  for (const [name, entry] of Object.entries(json)) {
    if (name === "__metadata__") metadata = parseMetadata(file, entry);
    else tensors.set(name, parseTensor(file, name, entry, dataStart, size));
  }
  checkCoverage(file, [...tensors.values()], dataStart, size);
  return { tensors, metadata };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function parseMetadata(file: string, value: unknown): Record<string, string> {
  if (!isObject(value) || !Object.values(value).every((x) => typeof x === "string"))
    throw malformed(file, "its `__metadata__` is not an object of strings");
  return value as Record<string, string>;
}

function isLength(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}

function parseTensor(file: string, name: string, entry: unknown, dataStart: number, size: number): StoredTensor {
  const wrong = (reason: string): EngineError => malformed(file, `tensor ${describe(name)} ${reason}`);
  if (!isObject(entry)) throw wrong("is not described by an object");
  const unknown = Object.keys(entry).find((key) => !["dtype", "shape", "data_offsets"].includes(key));
  if (unknown !== undefined) throw wrong(`has an unknown key ${describe(unknown)}`);
  const { dtype, shape, data_offsets: offsets } = entry;
  if (typeof dtype !== "string" || !Object.hasOwn(ELEMENT_BYTES, dtype))
    throw wrong(`has dtype ${describe(dtype)}; known are ${Object.keys(ELEMENT_BYTES).join(", ")}`);
  if (!Array.isArray(shape) || !shape.every(isLength)) throw wrong("has a shape that is not an array of integers >= 0");
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isLength))
    throw wrong("has data_offsets that are not two integers >= 0");
  const [begin, end] = offsets as [number, number];
  if (begin > end || end > size - dataStart)
    throw wrong(`lies at bytes ${begin} to ${end} of ${size - dataStart} bytes of data`);
  // The product is compared step by step: it must not lose precision or overflow on hostile shapes.
  let byteLength: number = ELEMENT_BYTES[dtype as SafetensorsDType];
  for (const n of shape as number[]) {
    byteLength *= n;
    if (byteLength > Number.MAX_SAFE_INTEGER) throw wrong("has a shape too large for any file");
  }
  if (byteLength !== end - begin)
    throw wrong(
      `of shape [${shape.join(", ")}] and dtype ${dtype} takes ${byteLength} bytes, but ${end - begin} are stored`,
    );
  return {
    name,
    dtype: dtype as SafetensorsDType,
    shape: shape as number[],
    file,
    offset: dataStart + begin,
    byteLength,
  };
}

/** The format allows neither gaps nor overlaps nor bytes after the last tensor. */
function checkCoverage(file: string, tensors: StoredTensor[], dataStart: number, size: number): void {
  let next = dataStart;
  for (const t of tensors.sort((a, b) => a.offset - b.offset || a.byteLength - b.byteLength)) {
    if (t.offset < next) throw malformed(file, `tensor ${describe(t.name)} overlaps the one before it`);
    if (t.offset > next)
      throw malformed(file, `there are ${t.offset - next} unused bytes before tensor ${describe(t.name)}`);
    next += t.byteLength;
  }
  if (next !== size) throw malformed(file, `there are ${size - next} bytes after the last tensor`);
}

/** The bytes of a tensor, little-endian. */
export async function readStoredTensor(tensor: StoredTensor): Promise<Uint8Array> {
  const handle = await withFileErrors("opening", tensor.file, () => open(tensor.file, "r"));
  try {
    return await readExactly(handle, tensor.file, tensor.offset, tensor.byteLength);
  } finally {
    await handle.close();
  }
}

/** A tensor about to be written. */
export interface TensorToWrite {
  readonly name: string;
  readonly dtype: SafetensorsDType;
  readonly shape: readonly number[];
}

/**
 * Writes a file tensor after tensor, so that a model never has to fit in memory twice. The file appears under its name
 * only when {@link SafetensorsWriter.commit} has put all of it on disk.
 */
export class SafetensorsWriter {
  readonly #file: AtomicFile;
  readonly #sizes: ReadonlyMap<string, number>;
  readonly #order: readonly string[];
  #written = 0;

  private constructor(file: AtomicFile, sizes: ReadonlyMap<string, number>) {
    this.#file = file;
    this.#sizes = sizes;
    this.#order = [...sizes.keys()];
  }

  /** @param metadata `{ format: "pt" }` is what transformers wants to see in a model file. */
  static async create(
    path: string,
    tensors: readonly TensorToWrite[],
    metadata: Readonly<Record<string, string>> = { format: "pt" },
  ): Promise<SafetensorsWriter> {
    const sizes = new Map<string, number>();
    const header: Record<string, unknown> = { __metadata__: metadata };
    let offset = 0;
    for (const { name, dtype, shape } of tensors) {
      if (sizes.has(name) || name === "__metadata__")
        throw new EngineError("BAD_ARGUMENT", `Failed writing ${path}: tensor ${describe(name)} is named twice.`);
      const bytes = shape.reduce((product, n) => product * n, ELEMENT_BYTES[dtype]);
      sizes.set(name, bytes);
      header[name] = { dtype, shape, data_offsets: [offset, offset + bytes] };
      offset += bytes;
    }
    // Spaces at the end align the data, which lets readers map it.
    const text = JSON.stringify(header);
    const padding = (LENGTH_BYTES - (Buffer.byteLength(text) % LENGTH_BYTES)) % LENGTH_BYTES;
    const json = Buffer.from(text + " ".repeat(padding));
    const length = Buffer.alloc(LENGTH_BYTES);
    length.writeBigUInt64LE(BigInt(json.length));
    const file = await AtomicFile.create(path);
    await file.write(Buffer.concat([length, json]));
    return new SafetensorsWriter(file, sizes);
  }

  /** The next tensor, in the order given to {@link SafetensorsWriter.create}; its bytes little-endian. */
  async write(name: string, data: Uint8Array): Promise<void> {
    const expected = this.#order[this.#written];
    if (name !== expected || data.byteLength !== this.#sizes.get(name)) {
      await this.discard();
      throw new EngineError(
        "BAD_ARGUMENT",
        `Failed writing ${this.#file.path}: expected ${this.#sizes.get(expected ?? "") ?? 0} bytes of ` +
          `${describe(expected)}, got ${data.byteLength} of ${describe(name)}.`,
      );
    }
    this.#written++;
    await this.#file.write(data);
  }

  async commit(): Promise<void> {
    if (this.#written !== this.#order.length) {
      await this.discard();
      throw new EngineError(
        "BAD_ARGUMENT",
        `Failed writing ${this.#file.path}: tensor ${describe(this.#order[this.#written])} was never written.`,
      );
    }
    await this.#file.commit();
  }

  /** Removes what was written; the target stays as it was. Safe to call twice, and after commit. */
  async discard(): Promise<void> {
    await this.#file.discard();
  }
}
