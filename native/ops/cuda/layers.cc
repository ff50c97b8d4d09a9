// Layer operations: checks, operands in the right type, launches.
#include <algorithm>

#include "../host.h"
#include "cuda_backend.h"

namespace act::cuda {
namespace {

bool is_activation(View x) { return x.dtype == DType::f32 || x.dtype == DType::bf16; }

void check(View x, int64_t rows, int64_t cols, const char* what) {
  require(is_activation(x) && x.rows == rows && x.cols == cols && (x.data || rows * cols == 0), what);
}

void check_same(View x, View like, const char* what) {
  check(x, like.rows, like.cols, what);
  require(x.dtype == like.dtype, what);
}

}  // namespace

const void* CudaBackend::operand(View x, DType dtype, float scale, Scratch& scratch) {
  if (x.dtype == dtype && scale == 1) return x.data;
  const View copy{scratch.get(*this, static_cast<size_t>(x.size()) * size_of(dtype)), x.rows, x.cols, dtype};
  if (x.size()) launch_convert(queue(), copy, x, scale);
  return copy.data;
}

void CudaBackend::multiply(const Gemm& g, DType operands) {
  if (cublaslt_) {
    void* const workspace = workspace_.get(*this, CublasLt::kWorkspaceBytes);
    if (const auto launch = cublaslt_->product(g, operands, workspace)) return queue_.submit(*launch);
  }
  operands == DType::bf16 ? launch_gemm_bf16(queue(), g) : launch_gemm_f32(queue(), g);
}

void CudaBackend::embed(View out, const Weight& weight, std::span<const int32_t> ids) {
  const auto& w = static_cast<const CudaWeight&>(weight);
  check(out, static_cast<int64_t>(ids.size()), w.cols, "embed: out must be [ids, w.cols]");
  check_rows(ids, w.rows, "embed: id outside the weight's rows");
  if (out.size()) launch_gather_rows(queue(), out, w.values.view(), tokens_.get_as(*this, ids));
}

void CudaBackend::embed_backward(View dw, View dout, std::span<const int32_t> ids) {
  check(dout, static_cast<int64_t>(ids.size()), dw.cols, "embed_backward: dout must be [ids, dw.cols]");
  require(dw.dtype == DType::f32, "embed_backward: dw must be f32");
  check_rows(ids, dw.rows, "embed_backward: id outside dw");
  add_rows(dw, dout, ids);
}

void CudaBackend::rms_norm(View y, View rstd, View x, View weight, float eps) {
  check_same(y, x, "rms_norm: y must have x's shape and dtype");
  require_shape(weight, 1, x.cols, "rms_norm: weight must be f32 [1, x.cols]");
  if (x.size()) launch_rms_norm(queue(), y, rstd, x, weight.as<float>(), eps);
}

void CudaBackend::rms_norm_backward(View dx, bool accumulate, View dweight, View dy, View x, View rstd, View weight) {
  check_same(dx, x, "rms_norm_backward: dx must have x's shape and dtype");
  check_same(dy, x, "rms_norm_backward: dy must have x's shape and dtype");
  require_shape(weight, 1, x.cols, "rms_norm_backward: weight must be f32 [1, x.cols]");
  if (x.size() == 0) return;
  // First, because dx may be dy's own memory.
  if (dweight.data) column_sums(dweight, dy, x, rstd.as<float>());
  launch_rms_norm_backward(queue(), dx, accumulate, dy, x, rstd.as<float>(), weight.as<float>());
}

void CudaBackend::column_sums(View out, View a, View b, const float* factor) {
  auto* const partial = partial_sums_.get_as<float>(*this, column_sum_pieces(a.rows) * a.cols);
  launch_column_sums(queue(), out.as<float>(), partial, a, b, factor);
}

void CudaBackend::linear(View y, bool accumulate, View x, const Weight& weight, View bias, float scale) {
  const auto& w = static_cast<const CudaWeight&>(weight);
  check(x, x.rows, w.cols, "linear: x must be [T, w.cols]");
  check(y, x.rows, w.rows, "linear: y must be [T, w.rows]");
  if (bias.data) require_shape(bias, 1, w.rows, "linear: bias must be f32 [1, w.rows]");
  if (y.size() == 0) return;
  Gemm g;
  g.c = y;
  g.accumulate = accumulate;
  g.bias = bias.as<float>();
  g.a = operand(x, w.dtype, scale, left_operand_);
  g.b = w.values.view().data;
  g.b_transposed = true;
  g.inner = w.cols;
  multiply(g, w.dtype);
}

void CudaBackend::linear_backward_input(View dx, bool accumulate, View dy, const Weight& weight, float scale) {
  const auto& w = static_cast<const CudaWeight&>(weight);
  check(dy, dy.rows, w.rows, "linear_backward_input: dy must be [T, w.rows]");
  check(dx, dy.rows, w.cols, "linear_backward_input: dx must be [T, w.cols]");
  if (dx.size() == 0) return;
  Gemm g;
  g.c = dx;
  g.accumulate = accumulate;
  g.a = operand(dy, w.dtype, scale, left_operand_);
  g.b = w.values.view().data;
  g.inner = w.rows;
  multiply(g, w.dtype);
}

void CudaBackend::linear_backward_weight(View dw, View dy, View x, DType dtype, float scale) {
  require_shape(dw, dy.cols, x.cols, "linear_backward_weight: dw must be f32 [dy.cols, x.cols]");
  check(dy, dy.rows, dy.cols, "linear_backward_weight: dy must be f32 or bf16");
  check(x, dy.rows, x.cols, "linear_backward_weight: x must have dy's rows");
  if (dw.size() == 0 || dy.rows == 0) return;
  Gemm g;
  g.c = dw;
  g.accumulate = true;
  g.a = operand(dy, dtype, scale, left_operand_);
  g.a_transposed = true;
  g.b = operand(x, dtype, 1, right_operand_);
  g.inner = dy.rows;
  multiply(g, dtype);
}

void CudaBackend::bias_backward(View dbias, View dy) {
  require_shape(dbias, 1, dy.cols, "bias_backward: dbias must be f32 [1, dy.cols]");
  if (dy.size()) column_sums(dbias, dy, {}, nullptr);
}

void CudaBackend::rope(View x, int head_dim, std::span<const int32_t> positions, std::span<const float> inv_freq,
                       float factor, bool inverse) {
  const int half = head_dim / 2;
  require(head_dim > 0 && head_dim % 2 == 0 && x.cols % head_dim == 0 && is_activation(x),
          "rope: x.cols must be heads * head_dim, head_dim even");
  require(static_cast<int64_t>(positions.size()) == x.rows && static_cast<int>(inv_freq.size()) == half,
          "rope: expected one position a row and head_dim / 2 frequencies");
  if (x.size() == 0) return;
  auto* const table = rope_table_.get_as<float>(*this, x.rows * head_dim);
  // The same table serves queries and keys of all layers of a batch.
  const bool known = std::ranges::equal(positions, rope_positions_) && std::ranges::equal(inv_freq, rope_frequencies_);
  if (!known) {
    rope_positions_.assign(positions.begin(), positions.end());
    rope_frequencies_.assign(inv_freq.begin(), inv_freq.end());
    launch_rope_table(queue(), table, positions_.get_as(*this, positions),
                      frequencies_.get_as(*this, inv_freq), x.rows, half);
  }
  launch_rope(queue(), x, head_dim, table, factor, inverse);
}

void CudaBackend::swiglu(View y, View gate, View up) {
  check_same(gate, y, "swiglu: y, gate and up must have one shape and dtype");
  check_same(up, y, "swiglu: y, gate and up must have one shape and dtype");
  if (y.size()) launch_swiglu(queue(), y, gate, up);
}

void CudaBackend::swiglu_backward(View dgate, View dup, View dy, View gate, View up) {
  for (const View& x : {dgate, dup, gate, up}) check_same(x, dy, "swiglu_backward: all views must have one shape and dtype");
  if (dy.size()) launch_swiglu_backward(queue(), dgate, dup, dy, gate, up);
}

void CudaBackend::add(View y, View x) {
  require(y.size() == x.size() && y.dtype == x.dtype && is_activation(y), "add: both views must have one shape and dtype");
  if (y.size()) launch_add(queue(), y, x);
}

void CudaBackend::scale(View y, float factor) {
  require(is_activation(y), "scale: expected f32 or bf16");
  if (y.size()) launch_scale(queue(), y, factor);
}

}  // namespace act::cuda
