#include "tape.h"

namespace act {
namespace {

/// Adds up what `each` would allocate.
struct Counter {
  size_t total = 0;
  void operator()(Buffer&, int64_t rows, int64_t cols, DType dtype) {
    total += static_cast<size_t>(rows * cols) * size_of(dtype);
  }
};

struct Allocator {
  Backend& backend;
  void operator()(Buffer& buffer, int64_t rows, int64_t cols, DType dtype) {
    buffer = Buffer(backend, rows, cols, dtype);
  }
};

View head_of(const Buffer& buffer, int64_t rows) { return buffer ? buffer.view().rows_from(0, rows) : View{}; }

}  // namespace

ActivationShape ActivationShape::of(const Backend& backend, const ModelConfig& config, const Model::Options& options) {
  ActivationShape s;
  s.rows = options.max_rows;
  s.hidden = config.hidden_size;
  s.query = int64_t{config.heads} * config.head_dim;
  s.kv = int64_t{config.kv_heads} * config.head_dim;
  s.heads = config.heads;
  s.kv_heads = config.kv_heads;
  s.intermediate = config.intermediate_size;
  s.lora_rank = options.lora.rank;
  s.layers = config.layers;
  s.qk_norm = config.qk_norm;
  s.training = options.trainable;
  s.recompute = options.recompute;
  s.dtype = backend.activation_dtype(options.dtype);
  return s;
}

LayerActivations LayerBuffers::first_rows(int64_t rows) const {
  LayerActivations a;
  a.q = head_of(q, rows);
  a.k = head_of(k, rows);
  a.attended = head_of(attended, rows);
  a.lse = head_of(lse, rows);
  a.middle = head_of(middle, rows);
  a.gate = head_of(gate, rows);
  a.up = head_of(up, rows);
  return a;
}

Workspace make_workspace(Backend& backend, const ActivationShape& shape) {
  Workspace workspace;
  workspace.each(shape, Allocator{backend});
  return workspace;
}

size_t workspace_bytes(const ActivationShape& shape) {
  Workspace empty;
  Counter counter;
  empty.each(shape, counter);
  return counter.total;
}

ForwardTape::ForwardTape(Backend& backend, const ActivationShape& shape) {
  for (int64_t i = 0; i < shape.layers; i++) {
    inputs.emplace_back(backend, shape.rows, shape.hidden, shape.dtype);
    if (shape.recompute) continue;
    layers.emplace_back().each(shape, Allocator{backend});
  }
}

size_t ForwardTape::bytes(const ActivationShape& shape) {
  LayerBuffers empty;
  Counter layer;
  if (!shape.recompute) empty.each(shape, layer);
  const size_t input = static_cast<size_t>(shape.rows * shape.hidden) * size_of(shape.dtype);
  return static_cast<size_t>(shape.layers) * (input + layer.total);
}

}  // namespace act
