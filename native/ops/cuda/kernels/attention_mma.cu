// Forest attention on tensor cores: forward, and the gradient of the queries.
//
// A thread block is one query tile with one key-value head: up to 64 rows (query times head of the group), 16 a warp.
// Blocks of 16 keys come through a ring of stages, two blocks a stage; each is read once for all rows of the tile. The
// softmax goes on block by block in ascending position, and a block that a row does not see leaves its sums bit for bit
// as they were: so a row's bits do not depend on the tile it is in. Rows of more than one partition leave partial results.
#include <type_traits>

#include "attention_tile.cuh"

namespace act::cuda {
namespace {

constexpr int kStageBlocks = 2, kStageKeys = kStageBlocks * kPageKeys, kRing = 2;

template <int kD>
constexpr size_t kForwardSharedBytes = (kTileRows + kRing * 2 * kStageKeys) * (kD + kRowPad) * sizeof(bf16);
template <int kD>
constexpr size_t kBackwardSharedBytes = (2 * kTileRows + kRing * 2 * kStageKeys) * (kD + kRowPad) * sizeof(bf16);

/// The ring of key and value stages of one tile.
template <int kD>
struct KeyRing {
  static constexpr int kStageElements = 2 * kStageKeys * (kD + kRowPad);
  bf16* memory;
  const KeyBlock* blocks;  // the tile's first
  int count, kv_head;
  PoolOfBf16 pool;

  __device__ int stages() const { return (count + kStageBlocks - 1) / kStageBlocks; }
  __device__ bf16* keys(int stage) const { return memory + stage % kRing * kStageElements; }
  __device__ bf16* values(int stage) const { return keys(stage) + kStageKeys * (kD + kRowPad); }
  __device__ int32_t slot(int stage, int r) const {
    const int b = stage * kStageBlocks + r / kPageKeys;
    return b < count ? blocks[b].slot[r % kPageKeys] : -1;
  }
  __device__ void load(int stage) const {
    if (stage < stages()) {
      stage_rows<kD>(keys(stage), kStageKeys, pool.head_dim, pool.memory, [&](int r) {
        const int32_t at = slot(stage, r);
        return at >= 0 ? pool.key(at, kv_head) : nullptr;
      });
      stage_rows<kD>(values(stage), kStageKeys, pool.head_dim, pool.memory, [&](int r) {
        const int32_t at = slot(stage, r);
        return at >= 0 ? pool.value(at, kv_head) : nullptr;
      });
    }
    copy_async_commit();
  }
};

/// Which of this thread's rows (two halves) see which of its columns (two n8 tiles, two each) of a block.
struct Sight {
  int32_t keys[2];    // the rows' key counts, 0 outside the block's queries
  int32_t base;
  __device__ bool operator()(int half, int j, int e) const {
    return base + j * 8 + static_cast<int>(threadIdx.x % 4) * 2 + e < keys[half];
  }
};

__device__ __forceinline__ Sight sight_of(const KeyBlock& block, const int (&query)[2], const int32_t (&keys)[2]) {
  Sight s{{0, 0}, block.base};
  for (int half = 0; half < 2; half++) {
    if (query[half] >= block.first && query[half] <= block.last) s.keys[half] = keys[half];
  }
  return s;
}

template <int kD>
__global__ void __launch_bounds__(kAttentionThreads, kAttentionBlocks)
    attention_mma_kernel(bf16* out, float* lse, const bf16* q, PoolOfBf16 pool, int heads, float scale,
                         const TreeQuery* queries, const KeyBlock* blocks, const QueryTile* tiles, Partials partials) {
  GPU_SHARED(bf16, shared);
  const QueryTile tile = tiles[blockIdx.x];
  if (tile.queries == 0) return;
  const TileRows rows{tile, queries, heads, heads / pool.kv_heads, static_cast<int>(blockIdx.y)};
  const int d = pool.head_dim, lane = static_cast<int>(threadIdx.x % 32), first_row = static_cast<int>(threadIdx.x / 32) * 16;
  const KeyRing<kD> ring{shared + kTileRows * (kD + kRowPad), blocks + tile.first_block, tile.blocks, rows.kv_head, pool};

  stage_rows<kD>(shared, kTileRows, d, pool.memory, [&](int r) {
    const int64_t place = rows.place(r);
    return place >= 0 ? q + place * d : nullptr;
  });
  ring.load(0);

  const int mine[2] = {first_row + lane / 4, first_row + lane / 4 + 8};
  const int query[2] = {mine[0] / rows.group, mine[1] / rows.group};
  const int32_t keys[2] = {rows.keys(mine[0]), rows.keys(mine[1])};
  const int first_query = first_row / rows.group, last_query = (first_row + 15) / rows.group;  // of the warp
  float max[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0}, acc[kD / 8][4] = {};
  for (int stage = 0; stage < ring.stages(); stage++) {
    ring.load(stage + 1);
    copy_async_wait<1>();
    __syncthreads();
    for (int b = 0; b < kStageBlocks && stage * kStageBlocks + b < tile.blocks; b++) {
      const KeyBlock& block = ring.blocks[stage * kStageBlocks + b];
      if (block.last < first_query || block.first > last_query) continue;  // the same for the whole warp
      const Sight sees = sight_of(block, query, keys);
      float s[2][4] = {};
      multiply_rows<kD>(s, shared, first_row, ring.keys(stage), b * kPageKeys);
      float top[2] = {-INFINITY, -INFINITY};
      GPU_UNROLL
      for (int j = 0; j < 2; j++) {
        GPU_UNROLL
        for (int e = 0; e < 4; e++) {
          s[j][e] = sees(e / 2, j, e % 2) ? s[j][e] * scale : -INFINITY;
          top[e / 2] = fmaxf(top[e / 2], s[j][e]);
        }
      }
      bool grows = false;
      float shrink[2];
      GPU_UNROLL
      for (int half = 0; half < 2; half++) {
        top[half] = fmaxf(top[half], __shfl_xor_sync(kFullWarp, top[half], 1));
        top[half] = fmaxf(top[half], __shfl_xor_sync(kFullWarp, top[half], 2));
        const float before = max[half];
        max[half] = fmaxf(before, top[half]);
        shrink[half] = max[half] > before ? expf(before - max[half]) : 1.0f;
        grows = grows || max[half] > before;
      }
      // Multiplying by 1 changes nothing, so it may be left out.
      if (__any_sync(kFullWarp, grows)) {
        GPU_UNROLL
        for (int n = 0; n < kD / 8; n++) {
          GPU_UNROLL
          for (int e = 0; e < 4; e++) acc[n][e] *= shrink[e / 2];
        }
        sum[0] *= shrink[0];
        sum[1] *= shrink[1];
      }
      GPU_UNROLL
      for (int half = 0; half < 2; half++) {
        float part = 0;
        GPU_UNROLL
        for (int j = 0; j < 2; j++) {
          GPU_UNROLL
          for (int e = 0; e < 2; e++) {
            float& x = s[j][half * 2 + e];
            x = sees(half, j, e) ? expf(x - max[half]) : 0.0f;
            part += x;
          }
        }
        sum[half] += part;
      }
      add_weighted_rows<kD>(acc, s, ring.values(stage), b * kPageKeys);
    }
    __syncthreads();  // the stage may be overwritten
  }
  float factor[2];
  GPU_UNROLL
  for (int half = 0; half < 2; half++) {
    sum[half] += __shfl_xor_sync(kFullWarp, sum[half], 1);
    sum[half] += __shfl_xor_sync(kFullWarp, sum[half], 2);
    factor[half] = 1.0f / sum[half];
    if (lane % 4 != 0) continue;
    const int64_t whole = rows.whole(mine[half]), partial = rows.partial(mine[half]);
    if (lse && whole >= 0) lse[whole] = max[half] + logf(sum[half]);
    if (partial >= 0) partials.numbers[partial * 2] = max[half], partials.numbers[partial * 2 + 1] = sum[half];
  }
  write_rows<kD>(acc, factor, d, [&](int half) {
    const int64_t whole = rows.whole(mine[half]);
    return whole >= 0 ? out + whole * d : nullptr;
  });
  write_partial_rows<kD>(acc, d, [&](int half) {
    const int64_t partial = rows.partial(mine[half]);
    return partial >= 0 ? partials.values + partial * d : nullptr;
  });
}

// ds = P * (do V^T - delta) * scale;  dq = ds K.
template <int kD>
__global__ void __launch_bounds__(kAttentionThreads, kAttentionBlocks)
    backward_queries_mma_kernel(bf16* dq, const bf16* dout, const bf16* q, const float* lse, const float* delta,
                                PoolOfBf16 pool, int heads, float scale, const TreeQuery* queries, const KeyBlock* blocks,
                                const QueryTile* tiles) {
  GPU_SHARED(bf16, shared);
  const QueryTile tile = tiles[blockIdx.x];
  const TileRows rows{tile, queries, heads, heads / pool.kv_heads, static_cast<int>(blockIdx.y)};
  const int d = pool.head_dim, lane = static_cast<int>(threadIdx.x % 32), first_row = static_cast<int>(threadIdx.x / 32) * 16;
  bf16* const gradients = shared + kTileRows * (kD + kRowPad);
  const KeyRing<kD> ring{gradients + kTileRows * (kD + kRowPad), blocks + tile.first_block, tile.blocks, rows.kv_head, pool};
  const auto address = [&](const bf16* base) {
    return [&rows, base, d](int r) {
      const int64_t place = rows.place(r);
      return place >= 0 ? base + place * d : nullptr;
    };
  };
  stage_rows<kD>(shared, kTileRows, d, pool.memory, address(q));
  stage_rows<kD>(gradients, kTileRows, d, pool.memory, address(dout));
  ring.load(0);

  const int mine[2] = {first_row + lane / 4, first_row + lane / 4 + 8};
  const int query[2] = {mine[0] / rows.group, mine[1] / rows.group};
  const int32_t keys[2] = {rows.keys(mine[0]), rows.keys(mine[1])};
  const int first_query = first_row / rows.group, last_query = (first_row + 15) / rows.group;
  float log_sum[2] = {0, 0}, correction[2] = {0, 0}, acc[kD / 8][4] = {};
  for (int half = 0; half < 2; half++) {
    const int64_t place = rows.place(mine[half]);
    if (place >= 0) log_sum[half] = lse[place], correction[half] = delta[place];
  }
  for (int stage = 0; stage < ring.stages(); stage++) {
    ring.load(stage + 1);
    copy_async_wait<1>();
    __syncthreads();
    for (int b = 0; b < kStageBlocks && stage * kStageBlocks + b < tile.blocks; b++) {
      const KeyBlock& block = ring.blocks[stage * kStageBlocks + b];
      if (block.last < first_query || block.first > last_query) continue;
      const Sight sees = sight_of(block, query, keys);
      float s[2][4] = {}, dp[2][4] = {};
      multiply_rows<kD>(s, shared, first_row, ring.keys(stage), b * kPageKeys);
      multiply_rows<kD>(dp, gradients, first_row, ring.values(stage), b * kPageKeys);
      GPU_UNROLL
      for (int j = 0; j < 2; j++) {
        GPU_UNROLL
        for (int e = 0; e < 4; e++) {
          const int half = e / 2;
          const float p = sees(half, j, e % 2) ? expf(s[j][e] * scale - log_sum[half]) : 0.0f;
          s[j][e] = p * (dp[j][e] - correction[half]) * scale;
        }
      }
      add_weighted_rows<kD>(acc, s, ring.keys(stage), b * kPageKeys);
    }
    __syncthreads();
  }
  const float one[2] = {1, 1};
  write_rows<kD>(acc, one, d, [&](int half) {
    const int64_t place = rows.place(mine[half]);
    return place >= 0 ? dq + place * d : nullptr;
  });
}

}  // namespace

bool tensor_cores_serve(const KvLayer& kv, int heads) {
  return kv.dtype == DType::bf16 && kv.head_dim % 8 == 0 && kv.head_dim <= 128 && heads / kv.kv_heads <= kTileRows;
}

void launch_attention_mma(Stream s, const AttentionShape& a, View out, View lse, View q) {
  with_head_dim(a.kv.head_dim, [&](auto size) {
    constexpr int kD = decltype(size)::value;
    bf16* const to = out.as<bf16>();
    float* const sums = lse.as<float>();
    const bf16* const from = q.as<bf16>();
    const PoolOfBf16 pool{static_cast<const bf16*>(a.kv.memory), a.kv.kv_heads, a.kv.head_dim};
    const int heads = a.heads;
    const float scale = a.scale;
    const auto *queries = a.queries;
    const auto* blocks = a.blocks;
    const auto* tiles = a.tiles;
    const dim3 grid(static_cast<unsigned>(a.tile_count), static_cast<unsigned>(a.kv.kv_heads));
    GPU_LAUNCH((attention_mma_kernel<kD>), grid, kAttentionThreads, kForwardSharedBytes<kD>, s, to, sums, from, pool, heads, scale, queries, blocks, tiles, a.partials);
  });
}

void launch_attention_backward_queries_mma(Stream s, const AttentionShape& a, View dq, View dout, View q, const float* lse,
                                           const float* delta) {
  with_head_dim(a.kv.head_dim, [&](auto size) {
    constexpr int kD = decltype(size)::value;
    bf16* const to = dq.as<bf16>();
    const bf16 *const d = dout.as<bf16>(), *const from = q.as<bf16>();
    const PoolOfBf16 pool{static_cast<const bf16*>(a.kv.memory), a.kv.kv_heads, a.kv.head_dim};
    const int heads = a.heads;
    const float scale = a.scale;
    const auto *queries = a.queries;
    const auto* blocks = a.blocks;
    const auto* tiles = a.tiles;
    const dim3 grid(static_cast<unsigned>(a.tile_count), static_cast<unsigned>(a.kv.kv_heads));
    GPU_LAUNCH((backward_queries_mma_kernel<kD>), grid, kAttentionThreads, kBackwardSharedBytes<kD>, s, to, d, from, lse, delta, pool, heads, scale, queries, blocks, tiles);
  });
}

}  // namespace act::cuda
