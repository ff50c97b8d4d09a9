// The three products of a linear layer, put as products of matrices for the driver (products.cc).
#include "operands.h"

namespace act::cpu {

std::vector<InnerGroup> CpuBackend::row_groups(std::span<const int32_t> runs, int64_t rows) const {
  require(runs.empty() || runs.back() == rows, "gradients of weights: the runs must cover all rows");
  const int64_t most = 2 * kernels_.bf16_group;
  std::vector<InnerGroup> groups;
  int64_t first = 0;
  for (size_t run = 0; run < std::max<size_t>(1, runs.size()); run++) {
    const int64_t end = runs.empty() ? rows : runs[run];
    for (; first < end; first += groups.back().count) groups.push_back({first, std::min(most, end - first)});
  }
  return groups;
}

void CpuBackend::linear(View y, bool accumulate, View x, const Weight& weight, View bias, float scale) {
  const LinearOutput output{y, weight, bias};
  multiply_weights({&output, 1}, accumulate, x, scale);
}

void CpuBackend::linears(std::span<const LinearOutput> outputs, View x) { multiply_weights(outputs, false, x, 1); }

bool CpuBackend::takes_rows(std::span<const LinearOutput> outputs) const {
  if (outputs.empty()) return false;
  const Weight& w = outputs.front().w;
  const PanelFormat format = left_format(w.dtype == DType::bf16, true);
  const int64_t units = inner_units(w.cols, format);
  return format != PanelFormat::tiles && units <= left_span(inner_block(units, format));
}

void CpuBackend::norm_linears(std::span<const LinearOutput> outputs, View normed, View rstd, View x, View weight,
                              float eps) {
  if (!takes_rows(outputs)) return Backend::norm_linears(outputs, normed, rstd, x, weight, eps);
  const RowMaker make_row = [&](int64_t row, float* to) {
    kernels_.rms_norm(to, x.as<float>() + row * x.cols, weight.as<float>(), eps, x.cols);
  };
  multiply_weights(outputs, false, x, 1, &make_row);
}

void CpuBackend::swiglu_linear(const LinearOutput& output, View product, View gate, View up) {
  require(gate.rows == up.rows && gate.cols == up.cols, "swiglu_linear: gate and up must have one shape");
  if (!takes_rows({&output, 1})) return Backend::swiglu_linear(output, product, gate, up);
  const RowMaker make_row = [&](int64_t row, float* to) {
    kernels_.swiglu(to, gate.as<float>() + row * gate.cols, up.as<float>() + row * up.cols, gate.cols);
  };
  multiply_weights({&output, 1}, true, gate, 1, &make_row);
}

Follower CpuBackend::follower_of(std::span<const Product::Output> outputs, const CpuWeight& first) const {
  const PanelFormat left = left_format(first.dtype == DType::bf16, true);
  const int64_t width = columns(left), units = inner_units(first.cols, left);
  return {outputs.front().b.packed, ceil_div(first.rows, width),
          width * words_of(left, std::min(units, inner_block(units, left)))};
}

void CpuBackend::multiply_weights(std::span<const LinearOutput> outputs, bool accumulate, View x, float scale,
                                  const RowMaker* make_row) {
  if (outputs.empty()) return;
  const DType dtype = outputs.front().w.dtype;
  std::vector<Product::Output> parts;
  for (const LinearOutput& o : outputs) {
    const auto& w = static_cast<const CpuWeight&>(o.w);
    require_shape(x, x.rows, w.cols, "linear: x must be [T, w.cols]");
    require_shape(o.y, x.rows, w.rows, "linear: y must be [T, w.rows]");
    require(w.dtype == dtype, "linears: the weights must have one dtype");
    for (int64_t t = 0; accumulate && o.bias.data && t < x.rows; t++) {
      kernels_.add(o.y.as<float>() + t * o.y.cols, o.bias.as<float>(), o.y.cols);
    }
    parts.push_back({o.y.as<float>(), w.rows, o.bias.as<float>(), {w.packed.view().as<uint32_t>(), {}}});
  }
  Product p{};
  p.outputs = parts;
  p.m = x.rows, p.k = x.cols;
  p.accumulate = accumulate;
  p.bf16 = dtype == DType::bf16;
  p.a = {x.data, x.cols, false, true, scale};
  p.make_row = make_row;
  const auto& w = static_cast<const CpuWeight&>(outputs.front().w);
  if (last_follower_) *last_follower_ = follower_of(parts, w);
  last_follower_ = w.follower;
  p.follower = w.follower.get();
  multiply(p);
}

void CpuBackend::linear_backward_input(View dx, bool accumulate, View dy, const Weight& weight, float scale) {
  const auto& w = static_cast<const CpuWeight&>(weight);
  require_shape(dy, dy.rows, w.rows, "linear_backward_input: dy must be [T, w.rows]");
  require_shape(dx, dy.rows, w.cols, "linear_backward_input: dx must be [T, w.cols]");
  const PackSource source{w.row_major.view().data, w.cols, w.row_major.view().dtype == DType::bf16, false, 1};
  const Product::Output output{dx.as<float>(), w.cols, nullptr, {nullptr, source}};
  Product p{};
  p.outputs = {&output, 1};
  p.m = dy.rows, p.k = w.rows;
  p.accumulate = accumulate;
  p.bf16 = w.dtype == DType::bf16;
  p.a = {dy.data, dy.cols, false, true, scale};
  multiply(p);
}

void CpuBackend::linear_backward_weight(View dw, View dy, View x, DType dtype, float scale) {
  const bool grouped = dtype == DType::bf16 && kernels_.bf16_group > 1;
  add_weight_gradient(dw, dy, x, dtype, scale, grouped ? row_groups(row_runs, dy.rows) : std::vector<InnerGroup>());
}

void CpuBackend::add_weight_gradient(View dw, View dy, View x, DType dtype, float scale,
                                     std::span<const InnerGroup> groups) {
  require_shape(dw, dy.cols, x.cols, "linear_backward_weight: dw must be [dy.cols, x.cols]");
  require_shape(x, dy.rows, x.cols, "linear_backward_weight: x must have dy's rows");
  if (dy.rows == 0) return;
  const Product::Output output{dw.as<float>(), x.cols, nullptr, {nullptr, {x.data, x.cols, false, false, 1}}};
  Product p{};
  p.outputs = {&output, 1};
  p.m = dy.cols, p.k = dy.rows;
  p.accumulate = true;
  p.one_chain = true;
  p.bf16 = dtype == DType::bf16;
  p.a = {dy.data, dy.cols, false, false, scale};
  p.groups = groups;
  multiply(p);
}

}  // namespace act::cpu
