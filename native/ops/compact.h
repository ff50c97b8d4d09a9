// AdamW in little memory: moments of 8 bits, weights of 16 without a master. The arithmetic of one element, for the host
// and for kernels alike: every product that is added is an explicit fmaf, so all compilers give the same bits.
//
// A moment lies in blocks of 256 consecutive values: a code of 8 bits a value, times the block's largest magnitude (after
// Dettmers et al. 2022, arXiv:2110.02861, with a floating-point code in place of their tables). The first moment's code is
// a sign, 4 bits of exponent and 3 of mantissa; the second moment is kept as its square root, 4 bits of exponent and 4 of
// mantissa, which never falls to zero. Codes and weights are rounded stochastically: rounded to nearest, changes below
// half a step, which most changes are, would never happen. A random number is a function of (weight, step, element).
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define ACT_HOST_DEVICE __host__ __device__
#else
#define ACT_HOST_DEVICE
#endif

namespace act::compact {

constexpr int64_t kBlock = 256;
constexpr int64_t blocks(int64_t count) { return (count + kBlock - 1) / kBlock; }

/// Largest magnitudes below these count as zero, so that a code's value and its square stay normal fp32 numbers; AdamW's
/// epsilon is far above both.
constexpr float kLeast1 = 0x1p-100f, kLeast2 = 0x1p-44f;

template <class To, class From>
ACT_HOST_DEVICE inline To bits_as(From from) {
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

/// Magnitude codes 0 .. 2^(4 + kMantissa) - 1 as integers 0 .. 2^(15 + kMantissa); the last is the block's largest value.
template <int kMantissa>
ACT_HOST_DEVICE inline float unit_of(uint32_t code) {
  constexpr uint32_t kOne = 1u << kMantissa;
  if (code == 0) return 0;
  const uint32_t q = code + 1, exponent = q >> kMantissa, fraction = q & (kOne - 1);
  const uint32_t whole = exponent == 0 ? fraction : (kOne + fraction) << (exponent - 1);
  return static_cast<float>(whole) / static_cast<float>(1u << (15 + kMantissa));
}

/// The code of x in [0, 1]: of the two neighbors the upper one where x lies further than `threshold` between them.
template <int kMantissa>
ACT_HOST_DEVICE inline uint32_t code_of(float x, float threshold) {
  constexpr uint32_t kOne = 1u << kMantissa;
  constexpr uint32_t kMost = (16u << kMantissa) - 1;
  const float t = x * static_cast<float>(1u << (15 + kMantissa));
  if (t < 2) return t > 2 * threshold ? 1 : 0;  // between 0 and the least value, 2
  uint32_t q;
  float between;
  if (t < static_cast<float>(2 * kOne)) {
    q = static_cast<uint32_t>(t);
    between = t - static_cast<float>(q);
  } else {
    const uint32_t exponent = (bits_as<uint32_t>(t) >> 23) - 127, shift = exponent - kMantissa;
    const float steps = t / static_cast<float>(1u << shift);
    const auto whole = static_cast<uint32_t>(steps);
    q = ((shift + 1) << kMantissa) + whole - kOne;
    between = steps - static_cast<float>(whole);
  }
  const uint32_t code = q - 1 + (between > threshold ? 1 : 0);
  return code < kMost ? code : kMost;
}

constexpr int kMantissa1 = 3, kMantissa2 = 4;

ACT_HOST_DEVICE inline float moment1_of(uint8_t code, float largest) {
  const float magnitude = unit_of<kMantissa1>(code & 127u) * largest;
  return code & 128u ? -magnitude : magnitude;
}
ACT_HOST_DEVICE inline uint8_t code1_of(float value, float largest, float threshold) {
  if (!(largest >= kLeast1)) return 0;
  const uint32_t code = code_of<kMantissa1>(fabsf(value) / largest, threshold);
  return static_cast<uint8_t>(code | (value < 0 && code > 0 ? 128u : 0u));
}
/// Of the square root.
ACT_HOST_DEVICE inline float root2_of(uint8_t code, float largest) { return unit_of<kMantissa2>(code) * largest; }
ACT_HOST_DEVICE inline uint8_t code2_of(float root, float largest, float threshold) {
  if (!(largest >= kLeast2)) return 0;
  const uint32_t code = code_of<kMantissa2>(root / largest, threshold);
  return static_cast<uint8_t>(code == 0 && root > 0 ? 1 : code);
}

/// Philox4x32-10 as in engine/rng.h, for kernels: three words of the block that belongs to an element.
struct Randoms {
  uint32_t weight, moment1, moment2;
};
ACT_HOST_DEVICE inline Randoms randoms_of(uint64_t stream, int64_t step, int64_t element) {
  uint32_t c[4] = {static_cast<uint32_t>(element), static_cast<uint32_t>(element >> 32), static_cast<uint32_t>(step),
                   static_cast<uint32_t>(step >> 32)};
  uint32_t k[2] = {static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)};
  for (int round = 0; round < 10; round++) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * c[0], product1 = uint64_t{0xCD9E8D57u} * c[2];
    const uint32_t next0 = static_cast<uint32_t>(product1 >> 32) ^ c[1] ^ k[0];
    const uint32_t next2 = static_cast<uint32_t>(product0 >> 32) ^ c[3] ^ k[1];
    c[0] = next0, c[1] = static_cast<uint32_t>(product1), c[2] = next2, c[3] = static_cast<uint32_t>(product0);
    k[0] += 0x9E3779B9u, k[1] += 0xBB67AE85u;
  }
  return {c[0], c[1], c[2]};
}
/// [0, 1) in steps of 2^-24.
ACT_HOST_DEVICE inline float threshold_of(uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24f; }

/// bf16 bits of x, up with the probability that x's lower half gives it. Not for infinities and NaN.
ACT_HOST_DEVICE inline uint16_t round_stochastically(float x, uint32_t word) {
  return static_cast<uint16_t>((bits_as<uint32_t>(x) + (word & 0xffffu)) >> 16);
}

struct Scalars {
  float learning_rate, beta1, beta2, epsilon, weight_decay, correction1, correction2, grad_scale;
};
struct Element {
  float weight, moment1, root2;
};
/// m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;  w -= lr (wd w + (m / c1) / (sqrt(v / c2) + eps))
ACT_HOST_DEVICE inline Element step(Element e, float gradient, const Scalars& o) {
  const float g = gradient * o.grad_scale;
  const float m = fmaf(o.beta1, e.moment1, (1.0f - o.beta1) * g);
  const float v = fmaf(o.beta2, e.root2 * e.root2, (1.0f - o.beta2) * (g * g));
  const float denominator = sqrtf(v / o.correction2) + o.epsilon;
  const float update = fmaf(o.weight_decay, e.weight, m / o.correction1 / denominator);
  return {fmaf(-o.learning_rate, update, e.weight), m, sqrtf(v)};
}

}  // namespace act::compact
