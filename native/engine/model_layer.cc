#include "model_layer.h"

#include <cmath>

namespace act {
namespace {

View first_rows(const Buffer& buffer, int64_t rows) { return buffer.view().rows_from(0, rows); }

/// [T, heads * d] seen as [T * heads, d].
View by_head(View x, int head_dim) { return {x.data, x.size() / head_dim, head_dim, x.dtype}; }

View bias_of(const Projection& p) { return p.bias ? p.bias->vector.view() : View{}; }

/// out = rms_norm(in) over rows of any width; leaves 1 / rms in the workspace and returns it.
View norm(const LayerContext& c, View out, View in, const Parameter& weight) {
  const View rstd = first_rows(c.work.rstd, in.rows);
  c.backend.rms_norm(out, rstd, in, weight.vector.view(), c.config.norm_eps);
  return rstd;
}

bool adapted(const LayerContext& c, const Projection& p) { return c.adapters && p.lora_a; }

/// y += the adapter's part of projection(x).
void add_adapter(const LayerContext& c, const Projection& p, View y, View x) {
  if (!adapted(c, p)) return;
  const View low = first_rows(c.work.low_rank, x.rows);
  c.backend.linear(low, false, x, *p.lora_a->matrix, View{});
  c.backend.linear(y, true, low, *p.lora_b->matrix, View{}, c.lora_scale);
}

/// y += projection(x).
void add_projection(const LayerContext& c, const Projection& p, View y, View x) {
  c.backend.linear(y, true, x, *p.weight->matrix, bias_of(p));
  add_adapter(c, p, y, x);
}

struct ProjectionOutput {
  const Projection& projection;
  View y;
};
/// y = projection(rms_norm(x)) of every output.
void project_norm(const LayerContext& c, std::initializer_list<ProjectionOutput> outputs, View x,
                  const Parameter& weight) {
  std::vector<LinearOutput> products;
  bool any_adapted = false;
  for (const auto& [p, y] : outputs) {
    products.push_back({y, *p.weight->matrix, bias_of(p)});
    any_adapted |= adapted(c, p);
  }
  const View normed = first_rows(c.work.normed, x.rows), rstd = first_rows(c.work.rstd, x.rows);
  if (!any_adapted) return c.backend.norm_linears(products, normed, rstd, x, weight.vector.view(), c.config.norm_eps);
  norm(c, normed, x, weight);
  c.backend.linears(products, normed);
  for (const auto& [p, y] : outputs) add_adapter(c, p, y, normed);
}

/// dx (+)= d(projection)^T dy, and the gradients of the projection's parameters. x is the projection's input.
void project_backward(const LayerContext& c, const Projection& p, View dx, bool accumulate, View dy, View x) {
  Backend& b = c.backend;
  const Weight& w = *p.weight->matrix;
  if (p.weight->gradient) b.linear_backward_weight(p.weight->gradient.view(), dy, x, w.dtype);
  if (p.bias && p.bias->gradient) b.bias_backward(p.bias->gradient.view(), dy);
  b.linear_backward_input(dx, accumulate, dy, w);
  if (!adapted(c, p)) return;
  const Weight &lora_a = *p.lora_a->matrix, &lora_b = *p.lora_b->matrix;
  const View low = first_rows(c.work.low_rank, x.rows), dlow = first_rows(c.work.dlow_rank, x.rows);
  b.linear(low, false, x, lora_a, View{});
  b.linear_backward_weight(p.lora_b->gradient.view(), dy, low, lora_b.dtype, c.lora_scale);
  b.linear_backward_input(dlow, false, dy, lora_b, c.lora_scale);
  b.linear_backward_weight(p.lora_a->gradient.view(), dlow, x, lora_a.dtype);
  b.linear_backward_input(dx, true, dlow, lora_a);
}

void rotate(const LayerContext& c, View x, bool inverse) {
  c.backend.rope(x, c.config.head_dim, c.batch.positions, c.config.inv_freq, c.config.rope_factor, inverse);
}

/// The queries attention works with: a.q itself, or (Qwen3) its norm, rotated.
View rotated_queries(const LayerContext& c, const LayerParameters& p, const LayerActivations& a) {
  if (!c.config.qk_norm) return a.q;
  const View query = first_rows(c.work.query, c.rows());
  norm(c, by_head(query, c.config.head_dim), by_head(a.q, c.config.head_dim), *p.q_norm);
  rotate(c, query, false);
  return query;
}

}  // namespace

float LayerContext::attention_scale() const { return static_cast<float>(1.0 / std::sqrt(double{1} * config.head_dim)); }

void attend(const LayerContext& c, const LayerParameters& p, const LayerActivations& a) {
  Backend& b = c.backend;
  const int d = c.config.head_dim;
  const View key = first_rows(c.work.k, c.rows()), value = first_rows(c.work.v, c.rows());
  project_norm(c, {{p.q, a.q}, {p.k, c.config.qk_norm ? a.k : key}, {p.v, value}}, a.x, *p.input_norm);
  if (c.config.qk_norm) norm(c, by_head(key, d), by_head(a.k, d), *p.k_norm);
  if (!c.config.qk_norm) rotate(c, a.q, false);
  const View query = rotated_queries(c, p, a);
  rotate(c, key, false);

  const Forest forest = c.batch.forest();
  b.write_kv(c.pool, c.pool_layer(), forest, key, value);
  b.attention(a.attended, a.lse, query, c.pool, c.pool_layer(), forest, c.attention_scale());
}

void attention_output(const LayerContext& c, const LayerParameters& p, const LayerActivations& a) {
  if (a.middle.data != a.x.data) c.backend.copy(a.middle, a.x);
  add_projection(c, p.o, a.middle, a.attended);
}

void feed_forward(const LayerContext& c, const LayerParameters& p, const LayerActivations& a, View next) {
  Backend& b = c.backend;
  project_norm(c, {{p.gate, a.gate}, {p.up, a.up}}, a.middle, *p.post_norm);
  if (!next.data) return;
  const View product = first_rows(c.work.product, a.gate.rows);
  if (next.data != a.middle.data) b.copy(next, a.middle);
  if (!adapted(c, p.down)) {
    return b.swiglu_linear({next, *p.down.weight->matrix, bias_of(p.down)}, product, a.gate, a.up);
  }
  b.swiglu(product, a.gate, a.up);
  add_projection(c, p.down, next, product);
}

void feed_forward_backward(const LayerContext& c, const LayerParameters& p, const LayerActivations& a, View dx) {
  Backend& b = c.backend;
  const View product = first_rows(c.work.product, c.rows()), dproduct = first_rows(c.work.dproduct, c.rows());
  const View normed = first_rows(c.work.normed, c.rows()), dnormed = first_rows(c.work.dnormed, c.rows());
  b.swiglu(product, a.gate, a.up);
  project_backward(c, p.down, dproduct, false, dx, product);
  b.swiglu_backward(a.gate, a.up, dproduct, a.gate, a.up);
  const View rstd = norm(c, normed, a.middle, *p.post_norm);
  project_backward(c, p.gate, dnormed, false, a.gate, normed);
  project_backward(c, p.up, dnormed, true, a.up, normed);
  b.rms_norm_backward(dx, true, gradient_of(*p.post_norm), dnormed, a.middle, rstd, p.post_norm->vector.view());
}

void attention_backward(const LayerContext& c, const LayerParameters& p, const LayerActivations& a, View dx) {
  Backend& b = c.backend;
  const int d = c.config.head_dim;
  const int64_t rows = c.rows();
  const View dattended = first_rows(c.work.dattended, rows);
  project_backward(c, p.o, dattended, false, dx, a.attended);

  View dq = first_rows(c.work.dquery, rows), dk = first_rows(c.work.k, rows);
  const View dv = first_rows(c.work.v, rows);
  b.attention_backward(dq, dk, dv, dattended, a.attended, a.lse, rotated_queries(c, p, a), c.pool, c.pool_layer(),
                       c.batch.forest(), c.attention_scale());
  rotate(c, dq, true);
  rotate(c, dk, true);
  if (c.config.qk_norm) {
    // The gradients before the norms. dattended has done its work; `query` holds normed values that rms_norm_backward
    // does not need, so it takes the normed output that only yields 1 / rms here.
    const View normed_q = first_rows(c.work.query, rows);
    View rstd = norm(c, by_head(normed_q, d), by_head(a.q, d), *p.q_norm);
    b.rms_norm_backward(by_head(dattended, d), false, gradient_of(*p.q_norm), by_head(dq, d), by_head(a.q, d), rstd,
                        p.q_norm->vector.view());
    dq = dattended;
    const View dk_raw = first_rows(c.work.dkey_raw, rows), normed_k = {normed_q.data, rows, dk.cols, dk.dtype};
    rstd = norm(c, by_head(normed_k, d), by_head(a.k, d), *p.k_norm);
    b.rms_norm_backward(by_head(dk_raw, d), false, gradient_of(*p.k_norm), by_head(dk, d), by_head(a.k, d), rstd,
                        p.k_norm->vector.view());
    dk = dk_raw;
  }

  const View normed = first_rows(c.work.normed, rows), dnormed = first_rows(c.work.dnormed, rows);
  const View rstd = norm(c, normed, a.x, *p.input_norm);
  project_backward(c, p.q, dnormed, false, dq, normed);
  project_backward(c, p.k, dnormed, true, dk, normed);
  project_backward(c, p.v, dnormed, true, dv, normed);
  b.rms_norm_backward(dx, true, gradient_of(*p.input_norm), dnormed, a.x, rstd, p.input_norm->vector.view());
}

}  // namespace act
