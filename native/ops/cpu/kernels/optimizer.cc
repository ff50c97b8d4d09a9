// AdamW and the sums around it, over one block of a parameter.
#include "fill.h"

namespace act::cpu::ACT_ISA {
namespace {

void adamw(float* p, const float* g, float* m, float* v, const AdamWScalars& o, int64_t n) {
  const vf keep1 = broadcast(1.0f - o.beta1), keep2 = broadcast(1.0f - o.beta2);
  for (int64_t i = 0; i < n; i += kWidth) {
    const int64_t left = n - i;
    const vf grad = load_up_to(g + i, left) * o.grad_scale;
    const vf moment1 = fma(load_up_to(m + i, left), broadcast(o.beta1), grad * keep1);
    const vf moment2 = fma(load_up_to(v + i, left), broadcast(o.beta2), grad * grad * keep2);
    store_up_to(m + i, moment1, left);
    store_up_to(v + i, moment2, left);
    const vf old = load_up_to(p + i, left);
    const vf root = square_root(moment2 * o.correction2) + o.epsilon;
    const vf update = fma(old, broadcast(o.weight_decay), moment1 * o.correction1 / root);
    store_up_to(p + i, fma(update, broadcast(-o.learning_rate), old), left);
  }
}

double sum_of_squares(const float* x, int64_t n) {
  double lanes[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (int j = 0; j < 8; j++) lanes[j] += static_cast<double>(x[i + j]) * static_cast<double>(x[i + j]);
  }
  for (int j = 0; i < n; i++, j++) lanes[j] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

bool has_nonfinite(const float* x, int64_t n) {
  vu bad = {};
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) bad |= (vu)((load_bits(x + i) & 0x7f800000u) == 0x7f800000u);
  if (i < n) bad |= (vu)(((vu)load_first(x + i, n - i) & 0x7f800000u) == 0x7f800000u);
  uint32_t any = 0;
  for (int j = 0; j < kWidth; j++) any |= bad[j];
  return any != 0;
}

}  // namespace

void fill_optimizer(Kernels& k) {
  k.adamw = adamw;
  k.sum_of_squares = sum_of_squares;
  k.has_nonfinite = has_nonfinite;
}

}  // namespace act::cpu::ACT_ISA
