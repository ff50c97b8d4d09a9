// One transformer layer over a forest batch: attention block and feed-forward block, each with its backward pass.
//
//   middle = x + o_proj(attention(rope(norm(q_proj(n))), rope(norm(k_proj(n))), v_proj(n))),   n = rms_norm(x)
//   next   = middle + down_proj(silu(gate_proj(m)) * up_proj(m)),                              m = rms_norm(middle)
//
// (the norms of q and k only in Qwen3). What is cheap to make again - normed inputs, silu(gate) * up, adapter products,
// Qwen3's normed and rotated queries - is not kept for the backward pass but recomputed there by the same operations.
#pragma once
#include "model.h"
#include "tape.h"

namespace act {

/// A linear map with its optional bias and adapter.
struct Projection {
  Parameter* weight = nullptr;
  Parameter* bias = nullptr;
  Parameter* lora_a = nullptr;  // [r, in]
  Parameter* lora_b = nullptr;  // [out, r]
};

struct LayerParameters {
  Parameter *input_norm = nullptr, *post_norm = nullptr;
  Parameter *q_norm = nullptr, *k_norm = nullptr;  // Qwen3
  Projection q, k, v, o, gate, up, down;
};

/// Everything the layer functions need of one pass. `index` is the layer, `batch` what is computed.
struct LayerContext {
  Backend& backend;
  const ModelConfig& config;
  Workspace& work;
  float lora_scale;  // alpha / rank
  bool adapters;
  const ForestBatch& batch;
  KvPool& pool;
  int index;

  int64_t rows() const { return static_cast<int64_t>(batch.tokens.size()); }
  int pool_layer() const { return pool.layers == 1 ? 0 : index; }
  float attention_scale() const;
};

/// From a.x fills a.q, a.k, a.attended, a.lse and the pool.
void attend(const LayerContext& c, const LayerParameters& p, const LayerActivations& a);
/// From a.x and a.attended to a.middle (which may be a.x's memory). This and feed_forward take any rows of the batch.
void attention_output(const LayerContext& c, const LayerParameters& p, const LayerActivations& a);
/// From a.middle fills a.gate and a.up; with a non-empty `next` also the layer's output (may be a.middle's memory).
void feed_forward(const LayerContext& c, const LayerParameters& p, const LayerActivations& a, View next);
/// dx [T, D]: in the gradient of the layer's output, out that of `middle`. Destroys a.gate and a.up.
void feed_forward_backward(const LayerContext& c, const LayerParameters& p, const LayerActivations& a, View dx);
/// dx [T, D]: in the gradient of `middle`, out that of `x`.
void attention_backward(const LayerContext& c, const LayerParameters& p, const LayerActivations& a, View dx);

/// Gradient of a parameter as a view, empty when it is frozen.
inline View gradient_of(const Parameter& p) { return p.gradient ? p.gradient.view() : View{}; }

}  // namespace act
