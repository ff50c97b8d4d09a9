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

/// One row's number in a after another, `row` words apart.
template <int R>
ACT_INLINE void step(Accumulators<R>& acc, const float* a, int64_t row, const vf (&b)[kVectors]) {
#pragma GCC unroll 8
  for (int i = 0; i < R; i++) {
    const vf x = broadcast(a[i * row]);
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
ACT_INLINE void run_chain(Accumulators<R>& acc, int64_t units, const float*& a, int64_t a_row, int64_t a_step,
                          const float*& b, const char*& prefetch) {
  for (int64_t k = 0; k < units; k++, b += kColumns) {
    prefetch_lines<Lines>(prefetch);
    if constexpr (!BF16) {
      vf y[kVectors];
#pragma GCC unroll 3
      for (int j = 0; j < kVectors; j++) y[j] = load(b + j * kWidth);
      step<R>(acc, a, a_row, y);
      a += a_step;
    } else {
#if defined(__AVX512BF16__)
      vu y[kVectors];
#pragma GCC unroll 3
      for (int j = 0; j < kVectors; j++) y[j] = load_bits(b + j * kWidth);
#pragma GCC unroll 8
      for (int i = 0; i < R; i++) {
        uint32_t pair;
        memcpy(&pair, a + i * a_row, 4);
        const vu x = broadcast_bits(pair);
#pragma GCC unroll 3
        for (int j = 0; j < kVectors; j++) acc.c[i][j] = _mm512_dpbf16_ps(acc.c[i][j], (__m512bh)x, (__m512bh)y[j]);
      }
      a += a_step;
#else
      vf y[kVectors];
#pragma GCC unroll 3
      for (int j = 0; j < kVectors; j++) y[j] = (vf)(load_bits(b + j * kWidth) << 16);
      step<R>(acc, a, a_row, y);
#pragma GCC unroll 3
      for (int j = 0; j < kVectors; j++) y[j] = (vf)(load_bits(b + j * kWidth) & 0xffff0000u);
      step<R>(acc, a + a_step, a_row, y);
      a += 2 * a_step;
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
      run_chain<BF16, R, 0>(acc, units, a, t.a_row, t.a_step, b, prefetch);
    } else if (t.prefetch_lines == 1) {
      run_chain<BF16, R, 1>(acc, units, a, t.a_row, t.a_step, b, prefetch);
    } else {
      run_chain<BF16, R, kColumns * 4 >= 64 ? kColumns * 4 / 64 : 1>(acc, units, a, t.a_row, t.a_step, b, prefetch);
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

#if defined(__AMX_BF16__)
constexpr int kAmxRows = 32, kAmxColumns = 32;
static_assert(kAmxRows <= kMaxGemmRows);

/// Every tile register: 16 rows of 64 bytes. Set once a thread; nothing else here uses them.
void configure_tiles() {
  static thread_local bool configured = false;
  if (configured) return;
  struct alignas(64) {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } config;
  _tile_loadconfig(&config);
  configured = true;
}

/// 16 x Blocks rows by 32 columns of C. One instruction adds 16 units: sums of 16 products over even and over odd inner
/// indices, each a chain from zero, are added to each other and then to C. Rows and columns that C lacks are worked on
/// in a copy; a row's bits do not depend on how many there are.
template <int Blocks>
void amx_tile(const GemmTile& t) {
  configure_tiles();
  alignas(64) float edge[kAmxRows * kAmxColumns];
  const float* init = t.init;
  int64_t init_stride = t.init_stride, c_stride = t.c_stride;
  float* c = t.c;
  const bool partial = t.columns < kAmxColumns || t.rows < 16 * Blocks;
  if (partial) {
    if (init) {
      for (int i = 0; i < 16 * Blocks; i++) {
        const float* row = init + (i < t.rows ? i : 0) * init_stride;
        for (int j = 0; j < kAmxColumns; j += 16) {
          const int left = t.columns - j;
          store(edge + i * kAmxColumns + j, left <= 0 ? zero() : load_up_to(row + j, left));
        }
      }
      init = edge;
    }
    c = edge;
    init_stride = c_stride = kAmxColumns;
  }
  if (t.next_c) {
    for (int i = 0; i < 16 * Blocks; i++) {
      const char* row = reinterpret_cast<const char*>(t.next_c + i * t.c_stride);
      __builtin_prefetch(row, 1);
      __builtin_prefetch(row + 64, 1);
    }
  }
  if (init) {
    _tile_loadd(0, init, init_stride * 4);
    _tile_loadd(1, init + 16, init_stride * 4);
    if constexpr (Blocks == 2) {
      _tile_loadd(2, init + 16 * init_stride, init_stride * 4);
      _tile_loadd(3, init + 16 * init_stride + 16, init_stride * 4);
    }
  } else {
    _tile_zero(0);
    _tile_zero(1);
    if constexpr (Blocks == 2) {
      _tile_zero(2);
      _tile_zero(3);
    }
  }
  const char *a = static_cast<const char*>(t.a), *b = static_cast<const char*>(t.b), *prefetch = t.prefetch;
  for (int64_t u = 0; u < t.units; u += 16, a += kAmxRows * 64, b += kAmxColumns * 64) {
    if (prefetch) {
      const int bytes = 16 * 64 * t.prefetch_lines;
      for (int i = 0; i < bytes; i += 64) __builtin_prefetch(prefetch + i, 0, 2);
      prefetch += bytes;
    }
    _tile_loadd(4, a, 64);
    _tile_loadd(6, b, kAmxColumns * 4);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b + 64, kAmxColumns * 4);
    _tile_dpbf16ps(1, 4, 7);
    if constexpr (Blocks == 2) {
      _tile_loadd(5, a + 16 * 64, 64);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, c, c_stride * 4);
  _tile_stored(1, c + 16, c_stride * 4);
  if constexpr (Blocks == 2) {
    _tile_stored(2, c + 16 * c_stride, c_stride * 4);
    _tile_stored(3, c + 16 * c_stride + 16, c_stride * 4);
  }
  if (partial) {
    for (int i = 0; i < t.rows; i++) {
      for (int j = 0; j < t.columns; j += 16) {
        store_up_to(t.c + i * t.c_stride + j, load(edge + i * kAmxColumns + j), t.columns - j);
      }
    }
  }
}
#endif

#if !defined(__AVX512BF16__)
/// Pairs of bf16 as an fp32 product reads them: of every unit the lower indices, then the upper ones.
void widen(const uint32_t* pairs, int64_t units, float* out) {
  for (int64_t u = 0; u < units; u++, pairs += kColumns, out += 2 * kColumns) {
    for (int j = 0; j < kColumns; j += kWidth) {
      const vu y = load_bits(pairs + j);
      store(out + j, (vf)(y << 16));
      store(out + kColumns + j, (vf)(y & 0xffff0000u));
    }
  }
}
#endif

template <bool BF16, int R>
void fill_row(Kernels& k) {
  k.gemm[BF16][R] = tile<BF16, R>;
  if constexpr (R < kRows) fill_row<BF16, R + 1>(k);
}

}  // namespace

void fill_gemm(Kernels& k) {
  k.gemm_rows[0] = kRows;
  k.gemm_columns[0] = kColumns;
  fill_row<false, 1>(k);
#if defined(__AMX_BF16__)
  k.gemm_rows[1] = kAmxRows;
  k.gemm_columns[1] = kAmxColumns;
  k.bf16_group = 16;
  k.bf16_left = PanelFormat::tiles;
  for (int rows = 1; rows <= 16; rows++) k.gemm[1][rows] = amx_tile<1>;
  for (int rows = 17; rows <= kAmxRows; rows++) k.gemm[1][rows] = amx_tile<2>;
#else
  k.gemm_rows[1] = kRows;
  k.gemm_columns[1] = kColumns;
  k.bf16_group = 1;
#if defined(__AVX512BF16__)
  k.bf16_left = PanelFormat::pairs;
#else
  k.bf16_left = PanelFormat::rounded;
  k.widen = widen;
#endif
  fill_row<true, 1>(k);
#endif
}

}  // namespace act::cpu::ACT_ISA
