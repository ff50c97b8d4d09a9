// Attention over the forest. A task is one tile of queries with one key-value head: all scores of a row lie in scratch
// by absolute position, then the softmax, then the weighted values. Two passes cost a little more than a running
// softmax, but a row's bits then depend on nothing but its own keys: decoding page by page, prefill in pieces and
// training on forests agree exactly (ops.h).
#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu_backend.h"

namespace act::cpu {
namespace {

/// A key into its lane of a page of transposed keys.
template <class E>
void write_lane(E* lane, const E* key, int64_t d) {
  for (int64_t c = 0; c < d; c++) lane[c * kPageKeys] = key[c];
}

void weigh_visit(const Kernels& k, const TileRows& tile, const Visit& visit, const SegmentPages& pages,
                 int64_t values_at, int64_t columns, const float* p, int64_t stride, float* acc) {
  const Segment& s = pages.segment;
  RowRun chunk[kPagesPerChunk];
  const int32_t all_pages = page_span(s.first_lane + tile.seen(s, visit.first, visit.last + 1));
  for (int32_t from = 0; from < all_pages; from += kPagesPerChunk) {
    const int32_t to = std::min(all_pages, from + kPagesPerChunk);
    for (int32_t i = from; i < to; i++) {
      const int32_t lane = i == 0 ? s.first_lane : 0;
      chunk[i - from] = {pages.at(i, values_at + lane * columns), kPageKeys - lane};
    }
    const int32_t first_key = from == 0 ? 0 : from * kPageKeys - s.first_lane;
    tile.for_row_blocks(visit, k.weigh_rows, [&](int64_t row, int rows, int32_t first_query, int32_t end_query) {
      const int32_t seen = tile.seen(s, first_query, end_query);
      const int32_t end = std::min(to, page_span(s.first_lane + seen));
      if (end <= from) return;
      RowRun& last = chunk[end - 1 - from];
      const RowRun whole = last;  // only the keys seen: what lies behind them is not this segment's
      last.count = std::min<int64_t>(whole.count, seen - (end == 1 ? 0 : (end - 1) * kPageKeys - s.first_lane));
      const float* const at = p + row * stride + kScoreMargin + s.position + first_key;
      k.weigh(rows, columns, chunk, end - from, columns, pages.bf16(), tile.begins(visit, row), at, stride, 1,
              acc + row * columns, columns);
      last = whole;
    });
  }
}

}  // namespace

const AttentionPlan& CpuBackend::plan_for(const KvPool& pool, const Forest& forest, int group) {
  require(group >= 1 && group <= kMaxTileQueryRows, "attention: expected 1 to 1024 query heads a key-value head");
  for (const int32_t page : forest.pages) require(page >= 0 && page < pool.pages, "forest: page outside the pool");
  if (!plan_.fits(forest, group)) plan_.build(forest, group);
  return plan_;
}

std::unique_ptr<KvPool> CpuBackend::create_kv_pool(int layers, int kv_heads, int head_dim, int pages, DType dtype) {
  require(dtype == DType::f32 || dtype == DType::bf16, "create_kv_pool: expected dtype f32 or bf16");
  auto pool = std::make_unique<CpuKvPool>();
  pool->layers = layers;
  pool->kv_heads = kv_heads;
  pool->head_dim = head_dim;
  pool->pages = pages;
  pool->dtype = dtype;
  pool->padded_dim = (head_dim + 15) / 16 * 16;
  pool->page_size = int64_t{kPageKeys} * (head_dim + pool->padded_dim);
  pool->memory = Buffer(*this, int64_t{layers} * kv_heads * pages, pool->page_size, dtype);
  return pool;
}

size_t CpuBackend::kv_page_bytes(int kv_heads, int head_dim, DType dtype) const {
  const int64_t size = int64_t{kPageKeys} * (head_dim + (head_dim + 15) / 16 * 16);
  return static_cast<size_t>(kv_heads * size) * size_of(dtype);
}

void CpuBackend::write_kv(KvPool& base, int layer, const Forest& forest, View k, View v) {
  auto& pool = static_cast<CpuKvPool&>(base);
  const int64_t d = pool.head_dim, columns = pool.kv_heads * d;
  require_shape(k, forest.rows, columns, "write_kv: k must be [T, Hk * d]");
  require_shape(v, forest.rows, columns, "write_kv: v must be [T, Hk * d]");
  // Places do not depend on the group: keep the plan that attention will ask for.
  const AttentionPlan& plan = plan_for(pool, forest, plan_.group());
  constexpr int64_t kVectorsPerTask = 16;  // of keys and as many of values
  for_pieces(pool.kv_heads * forest.rows, kVectorsPerTask, [&](int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; i++) {
      const int64_t t = i / pool.kv_heads, h = i % pool.kv_heads, from = t * columns + h * d;
      const KeyPlace& place = plan.places[static_cast<size_t>(t)];
      const Pages pages = pool.pages_of(layer, static_cast<int>(h));
      const int32_t page = forest.pages[static_cast<size_t>(place.page_index)];
      char* const value = pages.at(page, pool.values_at() + place.lane * pool.padded_dim);
      if (pool.dtype == DType::bf16) {
        auto* const rounded = reinterpret_cast<uint16_t*>(value);  // the key first, on its way to its lane
        kernels_.to_bf16(rounded, k.as<float>() + from, d);
        write_lane(reinterpret_cast<uint16_t*>(pages.at(page, place.lane)), rounded, d);
        kernels_.to_bf16(rounded, v.as<float>() + from, d);
      } else {
        write_lane(reinterpret_cast<float*>(pages.at(page, place.lane)), k.as<float>() + from, d);
        std::memcpy(value, v.as<float>() + from, static_cast<size_t>(d) * 4);
      }
    }
  });
}

void CpuBackend::attention(View out, View lse, View q, const KvPool& base, int layer, const Forest& forest,
                           float scale) {
  const auto& pool = static_cast<const CpuKvPool&>(base);
  const int64_t d = pool.head_dim, padded = pool.padded_dim, heads = q.cols / d, group = heads / pool.kv_heads;
  require_shape(q, forest.rows, group * pool.kv_heads * d, "attention: q must be [T, H * d], H a multiple of Hk");
  require_shape(out, q.rows, q.cols, "attention: out must have q's shape");
  const AttentionPlan& plan = plan_for(pool, forest, static_cast<int>(group));

  int64_t widest = 0;
  for (const Tile& tile : plan.tiles)
    widest = std::max(widest, tile.queries * group * (score_stride(tile.keys) + 2 * padded));
  float* const scratch = attention_scratch_.get(*this, widest * pool_.threads());

  pool_.run(static_cast<int64_t>(plan.tiles.size()) * pool.kv_heads, [&](int64_t task, int thread) {
    const Tile& tile = plan.tiles[static_cast<size_t>(task / pool.kv_heads)];
    const int64_t head = task % pool.kv_heads, rows = tile.queries * group, stride = score_stride(tile.keys);
    const TileRows view{&plan.queries[static_cast<size_t>(tile.first_query)], static_cast<int32_t>(group)};
    const std::span<const Visit> visits{&plan.visits[static_cast<size_t>(tile.first_visit)],
                                        static_cast<size_t>(tile.visits)};
    float* const queries = scratch + thread * widest;
    float* const acc = queries + rows * padded;
    float* const scores = acc + rows * padded;
    view.gather(queries, padded, q, head, d, tile.queries);
    std::fill_n(acc, rows * padded, 0.0f);
    auto pages_of = [&](const Visit& visit) {
      const Segment& s = forest.segments[static_cast<size_t>(visit.segment)];
      return SegmentPages{s, s.first_lane, forest.pages.data() + s.first_page,
                          pool.pages_of(layer, static_cast<int>(head))};
    };
    for (const Visit& visit : visits) {
      score_visit(kernels_, view, visit, pages_of(visit), queries, padded, d, scale, scores, stride);
    }
    float inverse[kMaxTileQueryRows];
    for (int64_t r = 0; r < rows; r++) {
      const Query& query = view.query_of(r);
      float* const row = scores + r * stride + kScoreMargin;
      float max = 0, sum = 0;
      kernels_.softmax(row, query.keys, &max, &sum);
      const int64_t end = (query.keys + 15) / 16 * 16;
      std::fill(row + end, row + stride - kScoreMargin, 0.0f);  // rows of a block share the longest row's keys
      inverse[r] = 1.0f / sum;
      if (lse.data) {
        lse.as<float>()[query.row * heads + head * group + r % group] =
            static_cast<float>(max + std::log(static_cast<double>(sum)));
      }
    }
    for (const Visit& visit : visits) {
      weigh_visit(kernels_, view, visit, pages_of(visit), pool.values_at(), padded, scores, stride, acc);
    }
    for (int64_t r = 0; r < rows; r++) {
      float* to = out.as<float>() + view.query_of(r).row * q.cols + (head * group + r % group) * d;
      kernels_.scale(acc + r * padded, inverse[r], d);
      std::copy_n(acc + r * padded, d, to);
    }
  });
}

}  // namespace act::cpu
