// Which parameters a configuration has, and what they cost.
#include <algorithm>
#include <array>

#include "../ops/compact.h"
#include "model_impl.h"

namespace act {
namespace {

void require(bool holds, const std::string& message) {
  if (!holds) throw Error("BAD_ARGUMENT", message);
}

void check(const ModelConfig& c, const Model::Options& o) {
  require(c.vocab_size > 0 && c.hidden_size > 0 && c.layers > 0 && c.heads > 0 && c.kv_heads > 0 && c.head_dim > 0 &&
              c.intermediate_size > 0 && c.max_positions > 0,
          "Expected positive model sizes (vocabulary, hidden, layers, heads, key-value heads, head size, intermediate, "
          "positions).");
  require(c.head_dim % 2 == 0, "Expected an even head size, got " + std::to_string(c.head_dim) + ".");
  require(c.heads % c.kv_heads == 0, "Expected heads (" + std::to_string(c.heads) +
                                         ") to be a multiple of key-value heads (" + std::to_string(c.kv_heads) + ").");
  require(static_cast<int32_t>(c.inv_freq.size()) == c.head_dim / 2,
          "Expected " + std::to_string(c.head_dim / 2) + " rotary frequencies, got " +
              std::to_string(c.inv_freq.size()) + ".");
  require(o.dtype == DType::f32 || o.dtype == DType::bf16, "Expected weights in fp32 or bf16.");
  require(o.max_rows > 0, "Expected a positive number of batch rows (maxBatchTokens).");
  require(!o.compact_optimizer || o.dtype == DType::bf16,
          "The compact optimizer state keeps weights in bf16 only: choose dtype bf16, or optimizerState full.");
  require(o.lora.rank >= 0, "Expected a LoRA rank >= 0, got " + std::to_string(o.lora.rank) + ".");
  require(o.lora.rank == 0 || o.lora.alpha > 0, "Expected a positive LoRA alpha.");
}

struct Target {
  const char* name;
  const char* block;
  int64_t out, in;
  bool biased;  // where the architecture has biases
};

std::array<Target, 7> linear_maps(const ModelConfig& c) {
  const int64_t hidden = c.hidden_size, query = int64_t{c.heads} * c.head_dim, kv = int64_t{c.kv_heads} * c.head_dim;
  return {{{"q_proj", "self_attn", query, hidden, true},
           {"k_proj", "self_attn", kv, hidden, true},
           {"v_proj", "self_attn", kv, hidden, true},
           {"o_proj", "self_attn", hidden, query, false},
           {"gate_proj", "mlp", c.intermediate_size, hidden, false},
           {"up_proj", "mlp", c.intermediate_size, hidden, false},
           {"down_proj", "mlp", hidden, c.intermediate_size, false}}};
}

void check_targets(const ModelConfig& c, const LoraConfig& lora) {
  if (lora.rank == 0) return;
  std::string valid;
  for (const Target& t : linear_maps(c)) valid += (valid.empty() ? "" : ", ") + std::string(t.name);
  require(!lora.targets.empty(), "Expected at least one LoRA target module. Valid names: " + valid + ".");
  for (const std::string& name : lora.targets) {
    bool found = false;
    for (const Target& t : linear_maps(c)) found = found || name == t.name;
    require(found, "LoRA target `" + name + "` matches no module of this model. Valid names: " + valid + ".");
  }
}

}  // namespace

std::map<std::string, ParameterShape> parameter_shapes(const ModelConfig& c, const Model::Options& o) {
  check(c, o);
  check_targets(c, o.lora);
  std::map<std::string, ParameterShape> all;
  const bool base_trains = o.trainable && o.lora.rank == 0;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape) {
    all[name] = {std::move(shape), base_trains, false};
  };

  add("model.embed_tokens.weight", {c.vocab_size, c.hidden_size});
  all["model.embed_tokens.weight"].twice_used = c.tied_embeddings;
  add("model.norm.weight", {c.hidden_size});
  if (!c.tied_embeddings) add("lm_head.weight", {c.vocab_size, c.hidden_size});
  for (int32_t i = 0; i < c.layers; i++) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    add(layer + "input_layernorm.weight", {c.hidden_size});
    add(layer + "post_attention_layernorm.weight", {c.hidden_size});
    if (c.qk_norm) add(layer + "self_attn.q_norm.weight", {c.head_dim});
    if (c.qk_norm) add(layer + "self_attn.k_norm.weight", {c.head_dim});
    for (const Target& t : linear_maps(c)) {
      const std::string name = layer + t.block + "." + t.name;
      add(name + ".weight", {t.out, t.in});
      if (c.qkv_bias && t.biased) add(name + ".bias", {t.out});
      if (o.lora.rank == 0 || std::ranges::find(o.lora.targets, t.name) == o.lora.targets.end()) continue;
      const std::string adapter = "base_model.model." + name;
      all[adapter + ".lora_A.weight"] = {{o.lora.rank, t.in}, o.trainable, false};
      all[adapter + ".lora_B.weight"] = {{t.out, o.lora.rank}, o.trainable, false};
    }
  }
  return all;
}

Model::Bytes Model::planned_bytes(const Backend& backend, const ModelConfig& config, const Options& options) {
  Bytes bytes;
  for (const auto& [name, p] : parameter_shapes(config, options)) {
    const bool matrix = p.shape.size() == 2;
    const int64_t rows = matrix ? p.shape[0] : 1, cols = p.shape.back();
    const size_t fp32 = static_cast<size_t>(rows * cols) * size_of(DType::f32);
    const bool compact = options.compact_optimizer && p.trainable && matrix;
    const bool away = options.offload_optimizer && options.dtype == DType::bf16 && p.trainable && !compact;
    if (matrix) {
      bytes.weights += backend.weight_bytes(rows, cols, options.dtype, p.trainable && !compact && !away);
      if (away) bytes.host += fp32;  // the master
    } else {
      bytes.weights += fp32;
      if (p.trainable && options.dtype == DType::bf16) bytes.weights += fp32;
    }
    if (!p.trainable) continue;
    bytes.gradients += p.twice_used ? 2 * fp32 : fp32;
    const size_t scales = static_cast<size_t>(compact::blocks(rows * cols)) * size_of(DType::f32);
    const size_t moment = compact ? static_cast<size_t>(rows * cols) + scales : fp32;
    (options.offload_optimizer ? bytes.host : bytes.optimizer) += 2 * moment;
  }
  const ActivationShape shape = ActivationShape::of(backend, config, options);
  bytes.workspace = workspace_bytes(shape);
  if (options.trainable) bytes.tape = ForwardTape::bytes(shape);
  return bytes;
}

}  // namespace act
