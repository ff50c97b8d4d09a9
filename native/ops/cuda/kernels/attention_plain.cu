// Attention for any type and head size up to 256: one warp a query and head (or a key and head). The fp32 option, and the
// shapes that the tensor-core version does not serve.
#include "attention_rows.cuh"

namespace act::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;
constexpr int kSlices = kMaxHeadDim / 32;  // of a head, 32 elements each: a lane holds one element of each slice

template <class T>
struct Pool {
  const T* memory;
  int kv_heads, head_dim;
  __device__ const T* key(int32_t slot, int head) const {
    const int64_t page = slot / kPageKeys, lane = slot % kPageKeys;
    return memory + ((page * kv_heads + head) * 2 * kPageKeys + lane) * head_dim;
  }
  __device__ const T* value(int32_t slot, int head) const { return key(slot, head) + kPageKeys * head_dim; }
};

template <class T>
__global__ void write_kv_kernel(T* memory, int kv_heads, int head_dim, const int32_t* slots, const T* k, const T* v,
                                int64_t rows) {
  const int64_t i = global_thread(), cols = static_cast<int64_t>(kv_heads) * head_dim;
  if (i >= rows * cols) return;
  const int64_t row = i / cols, head = i % cols / head_dim, c = i % head_dim, page = slots[row] / kPageKeys;
  T* const at = memory + ((page * kv_heads + head) * 2 * kPageKeys + slots[row] % kPageKeys) * head_dim + c;
  at[0] = k[i];
  at[kPageKeys * head_dim] = v[i];
}

/// Lane l and lane l + 16 share key l % 16 of a block and halve its dot product with `row`.
template <class T>
__device__ __forceinline__ float half_dot(const T* row, const T* key, int head_dim, int lane) {
  float sum = 0;
  for (int c = lane / 16; c < head_dim; c += 2) sum = fmaf(to_float(row[c]), to_float(key[c]), sum);
  return sum + __shfl_xor_sync(kFullWarp, sum, 16);
}

/// A thread block has kWarps rows of a tile: blockIdx.x the tile, y the key-value head, z which of its rows.
__device__ __forceinline__ int row_of_warp() { return static_cast<int>(blockIdx.z * kWarps + threadIdx.x / 32); }
inline dim3 grid_of(const AttentionShape& a) {
  // A group of more heads than a tile has rows makes tiles of one query.
  const int group = a.heads / a.kv.kv_heads, rows = group > kTileRows ? group : kTileRows;
  return {static_cast<unsigned>(a.tile_count), static_cast<unsigned>(a.kv.kv_heads), blocks_for(rows, kWarps)};
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    attention_kernel(T* out, float* lse, const T* q, Pool<T> pool, int heads, float scale, const TreeQuery* queries,
                     const KeyBlock* blocks, const QueryTile* tiles, Partials partials) {
  const int lane = static_cast<int>(threadIdx.x % 32), d = pool.head_dim, r = row_of_warp();
  const QueryTile tile = tiles[blockIdx.x];
  const TileRows rows{tile, queries, heads, heads / pool.kv_heads, static_cast<int>(blockIdx.y)};
  if (!rows.sees_any(r)) return;  // the same for the whole warp
  const int32_t within = r / rows.group;
  const int kv_head = rows.kv_head;
  const TreeQuery query = rows.query(r);
  const T* const row = q + rows.place(r) * d;

  float max = -INFINITY, sum = 0, acc[kSlices] = {};
  for (int32_t b = 0; b < tile.blocks; b++) {
    const KeyBlock& block = blocks[tile.first_block + b];
    if (within < block.first || within > block.last || block.base >= query.keys) continue;
    const int32_t slot = block.slot[lane % 16];
#ifdef ACT_FAULT_OFF_BY_ONE
    const bool seen = slot >= 0 && block.base + lane % 16 <= query.keys;
#else
    const bool seen = slot >= 0 && block.base + lane % 16 < query.keys;
#endif
    const T* const key = pool.key(seen ? slot : block.slot[0], kv_head);
    const float score = half_dot(row, key, d, lane) * scale;
    const float new_max = fmaxf(max, warp_max(seen ? score : -INFINITY));
    const float shrink = expf(max - new_max);  // first block: exp(-inf) = 0
    const float p = seen ? expf(score - new_max) : 0.0f;
    sum = sum * shrink + warp_sum(lane < 16 ? p : 0.0f);
    for (int i = 0; i < kSlices; i++) acc[i] *= shrink;
    for (int k = 0; k < kPageKeys; k++) {
      const float weight = __shfl_sync(kFullWarp, p, k);
      if (weight == 0.0f) continue;  // the same for the whole warp
      const T* const value = pool.value(block.slot[k], kv_head);
      for (int i = 0; i < kSlices; i++) {
        if (i * 32 + lane < d) acc[i] = fmaf(weight, to_float(value[i * 32 + lane]), acc[i]);
      }
    }
    max = new_max;
  }
  const int64_t whole = rows.whole(r), partial = rows.partial(r);
  for (int i = 0; i < kSlices; i++) {
    if (i * 32 + lane >= d) break;
    if (whole >= 0) out[whole * d + i * 32 + lane] = from_float<T>(acc[i] / sum);
    if (partial >= 0) partials.values[partial * d + i * 32 + lane] = acc[i];
  }
  if (lane != 0) return;
  if (lse && whole >= 0) lse[whole] = max + logf(sum);
  if (partial >= 0) partials.numbers[partial * 2] = max, partials.numbers[partial * 2 + 1] = sum;
}

template <class T>
__global__ void __launch_bounds__(kThreads) delta_kernel(float* delta, const T* dout, const T* out, int64_t rows, int d) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (row >= rows) return;
  float sum = 0;
  for (int c = static_cast<int>(threadIdx.x % 32); c < d; c += 32) sum += to_float(dout[row * d + c]) * to_float(out[row * d + c]);
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) delta[row] = sum;
}

// With P the softmax row, o = P V and ds = P * (do V^T - do . o) * scale:  dq = ds K,  dk = ds^T q,  dv = P^T do.
template <class T>
__global__ void __launch_bounds__(kThreads)
    backward_queries_kernel(T* dq, const T* dout, const T* q, const float* lse, const float* delta, Pool<T> pool, int heads,
                            float scale, const TreeQuery* queries, const KeyBlock* blocks, const QueryTile* tiles) {
  const int lane = static_cast<int>(threadIdx.x % 32), d = pool.head_dim, r = row_of_warp();
  const QueryTile tile = tiles[blockIdx.x];
  const TileRows rows{tile, queries, heads, heads / pool.kv_heads, static_cast<int>(blockIdx.y)};
  if (r >= rows.count()) return;  // the same for the whole warp
  const int32_t within = r / rows.group;
  const int kv_head = rows.kv_head;
  const TreeQuery query = rows.query(r);
  const int64_t at = rows.place(r);
  float acc[kSlices] = {};
  for (int32_t b = 0; b < tile.blocks; b++) {
    const KeyBlock& block = blocks[tile.first_block + b];
    if (within < block.first || within > block.last || block.base >= query.keys) continue;
    const bool seen = block.slot[lane % 16] >= 0 && block.base + lane % 16 < query.keys;
    const int32_t slot = seen ? block.slot[lane % 16] : block.slot[0];
    const float score = half_dot(q + at * d, pool.key(slot, kv_head), d, lane) * scale;
    const float dp = half_dot(dout + at * d, pool.value(slot, kv_head), d, lane);
    const float ds = seen ? expf(score - lse[at]) * (dp - delta[at]) * scale : 0.0f;
    for (int k = 0; k < kPageKeys; k++) {
      const float weight = __shfl_sync(kFullWarp, ds, k);
      if (block.slot[k] < 0) continue;
      const T* const key = pool.key(block.slot[k], kv_head);
      for (int i = 0; i < kSlices; i++) {
        if (i * 32 + lane < d) acc[i] = fmaf(weight, to_float(key[i * 32 + lane]), acc[i]);
      }
    }
  }
  for (int i = 0; i < kSlices; i++) {
    if (i * 32 + lane < d) dq[at * d + i * 32 + lane] = from_float<T>(acc[i]);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    backward_keys_kernel(T* dk, T* dv, const T* dout, const T* q, const float* lse, const float* delta, Pool<T> pool,
                         int heads, float scale, const TreeQuery* queries, const KeyTile* tiles, const TreeKey* keys) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32), d = pool.head_dim;
  const int kv_head = static_cast<int>(blockIdx.y), group = heads / pool.kv_heads;
  const KeyTile tile = tiles[blockIdx.x];
  for (int32_t i = warp; i < tile.keys; i += kWarps) {
    const TreeKey key = keys[tile.first_key + i];
    const T *const k = pool.key(key.slot, kv_head), *const v = pool.value(key.slot, kv_head);
    float key_sum[kSlices] = {}, value_sum[kSlices] = {};
    for (int32_t index = tile.first_query; index < tile.end_query; index++) {
      const TreeQuery query = queries[index];
      if (key.position >= query.keys) continue;  // the same for the whole warp
      for (int g = 0; g < group; g++) {
        const int64_t at = static_cast<int64_t>(query.row) * heads + kv_head * group + g;
        float score = 0, dp = 0;
        for (int c = lane; c < d; c += 32) {
          score = fmaf(to_float(q[at * d + c]), to_float(k[c]), score);
          dp = fmaf(to_float(dout[at * d + c]), to_float(v[c]), dp);
        }
        const float p = expf(warp_sum(score) * scale - lse[at]);
        const float ds = p * (warp_sum(dp) - delta[at]) * scale;
        for (int j = 0; j < kSlices; j++) {
          const int c = j * 32 + lane;
          if (c >= d) break;
          key_sum[j] = fmaf(ds, to_float(q[at * d + c]), key_sum[j]);
          value_sum[j] = fmaf(p, to_float(dout[at * d + c]), value_sum[j]);
        }
      }
    }
    const int64_t to = (static_cast<int64_t>(key.row) * pool.kv_heads + kv_head) * d;
    for (int j = 0; j < kSlices; j++) {
      const int c = j * 32 + lane;
      if (c >= d) break;
      dk[to + c] = from_float<T>(key_sum[j]);
      dv[to + c] = from_float<T>(value_sum[j]);
    }
  }
}

}  // namespace

void launch_write_kv(Stream s, const KvLayer& kv, View k, View v, const int32_t* slots) {
  with_type(kv.dtype, [&](auto t) {
    using T = decltype(t);
    T* const memory = static_cast<T*>(kv.memory);
    const T *const keys = k.as<T>(), *const values = v.as<T>();
    const int64_t rows = k.rows;
    const int heads = kv.kv_heads, d = kv.head_dim;
    GPU_LAUNCH((write_kv_kernel<T>), blocks_for(k.size(), kThreads), kThreads, 0, s, memory, heads, d, slots, keys, values, rows);
  });
}

void launch_attention_plain(Stream s, const AttentionShape& a, View out, View lse, View q) {
  with_type(a.kv.dtype, [&](auto t) {
    using T = decltype(t);
    T* const to = out.as<T>();
    float* const sums = lse.as<float>();
    const T* const from = q.as<T>();
    const Pool<T> pool{static_cast<const T*>(a.kv.memory), a.kv.kv_heads, a.kv.head_dim};
    const int heads = a.heads;
    const float scale = a.scale;
    const auto *queries = a.queries;
    const auto* blocks = a.blocks;
    const auto* tiles = a.tiles;
    GPU_LAUNCH((attention_kernel<T>), grid_of(a), kThreads, 0, s, to, sums, from, pool, heads, scale, queries, blocks, tiles, a.partials);
  });
}

void launch_attention_delta(Stream s, float* delta, View dout, View out, int head_dim) {
  with_type(out.dtype, [&](auto t) {
    using T = decltype(t);
    const T *const d = dout.as<T>(), *const o = out.as<T>();
    const int64_t rows = out.size() / head_dim;
    GPU_LAUNCH((delta_kernel<T>), blocks_for(rows, kWarps), kThreads, 0, s, delta, d, o, rows, head_dim);
  });
}

void launch_attention_backward_queries_plain(Stream s, const AttentionShape& a, View dq, View dout, View q, const float* lse,
                                             const float* delta) {
  with_type(a.kv.dtype, [&](auto t) {
    using T = decltype(t);
    T* const to = dq.as<T>();
    const T *const d = dout.as<T>(), *const from = q.as<T>();
    const Pool<T> pool{static_cast<const T*>(a.kv.memory), a.kv.kv_heads, a.kv.head_dim};
    const int heads = a.heads;
    const float scale = a.scale;
    const auto *queries = a.queries;
    const auto* blocks = a.blocks;
    const auto* tiles = a.tiles;
    GPU_LAUNCH((backward_queries_kernel<T>), grid_of(a), kThreads, 0, s, to, d, from, lse, delta, pool, heads, scale, queries, blocks, tiles);
  });
}

void launch_attention_backward_keys_plain(Stream s, const AttentionShape& a, const KeyTile* key_tiles, int tile_count,
                                          const TreeKey* keys, View dk, View dv, View dout, View q, const float* lse,
                                          const float* delta) {
  with_type(a.kv.dtype, [&](auto t) {
    using T = decltype(t);
    T *const to_k = dk.as<T>(), *const to_v = dv.as<T>();
    const T *const d = dout.as<T>(), *const from = q.as<T>();
    const Pool<T> pool{static_cast<const T*>(a.kv.memory), a.kv.kv_heads, a.kv.head_dim};
    const int heads = a.heads;
    const float scale = a.scale;
    const auto* queries = a.queries;
    const dim3 grid(static_cast<unsigned>(tile_count), static_cast<unsigned>(a.kv.kv_heads));
    GPU_LAUNCH((backward_keys_kernel<T>), grid, kThreads, 0, s, to_k, to_v, d, from, lse, delta, pool, heads, scale, queries, key_tiles, keys);
  });
}

}  // namespace act::cuda
