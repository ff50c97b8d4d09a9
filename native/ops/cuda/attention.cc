// Keys, values and attention: the forest's plan, brought to the device once a batch, and its launches.
#include <algorithm>
#include <bit>
#include <cstdlib>
#include <string>

#include "../host.h"
#include "cuda_backend.h"

namespace act::cuda {
namespace {

/// An environment variable that replaces a number, for tests and for tuning. Throws BAD_ARGUMENT.
int tuned(const char* variable, int number, int multiple_of) {
  const char* const text = std::getenv(variable);
  if (!text) return number;
  const int wanted = std::atoi(text);
  if (wanted >= multiple_of && wanted % multiple_of == 0 && wanted <= 1 << 20) return wanted;
  throw Error("BAD_ARGUMENT", std::string(variable) + ": expected a multiple of " + std::to_string(multiple_of) +
                                  " up to 1048576, got \"" + text + "\"");
}

}  // namespace

PlanRule CudaBackend::plan_rule(const Device& device) {
  PlanRule rule;
  rule.partition = tuned("ACT_CUDA_PARTITION", kPartitionKeys, kPageKeys);
  rule.side_by_side = tuned("ACT_CUDA_PLACES", device.multiprocessors() * kAttentionBlocks, 1);
  return rule;
}

std::unique_ptr<KvPool> CudaBackend::create_kv_pool(int layers, int kv_heads, int head_dim, int pages, DType dtype) {
  require(dtype == activations_, "create_kv_pool: expected the activations' dtype");
  require(head_dim >= 1 && head_dim <= kMaxHeadDim, "create_kv_pool: expected a head size of 1 to 256");
  auto pool = std::make_unique<CudaKvPool>();
  pool->layers = layers;
  pool->kv_heads = kv_heads;
  pool->head_dim = head_dim;
  pool->pages = pages;
  pool->dtype = dtype;
  pool->memory = Buffer(*this, int64_t{layers} * pages, int64_t{kv_heads} * 2 * kPageKeys * head_dim, dtype);
  return pool;
}

size_t CudaBackend::kv_page_bytes(int kv_heads, int head_dim, DType dtype) const {
  return static_cast<size_t>(kv_heads) * 2 * kPageKeys * static_cast<size_t>(head_dim) * size_of(dtype);
}

void CudaBackend::make_plan(const KvPool& pool, const Forest& forest, int heads) {
  if (heads > 0) {
    rule_.group = heads / pool.kv_heads, rule_.kv_heads = pool.kv_heads;
    const size_t most = kPartialBytes / Partials::bytes(heads, pool.head_dim);
    rule_.max_partials = static_cast<int>(std::bit_floor(std::max<size_t>(1, most)));
  }
  if (plan_.fits(forest, rule_)) return;
  plan_.build(forest, rule_, pool.pages);
  plan_uploaded_ = false;
}

void CudaBackend::write_kv(KvPool& base, int layer, const Forest& forest, View k, View v) {
  auto& pool = static_cast<CudaKvPool&>(base);
  const int64_t cols = int64_t{pool.kv_heads} * pool.head_dim;
  for (const View& x : {k, v}) {
    require(x.rows == forest.rows && x.cols == cols && x.dtype == activations_,
            "write_kv: k and v must be [T, Hk * d] of the pool's dtype");
  }
  make_plan(pool, forest, 0);  // places do not depend on the heads: the plan that attention will ask for
  if (forest.rows == 0) return;
  const int32_t* const slots = plan_slots_.get_as<int32_t>(*this, plan_.row_slots);
  launch_write_kv(queue(), attention_shape(pool, layer, pool.kv_heads, 1).kv, k, v, slots);
}

AttentionShape CudaBackend::attention_shape(const CudaKvPool& pool, int layer, int heads, float scale) {
  AttentionShape shape{};
  const size_t layer_bytes = static_cast<size_t>(pool.pages) * kv_page_bytes(pool.kv_heads, pool.head_dim, pool.dtype);
  shape.kv = {pool.memory.view().as<char>() + static_cast<size_t>(layer) * layer_bytes, pool.dtype, pool.kv_heads, pool.head_dim};
  shape.heads = heads;
  shape.scale = scale;
  return shape;
}

template <class Each>
void CudaBackend::for_plan_pieces(AttentionShape shape, bool whole_runs, Each each) {
  shape.queries = plan_queries_.get_as<TreeQuery>(*this, plan_.queries);
  shape.partition = rule_.partition;
  for (const PlanPiece& piece : plan_.pieces) {
    if (piece.tiles == 0) continue;
    // Rounded up: a step whose keys grow by one must find its memory where it was.
    auto* const blocks = blocks_.get_as<KeyBlock>(*this, static_cast<int64_t>(std::bit_ceil(piece.blocks)));
    const bool only = plan_.pieces.size() == 1;
    if (!only || !plan_uploaded_) {
      if (queue_.step() != 0 && blocks_step_ == queue_.step()) queue_.leave();
      device_->upload(blocks, plan_.blocks.data() + piece.first_block, piece.blocks * sizeof(KeyBlock));
      plan_uploaded_ = only;
    }
    blocks_step_ = queue_.step();
    const bool padded = queue_.step() != 0;
    const std::span<const QueryTile> runs = plan_.runs, parts = plan_.tiles;
    const auto tiles = whole_runs ? runs.subspan(piece.first_run, piece.runs)
                                  : parts.subspan(piece.first_tile, piece.padded_tiles);
    shape.blocks = blocks;
    shape.tiles = plan_tiles_.get_as<QueryTile>(*this, tiles);
    shape.tile_count = static_cast<int>(whole_runs || padded ? tiles.size() : piece.tiles);
    if (!whole_runs && piece.partials > 0) {
      const int64_t count = std::bit_ceil(static_cast<uint32_t>(piece.partials));
      const int64_t row = int64_t{shape.heads} * shape.kv.head_dim;
      auto* const memory = partials_.get_as<float>(*this, count * (row + int64_t{2} * shape.heads));
      shape.partials = {memory, memory + count * row};
      const std::span<const int32_t> combined = plan_.combined;
      shape.combined = plan_combined_.get_as(*this, combined.subspan(piece.first_combined, piece.padded_combined));
      shape.combined_count = static_cast<int>(padded ? piece.padded_combined : piece.combined);
    }
    each(shape);
    shape.partials = {}, shape.combined_count = 0;
  }
}

void CudaBackend::attention(View out, View lse, View q, const KvPool& base, int layer, const Forest& forest, float scale) {
  const auto& pool = static_cast<const CudaKvPool&>(base);
  const int heads = static_cast<int>(q.cols / pool.head_dim), group = heads / pool.kv_heads;
  require(group >= 1 && q.rows == forest.rows && q.cols == int64_t{group} * pool.kv_heads * pool.head_dim && q.dtype == activations_,
          "attention: q must be [T, H * d] of the pool's dtype, H a multiple of Hk");
  require(out.rows == q.rows && out.cols == q.cols && out.dtype == q.dtype, "attention: out must have q's shape and dtype");
  if (lse.data) require_shape(lse, q.rows, heads, "attention: lse must be f32 [T, H]");
  make_plan(pool, forest, heads);
  const bool tensor_cores = tensor_cores_serve({nullptr, activations_, pool.kv_heads, pool.head_dim}, heads);
  for_plan_pieces(attention_shape(pool, layer, heads, scale), false, [&](const AttentionShape& shape) {
    tensor_cores ? launch_attention_mma(queue(), shape, out, lse, q) : launch_attention_plain(queue(), shape, out, lse, q);
    if (shape.combined_count > 0) launch_attention_combine(queue(), shape, out, lse);
  });
}

void CudaBackend::attention_backward(View dq, View dk, View dv, View dout, View out, View lse, View q, const KvPool& base,
                                     int layer, const Forest& forest, float scale) {
  const auto& pool = static_cast<const CudaKvPool&>(base);
  const int heads = static_cast<int>(q.cols / pool.head_dim);
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
  make_plan(pool, forest, heads);
  if (forest.rows == 0) return;
  auto* const delta = delta_.get_as<float>(*this, q.rows * heads);
  launch_attention_delta(queue(), delta, dout, out, pool.head_dim);
  const float* const sums = lse.as<float>();
  const bool tensor_cores = tensor_cores_serve({nullptr, activations_, pool.kv_heads, pool.head_dim}, heads);
  AttentionShape shape = attention_shape(pool, layer, heads, scale);
  for_plan_pieces(shape, true, [&](const AttentionShape& piece) {
    tensor_cores ? launch_attention_backward_queries_mma(queue(), piece, dq, dout, q, sums, delta)
                 : launch_attention_backward_queries_plain(queue(), piece, dq, dout, q, sums, delta);
  });
  shape.queries = plan_queries_.get_as<TreeQuery>(*this, plan_.queries);
  const TreeKey* const keys = plan_keys_.get_as<TreeKey>(*this, plan_.keys);
  const KeyTile* const tiles = plan_key_tiles_.get_as<KeyTile>(*this, plan_.key_tiles);
  const int count = static_cast<int>(plan_.key_tiles.size());
  tensor_cores ? launch_attention_backward_keys_mma(queue(), shape, tiles, count, keys, dk, dv, dout, q, sums, delta)
               : launch_attention_backward_keys_plain(queue(), shape, tiles, count, keys, dk, dv, dout, q, sums, delta);
}

}  // namespace act::cuda
