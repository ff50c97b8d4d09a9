// Pieces shared by the attention kernels on tensor cores. kD is the head size rounded up to 32, 64 or 128; columns behind
// the real head size are zero in shared memory, so they add nothing.
#pragma once
#include "attention_rows.cuh"

namespace act::cuda {

/// With kAttentionBlocks of them a multiprocessor, 128 registers a thread. Said aloud, because ptxas, left alone, spills a
/// register or two of the small head sizes to fit one block more.
constexpr int kAttentionThreads = 128;
constexpr int kRowPad = 8;  // bf16 elements: rows stay 16-byte aligned, eight of them touch all banks once

/// Stages rows of `d` bf16 values at address(r) (null: zeros) as rows of kD + kRowPad in shared memory; does not commit.
/// `anywhere`: global memory, 16-byte aligned, that copies of zeros name and do not read.
template <int kD, class Address>
__device__ __forceinline__ void stage_rows(bf16* to, int rows, int d, const bf16* anywhere, Address address) {
  constexpr int kChunks = kD / 8;
  for (int i = static_cast<int>(threadIdx.x); i < rows * kChunks; i += kAttentionThreads) {
    const int r = i / kChunks, c = i % kChunks * 8;
    const bf16* const from = address(r);
    const bool valid = from != nullptr && c < d;
    copy_async_16(to + r * (kD + kRowPad) + c, valid ? from + c : anywhere, valid);
  }
}

/// Registers of an A operand: 16 rows from `row`, inner indices k .. k + 15 (columns of shared memory).
template <int kD>
__device__ __forceinline__ void rows_as_a(uint32_t (&r)[4], const bf16* tile, int row, int k) {
  const int lane = static_cast<int>(threadIdx.x % 32), matrix = lane / 8;
  load_matrices(r, tile + (row + matrix % 2 * 8 + lane % 8) * (kD + kRowPad) + k + matrix / 2 * 8);
}
/// Registers of two B operands whose columns are the 16 rows from `row`: a product with the rows' transpose.
template <int kD>
__device__ __forceinline__ void rows_as_b(uint32_t (&r)[4], const bf16* tile, int row, int k) {
  const int lane = static_cast<int>(threadIdx.x % 32), matrix = lane / 8;
  load_matrices(r, tile + (row + matrix / 2 * 8 + lane % 8) * (kD + kRowPad) + k + matrix % 2 * 8);
}
/// Registers of two B operands whose inner index is the 16 rows from `row` and whose columns are n .. n + 15.
template <int kD>
__device__ __forceinline__ void rows_as_inner(uint32_t (&r)[4], const bf16* tile, int row, int n) {
  const int lane = static_cast<int>(threadIdx.x % 32), matrix = lane / 8;
  load_matrices_transposed(r, tile + (row + matrix % 2 * 8 + lane % 8) * (kD + kRowPad) + n + matrix / 2 * 8);
}

/// c[0], c[1] (16 x 16) += A rows (16 of `a` from `a_row`) times the transpose of 16 rows of `b` from `b_row`.
template <int kD>
__device__ __forceinline__ void multiply_rows(float (&c)[2][4], const bf16* a, int a_row, const bf16* b, int b_row) {
  GPU_UNROLL
  for (int k = 0; k < kD; k += 16) {
    uint32_t left[4], right[4];
    rows_as_a<kD>(left, a, a_row, k);
    rows_as_b<kD>(right, b, b_row, k);
    mma_16x8x16(c[0], left, right[0], right[1]);
    mma_16x8x16(c[1], left, right[2], right[3]);
  }
}

/// acc (16 x kD) += weights (16 x 16, accumulator layout, rounded to bf16) times 16 rows of `rows` from `row`.
template <int kD>
__device__ __forceinline__ void add_weighted_rows(float (&acc)[kD / 8][4], const float (&weights)[2][4], const bf16* rows, int row) {
  const uint32_t left[4] = {pack_bf16(weights[0][0], weights[0][1]), pack_bf16(weights[0][2], weights[0][3]),
                            pack_bf16(weights[1][0], weights[1][1]), pack_bf16(weights[1][2], weights[1][3])};
  GPU_UNROLL
  for (int n = 0; n < kD / 16; n++) {
    uint32_t right[4];
    rows_as_inner<kD>(right, rows, row, n * 16);
    mma_16x8x16(acc[2 * n], left, right[0], right[1]);
    mma_16x8x16(acc[2 * n + 1], left, right[2], right[3]);
  }
}

/// Writes this thread's part of a 16 x kD accumulator, times the row's factor, to row_address(half) (null: nowhere).
template <int kD, class Address>
__device__ __forceinline__ void write_rows(const float (&acc)[kD / 8][4], const float (&factor)[2], int d, Address address) {
  const int quad = static_cast<int>(threadIdx.x % 4);
  GPU_UNROLL
  for (int half = 0; half < 2; half++) {
    bf16* const to = address(half);
    if (!to) continue;
    GPU_UNROLL
    for (int n = 0; n < kD / 8; n++) {
      const int c = n * 8 + quad * 2;
      if (c >= d) continue;
      // Head sizes are multiples of 8, so a pair is inside or outside and its address is a multiple of 4.
      *reinterpret_cast<uint32_t*>(to + c) = pack_bf16(acc[n][half * 2] * factor[half], acc[n][half * 2 + 1] * factor[half]);
    }
  }
}

/// Writes this thread's part of a 16 x kD accumulator as it is to row_address(half) (null: nowhere).
template <int kD, class Address>
__device__ __forceinline__ void write_partial_rows(const float (&acc)[kD / 8][4], int d, Address address) {
  const int quad = static_cast<int>(threadIdx.x % 4);
  GPU_UNROLL
  for (int half = 0; half < 2; half++) {
    float* const to = address(half);
    if (!to) continue;
    GPU_UNROLL
    for (int n = 0; n < kD / 8; n++) {
      const int c = n * 8 + quad * 2;
      if (c >= d) continue;
      to[c] = acc[n][half * 2];
      to[c + 1] = acc[n][half * 2 + 1];
    }
  }
}

struct PoolOfBf16 {
  const bf16* memory;
  int kv_heads, head_dim;
  __device__ const bf16* key(int32_t slot, int head) const {
    const int64_t page = slot / kPageKeys, lane = slot % kPageKeys;
    return memory + ((page * kv_heads + head) * 2 * kPageKeys + lane) * head_dim;
  }
  __device__ const bf16* value(int32_t slot, int head) const { return key(slot, head) + kPageKeys * head_dim; }
};

template <class F>
void with_head_dim(int head_dim, F f) {
  if (head_dim <= 32) return f(std::integral_constant<int, 32>());
  if (head_dim <= 64) return f(std::integral_constant<int, 64>());
  f(std::integral_constant<int, 128>());
}

}  // namespace act::cuda
