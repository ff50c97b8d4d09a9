// Gradients of attention. With P the softmax row, o = P V and ds = P * (do V^T - do . o) * scale:
//   dq = ds K,  dk = ds^T q,  dv = P^T do.
// A task is one tree with one key-value head: it alone owns the gradients of the tree's keys, so their chains run over
// the tree's queries in depth-first order whatever the threads do.
#include <algorithm>
#include <cmath>

#include "attention_tile.h"
#include "cpu_backend.h"

namespace act::cpu {
namespace {

constexpr int32_t kRunsPerCall = 64;

/// Keys and values of one tree and head, repacked: segment by segment in pages of their own.
struct TreeKeys {
  float *keys, *values;  // transposed pages [d][16]
  float* key_rows;       // [pages * 16][padded d]
  float *dk, *dv;        // [pages * 16][padded d]
};

int64_t tree_floats(int64_t pages, int64_t d, int64_t padded) { return pages * kPageKeys * (2 * d + 3 * padded); }

}  // namespace

size_t CpuBackend::attention_scratch_bytes(int64_t rows, int64_t widest) const {
  // Per thread: two tiles of scores (attention_plan.cc bounds one to 4 MiB plus its margins), the rows of a tile, and
  // a tree of at most `rows` keys; head dimensions up to 256.
  const int64_t d = std::min<int64_t>((widest + 15) / 16 * 16, 256);
  const int64_t tile = 2 * ((1 << 20) + 64 * 3 * kPageKeys) + 3 * 64 * d;
  return static_cast<size_t>(pool_.threads() * (tile + tree_floats(rows / kPageKeys + 1, d, d))) * 4;
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

  std::vector<int64_t> first_page(forest.segments.size());
  std::vector<int64_t> tree_pages(plan.trees.size());
  int64_t tile_floats = 0, most_pages = 0;
  for (const Tile& tile : plan.tiles) {
    tile_floats = std::max(tile_floats, tile.queries * group * (2 * score_stride(tile.keys) + 3 * padded));
  }
  for (size_t t = 0; t < plan.trees.size(); t++) {
    const Tree& tree = plan.trees[t];
    for (int32_t i = 0; i < tree.segments; i++) {
      const int32_t segment = plan.tree_segments[static_cast<size_t>(tree.first_segment + i)];
      first_page[static_cast<size_t>(segment)] = tree_pages[t];
      tree_pages[t] += page_span(forest.segments[static_cast<size_t>(segment)].key_count);
    }
    most_pages = std::max(most_pages, tree_pages[t]);
  }
  const int64_t per_thread = tile_floats + tree_floats(most_pages, d, padded);
  float* const scratch = attention_scratch_.get(*this, per_thread * pool_.threads());
  const Kernels& k = kernels_;

  pool_.run(static_cast<int64_t>(plan.trees.size()) * pool.kv_heads, [&](int64_t task, int thread) {
    const auto tree_index = static_cast<size_t>(task / pool.kv_heads);
    const Tree& tree = plan.trees[tree_index];
    const int64_t head = task % pool.kv_heads, floats = tree_pages[tree_index] * kPageKeys;
    TreeKeys keys;
    keys.keys = scratch + thread * per_thread;
    keys.values = keys.keys + floats * d;
    keys.key_rows = keys.values + floats * d;
    keys.dk = keys.key_rows + floats * padded;
    keys.dv = keys.dk + floats * padded;
    float* const tile_scratch = keys.dv + floats * padded;
    std::fill_n(keys.keys, floats * (2 * d + 3 * padded), 0.0f);

    const std::span<const int32_t> segments{plan.tree_segments.data() + tree.first_segment,
                                            static_cast<size_t>(tree.segments)};
    for (const int32_t index : segments) {
      const Segment& s = forest.segments[static_cast<size_t>(index)];
      for (int32_t i = 0; i < s.key_count; i++) {
        const int32_t lane = (s.first_lane + i) % kPageKeys;
        const float* page =
            pool.pages_of(layer, static_cast<int>(head)) +
            forest.pages[static_cast<size_t>(s.first_page + (s.first_lane + i) / kPageKeys)] * pool.page_floats;
        const int64_t to_page = first_page[static_cast<size_t>(index)] + i / kPageKeys, to_lane = i % kPageKeys;
        float* key = keys.keys + to_page * d * kPageKeys + to_lane;
        float* value = keys.values + to_page * d * kPageKeys + to_lane;
        float* key_row = keys.key_rows + (to_page * kPageKeys + to_lane) * padded;
        const float* from_value = page + pool.values_at() + lane * padded;
        for (int64_t c = 0; c < d; c++) {
          key_row[c] = key[c * kPageKeys] = page[c * kPageKeys + lane];
          value[c * kPageKeys] = from_value[c];
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
        const float *page[kRunsPerCall], *value_page[kRunsPerCall];
        view.for_row_blocks(visit, k.score_rows, [&](int64_t row, int count, int32_t first, int32_t end) {
          const int32_t pages = page_span(view.seen(s, first, end));
          for (int32_t from = 0; from < pages; from += kRunsPerCall) {
            const int32_t n = std::min(kRunsPerCall, pages - from);
            const int64_t start = first_page[static_cast<size_t>(visit.segment)] + from;
            for (int32_t i = 0; i < n; i++) {
              page[i] = keys.keys + (start + i) * d * kPageKeys;
              value_page[i] = keys.values + (start + i) * d * kPageKeys;
            }
            const int64_t at = row * stride + s.position + int64_t{from} * kPageKeys;
            k.scores(count, n, d, queries + row * padded, padded, page, scale, p + at, stride);
            k.scores(count, n, d, grads + row * padded, padded, value_page, 1, ds + at, stride);
          }
        });
      }
      for (int64_t r = 0; r < rows; r++) {
        const Query& query = view.query_of(r);
        const int64_t h = head * group + r % group;
        const float delta = k.dot(grads + r * padded, out.as<float>() + query.row * q.cols + h * d, d);
        k.softmax_backward(p + r * stride, ds + r * stride, query.keys, lse.as<float>()[query.row * heads + h], delta,
                           scale);
        const int64_t end = (query.keys + 15) / 16 * 16;
        std::fill_n(p + r * stride + end, stride - end, 0.0f);
        std::fill_n(ds + r * stride + end, stride - end, 0.0f);
      }
      for (const Visit& visit : visits) {
        const Segment& s = forest.segments[static_cast<size_t>(visit.segment)];
        const int64_t row_of_first_key = first_page[static_cast<size_t>(visit.segment)] * kPageKeys;
        view.for_row_blocks(visit, k.weigh_rows, [&](int64_t row, int count, int32_t first, int32_t end) {
          const RowRun run{keys.key_rows + row_of_first_key * padded, view.seen(s, first, end)};
          k.weigh(count, padded, &run, 1, padded, ds + row * stride + s.position, stride, 1, dq_rows + row * padded,
                  padded);
        });
        const int32_t seen = view.seen(s, visit.first, visit.last + 1);
        int32_t from_query = visit.first;  // the first that sees the block's first key
        for (int32_t key = 0; key < seen; key += k.weigh_rows) {
          while (view.queries[from_query].keys <= s.position + key) from_query++;
          const int64_t row = int64_t{from_query} * group, end = int64_t{visit.last + 1} * group;
          const int64_t at = row * stride + s.position + key, to = (row_of_first_key + key) * padded;
          const int count = std::min(k.weigh_rows, seen - key);
          const RowRun grad_run{grads + row * padded, end - row}, query_run{queries + row * padded, end - row};
          k.weigh(count, padded, &grad_run, 1, padded, p + at, 1, stride, keys.dv + to, padded);
          k.weigh(count, padded, &query_run, 1, padded, ds + at, 1, stride, keys.dk + to, padded);
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
        const int64_t from = (first_page[static_cast<size_t>(index)] * kPageKeys + i) * padded;
        const int64_t to = (s.query_row + i) * dk.cols + head * d;
        std::copy_n(keys.dk + from, d, dk.as<float>() + to);
        std::copy_n(keys.dv + from, d, dv.as<float>() + to);
      }
    }
  });
}

}  // namespace act::cpu
