// Softmax over the vocabulary. One routine makes the statistics for the loss and for sampling: their log-probabilities
// are the same bits. Sums run in 64 interleaved chains by vocabulary index modulo 64, added in a fixed tree.
#include "fill.h"

namespace act::cpu::ACT_ISA {
namespace {

constexpr int kChains = 64 / kWidth;

ACT_INLINE float tree(vf (&sum)[kChains]) {
  Lanes lanes;
  for (int step = kChains / 2; step >= kParts; step /= 2) {
    for (int i = 0; i < step; i++) sum[i] = sum[i] + sum[i + step];
  }
  for (int i = 0; i < kParts; i++) lanes.part[i] = sum[i];
  return sum_of(lanes);
}

/// Vector `i` of a row of n; beyond its end the value that adds nothing: minus infinity.
ACT_INLINE vf load_or_minus_infinity(const float* x, int64_t at, int64_t n) {
  if (at + kWidth <= n) return load(x + at);
  float lanes[kWidth];
  for (int i = 0; i < kWidth; i++) lanes[i] = at + i < n ? x[at + i] : -__builtin_inff();
  return load(lanes);
}

SoftmaxStats softmax_stats(const float* x, float factor, int64_t n) {
  Lanes top = lanes_of(-__builtin_inff());
  for (int64_t i = 0; i < n; i += 16) {
    for (int j = 0; j < kParts; j++) {
      top.part[j] = at_least(load_or_minus_infinity(x, i + j * kWidth, n) * factor, top.part[j]);
    }
  }
  const float max = max_of(top);
  vf sum[kChains], weighted[kChains];
  for (int j = 0; j < kChains; j++) sum[j] = weighted[j] = zero();
  for (int64_t i = 0; i < n; i += 64) {
#pragma GCC unroll 4
    for (int j = 0; j < kChains; j++) {
      const int64_t at = i + j * kWidth;
      if (at >= n) break;
      const vf z = load_or_minus_infinity(x, at, n) * factor - max;
      const vf e = exponential(z);
      sum[j] = sum[j] + e;
      // exp(z) z tends to 0 and is 0 from -104 on; the bound keeps 0 * infinity out.
      weighted[j] = fma(e, at_least(z, broadcast(-104.0f)), weighted[j]);
    }
  }
  return {max, tree(sum), tree(weighted)};
}

void softmax_gradient(float* x, float factor, const SoftmaxStats& stats, float log_sum, float gradient,
                      float entropy_weight, float entropy, int64_t n) {
  const float inverse_sum = 1.0f / stats.sum;
  for (int64_t i = 0; i < n; i += kWidth) {
    const int64_t left = n - i;
    const vf z = load_up_to(x + i, left) * factor - stats.max;
    const vf p = exponential(z) * inverse_sum;
    const vf logp = at_least(z, broadcast(-104.0f)) - log_sum;
    const vf slope = fma(logp + entropy, broadcast(entropy_weight), broadcast(-gradient));
    store_up_to(x + i, p * slope * factor, left);
  }
}

float masses(float* y, const float* x, float max, float inverse_temperature, int64_t n) {
  Lanes total = lanes_of(0);
  for (int64_t i = 0; i < n; i += 16) {
    for (int j = 0; j < kParts; j++) {
      const int64_t at = i + j * kWidth;
      if (at >= n) break;
      const vf e = exponential((load_or_minus_infinity(x, at, n) - max) * inverse_temperature);
      store_up_to(y + at, e, n - at);
      total.part[j] = total.part[j] + e;
    }
  }
  return sum_of(total);
}

}  // namespace

void fill_head(Kernels& k) {
  k.softmax_stats = softmax_stats;
  k.softmax_gradient = softmax_gradient;
  k.masses = masses;
}

}  // namespace act::cpu::ACT_ISA
