// The micro-kernel of every matrix product: a tile of C stays in registers while one chain of fused multiply-adds per
// element walks the inner index in ascending order. That order is the contract (ops.h): one chain from C's present
// value on, or chains of `chain` units from zero, each added to C when it is complete.
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

/// One chain over `units` inner steps; the panels and the prefetch move on.
template <bool BF16, int R, int Lines>
ACT_INLINE void run_chain(Accumulators<R>& acc, int64_t units, const float*& a, const float*& b,
                          const char*& prefetch) {
  for (int64_t k = 0; k < units; k++, b += kColumns) {
    prefetch_lines<Lines>(prefetch);
    if constexpr (!BF16) {
      vf y[kVectors];
#pragma GCC unroll 3
      for (int j = 0; j < kVectors; j++) y[j] = load(b + j * kWidth);
      step<R>(acc, a, y);
      a += R;
    } else {
#if defined(__AVX512BF16__)
      vu y[kVectors];
#pragma GCC unroll 3
      for (int j = 0; j < kVectors; j++) y[j] = load_bits(b + j * kWidth);
#pragma GCC unroll 8
      for (int i = 0; i < R; i++) {
        uint32_t pair;
        memcpy(&pair, a + i, 4);
        const vu x = broadcast_bits(pair);
#pragma GCC unroll 3
        for (int j = 0; j < kVectors; j++) acc.c[i][j] = _mm512_dpbf16_ps(acc.c[i][j], (__m512bh)x, (__m512bh)y[j]);
      }
      a += R;
#else
      vf y[kVectors];
#pragma GCC unroll 3
      for (int j = 0; j < kVectors; j++) y[j] = (vf)(load_bits(b + j * kWidth) << 16);
      step<R>(acc, a, y);
#pragma GCC unroll 3
      for (int j = 0; j < kVectors; j++) y[j] = (vf)(load_bits(b + j * kWidth) & 0xffff0000u);
      step<R>(acc, a + R, y);
      a += 2 * R;
#endif
    }
  }
}

template <bool BF16, int R>
void tile(const GemmTile& t) {
  // A tile at the right edge of C is worked on in a copy as wide as the panel.
  float edge[R * kColumns];
  const float* init = t.init;
  int64_t init_stride = t.init_stride, c_stride = t.c_stride;
  float* c = t.c;
  const bool narrow = t.columns < kColumns;
  if (narrow) {
    for (int i = 0; init && i < R; i++) {
      for (int j = 0; j < kColumns; j++) edge[i * kColumns + j] = j < t.columns ? init[i * init_stride + j] : 0;
    }
    if (init) init = edge;
    c = edge;
    init_stride = c_stride = kColumns;
  }
  if (t.next_c) {
    for (int i = 0; i < R; i++) {
      const char* row = reinterpret_cast<const char*>(t.next_c + i * t.c_stride);
      for (int j = 0; j < kColumns * 4; j += 64) __builtin_prefetch(row + j, 1);
    }
  }
  const float *a = static_cast<const float*>(t.a), *b = static_cast<const float*>(t.b);
  const char* prefetch = t.prefetch;
  const bool one = t.chain == 0;  // chain, from init on; else each starts from zero and is added
  const int64_t length = one ? t.units : t.chain;
  for (int64_t left = t.units; left > 0; left -= length) {
    Accumulators<R> acc;
#pragma GCC unroll 8
    for (int i = 0; i < R; i++) {
#pragma GCC unroll 3
      for (int j = 0; j < kVectors; j++) acc.c[i][j] = one && init ? load(init + i * init_stride + j * kWidth) : zero();
    }
    const int64_t units = left < length ? left : length;
    if (!prefetch) {
      run_chain<BF16, R, 0>(acc, units, a, b, prefetch);
    } else if (t.prefetch_lines == 1) {
      run_chain<BF16, R, 1>(acc, units, a, b, prefetch);
    } else {
      run_chain<BF16, R, kColumns * 4 >= 64 ? kColumns * 4 / 64 : 1>(acc, units, a, b, prefetch);
    }
    const bool add = !one && init;
#pragma GCC unroll 8
    for (int i = 0; i < R; i++) {
#pragma GCC unroll 3
      for (int j = 0; j < kVectors; j++) {
        const vf sum = add ? load(init + i * init_stride + j * kWidth) + acc.c[i][j] : acc.c[i][j];
        store(c + i * c_stride + j * kWidth, sum);
      }
    }
    init = c;
    init_stride = c_stride;
  }
  if (narrow) {
    for (int i = 0; i < R; i++) memcpy(t.c + i * t.c_stride, edge + i * kColumns, static_cast<size_t>(t.columns) * 4);
  }
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
