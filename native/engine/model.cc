#include "model.h"

#include "../ops/compact.h"
#include "model_impl.h"

namespace act {
namespace {

Parameter make_parameter(Backend& backend, const std::string& name, const ParameterShape& shape,
                         const Model::Options& options) {
  const DType dtype = options.dtype;
  const bool compact = options.compact_optimizer && shape.trainable && shape.shape.size() == 2;
  Parameter p;
  p.name = name;
  p.shape = shape.shape;
  p.trainable = shape.trainable;
  const Place place = options.offload_optimizer ? Place::host : Place::device;
  if (p.shape.size() == 2) {
    p.matrix = backend.create_weight(p.rows(), p.cols(), dtype, p.trainable && !compact, place);
  } else {
    p.vector = Buffer(backend, 1, p.cols(), DType::f32);
    if (p.trainable && dtype == DType::bf16) p.vector_master = Buffer(backend, 1, p.cols(), DType::f32);
  }
  if (p.trainable) {
    p.gradient = Buffer(backend, p.rows(), p.cols(), DType::f32);
    const DType moments = compact ? DType::u8 : DType::f32;
    p.moment1 = Buffer(backend, p.rows(), p.cols(), moments, place);
    p.moment2 = Buffer(backend, p.rows(), p.cols(), moments, place);
    if (compact) {
      p.scales1 = Buffer(backend, 1, compact::blocks(p.size()), DType::f32, place);
      p.scales2 = Buffer(backend, 1, compact::blocks(p.size()), DType::f32, place);
    }
    if (shape.twice_used) p.embedding_gradient = Buffer(backend, p.rows(), p.cols(), DType::f32);
  }
  return p;
}

}  // namespace

Model::Model(Backend& backend, const ModelConfig& config, const Options& options)
    : impl_(std::make_unique<Impl>(backend, config, options)) {
  Impl& m = *impl_;
  for (const auto& [name, shape] : parameter_shapes(config, options))
    m.parameters.emplace(name, make_parameter(backend, name, shape, options));
  m.connect();
  m.work = make_workspace(backend, ActivationShape::of(backend, config, options));
  m.missing = static_cast<int64_t>(m.parameters.size());
  for (auto& [name, parameter] : m.parameters)
    if (name.starts_with("base_model.")) m.initialize_adapter(parameter);
}

Model::~Model() = default;

const ModelConfig& Model::config() const { return impl_->config; }
const Model::Options& Model::options() const { return impl_->options; }
Backend& Model::backend() const { return impl_->backend; }
std::map<std::string, Parameter>& Model::parameters() { return impl_->parameters; }

Parameter& Model::parameter(const std::string& name) {
  const auto found = impl_->parameters.find(name);
  if (found == impl_->parameters.end())
    throw Error("UNKNOWN_TENSOR", "This model has no tensor `" + name + "`. Its names are those of tensors().");
  return found->second;
}

void Model::Impl::connect() {
  const auto find = [&](const std::string& name) {
    const auto found = parameters.find(name);
    return found == parameters.end() ? nullptr : &found->second;
  };
  const auto projection = [&](const std::string& name) {
    const std::string adapter = "base_model.model." + name;
    return Projection{find(name + ".weight"), find(name + ".bias"), find(adapter + ".lora_A.weight"),
                      find(adapter + ".lora_B.weight")};
  };
  embedding = find("model.embed_tokens.weight");
  final_norm = find("model.norm.weight");
  head = config.tied_embeddings ? embedding : find("lm_head.weight");
  for (int32_t i = 0; i < config.layers; i++) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    LayerParameters& p = layers.emplace_back();
    p.input_norm = find(layer + "input_layernorm.weight");
    p.post_norm = find(layer + "post_attention_layernorm.weight");
    p.q_norm = find(layer + "self_attn.q_norm.weight");
    p.k_norm = find(layer + "self_attn.k_norm.weight");
    p.q = projection(layer + "self_attn.q_proj");
    p.k = projection(layer + "self_attn.k_proj");
    p.v = projection(layer + "self_attn.v_proj");
    p.o = projection(layer + "self_attn.o_proj");
    p.gate = projection(layer + "mlp.gate_proj");
    p.up = projection(layer + "mlp.up_proj");
    p.down = projection(layer + "mlp.down_proj");
  }
}

float Model::Impl::lora_scale() const {
  return options.lora.rank > 0 ? options.lora.alpha / static_cast<float>(options.lora.rank) : 0;
}

const Weight& Model::head() { return *impl_->head->matrix; }
View Model::head_gradient() { return gradient_of(*impl_->head); }

std::unique_ptr<ForwardTape> Model::make_tape() {
  if (!impl_->options.trainable)
    throw Error("BAD_ARGUMENT", "This engine was made without training. Open it with training: true.");
  return std::make_unique<ForwardTape>(impl_->backend,
                                       ActivationShape::of(impl_->backend, impl_->config, impl_->options));
}

void Model::forward(const ForestBatch& batch, KvPool& pool, std::span<const int32_t> rows, View hidden,
                    ForwardTape* tape) {
  Impl& m = *impl_;
  const int64_t count = static_cast<int64_t>(batch.tokens.size()), selected = static_cast<int64_t>(rows.size());
  if (m.missing > 0) {
    for (const auto& [name, parameter] : m.parameters)
      if (!parameter.loaded)
        throw Error("NOT_LOADED", "Tensor `" + name + "` has no values yet. Load every tensor first.");
  }
  if (count > m.options.max_rows || selected > m.options.max_rows)
    throw Error("BATCH_TOO_LARGE", "A batch of " + std::to_string(count) + " tokens and " + std::to_string(selected) +
                                       " output rows does not fit buffers of " + std::to_string(m.options.max_rows) +
                                       " rows. Raise maxBatchTokens.");

  LayerContext c{m.backend, m.config, m.work, m.lora_scale(), adapters_enabled, batch, pool, 0};
  const bool keep_layers = tape && !m.options.recompute;
  if (tape) tape->rows = count;
  const View last = m.work.x.view().rows_from(0, count), picked = m.work.selected.view().rows_from(0, selected);
  // The last layer goes on from its attention with the selected rows alone where that saves most; not in a step of
  // decoding, whose rows are filled up and whose shapes are to stay the same.
  const bool few = !tape && selected < count / 2 && count > kPageKeys;
  const auto input_of = [&](int layer) {
    return tape && layer < m.config.layers ? tape->inputs[layer].view().rows_from(0, count) : last;
  };

  m.backend.embed(input_of(0), *m.embedding->matrix, batch.tokens);
  for (; c.index < m.config.layers; c.index++) {
    if (between_layers) between_layers();
    const View next = input_of(c.index + 1);
    LayerActivations a = (keep_layers ? tape->layers[c.index] : m.work.layer).first_rows(count);
    a.x = input_of(c.index);
    // Where nothing reads the middle again it may live in the output's memory, and in inference in the input's.
    if (!keep_layers) a.middle = next;
    if (!tape) a.lse = View{};
    const LayerParameters& p = m.layers[c.index];
    attend(c, p, a);
    View out = next;
    if (few && c.index + 1 == m.config.layers) {
      if (selected == 0) return;  // the keys and values of this layer are written
      const View attended = a.q.rows_from(0, selected);  // the queries have done their work
      m.backend.gather_rows(attended, a.attended, rows);
      m.backend.gather_rows(picked, a.x, rows);
      a = m.work.layer.first_rows(selected);
      a.attended = attended;
      a.x = a.middle = out = picked;
    }
    attention_output(c, p, a);
    feed_forward(c, p, a, out);
  }
  if (selected == 0) return;
  if (!few) m.backend.gather_rows(picked, last, rows);
  m.backend.rms_norm(hidden, m.work.selected_rstd.view().rows_from(0, selected), picked, m.final_norm->vector.view(),
                     m.config.norm_eps);
}

void Model::backward(const ForestBatch& batch, KvPool& pool, std::span<const int32_t> rows, View dhidden,
                     ForwardTape& tape) {
  Impl& m = *impl_;
  const int64_t count = static_cast<int64_t>(batch.tokens.size()), selected = static_cast<int64_t>(rows.size());
  if (tape.rows != count) throw Error("BAD_ARGUMENT", "Backward of a batch that is not the last one sent forward.");
  LayerContext c{m.backend, m.config, m.work, m.lora_scale(), adapters_enabled, batch, pool, m.config.layers - 1};

  const View dx = m.work.dx.view().rows_from(0, count);
  const View picked = m.work.selected.view().rows_from(0, selected);
  const View dpicked = m.work.dnormed.view().rows_from(0, selected);
  m.backend.rms_norm_backward(dpicked, false, gradient_of(*m.final_norm), dhidden, picked,
                              m.work.selected_rstd.view().rows_from(0, selected), m.final_norm->vector.view());
  m.backend.fill(dx, 0);
  m.backend.scatter_add_rows(dx, dpicked, rows);

  for (; c.index >= 0; c.index--) {
    if (between_layers) between_layers();
    const LayerParameters& p = m.layers[c.index];
    LayerActivations a = (m.options.recompute ? m.work.layer : tape.layers[c.index]).first_rows(count);
    a.x = tape.inputs[c.index].view().rows_from(0, count);
    if (m.options.recompute) {
      attend(c, p, a);
      attention_output(c, p, a);
      feed_forward(c, p, a, View{});
    }
    feed_forward_backward(c, p, a, dx);
    attention_backward(c, p, a, dx);
  }
  const Buffer& of_embedding =
      m.embedding->embedding_gradient ? m.embedding->embedding_gradient : m.embedding->gradient;
  if (of_embedding) m.backend.embed_backward(of_embedding.view(), dx, batch.tokens);
}

}  // namespace act
