// AdamW in little memory: bf16 weights without fp32 masters, moments of 8 bits. The arithmetic of one element, for the
// host and for kernels alike: every product that is added is an explicit fmaf, so all compilers give the same bits.
//
// Blockwise quantization (Dettmers, Lewis, Shleifer, Zettlemoyer 2021, arXiv:2110.02861, section 2): values lie in blocks
// b of 256 consecutive ones; with the map Q of codes to [0, 1]
//   N_b = max over the block of |T|        code_i: a neighbor of |T_i| / N_b in Q        |T_i| ~ Q(code_i) N_b
// Where this differs from the paper, and why:
//   * Q is a small floating-point number instead of the dynamic tree's table: arithmetic does for a table look-up.
//     First moment: sign, 4 bits of exponent, 3 of mantissa, least magnitude 2^-17 of the largest. Second moment: its root
//     (what AdamW divides by), 4 bits of exponent and 4 of mantissa, down to 2^-18; it never rounds to zero, so a small
//     moment cannot make a huge step.
//   * Codes are rounded stochastically, to either neighbor with the probabilities that keep the mean: E[m] = m, and
//     E[root^2] = v (not E[root]). To the nearest, a decay of 5 % or 0.1 % a step, which is less than half a step of a
//     code, would never happen. The price is noise: under independent normal gradients v scatters around its exact value
//     by 14 % (simulated; beta2 = 0.95), 22 % (0.999), never by more than 25 % (derived in test/compact.cc).
//   * Blocks of 256 instead of 2,048: a large value spoils fewer neighbors, for 1.6 % more memory.
// Weights are rounded stochastically to bf16 (Zamirai, Zhang, Aberger, De Sa 2020, arXiv:2010.06192): E[w] = w. A learning
// rate moves most weights by less than half a bf16 step, which rounding to nearest would undo every time.
// Random numbers are a function of (seed and tensor, step, element): Philox, randoms_of below.
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
/// 2^-n for n in 0 .. 126.
ACT_HOST_DEVICE inline float power_of_half(uint32_t n) { return bits_as<float>((127u - n) << 23); }

/// Magnitude of a code 0 .. 2^(4 + kMantissa) - 1, in units of 2^-(15 + kMantissa): q = code + 1 read as 4 bits of exponent
/// and kMantissa of fraction, below exponent 1 without the leading one. 0 is 0, the largest code is 1.
template <int kMantissa>
ACT_HOST_DEVICE inline float unit_of(uint32_t code) {
  constexpr uint32_t kOne = 1u << kMantissa;
  if (code == 0) return 0;
  const uint32_t q = code + 1, exponent = q >> kMantissa, fraction = q & (kOne - 1);
  const uint32_t whole = exponent == 0 ? fraction : (kOne + fraction) << (exponent - 1);
  return static_cast<float>(whole) * power_of_half(15 + kMantissa);
}

/// Where a value lies among the codes: `fraction` of the way from `code` (value `whole` steps) to code + 1 (one step more).
struct Between {
  uint32_t code;
  float whole, fraction;
};
template <int kMantissa>
ACT_HOST_DEVICE inline Between between(float x) {
  constexpr uint32_t kOne = 1u << kMantissa;
  const float t = x * static_cast<float>(1u << (15 + kMantissa));
  if (t < 2) return {0, 0, t / 2};  // the least code but zero is 2 units
  if (t < static_cast<float>(2 * kOne)) {
    const auto whole = static_cast<uint32_t>(t);
    return {whole - 1, static_cast<float>(whole), t - static_cast<float>(whole)};
  }
  const uint32_t shift = (bits_as<uint32_t>(t) >> 23) - 127 - kMantissa;
  const float steps = t * power_of_half(shift);
  const auto whole = static_cast<uint32_t>(steps);
  return {((shift + 1) << kMantissa) + whole - kOne - 1, static_cast<float>(whole), steps - static_cast<float>(whole)};
}

constexpr int kMantissa1 = 3, kMantissa2 = 4;

/// `largest` is the block's; `threshold` is uniform in [0, 1), or 1/2 for the nearest code.
ACT_HOST_DEVICE inline float moment1_of(uint8_t code, float largest) {
  const float magnitude = unit_of<kMantissa1>(code & 127u) * largest;
  return code & 128u ? -magnitude : magnitude;
}
ACT_HOST_DEVICE inline uint8_t code1_of(float value, float largest, float threshold) {
  if (!(largest >= kLeast1)) return 0;
  const Between at = between<kMantissa1>(fabsf(value) / largest);
  const uint32_t code = at.code + (at.fraction > threshold ? 1u : 0u);
  return static_cast<uint8_t>(code | (value < 0 && code > 0 ? 128u : 0u));
}
/// The root of the second moment.
ACT_HOST_DEVICE inline float root2_of(uint8_t code, float largest) { return unit_of<kMantissa2>(code) * largest; }
ACT_HOST_DEVICE inline uint8_t code2_of(float root, float largest, float threshold) {
  if (!(largest >= kLeast2)) return 0;
  const Between at = between<kMantissa2>(root / largest);
  // Up with probability (v - lower^2) / (upper^2 - lower^2).
  const float part = at.fraction * (2 * at.whole + at.fraction);
  const uint32_t code = at.code + (part > threshold * (2 * at.whole + 1) ? 1u : 0u);
  return static_cast<uint8_t>(code == 0 && root > 0 ? 1 : code);
}

/// Philox4x32-10 as in engine/rng.h, for kernels: three words of the block that belongs to an element. `stream` stands for
/// the seed and the tensor.
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

/// bf16 bits of x, up (in magnitude) with the probability that x's lower half gives it. Not for infinities and NaN.
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
