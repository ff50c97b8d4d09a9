// The rows that a thread block of attention works on, and where their results go.
#pragma once
#include "launch.cuh"

namespace act::cuda {

/// Row r of a tile is query r / group of the tile, head r % group of the key-value head's group.
struct TileRows {
  QueryTile tile;
  const TreeQuery* queries;  // of the whole plan
  int heads, group, kv_head;
  __device__ int count() const { return tile.queries * group; }
  __device__ const TreeQuery& query(int row) const { return queries[tile.first_query + row / group]; }
  __device__ int head(int row) const { return kv_head * group + row % group; }
  /// Index into [T, H] of a row, -1 behind the last.
  __device__ int64_t place(int row) const {
    return row < count() ? static_cast<int64_t>(query(row).row) * heads + head(row) : -1;
  }
  __device__ int32_t keys(int row) const { return row < count() ? query(row).keys : 0; }
  __device__ bool sees_any(int row) const { return keys(row) > tile.first_key; }
  /// The place of a row that sees keys of this partition only, else -1.
  __device__ int64_t whole(int row) const { return sees_any(row) && query(row).first_partial < 0 ? place(row) : -1; }
  /// Index into [partials, H] of a row that sees keys of this partition and of others, else -1.
  __device__ int64_t partial(int row) const {
    if (!sees_any(row) || query(row).first_partial < 0) return -1;
    return static_cast<int64_t>(query(row).first_partial + tile.partition) * heads + head(row);
  }
};

}  // namespace act::cuda
