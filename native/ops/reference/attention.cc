// Keys, values and attention of the reference backend: every query walks its own path key by key.
#include <algorithm>
#include <cmath>

#include "../floats.h"
#include "reference.h"

namespace act {
namespace {

/// Where one key lies, and which row of the batch made it (-1: an earlier batch).
struct KeyPlace {
  int page, lane;
  int64_t row;
};

/// The places of all keys the query at `row_in_segment` (counted in keys of the segment) sees, ascending.
std::vector<KeyPlace> visible_keys(const Forest& forest, const std::vector<int32_t>& path, int last_key) {
  std::vector<KeyPlace> keys;
  for (int32_t index : path) {
    const Segment& s = forest.segments[static_cast<size_t>(index)];
    const int count = index == path.back() ? last_key + 1 : s.key_count;
    for (int i = 0; i < count; i++) {
      const int lane = s.first_lane + i, query = i - (s.key_count - s.query_count);
      keys.push_back({forest.pages[static_cast<size_t>(s.first_page + lane / kPageKeys)], lane % kPageKeys,
                      query >= 0 ? s.query_row + query : -1});
    }
  }
  return keys;
}

/// Calls visit(row, keys) for every query of the forest.
template <class Visit>
void for_each_query(const Forest& forest, Visit visit) {
  const auto paths = segment_paths(forest);
  for (size_t i = 0; i < paths.size(); i++) {
    const Segment& s = forest.segments[i];
    for (int j = 0; j < s.query_count; j++) {
      visit(s.query_row + j, visible_keys(forest, paths[i], s.key_count - s.query_count + j));
    }
  }
}

double dot(const float* a, const float* b, int n) {
  double sum = 0;
  for (int i = 0; i < n; i++) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

}  // namespace

std::unique_ptr<KvPool> ReferenceBackend::create_kv_pool(int layers, int kv_heads, int head_dim, int pages,
                                                         DType dtype) {
  auto pool = std::make_unique<ReferenceKvPool>();
  pool->layers = layers;
  pool->kv_heads = kv_heads;
  pool->head_dim = head_dim;
  pool->pages = pages;
  pool->dtype = dtype;
  pool->memory = Buffer(*this, static_cast<int64_t>(layers) * pages,
                        static_cast<int64_t>(kv_page_bytes(kv_heads, head_dim, dtype) / 4), DType::f32);
  return pool;
}

size_t ReferenceBackend::kv_page_bytes(int kv_heads, int head_dim, DType) const {
  return static_cast<size_t>(kv_heads) * 2 * kPageKeys * static_cast<size_t>(head_dim) * 4;
}

void ReferenceBackend::write_kv(KvPool& base, int layer, const Forest& forest, View k, View v) {
  auto& pool = static_cast<ReferenceKvPool&>(base);
  const int d = pool.head_dim;
  require_shape(k, forest.rows, static_cast<int64_t>(pool.kv_heads) * d, "write_kv: k must be [T, Hk * d]");
  require_shape(v, forest.rows, static_cast<int64_t>(pool.kv_heads) * d, "write_kv: v must be [T, Hk * d]");
  segment_paths(forest);
  const auto stored = [&](float x) { return pool.dtype == DType::bf16 ? round_to_bf16(x) : x; };
  for (const Segment& s : forest.segments) {
    for (int j = 0; j < s.query_count; j++) {
      const int lane = s.first_lane + s.key_count - s.query_count + j;
      const int page = forest.pages[static_cast<size_t>(s.first_page + lane / kPageKeys)];
      for (int h = 0; h < pool.kv_heads; h++) {
        const int64_t from = (s.query_row + j) * k.cols + h * d;
        float* const key = pool.key(layer, page, h, lane % kPageKeys);
        float* const value = pool.value(layer, page, h, lane % kPageKeys);
        for (int c = 0; c < d; c++) {
          key[c] = stored(k.as<float>()[from + c]);
          value[c] = stored(v.as<float>()[from + c]);
        }
      }
    }
  }
}

void ReferenceBackend::attention(View out, View lse, View q, const KvPool& base, int layer, const Forest& forest,
                                 float scale) {
  const auto& pool = static_cast<const ReferenceKvPool&>(base);
  const int d = pool.head_dim, heads = static_cast<int>(q.cols / d), group = heads / pool.kv_heads;
  require_shape(q, forest.rows, static_cast<int64_t>(group) * pool.kv_heads * d, "attention: q must be [T, H * d]");
  require_shape(out, q.rows, q.cols, "attention: out must have q's shape");
  for_each_query(forest, [&](int64_t row, const std::vector<KeyPlace>& keys) {
    for (int h = 0; h < heads; h++) {
      const float* query = q.as<float>() + row * q.cols + h * d;
      std::vector<double> p(keys.size());
      for (size_t i = 0; i < keys.size(); i++) {
        p[i] = scale * dot(query, pool.key(layer, keys[i].page, h / group, keys[i].lane), d);
      }
      const double top = *std::max_element(p.begin(), p.end());
      double sum = 0;
      for (double& x : p) sum += x = std::exp(x - top);
      for (int c = 0; c < d; c++) {
        double total = 0;
        for (size_t i = 0; i < keys.size(); i++) {
          total += p[i] * pool.value(layer, keys[i].page, h / group, keys[i].lane)[c];
        }
        out.as<float>()[row * q.cols + h * d + c] = static_cast<float>(total / sum);
      }
      if (lse.data) lse.as<float>()[row * heads + h] = static_cast<float>(top + std::log(sum));
    }
  });
}

// With P the softmax row, o = P V and ds = P * (do V^T - do . o):
//   dq = scale ds K,  dk = scale ds^T q,  dv = P^T do.
void ReferenceBackend::attention_backward(View dq, View dk, View dv, View dout, View out, View lse, View q,
                                          const KvPool& base, int layer, const Forest& forest, float scale) {
  const auto& pool = static_cast<const ReferenceKvPool&>(base);
  const int d = pool.head_dim, heads = static_cast<int>(q.cols / d), group = heads / pool.kv_heads;
  for (const Segment& s : forest.segments) {
    require(s.key_count == s.query_count, "attention_backward: every key of the forest must be a row of the batch");
  }
  std::vector<double> dq_sum(static_cast<size_t>(q.size())), dk_sum(static_cast<size_t>(dk.size())), dv_sum(dk_sum);
  for_each_query(forest, [&](int64_t row, const std::vector<KeyPlace>& keys) {
    for (int h = 0; h < heads; h++) {
      const int64_t at = row * q.cols + h * d;
      const float *query = q.as<float>() + at, *grad = dout.as<float>() + at;
      const double delta = dot(grad, out.as<float>() + at, d);
      for (const KeyPlace& place : keys) {
        const float* key = pool.key(layer, place.page, h / group, place.lane);
        const float* value = pool.value(layer, place.page, h / group, place.lane);
        const double p = std::exp(scale * dot(query, key, d) - lse.as<float>()[row * heads + h]);
        const double ds = p * (dot(grad, value, d) - delta) * scale;
        const int64_t key_at = place.row * dk.cols + (h / group) * d;
        for (int c = 0; c < d; c++) {
          dq_sum[static_cast<size_t>(at + c)] += ds * key[c];
          dk_sum[static_cast<size_t>(key_at + c)] += ds * query[c];
          dv_sum[static_cast<size_t>(key_at + c)] += p * grad[c];
        }
      }
    }
  });
  for (int64_t i = 0; i < dq.size(); i++) dq.as<float>()[i] = static_cast<float>(dq_sum[static_cast<size_t>(i)]);
  for (int64_t i = 0; i < dk.size(); i++) dk.as<float>()[i] = static_cast<float>(dk_sum[static_cast<size_t>(i)]);
  for (int64_t i = 0; i < dv.size(); i++) dv.as<float>()[i] = static_cast<float>(dv_sum[static_cast<size_t>(i)]);
}

}  // namespace act
