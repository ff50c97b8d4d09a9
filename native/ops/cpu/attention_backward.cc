// Gradients of attention. With P the softmax row, o = P V and ds = P * (do V^T - do . o) * scale:
//   dq = ds K,  dk = ds^T q,  dv = P^T do.
// A task is one tree with one key-value head: it alone owns the gradients of the tree's keys, so their chains run over
// the tree's queries in depth-first order whatever the threads do.
#include <algorithm>
#include <cmath>

#include "cpu_backend.h"

namespace act::cpu {
namespace {

/// Keys and values of one tree and head, repacked: segment after segment without gaps, key i in lane i % 16 of page i
/// / 16.
struct TreeKeys {
  float *keys, *values;  // transposed pages [d][16]
  float* key_rows;       // [pages * 16][padded d]
  float *dk, *dv;        // [pages * 16][padded d]
};

int64_t tree_floats(int64_t keys, int64_t d, int64_t padded) {
  return page_span(static_cast<int32_t>(keys)) * kPageKeys * (2 * d + 3 * padded);
}

}  // namespace

size_t CpuBackend::attention_scratch_bytes(int64_t rows, int64_t widest) const {
  // Per thread: two tiles of scores (attention_plan.cc bounds one to 4 MiB plus its margins), the rows of a tile, and
  // a tree of at most `rows` keys; head dimensions up to 256.
  const int64_t d = std::min<int64_t>((widest + 15) / 16 * 16, 256);
  const int64_t tile = 2 * ((1 << 20) + 64 * 3 * kPageKeys) + 3 * 64 * d;
  return static_cast<size_t>(pool_.threads() * (tile + tree_floats(rows, d, d))) * 4;
}

void CpuBackend::attention_backward(View dq, View dk, View dv, View dout, View out, View lse, View q,
                                    const KvPool& base, int layer, const Forest& forest, float scale) {
  const auto& pool = static_cast<const CpuKvPool&>(base);
  const int64_t d = pool.head_dim, padded = pool.padded_dim, heads = q.cols / d, group = heads / pool.kv_heads;
  require_shape(q, forest.rows, group * pool.kv_heads * d, "attention_backward: q must be [T, H * d]");
  require_shape(dq, q.rows, q.cols, "attention_backward: dq must have q's shape");
  require_shape(dout, q.rows, q.cols, "attention_backward: dout must have q's shape");
  require_shape(out, q.rows, q.cols, "attention_backward: out must have q's shape");
  require_shape(lse, q.rows, heads, "attention_backward: lse must be [T, H]");
  require_shape(dk, q.rows, pool.kv_heads * d, "attention_backward: dk must be [T, Hk * d]");
  require_shape(dv, q.rows, pool.kv_heads * d, "attention_backward: dv must be [T, Hk * d]");
  for (const Segment& s : forest.segments) {
    require(s.key_count == s.query_count, "attention_backward: every key of the forest must be a row of the batch");
  }
  const AttentionPlan& plan = plan_for(pool, forest, static_cast<int>(group));

  std::vector<int64_t> first_key(forest.segments.size());  // of a segment, within its tree
  std::vector<int64_t> tree_keys(plan.trees.size());
  int64_t tile_floats = 0, most_keys = 0;
  for (const Tile& tile : plan.tiles) {
    tile_floats = std::max(tile_floats, tile.queries * group * (2 * score_stride(tile.keys) + 3 * padded));
  }
  for (size_t t = 0; t < plan.trees.size(); t++) {
    const Tree& tree = plan.trees[t];
    for (int32_t i = 0; i < tree.segments; i++) {
      const auto segment = static_cast<size_t>(plan.tree_segments[static_cast<size_t>(tree.first_segment + i)]);
      first_key[segment] = tree_keys[t];
      tree_keys[t] += forest.segments[segment].key_count;
    }
    most_keys = std::max(most_keys, tree_keys[t]);
  }
  const int64_t per_thread = tile_floats + tree_floats(most_keys, d, padded);
  float* const scratch = attention_scratch_.get(*this, per_thread * pool_.threads());
  const Kernels& k = kernels_;

  pool_.run(static_cast<int64_t>(plan.trees.size()) * pool.kv_heads, [&](int64_t task, int thread) {
    const auto tree_index = static_cast<size_t>(task / pool.kv_heads);
    const Tree& tree = plan.trees[tree_index];
    const int64_t head = task % pool.kv_heads,
                  slots = int64_t{page_span(static_cast<int32_t>(tree_keys[tree_index]))} * kPageKeys;
    TreeKeys keys;
    keys.keys = scratch + thread * per_thread;
    keys.values = keys.keys + slots * d;
    keys.key_rows = keys.values + slots * d;
    keys.dk = keys.key_rows + slots * padded;
    keys.dv = keys.dk + slots * padded;
    float* const tile_scratch = keys.dv + slots * padded;
    std::fill_n(keys.keys, slots * (2 * d + 3 * padded), 0.0f);

    const Pages pages = pool.pages_of(layer, static_cast<int>(head));
    const std::span<const int32_t> segments{plan.tree_segments.data() + tree.first_segment,
                                            static_cast<size_t>(tree.segments)};
    for (const int32_t index : segments) {
      const Segment& s = forest.segments[static_cast<size_t>(index)];
      for (int32_t i = 0; i < s.key_count; i++) {
        const int32_t lane = (s.first_lane + i) % kPageKeys;
        const int32_t page = forest.pages[static_cast<size_t>(s.first_page + (s.first_lane + i) / kPageKeys)];
        const int64_t slot = first_key[static_cast<size_t>(index)] + i;
        float* key = keys.keys + slot / kPageKeys * d * kPageKeys + slot % kPageKeys;
        float* value = keys.values + slot / kPageKeys * d * kPageKeys + slot % kPageKeys;
        float* key_row = keys.key_rows + slot * padded;
        const void* const keys_at = pages.at(page, lane);
        const void* const value_at = pages.at(page, pool.values_at() + lane * padded);
        for (int64_t c = 0; c < d; c++) {
          key_row[c] = key[c * kPageKeys] = element_as_float(keys_at, pool.dtype, c * kPageKeys);
          value[c * kPageKeys] = element_as_float(value_at, pool.dtype, c);
        }
      }
    }

    for (int32_t t = tree.first_tile; t < tree.first_tile + tree.tiles; t++) {
      const Tile& tile = plan.tiles[static_cast<size_t>(t)];
      const int64_t rows = tile.queries * group, stride = score_stride(tile.keys);
      const TileRows view{&plan.queries[static_cast<size_t>(tile.first_query)], static_cast<int32_t>(group)};
      const std::span<const Visit> visits{&plan.visits[static_cast<size_t>(tile.first_visit)],
                                          static_cast<size_t>(tile.visits)};
      float* const queries = tile_scratch;
      float* const grads = queries + rows * padded;
      float* const dq_rows = grads + rows * padded;
      float* const p = dq_rows + rows * padded;
      float* const ds = p + rows * stride;
      view.gather(queries, padded, q, head, d, tile.queries);
      view.gather(grads, padded, dout, head, d, tile.queries);
      std::fill_n(dq_rows, rows * padded, 0.0f);

      for (const Visit& visit : visits) {
        const Segment& s = forest.segments[static_cast<size_t>(visit.segment)];
        const int64_t slot = first_key[static_cast<size_t>(visit.segment)];
        auto pages_of = [&](float* base) {
          float* const first = base + slot / kPageKeys * d * kPageKeys;
          return SegmentPages{s, static_cast<int32_t>(slot % kPageKeys), nullptr,
                              {reinterpret_cast<char*>(first), d * kPageKeys * 4, DType::f32}};
        };
        score_visit(k, view, visit, pages_of(keys.keys), queries, padded, d, scale, p, stride);
        score_visit(k, view, visit, pages_of(keys.values), grads, padded, d, 1, ds, stride);
      }
      for (int64_t r = 0; r < rows; r++) {
        const Query& query = view.query_of(r);
        const int64_t h = head * group + r % group;
        const float delta = k.dot(grads + r * padded, out.as<float>() + query.row * q.cols + h * d, d);
        float *const p_row = p + r * stride + kScoreMargin, *const ds_row = ds + r * stride + kScoreMargin;
        k.softmax_backward(p_row, ds_row, query.keys, lse.as<float>()[query.row * heads + h], delta, scale);
        const int64_t end = (query.keys + 15) / 16 * 16, rest = stride - kScoreMargin - end;
        std::fill_n(p_row + end, rest, 0.0f);
        std::fill_n(ds_row + end, rest, 0.0f);
      }
      for (const Visit& visit : visits) {
        const Segment& s = forest.segments[static_cast<size_t>(visit.segment)];
        const int64_t slot = first_key[static_cast<size_t>(visit.segment)], column = kScoreMargin + s.position;
        view.for_row_blocks(visit, k.weigh_rows, [&](int64_t row, int count, int32_t first, int32_t end) {
          const RowRun run{keys.key_rows + slot * padded, view.seen(s, first, end)};
          k.weigh(count, padded, &run, 1, padded, false, false, ds + row * stride + column, stride, 1,
                  dq_rows + row * padded, padded);
        });
        const int32_t seen = view.seen(s, visit.first, visit.last + 1);
        int32_t from_query = visit.first;  // the first that sees the block's first key
        for (int32_t key = 0; key < seen; key += k.weigh_rows) {
          while (view.queries[from_query].keys <= s.position + key) from_query++;
          const int64_t row = int64_t{from_query} * group, end = int64_t{visit.last + 1} * group;
          const int64_t at = row * stride + column + key, to = (slot + key) * padded;
          const int count = std::min(k.weigh_rows, seen - key);
          const RowRun grad_run{grads + row * padded, end - row}, query_run{queries + row * padded, end - row};
          k.weigh(count, padded, &grad_run, 1, padded, false, false, p + at, 1, stride, keys.dv + to, padded);
          k.weigh(count, padded, &query_run, 1, padded, false, false, ds + at, 1, stride, keys.dk + to, padded);
        }
      }
      for (int64_t r = 0; r < rows; r++) {
        const int64_t h = head * group + r % group;
        std::copy_n(dq_rows + r * padded, d, dq.as<float>() + view.query_of(r).row * q.cols + h * d);
      }
    }

    for (const int32_t index : segments) {
      const Segment& s = forest.segments[static_cast<size_t>(index)];
      for (int32_t i = 0; i < s.key_count; i++) {
        const int64_t from = (first_key[static_cast<size_t>(index)] + i) * padded;
        const int64_t to = (s.query_row + i) * dk.cols + head * d;
        std::copy_n(keys.dk + from, d, dk.as<float>() + to);
        std::copy_n(keys.dv + from, d, dv.as<float>() + to);
      }
    }
  });
}

}  // namespace act::cpu
