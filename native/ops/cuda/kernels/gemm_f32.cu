// fp32 products for the fp32 option: 64 x 64 tiles, each thread 4 x 4 elements. Forward and input gradients add chains of
// 64 inner indices, weight gradients are one chain over all rows (ops.h says why).
#include "launch.cuh"

namespace act::cuda {
namespace {

constexpr int kTile = 64, kDepth = 16, kThreads = 256, kEach = 4, kChain = 64;

/// Element (row, k) of a matrix that is stored [row][k] or, transposed, [k][row].
struct Operand {
  const float* data;
  int64_t row_stride, inner_stride;
  __device__ float at(int64_t row, int64_t k) const { return data[row * row_stride + k * inner_stride]; }
};

template <class T, bool kChains>
__global__ void __launch_bounds__(kThreads, 2)
    gemm_f32_kernel(T* c, Operand a, Operand b, const float* bias, bool accumulate, int64_t m, int64_t n, int64_t k) {
  __shared__ float a_tile[kDepth][kTile + 4], b_tile[kDepth][kTile + 4];
  const int tid = static_cast<int>(threadIdx.x);
  const int64_t row0 = static_cast<int64_t>(blockIdx.x) * kTile, column0 = static_cast<int64_t>(blockIdx.y) * kTile;
  const int row = tid / 16 * kEach, column = tid % 16 * kEach;
  float sum[kEach][kEach];
  GPU_UNROLL
  for (int i = 0; i < kEach; i++) {
    GPU_UNROLL
    for (int j = 0; j < kEach; j++) {
      const int64_t y = row0 + row + i, x = column0 + column + j;
      const bool inside = y < m && x < n;
      sum[i][j] = (accumulate && inside ? to_float(c[y * n + x]) : 0.0f) + (bias && inside ? bias[x] : 0.0f);
    }
  }
  float chain[kEach][kEach] = {};
  for (int64_t k0 = 0; k0 < k; k0 += kDepth) {
    // Neighboring threads read neighboring addresses whichever way an operand is stored.
    for (int i = tid; i < kTile * kDepth; i += kThreads) {
      const int r = a.inner_stride == 1 ? i / kDepth : i % kTile, q = a.inner_stride == 1 ? i % kDepth : i / kTile;
      a_tile[q][r] = row0 + r < m && k0 + q < k ? a.at(row0 + r, k0 + q) : 0.0f;
    }
    for (int i = tid; i < kTile * kDepth; i += kThreads) {
      const int r = b.inner_stride == 1 ? i / kDepth : i % kTile, q = b.inner_stride == 1 ? i % kDepth : i / kTile;
      b_tile[q][r] = column0 + r < n && k0 + q < k ? b.at(column0 + r, k0 + q) : 0.0f;
    }
    __syncthreads();
    for (int q = 0; q < kDepth; q++) {
      float left[kEach], right[kEach];
      GPU_UNROLL
      for (int i = 0; i < kEach; i++) left[i] = a_tile[q][row + i];
      GPU_UNROLL
      for (int j = 0; j < kEach; j++) right[j] = b_tile[q][column + j];
      GPU_UNROLL
      for (int i = 0; i < kEach; i++) {
        GPU_UNROLL
        for (int j = 0; j < kEach; j++) {
          float& to = kChains ? chain[i][j] : sum[i][j];
          to = fmaf(left[i], right[j], to);
        }
      }
    }
    if (kChains && ((k0 + kDepth) % kChain == 0 || k0 + kDepth >= k)) {
      GPU_UNROLL
      for (int i = 0; i < kEach; i++) {
        GPU_UNROLL
        for (int j = 0; j < kEach; j++) {
          sum[i][j] += chain[i][j];
          chain[i][j] = 0;
        }
      }
    }
    __syncthreads();
  }
  GPU_UNROLL
  for (int i = 0; i < kEach; i++) {
    GPU_UNROLL
    for (int j = 0; j < kEach; j++) {
      const int64_t y = row0 + row + i, x = column0 + column + j;
      if (y < m && x < n) c[y * n + x] = from_float<T>(sum[i][j]);
    }
  }
}

}  // namespace

void launch_gemm_f32(Stream s, const Gemm& g) {
  const int64_t m = g.c.rows, n = g.c.cols, k = g.inner;
  const Operand a{static_cast<const float*>(g.a), g.a_transposed ? 1 : k, g.a_transposed ? m : 1};
  const Operand b{static_cast<const float*>(g.b), g.b_transposed ? k : 1, g.b_transposed ? 1 : n};
  const dim3 grid(blocks_for(m, kTile), blocks_for(n, kTile));
  const float* const bias = g.bias;
  const bool accumulate = g.accumulate;
  with_type(g.c.dtype, [&](auto t) {
    using T = decltype(t);
    T* const c = g.c.as<T>();
    if (g.a_transposed) {
      GPU_LAUNCH((gemm_f32_kernel<T, false>), grid, kThreads, 0, s, c, a, b, bias, accumulate, m, n, k);
    } else {
      GPU_LAUNCH((gemm_f32_kernel<T, true>), grid, kThreads, 0, s, c, a, b, bias, accumulate, m, n, k);
    }
  });
}

}  // namespace act::cuda
