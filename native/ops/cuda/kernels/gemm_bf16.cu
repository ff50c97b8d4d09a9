// bf16 products on tensor cores: mma.sync m16n8k16, fp32 accumulation, operands through a ring of cp.async stages.
//
// Every element is one chain of mma steps over ascending k, 16 at a time, whatever the tile: the tile is chosen by the
// shape for speed, and the bits do not depend on it. So a row's result does not depend on how many rows the batch has.
#include "launch.cuh"

namespace act::cuda {
namespace {

constexpr int kDepth = 32, kStages = 3;
/// Padding of a row of shared memory: rows stay 16-byte aligned and eight of them touch all banks once.
constexpr int kPad = 8;

/// How an operand lies in memory and in shared memory: [outer][k], or transposed [k][outer].
template <int kOuter, bool kTransposed>
struct TileShape {
  static constexpr int kRows = kTransposed ? kDepth : kOuter;
  static constexpr int kColumns = kTransposed ? kOuter : kDepth;
  static constexpr int kStride = kColumns + kPad;
  static constexpr int kElements = kRows * kStride;
};

/// Stages one tile: `outer0` first row (or column) of the operand, `k0` first inner index; zeros outside.
template <int kOuter, bool kTransposed, bool kAligned, int kThreads>
__device__ __forceinline__ void stage_tile(bf16* tile, const bf16* from, int64_t outer0, int64_t k0, int64_t outer, int64_t inner) {
  using Shape = TileShape<kOuter, kTransposed>;
  const int64_t rows = kTransposed ? inner : outer, columns = kTransposed ? outer : inner;
  const int64_t row0 = kTransposed ? k0 : outer0, column0 = kTransposed ? outer0 : k0;
  if constexpr (kAligned) {
    constexpr int kChunks = Shape::kColumns / 8;
    for (int i = static_cast<int>(threadIdx.x); i < Shape::kRows * kChunks; i += kThreads) {
      const int r = i / kChunks, c = i % kChunks * 8;
      const bool valid = row0 + r < rows && column0 + c < columns;
      copy_async_16(tile + r * Shape::kStride + c, valid ? from + (row0 + r) * columns + column0 + c : from, valid);
    }
  } else {
    GPU_KEEP_LOOP
    for (int i = static_cast<int>(threadIdx.x); i < Shape::kRows * Shape::kColumns; i += kThreads) {
      const int r = i / Shape::kColumns, c = i % Shape::kColumns;
      const bool valid = row0 + r < rows && column0 + c < columns;
      tile[r * Shape::kStride + c] = valid ? from[(row0 + r) * columns + column0 + c] : bf16{0};
    }
  }
}

/// Registers of A for rows m .. m + 15 and inner indices k .. k + 15 of the tile.
template <int kOuter, bool kTransposed>
__device__ __forceinline__ void load_a(uint32_t (&r)[4], const bf16* tile, int m, int k) {
  constexpr int kStride = TileShape<kOuter, kTransposed>::kStride;
  const int lane = static_cast<int>(threadIdx.x % 32), matrix = lane / 8, row = lane % 8;
  if constexpr (kTransposed) {
    load_matrices_transposed(r, tile + (k + matrix / 2 * 8 + row) * kStride + m + matrix % 2 * 8);
  } else {
    load_matrices(r, tile + (m + matrix % 2 * 8 + row) * kStride + k + matrix / 2 * 8);
  }
}

/// Registers of B for columns n .. n + 15: two n8 tiles, r[0], r[1] and r[2], r[3]. `kTransposed` as stored: [k][n].
template <int kOuter, bool kTransposed>
__device__ __forceinline__ void load_b(uint32_t (&r)[4], const bf16* tile, int n, int k) {
  constexpr int kStride = TileShape<kOuter, kTransposed>::kStride;
  const int lane = static_cast<int>(threadIdx.x % 32), matrix = lane / 8, row = lane % 8;
  if constexpr (kTransposed) {
    load_matrices_transposed(r, tile + (k + matrix % 2 * 8 + row) * kStride + n + matrix / 2 * 8);
  } else {
    load_matrices(r, tile + (n + matrix / 2 * 8 + row) * kStride + k + matrix % 2 * 8);
  }
}

template <int kM, int kN, int kWarpM, int kWarpN, bool kATransposed, bool kBByK, bool kAligned>
struct Tiling {
  static constexpr int kThreads = kM / kWarpM * (kN / kWarpN) * 32;
  static constexpr int kStageElements = TileShape<kM, kATransposed>::kElements + TileShape<kN, kBByK>::kElements;
  static constexpr size_t kSharedBytes = kStages * kStageElements * sizeof(bf16);
  /// Thread blocks a multiprocessor holds at least. Two of 256 threads would leave 128 registers a thread, with which ptxas
  /// spills some forms on some architectures.
  static constexpr int kBlocks = kThreads < 256 ? 4 : 1;
};

template <int kM, int kN, int kWarpM, int kWarpN, bool kATransposed, bool kBByK, bool kAligned>
__global__ void __launch_bounds__(Tiling<kM, kN, kWarpM, kWarpN, kATransposed, kBByK, kAligned>::kThreads,
                                  Tiling<kM, kN, kWarpM, kWarpN, kATransposed, kBByK, kAligned>::kBlocks)
    gemm_bf16_kernel(void* c, bool c_bf16, const bf16* a, const bf16* b, const float* bias, bool accumulate, int64_t m,
                     int64_t n, int64_t k) {
  using Shape = Tiling<kM, kN, kWarpM, kWarpN, kATransposed, kBByK, kAligned>;
  constexpr int kThreads = Shape::kThreads, kTilesM = kWarpM / 16, kTilesN = kWarpN / 8;
  GPU_SHARED(bf16, shared);
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  const int warp_m = warp / (kN / kWarpN) * kWarpM, warp_n = warp % (kN / kWarpN) * kWarpN;
  const int64_t row0 = static_cast<int64_t>(blockIdx.x) * kM, column0 = static_cast<int64_t>(blockIdx.y) * kN;
  const auto a_tile = [&](int step) { return shared + step % kStages * Shape::kStageElements; };
  const auto b_tile = [&](int step) { return a_tile(step) + TileShape<kM, kATransposed>::kElements; };
  const auto stage = [&](int step) {
    const int64_t k0 = static_cast<int64_t>(step) * kDepth;
    stage_tile<kM, kATransposed, kAligned, kThreads>(a_tile(step), a, row0, k0, m, k);
    stage_tile<kN, kBByK, kAligned, kThreads>(b_tile(step), b, column0, k0, n, k);
  };

  float sum[kTilesM][kTilesN][4];
  const auto element = [&](int i, int j, int e, int64_t& y, int64_t& x) {
    y = row0 + warp_m + i * 16 + lane / 4 + e / 2 * 8;
    x = column0 + warp_n + j * 8 + lane % 4 * 2 + e % 2;
    return y < m && x < n;
  };
  GPU_UNROLL
  for (int i = 0; i < kTilesM; i++) {
    GPU_UNROLL
    for (int j = 0; j < kTilesN; j++) {
      GPU_UNROLL
      for (int e = 0; e < 4; e++) {
        int64_t y, x;
        const bool inside = element(i, j, e, y, x);
        float start = bias && inside ? bias[x] : 0.0f;
        if (accumulate && inside) {
          start += c_bf16 ? to_float(static_cast<const bf16*>(c)[y * n + x]) : static_cast<const float*>(c)[y * n + x];
        }
        sum[i][j][e] = start;
      }
    }
  }

  const int steps = static_cast<int>((k + kDepth - 1) / kDepth);
  for (int step = 0; step < kStages - 1; step++) {
    if (step < steps) stage(step);
    copy_async_commit();
  }
  for (int step = 0; step < steps; step++) {
    copy_async_wait<kStages - 2>();
    // One barrier does both: this step's tiles have landed for all, and all have read the tile that is staged next.
#ifndef ACT_FAULT_MISSING_BARRIER
    __syncthreads();
#endif
    if (step + kStages - 1 < steps) stage(step + kStages - 1);
    copy_async_commit();
    const bf16 *const at = a_tile(step), *const bt = b_tile(step);
    GPU_UNROLL
    for (int kk = 0; kk < kDepth; kk += 16) {
      uint32_t fa[kTilesM][4], fb[kTilesN / 2][4];
      GPU_UNROLL
      for (int i = 0; i < kTilesM; i++) load_a<kM, kATransposed>(fa[i], at, warp_m + i * 16, kk);
      GPU_UNROLL
      for (int j = 0; j < kTilesN / 2; j++) load_b<kN, kBByK>(fb[j], bt, warp_n + j * 16, kk);
      GPU_UNROLL
      for (int i = 0; i < kTilesM; i++) {
        GPU_UNROLL
        for (int j = 0; j < kTilesN; j++) mma_16x8x16(sum[i][j], fa[i], fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]);
      }
    }
  }
  GPU_UNROLL
  for (int i = 0; i < kTilesM; i++) {
    GPU_UNROLL
    for (int j = 0; j < kTilesN; j++) {
      GPU_UNROLL
      for (int e = 0; e < 4; e++) {
        int64_t y, x;
        if (!element(i, j, e, y, x)) continue;
        if (c_bf16) {
          static_cast<bf16*>(c)[y * n + x] = round_bf16(sum[i][j][e]);
        } else {
          static_cast<float*>(c)[y * n + x] = sum[i][j][e];
        }
      }
    }
  }
}

template <int kM, int kN, int kWarpM, int kWarpN, bool kATransposed, bool kBByK, bool kAligned>
void launch_tiles(Stream s, const Gemm& g) {
  using Shape = Tiling<kM, kN, kWarpM, kWarpN, kATransposed, kBByK, kAligned>;
  const int64_t m = g.c.rows, n = g.c.cols, k = g.inner;
  void* const c = g.c.data;
  const bool c_bf16 = g.c.dtype == DType::bf16, accumulate = g.accumulate;
  const auto *a = static_cast<const bf16*>(g.a), *b = static_cast<const bf16*>(g.b);
  const float* const bias = g.bias;
  const dim3 grid(blocks_for(m, kM), blocks_for(n, kN));
  GPU_LAUNCH((gemm_bf16_kernel<kM, kN, kWarpM, kWarpN, kATransposed, kBByK, kAligned>), grid, Shape::kThreads,
             Shape::kSharedBytes, s, c, c_bf16, a, b, bias, accumulate, m, n, k);
}

template <bool kATransposed, bool kBByK>
void launch_form(Stream s, const Gemm& g) {
  const int64_t m = g.c.rows, n = g.c.cols;
  const int64_t a_row = kATransposed ? m : g.inner, b_row = kBByK ? n : g.inner;
  const auto address = reinterpret_cast<uintptr_t>(g.a) | reinterpret_cast<uintptr_t>(g.b);
  const bool aligned = a_row % 8 == 0 && b_row % 8 == 0 && address % 16 == 0;
  if (!aligned) return launch_tiles<64, 64, 32, 32, kATransposed, kBByK, false>(s, g);
  if constexpr (!kATransposed) {  // few rows: decoding; the weights are all there is to read
    if (m <= 16) return launch_tiles<16, 64, 16, 16, kATransposed, kBByK, true>(s, g);
  }
  if (m >= 128 && n >= 128) return launch_tiles<128, 128, 64, 32, kATransposed, kBByK, true>(s, g);
  launch_tiles<64, 64, 32, 32, kATransposed, kBByK, true>(s, g);
}

}  // namespace

void launch_gemm_bf16(Stream s, const Gemm& g) {
  // B is stored [k][n] unless transposed: [n][k].
  if (g.a_transposed) return launch_form<true, true>(s, g);
  if (g.b_transposed) return launch_form<false, false>(s, g);
  launch_form<false, true>(s, g);
}

}  // namespace act::cuda
