// The micro-kernel of every matrix product: a tile of C stays in registers while one chain of fused multiply-adds per
// element walks the inner index in ascending order. That order is the contract (ops.h): one chain from C's present value
// on, or chains of `chain` units from zero, each added to C when it is complete.
#include "fill.h"

namespace act::cpu::ACT_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kRows = 8, kVectors = 3;
#elif defined(__AVX2__)
constexpr int kRows = 6, kVectors = 2;
#else
constexpr int kRows = 4, kVectors = 2;
#endif
constexpr int kColumns = kVectors * kWidth;

template <int R>
struct Accumulators {
  vf c[R][kVectors];
};

template <int R>
ACT_INLINE void step(Accumulators<R>& acc, const float* a, const vf (&b)[kVectors]) {
#pragma GCC unroll 8
  for (int i = 0; i < R; i++) {
    const vf x = broadcast(a[i]);
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; j++) acc.c[i][j] = fma(x, b[j], acc.c[i][j]);
  }
}

/// Brings the next panel closer while this one is multiplied.
template <int Lines>
ACT_INLINE void prefetch_lines(const char*& p) {
#pragma GCC unroll 4
  for (int i = 0; i < Lines; i++) __builtin_prefetch(p + 64 * i, 0, 2);
  p += 64 * Lines;
}

/// One chain over `units` inner steps; a, b and prefetch move on.
template <bool BF16, int R, int Lines>
ACT_INLINE void run_chain(Accumulators<R>& acc, int64_t units, const void*& a_panel, const void*& b_panel,
                          const char*& prefetch) {
  if constexpr (!BF16) {
    const float *a = static_cast<const float*>(a_panel), *b = static_cast<const float*>(b_panel);
    for (int64_t k = 0; k < units; k++, a += R, b += kColumns) {
      prefetch_lines<Lines>(prefetch);
      vf y[kVectors];
#pragma GCC unroll 3
      for (int j = 0; j < kVectors; j++) y[j] = load(b + j * kWidth);
      step<R>(acc, a, y);
    }
    a_panel = a;
    b_panel = b;
  } else {
#if defined(__AVX512BF16__)
    const uint32_t *a = static_cast<const uint32_t*>(a_panel), *b = static_cast<const uint32_t*>(b_panel);
    for (int64_t k = 0; k < units; k++, a += R, b += kColumns) {
      prefetch_lines<Lines>(prefetch);
      vu y[kVectors];
#pragma GCC unroll 3
      for (int j = 0; j < kVectors; j++) y[j] = load_bits(b + j * kWidth);
#pragma GCC unroll 8
      for (int i = 0; i < R; i++) {
        const vu x = broadcast_bits(a[i]);
#pragma GCC unroll 3
        for (int j = 0; j < kVectors; j++) acc.c[i][j] = _mm512_dpbf16_ps(acc.c[i][j], (__m512bh)x, (__m512bh)y[j]);
      }
    }
    a_panel = a;
    b_panel = b;
#else
    const float* a = static_cast<const float*>(a_panel);
    const uint32_t* b = static_cast<const uint32_t*>(b_panel);
    for (int64_t k = 0; k < units; k++, a += 2 * R, b += kColumns) {
      prefetch_lines<Lines>(prefetch);
      vf y[kVectors];
#pragma GCC unroll 3
      for (int j = 0; j < kVectors; j++) y[j] = (vf)(load_bits(b + j * kWidth) << 16);
      step<R>(acc, a, y);
#pragma GCC unroll 3
      for (int j = 0; j < kVectors; j++) y[j] = (vf)(load_bits(b + j * kWidth) & 0xffff0000u);
      step<R>(acc, a + R, y);
    }
    a_panel = a;
    b_panel = b;
#endif
  }
}

template <int R>
ACT_INLINE void add_to(Accumulators<R>& total, Accumulators<R>& acc) {
#pragma GCC unroll 8
  for (int i = 0; i < R; i++) {
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; j++) {
      total.c[i][j] = total.c[i][j] + acc.c[i][j];
      acc.c[i][j] = zero();
    }
  }
}

template <bool BF16, int R, int Lines>
ACT_INLINE void run_tile(const GemmTile& t) {
  Accumulators<R> acc;
  const int columns = t.columns;
#pragma GCC unroll 8
  for (int i = 0; i < R; i++) {
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; j++) {
      const int left = columns - j * kWidth;
      const float* from = t.init + i * t.init_stride + j * kWidth;
      acc.c[i][j] = !t.init || left <= 0 ? zero() : load_up_to(from, left);
    }
  }
  if (t.next_c) {
#pragma GCC unroll 8
    for (int i = 0; i < R; i++) {
#pragma GCC unroll 4
      for (int j = 0; j < kColumns * 4; j += 64) __builtin_prefetch(reinterpret_cast<const char*>(t.next_c + i * t.c_stride) + j, 1);
    }
  }
  const char* prefetch = t.prefetch;
  const void *a = t.a, *b = t.b;
  if (t.chain == 0) {
    run_chain<BF16, R, Lines>(acc, t.units, a, b, prefetch);
  } else {
    Accumulators<R> total = acc;
#pragma GCC unroll 8
    for (int i = 0; i < R; i++) {
#pragma GCC unroll 3
      for (int j = 0; j < kVectors; j++) acc.c[i][j] = zero();
    }
    for (int64_t left = t.units; left > 0; left -= t.chain) {
      run_chain<BF16, R, Lines>(acc, left < t.chain ? left : t.chain, a, b, prefetch);
      add_to<R>(total, acc);
    }
    acc = total;
  }
#pragma GCC unroll 8
  for (int i = 0; i < R; i++) {
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; j++) {
      const int left = columns - j * kWidth;
      if (left > 0) store_up_to(t.c + i * t.c_stride + j * kWidth, acc.c[i][j], left);
    }
  }
}

template <bool BF16, int R>
void tile(const GemmTile& t) {
  if (!t.prefetch) return run_tile<BF16, R, 0>(t);
  if (t.prefetch_lines == 1) return run_tile<BF16, R, 1>(t);
  run_tile<BF16, R, kColumns * 4 / 64 ? kColumns * 4 / 64 : 1>(t);
}

template <bool BF16, int R>
void fill_row(Kernels& k) {
  k.gemm[BF16][R] = tile<BF16, R>;
  if constexpr (R < kRows) fill_row<BF16, R + 1>(k);
}

}  // namespace

void fill_gemm(Kernels& k) {
  k.gemm_rows = kRows;
  k.gemm_columns = kColumns;
#if defined(__AVX512BF16__)
  k.bf16_dot = true;
#else
  k.bf16_dot = false;
#endif
  fill_row<false, 1>(k);
  fill_row<true, 1>(k);
}

}  // namespace act::cpu::ACT_ISA
