// Weights, layers and the optimizer of the reference backend.
#include <cmath>
#include <cstring>

#include "../floats.h"
#include "reference.h"

namespace act {
namespace {

const ReferenceWeight& own(const Weight& w) { return static_cast<const ReferenceWeight&>(w); }
ReferenceWeight& own(Weight& w) { return static_cast<ReferenceWeight&>(w); }

/// The row operand of a product as the multiplication sees it: scaled, then rounded where the weight is bf16.
double operand(float x, float scale, DType dtype) {
  const float scaled = x * scale;
  return dtype == DType::bf16 ? round_to_bf16(scaled) : scaled;
}

}  // namespace

std::unique_ptr<Weight> ReferenceBackend::create_weight(int64_t rows, int64_t cols, DType dtype, bool trainable,
                                                        Place master) {
  require(dtype == DType::f32 || dtype == DType::bf16, "create_weight: expected dtype f32 or bf16");
  require(master == Place::device, "create_weight: reference computes in host memory");
  auto w = std::make_unique<ReferenceWeight>();
  w->rows = rows;
  w->cols = cols;
  w->dtype = dtype;
  w->trainable = trainable;
  w->values = Buffer(*this, rows, cols, DType::f32);
  if (trainable && dtype == DType::bf16) w->master_values = Buffer(*this, rows, cols, DType::f32);
  return w;
}

size_t ReferenceBackend::weight_bytes(int64_t rows, int64_t cols, DType dtype, bool trainable) const {
  return static_cast<size_t>(rows * cols) * 4 * (trainable && dtype == DType::bf16 ? 2 : 1);
}

void ReferenceBackend::load_weight(Weight& weight, const void* from, DType dtype) {
  ReferenceWeight& w = own(weight);
  const View to = w.master_values ? w.master_values.view() : w.values.view();
  for (int64_t i = 0; i < to.size(); i++) {
    const float x = element_as_float(from, dtype, i);
    to.as<float>()[i] = w.dtype == DType::bf16 && !w.trainable ? round_to_bf16(x) : x;
  }
  refresh(w);
}

void ReferenceBackend::read_weight(const Weight& weight, void* to) {
  const View values = own(weight).values.view();
  if (weight.dtype == DType::f32) return download(to, values);
  for (int64_t i = 0; i < values.size(); i++) static_cast<uint16_t*>(to)[i] = float_to_bf16(values.as<float>()[i]);
}

View ReferenceBackend::master(Weight& weight) {
  require(weight.trainable, "master: the weight is not trainable");
  return own(weight).master_values ? own(weight).master_values.view() : own(weight).values.view();
}

void ReferenceBackend::refresh(Weight& weight) {
  ReferenceWeight& w = own(weight);
  if (!w.master_values) return;
  for (int64_t i = 0; i < w.rows * w.cols; i++) {
    w.values.view().as<float>()[i] = round_to_bf16(w.master_values.view().as<float>()[i]);
  }
}

void ReferenceBackend::embed(View out, const Weight& w, std::span<const int32_t> ids) {
  require_shape(out, static_cast<int64_t>(ids.size()), w.cols, "embed: out must be [ids, w.cols]");
  gather_rows(out, own(w).values.view(), ids);
}

void ReferenceBackend::embed_backward(View dw, View dout, std::span<const int32_t> ids) {
  scatter_add_rows(dw, dout, ids);
}

void ReferenceBackend::rms_norm(View y, View rstd, View x, View weight, float eps) {
  require_shape(y, x.rows, x.cols, "rms_norm: y must have x's shape");
  const float* w = weight.as<float>();
  for (int64_t t = 0; t < x.rows; t++) {
    const float* row = x.as<float>() + t * x.cols;
    double sum = 0;
    for (int64_t c = 0; c < x.cols; c++) sum += static_cast<double>(row[c]) * row[c];
    const double r = 1 / std::sqrt(sum / static_cast<double>(x.cols) + eps);
    for (int64_t c = 0; c < x.cols; c++) y.as<float>()[t * x.cols + c] = static_cast<float>(row[c] * r * w[c]);
    if (rstd.data) rstd.as<float>()[t] = static_cast<float>(r);
  }
}

void ReferenceBackend::rms_norm_backward(View dx, bool accumulate, View dweight, View dy, View x, View rstd,
                                         View weight) {
  require_shape(dx, x.rows, x.cols, "rms_norm_backward: dx must have x's shape");
  require_shape(dy, x.rows, x.cols, "rms_norm_backward: dy must have x's shape");
  const float* w = weight.as<float>();
  const int64_t n = x.cols;
  for (int64_t t = 0; t < x.rows; t++) {
    const float *xr = x.as<float>() + t * n, *dyr = dy.as<float>() + t * n;
    float* dxr = dx.as<float>() + t * n;
    const double r = rstd.as<float>()[t];
    double dot = 0;
    for (int64_t c = 0; c < n; c++) dot += static_cast<double>(dyr[c]) * w[c] * xr[c];
    for (int64_t c = 0; c < n; c++) {
      const double d = r * (static_cast<double>(dyr[c]) * w[c] - xr[c] * r * r * dot / static_cast<double>(n));
      dxr[c] = static_cast<float>(accumulate ? dxr[c] + d : d);
    }
  }
  if (!dweight.data) return;
  for (int64_t c = 0; c < n; c++) {
    double sum = dweight.as<float>()[c];
    for (int64_t t = 0; t < x.rows; t++) {
      sum += static_cast<double>(dy.as<float>()[t * n + c]) * x.as<float>()[t * n + c] * rstd.as<float>()[t];
    }
    dweight.as<float>()[c] = static_cast<float>(sum);
  }
}

void ReferenceBackend::linear(View y, bool accumulate, View x, const Weight& weight, View bias, float scale) {
  const ReferenceWeight& w = own(weight);
  require_shape(x, x.rows, w.cols, "linear: x must be [T, w.cols]");
  require_shape(y, x.rows, w.rows, "linear: y must be [T, w.rows]");
  for (int64_t t = 0; t < x.rows; t++) {
    for (int64_t n = 0; n < w.rows; n++) {
      float& out = y.as<float>()[t * w.rows + n];
      double sum = accumulate ? out : 0;
      if (bias.data) sum += bias.as<float>()[n];
      for (int64_t k = 0; k < w.cols; k++) {
        sum += operand(x.as<float>()[t * w.cols + k], scale, w.dtype) * w.values.view().as<float>()[n * w.cols + k];
      }
      out = static_cast<float>(sum);
    }
  }
}

void ReferenceBackend::linear_backward_input(View dx, bool accumulate, View dy, const Weight& weight, float scale) {
  const ReferenceWeight& w = own(weight);
  require_shape(dy, dy.rows, w.rows, "linear_backward_input: dy must be [T, w.rows]");
  require_shape(dx, dy.rows, w.cols, "linear_backward_input: dx must be [T, w.cols]");
  for (int64_t t = 0; t < dy.rows; t++) {
    for (int64_t k = 0; k < w.cols; k++) {
      float& out = dx.as<float>()[t * w.cols + k];
      double sum = accumulate ? out : 0;
      for (int64_t n = 0; n < w.rows; n++) {
        sum += operand(dy.as<float>()[t * w.rows + n], scale, w.dtype) * w.values.view().as<float>()[n * w.cols + k];
      }
      out = static_cast<float>(sum);
    }
  }
}

void ReferenceBackend::linear_backward_weight(View dw, View dy, View x, DType dtype, float scale) {
  require_shape(dw, dy.cols, x.cols, "linear_backward_weight: dw must be [dy.cols, x.cols]");
  require_shape(x, dy.rows, x.cols, "linear_backward_weight: x must have dy's rows");
  for (int64_t n = 0; n < dy.cols; n++) {
    for (int64_t k = 0; k < x.cols; k++) {
      float& out = dw.as<float>()[n * x.cols + k];
      double sum = out;
      for (int64_t t = 0; t < dy.rows; t++) {
        sum +=
            operand(dy.as<float>()[t * dy.cols + n], scale, dtype) * operand(x.as<float>()[t * x.cols + k], 1, dtype);
      }
      out = static_cast<float>(sum);
    }
  }
}

void ReferenceBackend::bias_backward(View dbias, View dy) {
  require_shape(dbias, 1, dy.cols, "bias_backward: dbias must be [1, dy.cols]");
  for (int64_t n = 0; n < dy.cols; n++) {
    double sum = dbias.as<float>()[n];
    for (int64_t t = 0; t < dy.rows; t++) sum += dy.as<float>()[t * dy.cols + n];
    dbias.as<float>()[n] = static_cast<float>(sum);
  }
}

void ReferenceBackend::rope(View x, int head_dim, std::span<const int32_t> positions, std::span<const float> inv_freq,
                            float factor, bool inverse) {
  const int half = head_dim / 2;
  require(head_dim % 2 == 0 && x.cols % head_dim == 0, "rope: x.cols must be heads * head_dim, head_dim even");
  require(static_cast<int64_t>(positions.size()) == x.rows && static_cast<int>(inv_freq.size()) == half,
          "rope: expected one position a row and head_dim / 2 frequencies");
  for (int64_t t = 0; t < x.rows; t++) {
    for (int64_t h = 0; h < x.cols / head_dim; h++) {
      float* v = x.as<float>() + t * x.cols + h * head_dim;
      for (int i = 0; i < half; i++) {
        const float angle = static_cast<float>(positions[static_cast<size_t>(t)]) * inv_freq[static_cast<size_t>(i)];
        const double c = static_cast<float>(std::cos(static_cast<double>(angle))) * static_cast<double>(factor);
        const double sine = static_cast<float>(std::sin(static_cast<double>(angle))) * static_cast<double>(factor);
        const double s = inverse ? -sine : sine;
        const double a = v[i], b = v[i + half];
        v[i] = static_cast<float>(a * c - b * s);
        v[i + half] = static_cast<float>(b * c + a * s);
      }
    }
  }
}

void ReferenceBackend::swiglu(View y, View gate, View up) {
  require(y.size() == gate.size() && y.size() == up.size(), "swiglu: y, gate and up must have one shape");
  for (int64_t i = 0; i < y.size(); i++) {
    const double g = gate.as<float>()[i];
    y.as<float>()[i] = static_cast<float>(g / (1 + std::exp(-g)) * up.as<float>()[i]);
  }
}

void ReferenceBackend::swiglu_backward(View dgate, View dup, View dy, View gate, View up) {
  require(dy.size() == gate.size() && dy.size() == up.size() && dgate.size() == dy.size() && dup.size() == dy.size(),
          "swiglu_backward: all views must have one shape");
  for (int64_t i = 0; i < dy.size(); i++) {
    const double g = gate.as<float>()[i], u = up.as<float>()[i], d = dy.as<float>()[i];
    const double sigmoid = 1 / (1 + std::exp(-g));
    dgate.as<float>()[i] = static_cast<float>(d * u * sigmoid * (1 + g * (1 - sigmoid)));
    dup.as<float>()[i] = static_cast<float>(d * g * sigmoid);
  }
}

void ReferenceBackend::add(View y, View x) {
  require(y.size() == x.size(), "add: both views must have one shape");
  for (int64_t i = 0; i < y.size(); i++) y.as<float>()[i] += x.as<float>()[i];
}

void ReferenceBackend::scale(View y, float factor) {
  for (int64_t i = 0; i < y.size(); i++) y.as<float>()[i] *= factor;
}

double ReferenceBackend::sum_of_squares(View x) {
  double sum = 0;
  for (int64_t i = 0; i < x.size(); i++) sum += static_cast<double>(x.as<float>()[i]) * x.as<float>()[i];
  return sum;
}

void ReferenceBackend::adamw(View parameter, View gradient, View moment1, View moment2, const AdamW& o) {
  const double c1 = 1 - std::pow(static_cast<double>(o.beta1), static_cast<double>(o.step));
  const double c2 = 1 - std::pow(static_cast<double>(o.beta2), static_cast<double>(o.step));
  for (int64_t i = 0; i < parameter.size(); i++) {
    const double g = static_cast<double>(gradient.as<float>()[i]) * o.grad_scale;
    const double m = o.beta1 * static_cast<double>(moment1.as<float>()[i]) + (1 - static_cast<double>(o.beta1)) * g;
    const double v = o.beta2 * static_cast<double>(moment2.as<float>()[i]) + (1 - static_cast<double>(o.beta2)) * g * g;
    moment1.as<float>()[i] = static_cast<float>(m);
    moment2.as<float>()[i] = static_cast<float>(v);
    const double p = parameter.as<float>()[i];
    const double update = o.weight_decay * p + (m / c1) / (std::sqrt(v / c2) + o.epsilon);
    parameter.as<float>()[i] = static_cast<float>(p - o.learning_rate * update);
  }
}

/// The one operation that shares its arithmetic with the fast backends: stochastic rounding has the same bits everywhere.
void ReferenceBackend::adamw_compact(Weight& weight, View gradient, const CompactMoments& moments, const AdamW& options,
                                     uint64_t stream) {
  const compact::Scalars scalars = check_compact(weight, gradient, moments, options);
  std::vector<uint16_t> bits(static_cast<size_t>(weight.rows * weight.cols));
  read_weight(weight, bits.data());
  step_blocks({bits.data(), weight.rows, weight.cols, DType::bf16}, gradient, moments, scalars, options.step, stream, 0,
              compact::blocks(weight.rows * weight.cols));
  load_weight(weight, bits.data(), DType::bf16);
}

bool ReferenceBackend::has_nonfinite(View x) {
  for (int64_t i = 0; i < x.size(); i++) {
    if (!std::isfinite(x.as<float>()[i])) return true;
  }
  return false;
}

std::unique_ptr<Backend> make_reference_backend() { return std::make_unique<ReferenceBackend>(); }

}  // namespace act
