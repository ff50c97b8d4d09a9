// Embedding, norms, rotary positions, elementwise operations and the optimizer of the CPU backend.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "../floats.h"
#include "cpu_backend.h"

namespace act::cpu {
namespace {

constexpr int64_t kElementsPerTask = 8192;
constexpr int64_t kColumnsPerTask = 128;
constexpr int64_t kPositionsPerBlock = 256;
/// Elements per block of a sum over a whole parameter; part of its fixed order.
constexpr int64_t kSumBlock = 65536;

int64_t rows_per_task(int64_t columns) {
  return std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(1, columns));
}

}  // namespace

size_t CpuBackend::scratch_bytes(int64_t rows, int64_t widest) const {
  return product_scratch_bytes(rows, widest) + attention_scratch_bytes(rows, widest);
}

size_t CpuBackend::rope_bytes(int64_t positions, int head_dim) const {
  const int64_t blocks = (positions + kPositionsPerBlock - 1) / kPositionsPerBlock;
  return static_cast<size_t>(blocks * kPositionsPerBlock * head_dim) * sizeof(float);
}

void CpuBackend::embed(View out, const Weight& weight, std::span<const int32_t> ids) {
  const auto& w = static_cast<const CpuWeight&>(weight);
  require_shape(out, static_cast<int64_t>(ids.size()), w.cols, "embed: out must be [ids, w.cols]");
  const View rows = w.row_major.view();
  for_pieces(out.rows, rows_per_task(w.cols), [&](int64_t first, int64_t count) {
    for (int64_t t = first; t < first + count; t++) {
      float* to = out.as<float>() + t * w.cols;
      const int64_t from = ids[static_cast<size_t>(t)] * w.cols;
      if (w.dtype == DType::f32) {
        std::memcpy(to, rows.as<float>() + from, static_cast<size_t>(w.cols) * 4);
      } else if (rows.dtype == DType::f32) {
        kernels_.round_bf16(to, rows.as<float>() + from, w.cols);
      } else {
        for (int64_t c = 0; c < w.cols; c++) to[c] = bf16_to_float(rows.as<uint16_t>()[from + c]);
      }
    }
  });
}

void CpuBackend::embed_backward(View dw, View dout, std::span<const int32_t> ids) {
  require_shape(dout, static_cast<int64_t>(ids.size()), dw.cols, "embed_backward: dout must be [ids, dw.cols]");
  for_pieces(dw.cols, kColumnsPerTask, [&](int64_t first, int64_t count) {
    for (size_t t = 0; t < ids.size(); t++) {
      kernels_.add(dw.as<float>() + ids[t] * dw.cols + first,
                   dout.as<float>() + static_cast<int64_t>(t) * dw.cols + first, count);
    }
  });
}

void CpuBackend::rms_norm(View y, View rstd, View x, View weight, float eps) {
  require_shape(y, x.rows, x.cols, "rms_norm: y must have x's shape");
  for_pieces(x.rows, rows_per_task(x.cols), [&](int64_t first, int64_t count) {
    for (int64_t t = first; t < first + count; t++) {
      const float r =
          kernels_.rms_norm(y.as<float>() + t * x.cols, x.as<float>() + t * x.cols, weight.as<float>(), eps, x.cols);
      if (rstd.data) rstd.as<float>()[t] = r;
    }
  });
}

void CpuBackend::rms_norm_backward(View dx, bool accumulate, View dweight, View dy, View x, View rstd, View weight) {
  require_shape(dx, x.rows, x.cols, "rms_norm_backward: dx must have x's shape");
  require_shape(dy, x.rows, x.cols, "rms_norm_backward: dy must have x's shape");
  const int64_t n = x.cols;
  // The weight's gradient first: dx may be dy's own memory.
  if (dweight.data) {
    for_pieces(n, kColumnsPerTask, [&](int64_t first, int64_t count) {
      for (int64_t t = 0; t < x.rows; t++) {
        kernels_.rms_norm_weight(dweight.as<float>() + first, dy.as<float>() + t * n + first,
                                 x.as<float>() + t * n + first, rstd.as<float>()[t], count);
      }
    });
  }
  for_pieces(x.rows, rows_per_task(n), [&](int64_t first, int64_t count) {
    for (int64_t t = first; t < first + count; t++) {
      kernels_.rms_norm_backward(dx.as<float>() + t * n, accumulate, dy.as<float>() + t * n, x.as<float>() + t * n,
                                 weight.as<float>(), rstd.as<float>()[t], n);
    }
  });
}

void CpuBackend::bias_backward(View dbias, View dy) {
  require_shape(dbias, 1, dy.cols, "bias_backward: dbias must be [1, dy.cols]");
  for_pieces(dy.cols, kColumnsPerTask, [&](int64_t first, int64_t count) {
    for (int64_t t = 0; t < dy.rows; t++) {
      kernels_.add(dbias.as<float>() + first, dy.as<float>() + t * dy.cols + first, count);
    }
  });
}

void CpuBackend::rope(View x, int head_dim, std::span<const int32_t> positions, std::span<const float> inv_freq,
                      float factor, bool inverse) {
  const int64_t half = head_dim / 2;
  require(head_dim > 0 && head_dim % 2 == 0 && x.cols % head_dim == 0,
          "rope: x.cols must be heads * head_dim, head_dim even");
  require(static_cast<int64_t>(positions.size()) == x.rows && static_cast<int64_t>(inv_freq.size()) == half,
          "rope: expected one position a row and head_dim / 2 frequencies");
  if (!std::equal(inv_freq.begin(), inv_freq.end(), rope_frequencies_.begin(), rope_frequencies_.end())) {
    rope_blocks_.clear();
    rope_frequencies_.assign(inv_freq.begin(), inv_freq.end());
  }
  for (const int32_t position : positions) {
    require(position >= 0, "rope: positions must not be negative");
    Buffer& block = rope_blocks_[position / kPositionsPerBlock];
    if (block) continue;
    block = Buffer(*this, kPositionsPerBlock, 2 * half, DType::f32);
    const int64_t start = position / kPositionsPerBlock * kPositionsPerBlock;
    for (int64_t p = 0; p < kPositionsPerBlock; p++) {
      float* row = block.view().as<float>() + p * 2 * half;
      for (int64_t i = 0; i < half; i++) {
        const float angle = static_cast<float>(start + p) * inv_freq[static_cast<size_t>(i)];
        row[i] = static_cast<float>(std::cos(static_cast<double>(angle)));
        row[half + i] = static_cast<float>(std::sin(static_cast<double>(angle)));
      }
    }
  }
  for_pieces(x.rows, rows_per_task(x.cols), [&](int64_t first, int64_t count) {
    std::vector<float> turn(static_cast<size_t>(2 * half));
    for (int64_t t = first; t < first + count; t++) {
      const int32_t position = positions[static_cast<size_t>(t)];
      const float* row = rope_blocks_.find(position / kPositionsPerBlock)->second.view().as<float>() +
                         position % kPositionsPerBlock * 2 * half;
      for (int64_t i = 0; i < half; i++) {
        turn[static_cast<size_t>(i)] = row[i] * factor;
        turn[static_cast<size_t>(half + i)] = row[half + i] * (inverse ? -factor : factor);
      }
      for (int64_t h = 0; h < x.cols; h += head_dim) {
        kernels_.rotate(x.as<float>() + t * x.cols + h, turn.data(), turn.data() + half, half);
      }
    }
  });
}

void CpuBackend::swiglu(View y, View gate, View up) {
  require(y.size() == gate.size() && y.size() == up.size(), "swiglu: y, gate and up must have one shape");
  for_pieces(y.size(), kElementsPerTask, [&](int64_t first, int64_t count) {
    kernels_.swiglu(y.as<float>() + first, gate.as<float>() + first, up.as<float>() + first, count);
  });
}

void CpuBackend::swiglu_backward(View dgate, View dup, View dy, View gate, View up) {
  require(dy.size() == gate.size() && dy.size() == up.size() && dgate.size() == dy.size() && dup.size() == dy.size(),
          "swiglu_backward: all views must have one shape");
  for_pieces(dy.size(), kElementsPerTask, [&](int64_t first, int64_t count) {
    kernels_.swiglu_backward(dgate.as<float>() + first, dup.as<float>() + first, dy.as<float>() + first,
                             gate.as<float>() + first, up.as<float>() + first, count);
  });
}

void CpuBackend::add(View y, View x) {
  require(y.size() == x.size(), "add: both views must have one shape");
  for_pieces(y.size(), kElementsPerTask,
             [&](int64_t first, int64_t count) { kernels_.add(y.as<float>() + first, x.as<float>() + first, count); });
}

void CpuBackend::scale(View y, float factor) {
  for_pieces(y.size(), kElementsPerTask,
             [&](int64_t first, int64_t count) { kernels_.scale(y.as<float>() + first, factor, count); });
}

double CpuBackend::sum_of_squares(View x) {
  const int64_t blocks = (x.size() + kSumBlock - 1) / kSumBlock;
  std::vector<double> sums(static_cast<size_t>(blocks));
  for_pieces(blocks, 1, [&](int64_t first, int64_t count) {
    for (int64_t b = first; b < first + count; b++) {
      sums[static_cast<size_t>(b)] = kernels_.sum_of_squares(x.as<float>() + b * kSumBlock,
                                                             std::min(kSumBlock, x.size() - b * kSumBlock));
    }
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

void CpuBackend::adamw(View parameter, View gradient, View moment1, View moment2, const AdamW& o) {
  require(
      gradient.size() == parameter.size() && moment1.size() == parameter.size() && moment2.size() == parameter.size(),
      "adamw: parameter, gradient and moments must have one shape");
  AdamWScalars s{o.learning_rate, o.beta1, o.beta2, o.epsilon, o.weight_decay, o.grad_scale, 0, 0};
  s.correction1 = static_cast<float>(1 / (1 - std::pow(static_cast<double>(o.beta1), static_cast<double>(o.step))));
  s.correction2 = static_cast<float>(1 / (1 - std::pow(static_cast<double>(o.beta2), static_cast<double>(o.step))));
  for_pieces(parameter.size(), kElementsPerTask, [&](int64_t first, int64_t count) {
    kernels_.adamw(parameter.as<float>() + first, gradient.as<float>() + first, moment1.as<float>() + first,
                   moment2.as<float>() + first, s, count);
  });
}

void CpuBackend::adamw_compact(Weight& weight, View gradient, const CompactMoments& moments, const AdamW& o,
                               uint64_t stream) {
  const compact::Scalars scalars = check_compact(weight, gradient, moments, o);
  auto& w = static_cast<CpuWeight&>(weight);
  const View values = w.row_major.view();  // bf16: the weight is not trainable
  constexpr int64_t kBlocksPerTask = kElementsPerTask / compact::kBlock;
  for_pieces(compact::blocks(values.size()), kBlocksPerTask, [&](int64_t first, int64_t count) {
    step_blocks(values, gradient, moments, scalars, o.step, stream, first, count);
  });
  pack_weight(w);
}

bool CpuBackend::has_nonfinite(View x) {
  std::atomic<bool> found{false};
  for_pieces(x.size(), kSumBlock, [&](int64_t first, int64_t count) {
    if (!found.load(std::memory_order_relaxed) && kernels_.has_nonfinite(x.as<float>() + first, count)) found = true;
  });
  return found;
}

}  // namespace act::cpu
