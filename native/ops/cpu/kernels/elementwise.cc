// Elementwise operations and those along one row. Tails run through the same vector code on partly filled vectors, so
// an element's bits do not depend on where it lies.
#include "fill.h"

namespace act::cpu::ACT_ISA {
namespace {

/// Calls body(offset, lanes) for every vector of n elements.
template <class Body>
ACT_INLINE void for_vectors(int64_t n, Body body) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) body(i, int64_t{kWidth});
  if (i < n) body(i, n - i);
}

void exp_all(float* y, const float* x, int64_t n) {
  for_vectors(n, [&](int64_t i, int64_t lanes) { store_up_to(y + i, exponential(load_up_to(x + i, lanes)), lanes); });
}

ACT_INLINE vf sigmoid(vf x) { return 1.0f / (1.0f + exponential(-x)); }

void swiglu(float* y, const float* gate, const float* up, int64_t n) {
  for_vectors(n, [&](int64_t i, int64_t lanes) {
    const vf g = load_up_to(gate + i, lanes);
    store_up_to(y + i, g / (1.0f + exponential(-g)) * load_up_to(up + i, lanes), lanes);
  });
}

void swiglu_backward(float* dgate, float* dup, const float* dy, const float* gate, const float* up, int64_t n) {
  for_vectors(n, [&](int64_t i, int64_t lanes) {
    const vf g = load_up_to(gate + i, lanes), u = load_up_to(up + i, lanes), d = load_up_to(dy + i, lanes);
    const vf s = sigmoid(g);
    store_up_to(dgate + i, d * u * (s * fma(g, 1.0f - s, broadcast(1.0f))), lanes);
    store_up_to(dup + i, d * (g * s), lanes);
  });
}

void add(float* y, const float* x, int64_t n) {
  for_vectors(n, [&](int64_t i, int64_t lanes) {
    store_up_to(y + i, load_up_to(y + i, lanes) + load_up_to(x + i, lanes), lanes);
  });
}

void scale(float* y, float factor, int64_t n) {
  for_vectors(n, [&](int64_t i, int64_t lanes) { store_up_to(y + i, load_up_to(y + i, lanes) * factor, lanes); });
}

void round_bf16(float* y, const float* x, int64_t n) {
  for_vectors(n,
              [&](int64_t i, int64_t lanes) { store_up_to(y + i, (vf)round_bits(load_up_to(x + i, lanes)), lanes); });
}

void to_bf16(uint16_t* y, const float* x, int64_t n) {
  for (int64_t i = 0; i < n; i += kWidth) {
    const int64_t lanes = n - i < kWidth ? n - i : kWidth;
    const vh h = __builtin_convertvector(round_bits(load_up_to(x + i, lanes)) >> 16, vh);
    memcpy(y + i, &h, static_cast<size_t>(lanes) * 2);
  }
}

/// sum over i of term(i), in 32 chains by i modulo 32; term maps (offset, lanes there) to a pair of factors.
template <class Factors>
ACT_INLINE float chains(int64_t n, Factors factors) {
  Lanes low = lanes_of(0), high = lanes_of(0);
  int64_t i = 0;
  for (; i < n; i += 32) {
    for (int half = 0; half < 2; half++) {
      Lanes& sum = half ? high : low;
      const int64_t at = i + 16 * half, left = n - at;
      if (left <= 0) break;
      Lanes a, b;
      factors(at, left, a, b);
      for (int j = 0; j < kParts; j++) sum.part[j] = fma(a.part[j], b.part[j], sum.part[j]);
    }
  }
  for (int j = 0; j < kParts; j++) low.part[j] = low.part[j] + high.part[j];
  return sum_of(low);
}
ACT_INLINE Lanes lanes_at(const float* p, int64_t left) {
  return left >= 16 ? load_lanes(p) : load_lanes_first(p, left);
}

float dot(const float* a, const float* b, int64_t n) {
  return chains(n, [&](int64_t i, int64_t left, Lanes& x, Lanes& y) __attribute__((always_inline)) {
    x = lanes_at(a + i, left);
    y = lanes_at(b + i, left);
  });
}

float rms_norm(float* y, const float* x, const float* weight, float eps, int64_t n) {
  const float sum = chains(n, [&](int64_t i, int64_t left, Lanes& a, Lanes& b) __attribute__((always_inline)) {
    a = lanes_at(x + i, left);
    b = a;
  });
  const float rstd = static_cast<float>(1 / __builtin_sqrt(static_cast<double>(sum) / static_cast<double>(n) + eps));
  for_vectors(n, [&](int64_t i, int64_t lanes) {
    store_up_to(y + i, load_up_to(x + i, lanes) * rstd * load_up_to(weight + i, lanes), lanes);
  });
  return rstd;
}

// With g = dy * w: dx = rstd * (g - x * rstd^2 * mean(g * x)).
void rms_norm_backward(float* dx, bool accumulate, const float* dy, const float* x, const float* weight, float rstd,
                       int64_t n) {
  const float dot = chains(n, [&](int64_t i, int64_t left, Lanes& a, Lanes& b) __attribute__((always_inline)) {
    a = lanes_at(dy + i, left);
    const Lanes w = lanes_at(weight + i, left);
    for (int j = 0; j < kParts; j++) a.part[j] = a.part[j] * w.part[j];
    b = lanes_at(x + i, left);
  });
  const vf factor = broadcast(-(dot / static_cast<float>(n)) * rstd * rstd);
  for_vectors(n, [&](int64_t i, int64_t lanes) {
    const vf g = load_up_to(dy + i, lanes) * load_up_to(weight + i, lanes);
    vf d = fma(load_up_to(x + i, lanes), factor, g) * rstd;
    if (accumulate) d = d + load_up_to(dx + i, lanes);
    store_up_to(dx + i, d, lanes);
  });
}

void rms_norm_weight(float* dweight, const float* dy, const float* x, float rstd, int64_t n) {
  for_vectors(n, [&](int64_t i, int64_t lanes) {
    const vf normed = load_up_to(x + i, lanes) * rstd;
    store_up_to(dweight + i, fma(load_up_to(dy + i, lanes), normed, load_up_to(dweight + i, lanes)), lanes);
  });
}

void rotate(float* x, const float* cosine, const float* sine, int64_t half) {
  for_vectors(half, [&](int64_t i, int64_t lanes) {
    const vf a = load_up_to(x + i, lanes), b = load_up_to(x + half + i, lanes);
    const vf c = load_up_to(cosine + i, lanes), s = load_up_to(sine + i, lanes);
    store_up_to(x + i, fma(a, c, -(b * s)), lanes);
    store_up_to(x + half + i, fma(b, c, a * s), lanes);
  });
}

}  // namespace

void fill_elementwise(Kernels& k) {
  k.exp = exp_all;
  k.swiglu = swiglu;
  k.swiglu_backward = swiglu_backward;
  k.add = add;
  k.scale = scale;
  k.round_bf16 = round_bf16;
  k.to_bf16 = to_bf16;
  k.dot = dot;
  k.rms_norm = rms_norm;
  k.rms_norm_backward = rms_norm_backward;
  k.rms_norm_weight = rms_norm_weight;
  k.rotate = rotate;
}

}  // namespace act::cpu::ACT_ISA
