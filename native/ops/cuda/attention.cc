// Keys, values and attention: the forest's plan, brought to the device once a batch, and its launches.
#include "../host.h"
#include "cuda_backend.h"

namespace act::cuda {

std::unique_ptr<KvPool> CudaBackend::create_kv_pool(int layers, int kv_heads, int head_dim, int pages) {
  require(head_dim >= 1 && head_dim <= kMaxHeadDim, "create_kv_pool: expected a head size of 1 to 256");
  auto pool = std::make_unique<CudaKvPool>();
  pool->layers = layers;
  pool->kv_heads = kv_heads;
  pool->head_dim = head_dim;
  pool->pages = pages;
  pool->memory = Buffer(*this, int64_t{layers} * pages, int64_t{kv_heads} * 2 * kPageKeys * head_dim, activations_);
  return pool;
}

size_t CudaBackend::kv_page_bytes(int kv_heads, int head_dim) const {
  return static_cast<size_t>(kv_heads) * 2 * kPageKeys * static_cast<size_t>(head_dim) * size_of(activations_);
}

void CudaBackend::make_plan(const KvPool& pool, const Forest& forest, int group) {
  if (plan_.fits(forest, group)) return;
  plan_.build(forest, group, pool.pages);
  plan_uploaded_ = false;
}

void CudaBackend::write_kv(KvPool& base, int layer, const Forest& forest, View k, View v) {
  auto& pool = static_cast<CudaKvPool&>(base);
  const int64_t cols = int64_t{pool.kv_heads} * pool.head_dim;
  for (const View& x : {k, v}) {
    require(x.rows == forest.rows && x.cols == cols && x.dtype == activations_,
            "write_kv: k and v must be [T, Hk * d] of the pool's dtype");
  }
  // Places do not depend on the group: keep the plan that attention will ask for.
  make_plan(pool, forest, plan_.group());
  if (forest.rows == 0) return;
  const int32_t* const slots = plan_slots_.get_as<int32_t>(*this, *device_, plan_.row_slots);
  launch_write_kv(stream(), attention_shape(pool, layer, pool.kv_heads, 1).kv, k, v, slots);
}

AttentionShape CudaBackend::attention_shape(const CudaKvPool& pool, int layer, int heads, float scale) {
  AttentionShape shape{};
  const size_t layer_bytes = static_cast<size_t>(pool.pages) * kv_page_bytes(pool.kv_heads, pool.head_dim);
  shape.kv = {pool.memory.view().as<char>() + static_cast<size_t>(layer) * layer_bytes, activations_, pool.kv_heads, pool.head_dim};
  shape.heads = heads;
  shape.scale = scale;
  return shape;
}

template <class Launch>
void CudaBackend::for_plan_pieces(AttentionShape shape, Launch launch) {
  shape.queries = plan_queries_.get_as<TreeQuery>(*this, *device_, plan_.queries);
  const QueryTile* const tiles = plan_tiles_.get_as<QueryTile>(*this, *device_, plan_.tiles);
  size_t first = 0;
  while (first < plan_.tiles.size()) {
    const int32_t first_block = plan_.tiles[first].first_block;
    size_t end = first + 1;
    while (end < plan_.tiles.size() &&
           plan_.tiles[end].first_block + plan_.tiles[end].blocks - first_block <= kMaxPlanBlocks) {
      end++;
    }
    const QueryTile& last = plan_.tiles[end - 1];
    const auto blocks = static_cast<size_t>(last.first_block + last.blocks - first_block);
    auto* const memory = blocks_.get_as<KeyBlock>(*this, static_cast<int64_t>(blocks));
    const bool whole = first == 0 && end == plan_.tiles.size();
    if (!whole || !plan_uploaded_) {
      device_->upload(memory, plan_.blocks.data() + first_block, blocks * sizeof(KeyBlock));
      plan_uploaded_ = whole;
    }
    shape.blocks = memory - first_block;
    shape.tiles = tiles + first;
    shape.tile_count = static_cast<int>(end - first);
    shape.first_query = plan_.tiles[first].first_query;
    shape.query_count = last.first_query + last.queries - plan_.tiles[first].first_query;
    launch(shape);
    first = end;
  }
}

void CudaBackend::attention(View out, View lse, View q, const KvPool& base, int layer, const Forest& forest, float scale) {
  const auto& pool = static_cast<const CudaKvPool&>(base);
  const int heads = static_cast<int>(q.cols / pool.head_dim), group = heads / pool.kv_heads;
  require(group >= 1 && q.rows == forest.rows && q.cols == int64_t{group} * pool.kv_heads * pool.head_dim && q.dtype == activations_,
          "attention: q must be [T, H * d] of the pool's dtype, H a multiple of Hk");
  require(out.rows == q.rows && out.cols == q.cols && out.dtype == q.dtype, "attention: out must have q's shape and dtype");
  if (lse.data) require_shape(lse, q.rows, heads, "attention: lse must be f32 [T, H]");
  make_plan(pool, forest, group);
  const bool tensor_cores = tensor_cores_serve({nullptr, activations_, pool.kv_heads, pool.head_dim}, heads);
  for_plan_pieces(attention_shape(pool, layer, heads, scale), [&](const AttentionShape& shape) {
    tensor_cores ? launch_attention_mma(stream(), shape, out, lse, q) : launch_attention_plain(stream(), shape, out, lse, q);
  });
}

void CudaBackend::attention_backward(View dq, View dk, View dv, View dout, View out, View lse, View q, const KvPool& base,
                                     int layer, const Forest& forest, float scale) {
  const auto& pool = static_cast<const CudaKvPool&>(base);
  const int heads = static_cast<int>(q.cols / pool.head_dim), group = heads / pool.kv_heads;
  for (const View& x : {dq, dout, out}) {
    require(x.rows == q.rows && x.cols == q.cols && x.dtype == activations_ && q.dtype == activations_,
            "attention_backward: dq, dout and out must have q's shape and dtype");
  }
  for (const View& x : {dk, dv}) {
    require(x.rows == q.rows && x.cols == int64_t{pool.kv_heads} * pool.head_dim && x.dtype == activations_,
            "attention_backward: dk and dv must be [T, Hk * d] of the pool's dtype");
  }
  require_shape(lse, q.rows, heads, "attention_backward: lse must be f32 [T, H]");
  for (const Segment& s : forest.segments) {
    require(s.key_count == s.query_count, "attention_backward: every key of the forest must be a row of the batch");
  }
  make_plan(pool, forest, group);
  if (forest.rows == 0) return;
  auto* const delta = delta_.get_as<float>(*this, q.rows * heads);
  launch_attention_delta(stream(), delta, dout, out, pool.head_dim);
  const float* const sums = lse.as<float>();
  const bool tensor_cores = tensor_cores_serve({nullptr, activations_, pool.kv_heads, pool.head_dim}, heads);
  AttentionShape shape = attention_shape(pool, layer, heads, scale);
  for_plan_pieces(shape, [&](const AttentionShape& piece) {
    tensor_cores ? launch_attention_backward_queries_mma(stream(), piece, dq, dout, q, sums, delta)
                 : launch_attention_backward_queries_plain(stream(), piece, dq, dout, q, sums, delta);
  });
  shape.queries = plan_queries_.get_as<TreeQuery>(*this, *device_, plan_.queries);
  const TreeKey* const keys = plan_keys_.get_as<TreeKey>(*this, *device_, plan_.keys);
  const KeyTile* const tiles = plan_key_tiles_.get_as<KeyTile>(*this, *device_, plan_.key_tiles);
  const int count = static_cast<int>(plan_.key_tiles.size());
  tensor_cores ? launch_attention_backward_keys_mma(stream(), shape, tiles, count, keys, dk, dv, dout, q, sums, delta)
               : launch_attention_backward_keys_plain(stream(), shape, tiles, count, keys, dk, dv, dout, q, sums, delta);
}

}  // namespace act::cuda
