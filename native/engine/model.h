// The model graph: a decoder-only transformer (Llama, Qwen2, Qwen3) over a forest batch, forward and backward.
// Device-neutral: only Backend operations. Knows no files: configuration comes checked from TypeScript, weights by name.
#pragma once
#include <map>
#include <memory>
#include <optional>
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
  Buffer vector;                   // 1-D, fp32 values (rounded to the weight dtype where that is bf16)
  bool trainable = false;
  Buffer gradient, moment1, moment2;  // fp32, only when trainable and training was asked for
};

/// A batch as the model takes it. tokens and positions have forest.rows entries.
struct ForestBatch {
  std::vector<int32_t> tokens, positions;
  std::vector<Segment> segments;
  std::vector<int32_t> pages;
  Forest forest() const;
};

/// Activations the backward pass needs. `recompute` keeps only each layer's input.
class ForwardTape;

class Model {
 public:
  struct Options {
    DType dtype = DType::f32;
    bool trainable = false;       // full fine-tuning, or adapters only when lora.rank > 0
    bool recompute = false;
    LoraConfig lora;
  };
  Model(Backend& backend, const ModelConfig& config, const Options& options);
  ~Model();

  const ModelConfig& config() const;
  std::map<std::string, Parameter>& parameters();  // in name order; every one must be loaded before forward
  /// LoRA adapters take part when true (default); false gives the base model, the reference policy of adapter training.
  bool adapters_enabled = true;

  /// Writes keys and values of the batch into `pool` and the normed final hidden states of `rows` (batch row indices)
  /// into `hidden` [rows.size(), D]. `tape` null: inference.
  void forward(const ForestBatch& batch, KvPool& pool, std::span<const int32_t> rows, View hidden, ForwardTape* tape);
  /// Adds to every trainable parameter's gradient. dhidden [rows.size(), D] belongs to the rows given to forward.
  void backward(const ForestBatch& batch, KvPool& pool, std::span<const int32_t> rows, View dhidden, ForwardTape& tape);
  const Weight& head();
  View head_gradient();  // empty when the head is frozen
  std::unique_ptr<ForwardTape> make_tape();

  /// Planned bytes, exact: what the constructor allocates, and what a batch of that size will.
  static size_t weight_bytes(const Backend&, const ModelConfig&, const Options&);
  static size_t activation_bytes(const Backend&, const ModelConfig&, const Options&, int64_t rows, bool training);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace act
