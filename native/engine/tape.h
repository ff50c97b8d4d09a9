// Working memory of the model: buffers every pass reuses (Workspace) and activations kept for the backward pass
// (ForwardTape). Both list their buffers once, in `each`, so that the memory plan and the allocation cannot disagree.
#pragma once
#include <vector>

#include "model.h"

namespace act {

/// Sizes that decide the working memory.
struct ActivationShape {
  int64_t rows = 0;  // N, batch rows at most
  int64_t hidden = 0, query = 0, kv = 0, heads = 0, kv_heads = 0, intermediate = 0, lora_rank = 0, layers = 0;
  bool qk_norm = false, training = false, recompute = false;
  DType dtype = DType::f32;  // of activations

  static ActivationShape of(const Backend& backend, const ModelConfig& config, const Model::Options& options);
};

/// What one layer's backward pass needs of its forward pass, as views of the batch's rows.
struct LayerActivations {
  View x;         // [T, D] residual stream at the layer's input
  View q;         // [T, H d] queries; before the norm of Qwen3, else after RoPE
  View k;         // [T, Hk d] keys before the norm of Qwen3; empty otherwise
  View attended;  // [T, H d] output of attention
  View lse;       // [T, H] log-sum-exp of the scores; empty in inference
  View middle;    // [T, D] residual stream after attention
  View gate, up;  // [T, F]
};

/// The buffers behind LayerActivations without `x`, for N rows.
struct LayerBuffers {
  Buffer q, k, attended, lse, middle, gate, up;

  template <class F>
  void each(const ActivationShape& s, F&& f) {
    f(q, s.rows, s.query, s.dtype);
    if (s.qk_norm) f(k, s.rows, s.kv, s.dtype);
    f(attended, s.rows, s.query, s.dtype);
    if (s.training) f(lse, s.rows, s.heads, DType::f32);
    if (s.training) f(middle, s.rows, s.hidden, s.dtype);
    f(gate, s.rows, s.intermediate, s.dtype);
    f(up, s.rows, s.intermediate, s.dtype);
  }
  LayerActivations first_rows(int64_t rows) const;
};

/// Buffers that every pass reuses. Also one set of layer activations: the only one in inference, and the one that
/// recomputation fills layer by layer.
struct Workspace {
  Buffer x;              // [N, D] residual stream
  Buffer normed;         // [N, D]
  Buffer rstd;           // [N max(1, heads normed), 1]
  Buffer query;          // [N, H d] normed and rotated queries (Qwen3)
  Buffer k, v;           // [N, Hk d]; their gradients in the backward pass
  Buffer product;        // [N, F] silu(gate) * up
  Buffer low_rank;       // [N, r] x A^T
  Buffer selected;       // [N, D] residual stream of the rows given to the head
  Buffer selected_rstd;  // [N, 1]
  LayerBuffers layer;
  // backward
  Buffer dx, dnormed;      // [N, D]
  Buffer dquery, dattended;  // [N, H d]
  Buffer dkey_raw;         // [N, Hk d] (Qwen3)
  Buffer dproduct;         // [N, F]
  Buffer dlow_rank;        // [N, r]

  template <class F>
  void each(const ActivationShape& s, F&& f) {
    f(x, s.rows, s.hidden, s.dtype);
    f(normed, s.rows, s.hidden, s.dtype);
    f(rstd, s.rows * (s.qk_norm ? s.heads : 1), int64_t{1}, DType::f32);
    if (s.qk_norm) f(query, s.rows, s.query, s.dtype);
    f(k, s.rows, s.kv, s.dtype);
    f(v, s.rows, s.kv, s.dtype);
    f(product, s.rows, s.intermediate, s.dtype);
    if (s.lora_rank > 0) f(low_rank, s.rows, s.lora_rank, s.dtype);
    f(selected, s.rows, s.hidden, s.dtype);
    f(selected_rstd, s.rows, int64_t{1}, DType::f32);
    layer.each(s, f);
    if (!s.training) return;
    f(dx, s.rows, s.hidden, s.dtype);
    f(dnormed, s.rows, s.hidden, s.dtype);
    f(dquery, s.rows, s.query, s.dtype);
    f(dattended, s.rows, s.query, s.dtype);
    if (s.qk_norm) f(dkey_raw, s.rows, s.kv, s.dtype);
    f(dproduct, s.rows, s.intermediate, s.dtype);
    if (s.lora_rank > 0) f(dlow_rank, s.rows, s.lora_rank, s.dtype);
  }
};

class ForwardTape {
 public:
  ForwardTape(Backend& backend, const ActivationShape& shape);
  /// One a layer; `inputs` always, `layers` only without recompute.
  std::vector<Buffer> inputs;
  std::vector<LayerBuffers> layers;
  int64_t rows = 0;  // of the forward pass that filled it

  static size_t bytes(const ActivationShape& shape);
};

Workspace make_workspace(Backend& backend, const ActivationShape& shape);
size_t workspace_bytes(const ActivationShape& shape);

}  // namespace act
