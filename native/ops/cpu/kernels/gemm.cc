// The micro-kernels of every matrix product: a tile of C stays in registers while one chain of fused multiply-adds per
// element walks the inner index in ascending order. That order is the contract (ops.h): one chain from C's present
// value on, or chains of `chain` units from zero, each added to C when it is complete. Where bf16 is multiplied as
// integers, the links of the one chain are exact sums of 128 products.
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

/// c + x y, of bf16 c + x_low y_low + x_high y_high.
template <bool BF16>
ACT_INLINE vf add_product(vf c, vu x, vu y) {
#if defined(__AVX512BF16__)
  if constexpr (BF16) return _mm512_dpbf16_ps(c, (__m512bh)x, (__m512bh)y);
#endif
  return fma((vf)x, (vf)y, c);
}

/// One chain over `units` inner steps; the operands and the prefetch of the next panel, `Lines` a unit, move on.
template <bool BF16, int R, int Lines>
ACT_INLINE void run_chain(Accumulators<R>& acc, int64_t units, const GemmTile& t, const uint32_t*& a,
                          const uint32_t*& b, const char*& prefetch) {
  const int64_t a_row = t.a_row, a_step = t.a_step, b_step = t.b_step, prefetch_step = t.prefetch_step;
  for (int64_t k = 0; k < units; k++, a += a_step, b += b_step, prefetch += Lines > 0 ? prefetch_step : 0) {
#pragma GCC unroll 4
    for (int i = 0; i < Lines; i++) __builtin_prefetch(prefetch + 64 * i, 0, 2);
    vu y[kVectors];
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; j++) y[j] = load_bits(b + j * kWidth);
#pragma GCC unroll 8
    for (int i = 0; i < R; i++) {
      const vu x = broadcast_bits(a[i * a_row]);
#pragma GCC unroll 3
      for (int j = 0; j < kVectors; j++) acc.c[i][j] = add_product<BF16>(acc.c[i][j], x, y[j]);
    }
  }
}

/// Where a tile's sums begin and end: C, or at its right edge a copy as wide as the panel, which finish() writes back.
template <int R>
struct Target {
  const float* init;
  int64_t init_stride;
  float* c;
  int64_t c_stride;
  float edge[R * kColumns];

  explicit Target(const GemmTile& t) : init(t.init), init_stride(t.init_stride), c(t.c), c_stride(t.c_stride) {
    if (t.columns < kColumns) {
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
  }
  void finish(const GemmTile& t) const {
    if (c != edge) return;
    for (int i = 0; i < R; i++) memcpy(t.c + i * t.c_stride, edge + i * kColumns, static_cast<size_t>(t.columns) * 4);
  }
};

constexpr int kPanelLines = kColumns * 4 >= 64 ? kColumns * 4 / 64 : 1;

template <bool BF16, int R>
void tile(const GemmTile& t) {
  Target<R> to(t);
  const uint32_t *a = static_cast<const uint32_t*>(t.a), *b = static_cast<const uint32_t*>(t.b);
  const char* prefetch = t.prefetch;
  const bool one = t.chain == 0;  // chain, from init on; else each starts from zero and is added
  const int64_t length = one ? t.units : t.chain;
  for (int64_t left = t.units; left > 0; left -= length) {
    Accumulators<R> acc;
#pragma GCC unroll 8
    for (int i = 0; i < R; i++) {
#pragma GCC unroll 3
      for (int j = 0; j < kVectors; j++) {
        acc.c[i][j] = one && to.init ? load(to.init + i * to.init_stride + j * kWidth) : zero();
      }
    }
    const int64_t units = left < length ? left : length;
    if (!prefetch) {
      run_chain<BF16, R, 0>(acc, units, t, a, b, prefetch);
    } else if (t.prefetch_lines == 1) {
      run_chain<BF16, R, 1>(acc, units, t, a, b, prefetch);
    } else if (t.prefetch_lines == 2) {
      run_chain<BF16, R, 2>(acc, units, t, a, b, prefetch);
    } else {
      run_chain<BF16, R, kPanelLines>(acc, units, t, a, b, prefetch);
    }
    const bool add = !one && to.init;
#pragma GCC unroll 8
    for (int i = 0; i < R; i++) {
#pragma GCC unroll 3
      for (int j = 0; j < kVectors; j++) {
        const vf sum = add ? load(to.init + i * to.init_stride + j * kWidth) + acc.c[i][j] : acc.c[i][j];
        store(to.c + i * to.c_stride + j * kWidth, sum);
      }
    }
    to.init = to.c;
    to.init_stride = to.c_stride;
  }
  to.finish(t);
}

#if !defined(__AVX512BF16__)
/// x_low * y_low + x_high * y_high of the 16-bit halves of every lane.
ACT_INLINE vi products(vu x, vu y) {
#if defined(__AVX512F__)
  return (vi)_mm512_madd_epi16((__m512i)x, (__m512i)y);
#elif defined(__AVX2__)
  return (vi)_mm256_madd_epi16((__m256i)x, (__m256i)y);
#elif defined(__SSE2__)
  return (vi)_mm_madd_epi16((__m128i)x, (__m128i)y);
#else
  const vi a = (vi)x, b = (vi)y;
  return (a << 16 >> 16) * (b << 16 >> 16) + (a >> 16) * (b >> 16);
#endif
}
ACT_INLINE void add_products(vi& sum, vu x, vu y) {
#if defined(__AVX512VNNI__)
  sum = (vi)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)x, (__m512i)y);
#elif defined(__AVX2__) && !defined(__AVX512F__)
  // GCC would gather the additions of several rows behind their products and run out of registers.
  asm("vpaddd %1, %0, %0" : "+x"(sum) : "x"(products(x, y)));
#else
  sum += products(x, y);
#endif
}

/// One group of `units`: its exact sums, times both scales, join the chains from `init` in `c`.
template <int R>
ACT_INLINE void add_group(float* c, int64_t c_stride, const float* init, int64_t init_stride, const uint32_t* a,
                          int64_t a_row, const uint32_t* b, int units) {
  vi s[R][kVectors];
  vu y[kVectors];
#pragma GCC unroll 3
  for (int j = 0; j < kVectors; j++) y[j] = load_bits(b + j * kWidth);
#pragma GCC unroll 8
  for (int i = 0; i < R; i++) {
    const vu x = broadcast_bits(a[i * a_row]);
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; j++) s[i][j] = products(x, y[j]);
  }
#pragma GCC unroll 1
  for (int u = 1; u < units; u++) {
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; j++) y[j] = load_bits(b + u * kColumns + j * kWidth);
#pragma GCC unroll 8
    for (int i = 0; i < R; i++) {
      const vu x = broadcast_bits(a[i * a_row + u]);
#pragma GCC unroll 3
      for (int j = 0; j < kVectors; j++) add_products(s[i][j], x, y[j]);
    }
  }
  vf scale[kVectors];
#pragma GCC unroll 3
  for (int j = 0; j < kVectors; j++) scale[j] = (vf)load_bits(b + units * kColumns + j * kWidth);
#pragma GCC unroll 8
  for (int i = 0; i < R; i++) {
    const vf row_scale = (vf)broadcast_bits(a[i * a_row + units]);
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; j++) {
      const vf sum = __builtin_convertvector(s[i][j], vf) * row_scale;
      store(c + i * c_stride + j * kWidth, fma(sum, scale[j], load(init + i * init_stride + j * kWidth)));
    }
  }
}

template <int R>
void integer_tile(const GemmTile& t) {
  Target<R> to(t);
  alignas(64) static const float kZeros[kColumns] = {};
  const float* init = to.init ? to.init : kZeros;
  int64_t init_stride = to.init ? to.init_stride : 0;
  const uint32_t *a = static_cast<const uint32_t*>(t.a), *b = static_cast<const uint32_t*>(t.b);
  const char* prefetch = t.prefetch;
  for (int64_t left = t.units; left > 0;) {
    const int units = left < kIntegerGroupUnits ? static_cast<int>(left) : kIntegerGroupUnits;
    const int lines = prefetch ? t.prefetch_lines * (units / kIntegerStepUnits) : 0;
    for (int i = 0; i < lines; i++, prefetch += 64) __builtin_prefetch(prefetch, 0, 2);
    add_group<R>(to.c, to.c_stride, init, init_stride, a, t.a_row, b, units);
    init = to.c, init_stride = to.c_stride;
    left -= units, a += units + 1, b += (units + 1) * kColumns;
  }
  to.finish(t);
}
#endif

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

/// The kernels of R rows and more, those of fp32 arithmetic and of the one that bf16 takes.
template <int R>
void fill_rows(Kernels& k) {
  k.gemm[static_cast<int>(Arithmetic::fp32)][R] = tile<false, R>;
#if !defined(__AVX512BF16__)
  k.gemm[static_cast<int>(Arithmetic::integers)][R] = integer_tile<R>;
#elif !defined(__AMX_BF16__)
  k.gemm[static_cast<int>(Arithmetic::bf16)][R] = tile<true, R>;
#endif
  if constexpr (R < kRows) fill_rows<R + 1>(k);
}

}  // namespace

void fill_gemm(Kernels& k) {
  for (int i = 0; i < 3; i++) {
    k.gemm_rows[i] = kRows;
    k.gemm_columns[i] = kColumns;
  }
  fill_rows<1>(k);
  k.bf16_group = 1;
#if defined(__AMX_BF16__)
  constexpr int kTiles = static_cast<int>(Arithmetic::bf16);
  k.gemm_rows[kTiles] = kAmxRows;
  k.gemm_columns[kTiles] = kAmxColumns;
  k.bf16_group = kTileGroupUnits;
  k.bf16_left = PanelFormat::tiles;
  k.bf16_weight = PanelFormat::pairs;
  for (int rows = 1; rows <= 16; rows++) k.gemm[kTiles][rows] = amx_tile<1>;
  for (int rows = 17; rows <= kAmxRows; rows++) k.gemm[kTiles][rows] = amx_tile<2>;
#elif defined(__AVX512BF16__)
  k.bf16_left = PanelFormat::pairs;
  k.bf16_weight = PanelFormat::pairs;
#else
  k.bf16_left = PanelFormat::rounded;
  k.bf16_weight = PanelFormat::integers;
#endif
}

}  // namespace act::cpu::ACT_ISA
