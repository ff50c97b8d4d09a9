// One vector register of the instruction set this file is compiled for, and 16 lanes made of them.
// Arithmetic is written with the operators of GCC's and Clang's vector types; only what they lack is an intrinsic here.
// The kernels are compiled with -ffp-contract=off: a multiply and an add fuse where fma() says so and nowhere else, so
// that an element's bits do not depend on which loop or tail computed it.
#pragma once
#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#include "kernels.h"

#ifndef ACT_ISA
#error "ACT_ISA names the namespace of this instruction set"
#endif
#define ACT_INLINE static inline __attribute__((always_inline))

namespace act::cpu::ACT_ISA {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif

typedef float vf __attribute__((vector_size(4 * kWidth)));
typedef int32_t vi __attribute__((vector_size(4 * kWidth)));
typedef uint32_t vu __attribute__((vector_size(4 * kWidth)));
typedef uint16_t vh __attribute__((vector_size(2 * kWidth)));

ACT_INLINE vf zero() { return vf{}; }
ACT_INLINE vf broadcast(float x) { return x - vf{}; }
ACT_INLINE vu broadcast_bits(uint32_t x) { return x + vu{}; }

ACT_INLINE vf load(const float* p) {
  vf v;
  memcpy(&v, p, sizeof v);
  return v;
}
ACT_INLINE void store(float* p, vf v) { memcpy(p, &v, sizeof v); }
ACT_INLINE vu load_bits(const void* p) {
  vu v;
  memcpy(&v, p, sizeof v);
  return v;
}
ACT_INLINE void store_bits(void* p, vu v) { memcpy(p, &v, sizeof v); }

#if defined(__AVX2__) && !defined(__AVX512F__)
alignas(64) static const int32_t kFirstLanes[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
#endif

/// The first n lanes, 0 <= n < kWidth, the others 0; memory behind them is not touched.
ACT_INLINE vf load_first(const float* p, int64_t n) {
#if defined(__AVX512F__)
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
#elif defined(__AVX2__)
  return _mm256_maskload_ps(p, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kFirstLanes + 8 - n)));
#else
  float lanes[kWidth] = {};
  for (int64_t i = 0; i < n; i++) lanes[i] = p[i];
  return load(lanes);
#endif
}
ACT_INLINE void store_first(float* p, vf v, int64_t n) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), v);
#elif defined(__AVX2__)
  // Not one masked store, which takes some processors tens of cycles.
  __m128 part = _mm256_castps256_ps128(v);
  if (n & 4) {
    _mm_storeu_ps(p, part);
    part = _mm256_extractf128_ps(v, 1);
    p += 4;
  }
  if (n & 2) {
    _mm_storel_pi(reinterpret_cast<__m64*>(p), part);
    part = _mm_movehl_ps(part, part);
    p += 2;
  }
  if (n & 1) _mm_store_ss(p, part);
#else
  float lanes[kWidth];
  store(lanes, v);
  for (int64_t i = 0; i < n; i++) p[i] = lanes[i];
#endif
}
/// A whole vector where n allows it, else the first n lanes.
ACT_INLINE vf load_up_to(const float* p, int64_t n) { return n >= kWidth ? load(p) : load_first(p, n); }
ACT_INLINE void store_up_to(float* p, vf v, int64_t n) {
  if (n >= kWidth) {
    store(p, v);
  } else {
    store_first(p, v, n);
  }
}

/// a * b + c, rounded once where the processor can.
ACT_INLINE vf fma(vf a, vf b, vf c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
  return _mm256_fmadd_ps(a, b, c);
#elif defined(__ARM_NEON) && defined(__ARM_FEATURE_FMA)
  return vfmaq_f32(c, a, b);
#else
  return a * b + c;
#endif
}

/// A NaN in `a` stays.
ACT_INLINE vf at_least(vf a, vf bound) { return a < bound ? bound : a; }
ACT_INLINE vf at_most(vf a, vf bound) { return a > bound ? bound : a; }

ACT_INLINE vf square_root(vf x) {
#if defined(__AVX512F__)
  return _mm512_sqrt_ps(x);
#elif defined(__AVX2__)
  return _mm256_sqrt_ps(x);
#else
  for (int i = 0; i < kWidth; i++) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

ACT_INLINE vu widen(const uint16_t* p) {
  vh h;
  memcpy(&h, p, sizeof h);
  return __builtin_convertvector(h, vu);
}
/// Numbers of bf16.
ACT_INLINE vf load(const uint16_t* p) { return (vf)(widen(p) << 16); }

/// fp32 rounded to nearest even bf16, still in 32 bits (the low half is 0). NaN stays NaN.
ACT_INLINE vu round_bits(vf x) {
  const vu u = (vu)x;
  const vu rounded = (u + 0x7fffu + ((u >> 16) & 1u)) & 0xffff0000u;
  return (u & 0x7fffffffu) > 0x7f800000u ? ((u | 0x400000u) & 0xffff0000u) : rounded;
}

// --- 16 lanes: the unit of every reduction whose order is part of the contract ---------------------------------------
constexpr int kParts = 16 / kWidth;
struct Lanes {
  vf part[kParts];
};
ACT_INLINE Lanes lanes_of(float x) {
  Lanes r;
  for (int i = 0; i < kParts; i++) r.part[i] = broadcast(x);
  return r;
}
ACT_INLINE Lanes load_lanes(const float* p) {
  Lanes r;
  for (int i = 0; i < kParts; i++) r.part[i] = load(p + i * kWidth);
  return r;
}
/// The first n of 16 lanes, the others 0.
ACT_INLINE Lanes load_lanes_first(const float* p, int64_t n) {
  Lanes r;
  for (int i = 0; i < kParts; i++) {
    const int64_t left = n - i * kWidth;
    r.part[i] = left <= 0 ? zero() : load_up_to(p + i * kWidth, left);
  }
  return r;
}
ACT_INLINE void store_lanes(float* p, const Lanes& x) {
  for (int i = 0; i < kParts; i++) store(p + i * kWidth, x.part[i]);
}
/// Lanes exchanged at distance S.
template <int S, size_t... I>
ACT_INLINE vf exchange(vf x, std::index_sequence<I...>) {
#if defined(__clang__)
  return __builtin_shufflevector(x, x, (I ^ S)...);
#else
  return __builtin_shuffle(x, (vi){static_cast<int>(I ^ S)...});
#endif
}
template <int S = kWidth / 2, class Combine>
ACT_INLINE float combine_lanes(vf x, Combine combine) {
  x = combine(x, exchange<S>(x, std::make_index_sequence<kWidth>{}));
  if constexpr (S > 1) {
    return combine_lanes<S / 2>(x, combine);
  } else {
    return x[0];
  }
}
/// The fixed tree: lane i with lane i + 8, then + 4, + 2, + 1.
template <class Combine>
ACT_INLINE float combine_tree(Lanes x, Combine combine) {
  for (int step = kParts / 2; step > 0; step /= 2) {
    for (int i = 0; i < step; i++) x.part[i] = combine(x.part[i], x.part[i + step]);
  }
  return combine_lanes(x.part[0], combine);
}
ACT_INLINE float sum_of(const Lanes& x) {
  return combine_tree(x, [](vf a, vf b) __attribute__((always_inline)) { return a + b; });
}
ACT_INLINE float max_of(const Lanes& x) {
  return combine_tree(x, [](vf a, vf b) __attribute__((always_inline)) { return at_least(a, b); });
}

/// exp, error below 1 ulp with fma. Below -104 exactly 0, above 88.73 infinity, NaN stays.
/// x = n ln 2 + r with |r| <= ln 2 / 2. The polynomial of degree 5 approximates (exp(r) - 1 - r) / r^2 with the least
/// maximal relative error of exp(r) (Lawson's iteration, coefficients rounded to fp32 from the lowest up and the rest
/// refitted: 1.3e-10). 2^n is applied so that subnormal results are rounded once: in two factors
/// where there is no instruction for it.
ACT_INLINE vf exponential(vf x) {
  x = at_most(at_least(x, broadcast(-104.0f)), broadcast(89.0f));
  const vf magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const vf shifted = fma(x, broadcast(1.44269504088896341f), magic);
  const vf n = shifted - magic;
  vf r = fma(n, broadcast(-0.693145751953125f), x);  // ln 2 in two parts; n times the first is exact
  r = fma(n, broadcast(-1.428606765330187e-6f), r);
  vf p = broadcast(1.956953492e-4f);
  p = fma(p, r, broadcast(1.393542509e-3f));
  p = fma(p, r, broadcast(8.333896287e-3f));
  p = fma(p, r, broadcast(4.166645929e-2f));
  p = fma(p, r, broadcast(1.666666418e-1f));
  p = fma(p, r, broadcast(0.5f));
  p = fma(p, r * r, r) + 1.0f;
#if defined(__AVX512F__)
  return _mm512_scalef_ps(p, n);  // p * 2^n, rounded once
#else
  const vi whole = (vi)shifted - (vi)magic;
  const vi first = whole >> 1, second = whole - first;
  return p * (vf)((first + 127) << 23) * (vf)((second + 127) << 23);
#endif
}

}  // namespace act::cpu::ACT_ISA
