// The model graph: a decoder-only transformer (Llama, Qwen2, Qwen3) over a forest batch, forward and backward.
// Device-neutral: only Backend operations. Knows no files: configuration comes checked from TypeScript, weights by
// name.
#pragma once
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "../ops/ops.h"

namespace act {

/// What the computation depends on; read and checked from config.json in src/engine/model-config.ts.
struct ModelConfig {
  int32_t vocab_size = 0, hidden_size = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0, intermediate_size = 0;
  int32_t max_positions = 0;
  float norm_eps = 0;
  bool tied_embeddings = false;
  bool qkv_bias = false;  // Qwen2
  bool qk_norm = false;   // Qwen3: RMSNorm over each head of q and k before RoPE
  std::vector<float> inv_freq;  // [head_dim / 2], RoPE scaling applied
  float rope_factor = 1;        // yarn's attention factor on cosine and sine
};

/// Low-rank adapters (Hu et al. 2021, arXiv:2106.09685): y += alpha / rank * (x A^T) B^T, unmerged.
struct LoraConfig {
  int32_t rank = 0;  // 0: no adapters
  float alpha = 0;
  std::vector<std::string> targets;  // q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj
  uint64_t seed = 0;                 // of A's initial values; B starts at zero
};

/// One parameter and what training keeps for it. Names are Hugging Face's (`model.layers.0.self_attn.q_proj.weight`);
/// adapters are PEFT's (`base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`).
struct Parameter {
  std::string name;
  std::vector<int64_t> shape;      // 1 or 2 dimensions
  std::unique_ptr<Weight> matrix;  // 2-D
  Buffer vector;                   // 1-D, fp32 values (rounded to bf16 where that is the model's dtype)
  Buffer vector_master;            // 1-D, fp32, unrounded; only when trainable in bf16
  bool trainable = false;
  bool loaded = false;                // has values; adapters are born with them
  Buffer gradient, moment1, moment2;  // fp32 [rows, cols], only when trainable
  Buffer scales1, scales2;            // only with the compact optimizer, whose moments are codes (ops/compact.h)
  /// Of an embedding that is the head too: the embedding's part of the gradient, apart from the head's. Micro-batches
  /// add both parts in turn; in one buffer the order of additions, and so the last bits, would depend on the split.
  Buffer embedding_gradient;
  int64_t rows() const { return shape.size() == 2 ? shape[0] : 1; }
  int64_t cols() const { return shape.back(); }
  int64_t size() const { return rows() * cols(); }
  bool compact() const { return static_cast<bool>(scales1); }
  CompactMoments compact_moments() const {
    return {moment1.view(), scales1.view(), moment2.view(), scales2.view()};
  }
};

/// What of a parameter is read or written. `weight`: what the forward pass sees; `master`: its fp32 original.
enum class TensorKind : uint8_t { weight, master, gradient, moment1, moment2 };

/// A batch as the model takes it. tokens and positions have forest.rows entries.
struct ForestBatch {
  std::vector<int32_t> tokens, positions;
  std::vector<Segment> segments;
  std::vector<int32_t> pages;
  Forest forest() const { return {segments, pages, static_cast<int64_t>(tokens.size())}; }
};

/// Activations that the backward pass needs (tape.h). With `recompute` only each layer's input.
class ForwardTape;

class Model {
 public:
  struct Options {
    DType dtype = DType::f32;
    bool trainable = false;  // full fine-tuning, or adapters only when lora.rank > 0
    bool recompute = false;
    int64_t max_rows = 0;  // batch rows (and selected rows) of one forward pass at most; buffers are made for that many
    LoraConfig lora;
    /// Trainable matrices in bf16 without fp32 masters, rounded stochastically, their moments in 8 bits (ops/compact.h);
    /// vectors as ever. Needs dtype bf16.
    bool compact_optimizer = false;
    /// Masters of matrices, and moments, in pinned host memory, where steps read and write them. Needs a device apart
    /// from the host.
    bool offload_optimizer = false;
  };
  /// Allocates everything: parameters, their gradients and moments, working buffers. Throws Error BAD_ARGUMENT
  /// (a configuration that cannot be computed, an adapter target that matches nothing), OUT_OF_MEMORY.
  Model(Backend& backend, const ModelConfig& config, const Options& options);
  ~Model();

  const ModelConfig& config() const;
  const Options& options() const;
  Backend& backend() const;

  // --- parameters ---------------------------------------------------------------------------------------------------
  std::map<std::string, Parameter>& parameters();  // in name order; every one must be loaded before forward
  Parameter& parameter(const std::string& name);   // throws Error UNKNOWN_TENSOR
  /// Whole tensor from host memory. Throws NUMERICS when a value is not finite (and leaves the tensor as it was).
  void load(const std::string& name, const void* from, DType dtype);
  /// fp32 values of any kind; `weight` and `master` both set the master and re-round the weight.
  void write(const std::string& name, TensorKind kind, const float* from);
  /// Host bytes: `weight` in the model's dtype, everything else fp32. Throws BAD_ARGUMENT for a kind it does not have.
  std::vector<std::byte> read(const std::string& name, TensorKind kind);
  /// Seeded normal values of standard deviation `std` for every base matrix; norms 1, biases 0. Same on every machine.
  void initialize(uint64_t seed, double std);
  /// After a master changed (optimizer step): what the forward pass sees is made anew from it.
  void refresh(Parameter& parameter);
  void zero_gradients();
  /// Makes `gradient` of every parameter whole (adds the embedding's part of a tied matrix); before an optimizer step.
  void complete_gradients();
  /// fp32 values the optimizer works on; throws BAD_ARGUMENT when the parameter is frozen.
  View master(Parameter& parameter);

  // --- computation --------------------------------------------------------------------------------------------------
  /// LoRA adapters take part when true (default); false gives the base model, the reference policy of adapter training.
  bool adapters_enabled = true;
  /// Called between layers of forward and backward; what it throws ends them (progress and cancellation).
  std::function<void()> between_layers;

  /// Writes keys and values of the batch into `pool` and the normed final hidden states of `rows` (batch row indices)
  /// into `hidden` [rows.size(), D] (in the backend's activation dtype). `tape` null: inference.
  /// A pool of ONE layer serves batches that need no keys of earlier ones: every layer uses it in turn (scoring, and
  /// training with recompute). Throws NOT_LOADED, BATCH_TOO_LARGE (more than max_rows).
  void forward(const ForestBatch& batch, KvPool& pool, std::span<const int32_t> rows, View hidden, ForwardTape* tape);
  /// Adds to every trainable parameter's gradient. dhidden [rows.size(), D] belongs to the rows given to forward, which
  /// must be the model's last forward pass. Does not add the head's own gradient: head_loss does (head_gradient()).
  void backward(const ForestBatch& batch, KvPool& pool, std::span<const int32_t> rows, View dhidden, ForwardTape& tape);
  const Weight& head();
  View head_gradient();  // empty when the head is frozen
  std::unique_ptr<ForwardTape> make_tape();

  /// Planned bytes, exact.
  struct Bytes {
    size_t weights = 0, gradients = 0, optimizer = 0;  // what the constructor allocates for parameters
    size_t host = 0;                                   // of these, in the host's memory (offload_optimizer)
    size_t workspace = 0;                              // and for working buffers
    size_t tape = 0;                                   // what make_tape allocates
  };
  static Bytes planned_bytes(const Backend& backend, const ModelConfig& config, const Options& options);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace act
