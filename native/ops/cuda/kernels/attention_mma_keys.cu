// Gradients of keys and values on tensor cores. A thread block is one tile of up to 64 keys of a segment with one
// key-value head, 16 keys a warp; it goes over the queries that may see them (in tree order, 16 a step) and over the
// heads of the group, and adds to its own registers: no atomics, always in the same order.
#include <type_traits>

#include "attention_tile.cuh"

namespace act::cuda {
namespace {

constexpr int kStepQueries = 16, kRing = 2;

template <int kD>
constexpr size_t kSharedBytes = (2 * kTileKeys + kRing * 2 * kStepQueries) * (kD + kRowPad) * sizeof(bf16) +
                                kRing * kStepQueries * 3 * sizeof(float);

template <int kD>
__global__ void __launch_bounds__(kAttentionThreads, kD <= 64 ? kAttentionBlocks : 2)
    backward_keys_mma_kernel(bf16* dk, bf16* dv, const bf16* dout, const bf16* q, const float* lse, const float* delta,
                             PoolOfBf16 pool, int heads, float scale, const TreeQuery* queries, const KeyTile* tiles,
                             const TreeKey* all_keys) {
  GPU_SHARED(bf16, shared);
  const KeyTile tile = tiles[blockIdx.x];
  const TreeKey* const keys = all_keys + tile.first_key;
  const int d = pool.head_dim, group = heads / pool.kv_heads, kv_head = static_cast<int>(blockIdx.y);
  const int lane = static_cast<int>(threadIdx.x % 32), first_key = static_cast<int>(threadIdx.x / 32) * 16;
  constexpr int kStride = kD + kRowPad, kStageElements = 2 * kStepQueries * kStride;
  bf16* const values = shared + kTileKeys * kStride;
  bf16* const ring = values + kTileKeys * kStride;
  float* const numbers = reinterpret_cast<float*>(ring + kRing * kStageElements);  // [ring][3][16]

  stage_rows<kD>(shared, kTileKeys, d, pool.memory, [&](int r) { return r < tile.keys ? pool.key(keys[r].slot, kv_head) : nullptr; });
  stage_rows<kD>(values, kTileKeys, d, pool.memory, [&](int r) { return r < tile.keys ? pool.value(keys[r].slot, kv_head) : nullptr; });

  const int count = tile.end_query - tile.first_query, query_steps = (count + kStepQueries - 1) / kStepQueries;
  const int steps = query_steps * group;
  // Step i: head i % group of queries from i / group * 16 on.
  const auto place = [&](int step, int r) {
    const int index = step / group * kStepQueries + r;
    return index < count ? static_cast<int64_t>(queries[tile.first_query + index].row) * heads + kv_head * group + step % group
                         : int64_t{-1};
  };
  const auto load = [&](int step) {
    if (step < steps) {
      bf16* const at = ring + step % kRing * kStageElements;
      stage_rows<kD>(at, kStepQueries, d, pool.memory, [&](int r) {
        const int64_t p = place(step, r);
        return p >= 0 ? q + p * d : nullptr;
      });
      stage_rows<kD>(at + kStepQueries * kStride, kStepQueries, d, pool.memory, [&](int r) {
        const int64_t p = place(step, r);
        return p >= 0 ? dout + p * d : nullptr;
      });
      if (threadIdx.x < kStepQueries) {
        const int r = static_cast<int>(threadIdx.x), index = step / group * kStepQueries + r;
        const int64_t p = place(step, r);
        float* const n = numbers + step % kRing * 3 * kStepQueries + r;
        n[0] = p >= 0 ? lse[p] : 0.0f;
        n[kStepQueries] = p >= 0 ? delta[p] : 0.0f;
        // Key counts are below 2^24 (positions), so exact.
        n[2 * kStepQueries] = p >= 0 ? static_cast<float>(queries[tile.first_query + index].keys) : 0.0f;
      }
    }
    copy_async_commit();
  };
  load(0);

  const int mine[2] = {first_key + lane / 4, first_key + lane / 4 + 8};
  float position[2];
  for (int half = 0; half < 2; half++) {
    position[half] = mine[half] < tile.keys ? static_cast<float>(keys[mine[half]].position) : INFINITY;  // seen by none
  }
  float key_sum[kD / 8][4] = {}, value_sum[kD / 8][4] = {};
  for (int step = 0; step < steps; step++) {
    load(step + 1);
    copy_async_wait<1>();
    __syncthreads();
    const bf16* const rows = ring + step % kRing * kStageElements;
    const bf16* const gradients = rows + kStepQueries * kStride;
    const float* const n = numbers + step % kRing * 3 * kStepQueries;
    if (first_key < tile.keys) {
      float s[2][4] = {}, dp[2][4] = {};
      multiply_rows<kD>(s, shared, first_key, rows, 0);
      multiply_rows<kD>(dp, values, first_key, gradients, 0);
      GPU_UNROLL
      for (int j = 0; j < 2; j++) {
        GPU_UNROLL
        for (int e = 0; e < 4; e++) {
          const int column = j * 8 + lane % 4 * 2 + e % 2;
          const bool seen = position[e / 2] < n[2 * kStepQueries + column];
          s[j][e] = seen ? expf(s[j][e] * scale - n[column]) : 0.0f;
          dp[j][e] = s[j][e] * (dp[j][e] - n[kStepQueries + column]) * scale;
        }
      }
      add_weighted_rows<kD>(value_sum, s, gradients, 0);
      add_weighted_rows<kD>(key_sum, dp, rows, 0);
    }
    __syncthreads();
  }
  const float one[2] = {1, 1};
  const auto address = [&](bf16* base) {
    return [&, base](int half) {
      return mine[half] < tile.keys ? base + (static_cast<int64_t>(keys[mine[half]].row) * pool.kv_heads + kv_head) * d : nullptr;
    };
  };
  write_rows<kD>(key_sum, one, d, address(dk));
  write_rows<kD>(value_sum, one, d, address(dv));
}

}  // namespace

void launch_attention_backward_keys_mma(Stream s, const AttentionShape& a, const KeyTile* key_tiles, int tile_count,
                                        const TreeKey* keys, View dk, View dv, View dout, View q, const float* lse,
                                        const float* delta) {
  with_head_dim(a.kv.head_dim, [&](auto size) {
    constexpr int kD = decltype(size)::value;
    bf16 *const to_k = dk.as<bf16>(), *const to_v = dv.as<bf16>();
    const bf16 *const d = dout.as<bf16>(), *const from = q.as<bf16>();
    const PoolOfBf16 pool{static_cast<const bf16*>(a.kv.memory), a.kv.kv_heads, a.kv.head_dim};
    const int heads = a.heads;
    const float scale = a.scale;
    const auto* queries = a.queries;
    const dim3 grid(static_cast<unsigned>(tile_count), static_cast<unsigned>(a.kv.kv_heads));
    GPU_LAUNCH((backward_keys_mma_kernel<kD>), grid, kAttentionThreads, kSharedBytes<kD>, s, to_k, to_v, d, from, lse, delta, pool, heads, scale, queries, key_tiles, keys);
  });
}

}  // namespace act::cuda
