/** Values of tensors between the engine's dtypes and a file's. */

/** Exact. */
export function widen(values: Float32Array | Uint16Array): Float32Array {
  if (values instanceof Float32Array) return values;
  const bits = new Uint32Array(values.length);
  for (let i = 0; i < values.length; i++) bits[i] = (values[i] as number) << 16;
  return new Float32Array(bits.buffer);
}

/** The upper halves of fp32 values, rounded to nearest, ties to even; the values are finite. */
export function roundToBf16(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const rounded = new Uint16Array(values.length);
  for (let i = 0; i < bits.length; i++) {
    const x = bits[i] as number;
    rounded[i] = (x + 0x7fff + ((x >>> 16) & 1)) >>> 16;
  }
  return rounded;
}

/** The bytes of typed array elements, sharing memory. Little-endian, as every platform Node runs on is. */
export function bytesOf(values: Float32Array | Uint16Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

/** fp32 elements of a file's bytes. */
export function floatsOf(bytes: Uint8Array): Float32Array {
  // Copied where the bytes do not start at a multiple of four.
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : Uint8Array.from(bytes);
  return new Float32Array(aligned.buffer, aligned.byteOffset, aligned.byteLength / 4);
}
