// Packing: brings a matrix into panels of `width` rows, unit by unit, so that the micro-kernel reads both operands as
// straight streams. One routine for every operand of every product; only the loader of a unit differs.
#include <utility>

#include "fill.h"

namespace act::cpu::ACT_ISA {
namespace {

template <int S, size_t... I>
ACT_INLINE vu first_blocks(vu a, vu b, std::index_sequence<I...>) {
  // lane l: a[l] in even blocks of S lanes, b[l - S] in odd ones
#if defined(__clang__)
  return __builtin_shufflevector(a, b, ((I / S) % 2 == 0 ? I : I - S + kWidth)...);
#else
  return __builtin_shuffle(a, b, (vi){static_cast<int>((I / S) % 2 == 0 ? I : I - S + kWidth)...});
#endif
}
template <int S, size_t... I>
ACT_INLINE vu second_blocks(vu a, vu b, std::index_sequence<I...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, ((I / S) % 2 == 0 ? I + S : I + kWidth)...);
#else
  return __builtin_shuffle(a, b, (vi){static_cast<int>((I / S) % 2 == 0 ? I + S : I + kWidth)...});
#endif
}

/// Transposes a block of kWidth x kWidth: exchanges off-diagonal halves at distance kWidth / 2, then / 4, ...
template <int S = kWidth / 2>
ACT_INLINE void transpose(vu (&x)[kWidth]) {
  constexpr auto lanes = std::make_index_sequence<kWidth>{};
#pragma GCC unroll 16
  for (int i = 0; i < kWidth; i++) {
    if ((i / S) % 2 == 0) {
      const vu a = x[i], b = x[i + S];
      x[i] = first_blocks<S>(a, b, lanes);
      x[i + S] = second_blocks<S>(a, b, lanes);
    }
  }
  if constexpr (S > 1) transpose<S / 2>(x);
}

template <size_t... I>
ACT_INLINE vf even_lanes(vf a, vf b, std::index_sequence<I...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, (2 * I)...);
#else
  return __builtin_shuffle(a, b, (vi){static_cast<int>(2 * I)...});
#endif
}
template <size_t... I>
ACT_INLINE vf odd_lanes(vf a, vf b, std::index_sequence<I...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, (2 * I + 1)...);
#else
  return __builtin_shuffle(a, b, (vi){static_cast<int>(2 * I + 1)...});
#endif
}

/// Pairs of bf16 from two fp32 vectors: lane = low | high << 16.
ACT_INLINE vu pair(vf low, vf high) {
#if defined(__AVX512BF16__)
  const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh(high, low);  // 16 of low, then 16 of high
  alignas(64) static const uint16_t kInterleave[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                       8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return (vu)_mm512_permutexvar_epi16(_mm512_load_si512(kInterleave), halves);
#else
  return (round_bits(low) >> 16) | round_bits(high);
#endif
}

/// kWidth consecutive units along a row: fp32 source.
template <PanelFormat F>
ACT_INLINE vu load_units(const float* p, vf scale) {
  if constexpr (F == PanelFormat::f32) return (vu)(load(p) * scale);
  if constexpr (F == PanelFormat::rounded) return round_bits(load(p) * scale);
  const vf a = load(p) * scale, b = load(p + kWidth) * scale;
#if defined(__AVX512BF16__)
  return (vu)_mm512_cvtne2ps_pbh(b, a);
#else
  constexpr auto lanes = std::make_index_sequence<kWidth>{};
  return pair(even_lanes(a, b, lanes), odd_lanes(a, b, lanes));
#endif
}
/// bf16 source.
template <PanelFormat F>
ACT_INLINE vu load_units(const uint16_t* p, vf) {
  if constexpr (F == PanelFormat::pairs) return load_bits(p);
  return widen(p) << 16;
}

template <class E, PanelFormat F>
void pack_inner_contiguous(const PackSource& s, int64_t row0, int rows, int64_t inner0, int64_t inner, int width,
                           uint32_t* out) {
  constexpr int kPerStep = F == PanelFormat::pairs ? 2 : 1;
  const int64_t steps = (inner + kPerStep - 1) / kPerStep;
  const E* base = static_cast<const E*>(s.data) + row0 * s.stride + inner0;
  const vf scale = broadcast(s.scale);
  for (int group = 0; group < width; group += kWidth) {
    const int group_width = width - group < kWidth ? width - group : kWidth;
    for (int64_t k = 0; k < steps; k += kWidth) {
      vu block[kWidth];
      const int64_t left = inner - k * kPerStep;  // source elements still there
      if (left >= kWidth * kPerStep) {
#pragma GCC unroll 16
        for (int r = 0; r < kWidth; r++) {
          block[r] = group + r < rows ? load_units<F>(base + (group + r) * s.stride + k * kPerStep, scale) : vu{};
        }
      } else {
        for (int r = 0; r < kWidth; r++) {
          E padded[kWidth * 2] = {};
          if (group + r < rows) {
            for (int64_t i = 0; i < left; i++) padded[i] = base[(group + r) * s.stride + k * kPerStep + i];
          }
          block[r] = load_units<F>(padded, scale);
        }
      }
      transpose(block);
      const int64_t count = steps - k < kWidth ? steps - k : kWidth;
      uint32_t* to = out + k * width + group;
      // A narrow panel's whole-vector store runs over into the next steps, which are written after it; only near the
      // panel's end there is nothing after it to run into.
      const bool whole = group_width == kWidth || (k + count) * width + kWidth <= steps * width;
      for (int64_t i = 0; i < count; i++) {
        if (whole) {
          store_bits(to + i * width, block[i]);
        } else {
          store_first(reinterpret_cast<float*>(to + i * width), (vf)block[i], group_width);
        }
      }
    }
  }
}

/// One step of kWidth rows that lie side by side in memory: fp32.
template <PanelFormat F>
ACT_INLINE vu load_step(const float* p, const float* next, int64_t n, vf scale) {
  if constexpr (F == PanelFormat::f32) return (vu)(load_up_to(p, n) * scale);
  if constexpr (F == PanelFormat::rounded) return round_bits(load_up_to(p, n) * scale);
  return pair(load_up_to(p, n) * scale, next ? load_up_to(next, n) * scale : zero());
}
ACT_INLINE vu widen_up_to(const uint16_t* p, int64_t n) {
  if (n >= kWidth) return widen(p);
  uint16_t padded[kWidth] = {};
  for (int64_t i = 0; i < n; i++) padded[i] = p[i];
  return widen(padded);
}
template <PanelFormat F>
ACT_INLINE vu load_step(const uint16_t* p, const uint16_t* next, int64_t n, vf) {
  if constexpr (F == PanelFormat::pairs) return widen_up_to(p, n) | (next ? widen_up_to(next, n) << 16 : vu{});
  return widen_up_to(p, n) << 16;
}

template <class E, PanelFormat F>
void pack_rows_contiguous(const PackSource& s, int64_t row0, int rows, int64_t inner0, int64_t inner, int width,
                          uint32_t* out) {
  constexpr int kPerStep = F == PanelFormat::pairs ? 2 : 1;
  const int64_t steps = (inner + kPerStep - 1) / kPerStep;
  const E* base = static_cast<const E*>(s.data) + inner0 * s.stride + row0;
  const vf scale = broadcast(s.scale);
  int64_t k = 0;
#if defined(__AVX512F__)
  if constexpr (sizeof(E) == 4) {
    // A panel of half a vector: two steps are neighbors in the packed form and make one whole vector.
    const auto halves = [](const float* low, const float* high) {
      return (vf)_mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(low)), _mm256_loadu_ps(high), 1);
    };
    if (width == 8 && rows == 8) {
      for (; (k + 2) * kPerStep <= inner; k += 2) {
        const E* p = base + k * kPerStep * s.stride;
        for (int r = 0; r < 2 * kPerStep; r++) __builtin_prefetch(p + r * s.stride + 32);
        vu v;
        if constexpr (F == PanelFormat::pairs) {
          v = pair(halves(p, p + 2 * s.stride) * scale, halves(p + s.stride, p + 3 * s.stride) * scale);
        } else {
          const vf x = halves(p, p + s.stride) * scale;
          v = F == PanelFormat::rounded ? round_bits(x) : (vu)x;
        }
        store_bits(out + k * width, v);
      }
    }
  }
#endif
  // Where a panel ends within a vector, all of the vector is read and stored as long as that harms nothing: what is read
  // too much lies in the same matrix while another inner index follows, and what is stored too much is overwritten by
  // the steps after it. Only the last steps take partial accesses, which are slower.
  const int64_t followed = (inner - 1) / kPerStep, overlapped = steps - (kWidth - 1 + width) / width;
  const int64_t whole = s.stride < kWidth ? 0 : followed < overlapped ? followed : overlapped;
  for (; k < steps; k++) {
    const int64_t i = k * kPerStep;
    const E *p = base + i * s.stride, *next = i + 1 < inner ? p + s.stride : nullptr;
    for (int group = 0; group < width; group += kWidth) {
      const int there = rows - group;
      const int read = there > 0 && k < whole ? kWidth : there;
      __builtin_prefetch(p + group + width);
      if (kPerStep == 2 && next) __builtin_prefetch(next + group + width);
      vu v{};
      if (there > 0 && i < inner) v = load_step<F>(p + group, next ? next + group : nullptr, read, scale);
      uint32_t* to = out + k * width + group;
      if (width - group >= kWidth || k < whole) {
        store_bits(to, v);
      } else {
        store_first(reinterpret_cast<float*>(to), (vf)v, width - group);
      }
    }
  }
}

#if defined(__AMX_BF16__)
/// Both orders of the source. Up to 16 rows leave the second 16 of a group as they are: nothing reads them.
template <class E>
void pack_tiles(const PackSource& s, int64_t row0, int rows, int64_t inner0, int64_t inner, int width, uint32_t* out) {
  const vf scale = broadcast(s.scale);
  const int blocks = rows <= 16 ? 1 : 2;
  for (int64_t i = 0; i < inner; i += 32, out += width * 16) {
    const int64_t left = inner - i;
    for (int first = 0; first < 16 * blocks; first += 16) {
      vu block[16];
      const int there = rows - first;
      if (s.inner_contiguous) {
        const E* from = static_cast<const E*>(s.data) + (row0 + first) * s.stride + inner0 + i;
        if (left >= 32) {
#pragma GCC unroll 16
          for (int r = 0; r < 16; r++) {
            block[r] = r < there ? load_units<PanelFormat::pairs>(from + r * s.stride, scale) : vu{};
          }
        } else {
          for (int r = 0; r < 16; r++) {
            E padded[32] = {};
            for (int64_t j = 0; r < there && j < left; j++) padded[j] = from[r * s.stride + j];
            block[r] = load_units<PanelFormat::pairs>(padded, scale);
          }
        }
      } else {
        const E* from = static_cast<const E*>(s.data) + (inner0 + i) * s.stride + row0 + first;
        for (int k = 0; k < 16; k++, from += 2 * s.stride) {
          const E* next = 2 * k + 1 < left ? from + s.stride : nullptr;
          block[k] = 2 * k < left ? load_step<PanelFormat::pairs>(from, next, there, scale) : vu{};
        }
        transpose(block);
      }
#pragma GCC unroll 16
      for (int r = 0; r < 16; r++) store_bits(out + (first + r) * 16, block[r]);
    }
  }
}
#endif

#if !defined(__AVX512BF16__)
ACT_INLINE vi larger(vi a, vi b) { return a > b ? a : b; }
/// Combines all lanes; the result is in every lane.
template <int S = kWidth / 2, class Combine>
ACT_INLINE vi over_lanes(vi x, Combine combine) {
  x = combine(x, (vi)exchange<S>((vf)x, std::make_index_sequence<kWidth>{}));
  if constexpr (S > 1) {
    return over_lanes<S / 2>(x, combine);
  } else {
    return x;
  }
}

/// The n <= 2 Units numbers of a group as PanelFormat::integers. With m the largest magnitude and 2^e <= m < 2^(e + 1)
/// the scale is 2^(e - 11), not below 2^-126. Numbers of bf16 have eight significant bits: those of at least 2^(e - 4)
/// stay as they are, others are off by at most half the scale. No integer is larger than 4080, so that 128 products add
/// up in 32 bits. Infinities and NaN make the scale NaN.
template <int Units, class E>
ACT_INLINE void integer_group_of(uint32_t* out, const E* p, int64_t n, vf factor) {
  constexpr int kHalf = Units / kWidth, kNumbers = 2 * Units;
  E padded[kNumbers];
  if (n < kNumbers) {
    for (int64_t i = 0; i < kNumbers; i++) padded[i] = i < n ? p[i] : E{};
    p = padded;
  }
  vu x[2 * kHalf];
  vi most{};
#pragma GCC unroll 16
  for (int i = 0; i < 2 * kHalf; i++) {
    x[i] = load_units<PanelFormat::rounded>(p + i * kWidth, factor);
    most = larger(most, (vi)(x[i] & 0x7fffffffu));
  }
  constexpr int32_t kSteps = 11, kBias = 127, kNotFinite = 255;
  const vi top = over_lanes(most, larger) >> 23;  // the biased exponent, in every lane
  const bool finite = top[0] != kNotFinite;
  const vi exponent = larger(top, vi{} + kSteps + 1);
  const vf inverse = (vf)((2 * kBias + kSteps - exponent) << 23);
  const vf magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const auto whole = [&](vu number) __attribute__((always_inline)) { return (vu)((vf)number * inverse + magic); };
  const vu keep = broadcast_bits(finite ? ~0u : 0);
#pragma GCC unroll 8
  for (int i = 0; i < kHalf; i++) {
    store_bits(out + i * kWidth, ((whole(x[i]) & 0xffffu) | whole(x[i + kHalf]) << 16) & keep);
  }
  out[Units] = finite ? static_cast<uint32_t>(exponent[0] - kSteps) << 23 : 0x7fc00000u;
}
/// The next group of a row of which n numbers are left; returns its units.
template <class E>
ACT_INLINE int integer_group(uint32_t* out, const E* p, int64_t n, vf factor) {
  if (n <= 2 * kIntegerStepUnits) {
    integer_group_of<kIntegerStepUnits>(out, p, n, factor);
    return kIntegerStepUnits;
  }
  integer_group_of<kIntegerGroupUnits>(out, p, n, factor);
  return kIntegerGroupUnits;
}

/// A panel of rows whose inner indices are contiguous (weights are the only operands packed so).
template <class E>
void pack_integers(const PackSource& s, int64_t row0, int rows, int64_t inner0, int64_t inner, int width,
                   uint32_t* out) {
  const vf factor = broadcast(s.scale);
  int units = 0;
  for (int64_t k = 0; k < inner; k += 2 * units, out += (units + 1) * width) {
    const E* from = static_cast<const E*>(s.data) + row0 * s.stride + inner0 + k;
    for (int first = 0; first < width; first += kWidth) {
      uint32_t groups[kWidth][kIntegerGroupUnits + 1] = {};
      for (int r = 0; r < kWidth && first + r < rows; r++) {
        units = integer_group(groups[r], from + (first + r) * s.stride, inner - k, factor);
      }
      for (int u = 0; u <= units; u++) {
        for (int r = 0; r < kWidth; r++) out[u * width + first + r] = groups[r][u];
      }
    }
  }
}

void bf16_row(uint32_t* y, const float* x, float factor, int64_t n) {
  int units = 0;
  for (int64_t i = 0; i < n; i += 2 * units, y += units + 1) units = integer_group(y, x + i, n - i, broadcast(factor));
}
#else
void bf16_row(uint32_t* y, const float* x, float factor, int64_t n) {
  const vf scale = broadcast(factor);
  int64_t i = 0;
  for (; i + 2 * kWidth <= n; i += 2 * kWidth) store_bits(y + i / 2, load_units<PanelFormat::pairs>(x + i, scale));
  if (i == n) return;
  float rest[2 * kWidth] = {};
  memcpy(rest, x + i, static_cast<size_t>(n - i) * 4);
  const vu pairs = load_units<PanelFormat::pairs>(rest, scale);
  memcpy(y + i / 2, &pairs, static_cast<size_t>(n - i + 1) / 2 * 4);
}
#endif

template <class E, PanelFormat F>
void pack_format(const PackSource& s, int64_t row0, int rows, int64_t inner0, int64_t inner, int width, uint32_t* out) {
  if (s.inner_contiguous) {
    pack_inner_contiguous<E, F>(s, row0, rows, inner0, inner, width, out);
  } else {
    pack_rows_contiguous<E, F>(s, row0, rows, inner0, inner, width, out);
  }
}

template <class E>
void pack_element(const PackSource& s, int64_t row0, int rows, int64_t inner0, int64_t inner, PanelFormat format,
                  int width, uint32_t* out) {
  switch (format) {
    case PanelFormat::f32: return pack_format<E, PanelFormat::f32>(s, row0, rows, inner0, inner, width, out);
    case PanelFormat::rounded: return pack_format<E, PanelFormat::rounded>(s, row0, rows, inner0, inner, width, out);
    case PanelFormat::pairs: return pack_format<E, PanelFormat::pairs>(s, row0, rows, inner0, inner, width, out);
    case PanelFormat::tiles:
#if defined(__AMX_BF16__)
      return pack_tiles<E>(s, row0, rows, inner0, inner, width, out);
#else
      return;  // no table here asks for it
#endif
    case PanelFormat::integers:
#if !defined(__AVX512BF16__)
      return pack_integers<E>(s, row0, rows, inner0, inner, width, out);
#else
      return;
#endif
  }
}

void pack(const PackSource& s, int64_t row0, int rows, int64_t inner0, int64_t inner, PanelFormat format, int width,
          void* out) {
  if (s.bf16) {
    pack_element<uint16_t>(s, row0, rows, inner0, inner, format, width, static_cast<uint32_t*>(out));
  } else {
    pack_element<float>(s, row0, rows, inner0, inner, format, width, static_cast<uint32_t*>(out));
  }
}

}  // namespace

void fill_pack(Kernels& k) {
  k.pack = pack;
  k.bf16_row = bf16_row;
}

}  // namespace act::cpu::ACT_ISA
