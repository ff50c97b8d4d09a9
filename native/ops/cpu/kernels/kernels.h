// The single-threaded vector kernels, one table of them per instruction set.
//
// Every .cc file of this folder is compiled once per instruction set (CMakeLists.txt), with ACT_ISA naming the
// namespace it lands in, so no two copies share a symbol. Those files use no std:: functions: an inline function
// compiled with AVX-512 could otherwise be the copy that the linker keeps for everyone.
#pragma once
#include <cstdint>

namespace act::cpu {

/// One tile of a matrix product: c[rows x columns] = init + A B over `units` inner steps.
/// A unit is one inner index of an fp32 product, or a pair of them where pairs of bf16 or of integers are multiplied.
struct GemmTile {
  int rows;
  int64_t units;
  int64_t chain;        // units that make a chain of their own, started from zero; 0: one chain from init
  const void* a;        // 32-bit words, row r and step s at a[r * a_row + s * a_step]; `tiles`: a packed panel
  int64_t a_row, a_step;
  const void* b;        // 32-bit words of gemm_columns columns a unit: a packed panel, or of fp32 a matrix as it lies
  int64_t b_step;       // words from one unit to the next; of a packed panel of pairs or fp32 gemm_columns
  const float* init;    // null: zeros
  int64_t init_stride;  // floats from row to row of init; 0 for a bias
  float* c;
  int64_t c_stride;
  const float* next_c;    // where the next tile will begin: brought closer; null: nothing
  int columns;            // 1..gemm_columns
  const char* prefetch;   // memory to bring closer meanwhile; null: nothing
  int prefetch_lines;     // cache lines of it a unit: 1, 2, or those of a unit of b; of integers any number each 32 units
  int64_t prefetch_step;  // bytes from one unit's lines to the next's (tiles and integers: always the end of the lines)
};
using GemmKernel = void (*)(const GemmTile&);

/// What a product's kernel multiplies.
enum class Arithmetic : uint8_t { fp32, bf16, integers };

/// How operands are stored, in 32-bit words:
///   f32, rounded  a word a unit: the number, or the number rounded to bf16 (what fp32 arithmetic multiplies for bf16 on
///                 processors without a bf16 dot product);
///   pairs         a word a unit: two numbers of bf16, the lower index in the low half;
///   tiles         such pairs row by row: 16 units of one row, then of the next, and so on for the panel's rows; then the
///                 next 16 units;
///   integers      a word a unit for each group of 64 units, or 32 at the row's end: numbers rounded to bf16, then to
///                 multiples of the group's scale (at most 4080 of them), i and i + the units of the group in the
///                 halves of a word; then the scale.
/// A panel of `width` rows interleaves them word by word (not tiles).
enum class PanelFormat : uint8_t { f32, rounded, pairs, tiles, integers };
constexpr int kTileGroupUnits = 16;
/// Of `integers`: units of a group, and what units of a row are rounded up to.
constexpr int kIntegerGroupUnits = 64, kIntegerStepUnits = 32;

/// A matrix to be packed: element (row, inner).
struct PackSource {
  const void* data;
  int64_t stride;         // elements
  bool bf16;              // else f32
  bool inner_contiguous;  // true: data[row * stride + inner], false: data[inner * stride + row]
  float scale;            // multiplies f32 elements before rounding
};

/// A run of rows in memory: `count` rows from `rows` on.
struct RowRun {
  const void* rows;
  int64_t count;
};

constexpr int kMaxTileRows = 8;   // of attention's scores
constexpr int kMaxGemmRows = 32;  // of a product

struct AdamWScalars {
  float learning_rate, beta1, beta2, epsilon, weight_decay, grad_scale;
  float correction1, correction2;  // 1 / (1 - beta^step)
};

/// max, sum of exp(z - max) and sum of exp(z - max) (z - max) of z = factor * x.
struct SoftmaxStats {
  float max, sum, weighted;
};

struct Kernels {
  const char* name;
  // By Arithmetic: the largest tile, and the kernel for so many rows. A processor has either bf16 or integers.
  int gemm_rows[3], gemm_columns[3];
  GemmKernel gemm[3][kMaxGemmRows + 1];
  /// How bf16 products take A: `integers` where B is a packed weight and `bf16_weight` says so, else this.
  PanelFormat bf16_left;
  PanelFormat bf16_weight;  // how weights of bf16 are packed: pairs or integers
  int bf16_group;           // units of `pairs` that are added up before they enter the chain: 1 or 16

  /// Packs rows row0 .. row0 + rows (zeros up to `width`) and `inner` inner indices from `inner0` on (zeros up to a
  /// whole unit or group, of `tiles` in rows up to 16 or 32).
  void (*pack)(const PackSource& source, int64_t row0, int rows, int64_t inner0, int64_t inner, PanelFormat format,
               int width, void* out);

  // --- attention ---
  int score_rows;  // the largest `rows` of `scores`
  /// s[r * stride + 16 p + lane] = scale * sum over i < depth of a[r * a_row + i] * pages[p][i * 16 + lane], the pages
  /// of fp32 or bf16.
  /// fetch: the pages come from memory, not from a cache; each is prefetched while the ones before it are read.
  void (*scores)(int rows, int page_count, int64_t depth, const float* a, int64_t a_row, const void* const* pages,
                 bool bf16, bool fetch, float scale, float* s, int64_t stride);
  int weigh_rows;  // the largest `rows` of `weigh`
  /// acc[r * acc_stride + c] += sum over the runs' rows i (numbered through) of p[r * p_row + i * p_step] * row_i[c],
  /// one chain per element; `columns` is a multiple of 16; rows of fp32 or bf16. fetch: as in `scores`, of runs.
  void (*weigh)(int rows, int64_t columns, const RowRun* runs, int run_count, int64_t run_stride, bool bf16, bool fetch,
                const float* p, int64_t p_row, int64_t p_step, float* acc, int64_t acc_stride);
  /// s[0..n) = exp(s - max), s[n .. n rounded up to 16) = 0; lane sums by index modulo 16.
  void (*softmax)(float* s, int64_t n, float* max, float* sum);
  /// p[i] = exp(s[i] - lse), ds[i] = p[i] * (dp[i] - delta) * scale for i < n, 0 up to a multiple of 16. dp becomes ds,
  /// s becomes p.
  void (*softmax_backward)(float* s, float* dp, int64_t n, float lse, float delta, float scale);

  // --- elementwise and rows ---
  void (*exp)(float* y, const float* x, int64_t n);
  void (*swiglu)(float* y, const float* gate, const float* up, int64_t n);
  void (*swiglu_backward)(float* dgate, float* dup, const float* dy, const float* gate, const float* up, int64_t n);
  void (*add)(float* y, const float* x, int64_t n);
  void (*scale)(float* y, float factor, int64_t n);
  void (*round_bf16)(float* y, const float* x, int64_t n);  // fp32 numbers rounded to bf16
  void (*to_bf16)(uint16_t* y, const float* x, int64_t n);
  /// factor * x as a row of the format bf16_weight, zeros up to a whole unit or group.
  void (*bf16_row)(uint32_t* y, const float* x, float factor, int64_t n);
  float (*dot)(const float* a, const float* b, int64_t n);  // 32 interleaved chains, fixed tree
  /// Returns 1 / rms.
  float (*rms_norm)(float* y, const float* x, const float* weight, float eps, int64_t n);
  void (*rms_norm_backward)(float* dx, bool accumulate, const float* dy, const float* x, const float* weight,
                            float rstd, int64_t n);
  /// dweight[c] += dy[c] * (x[c] * rstd)
  void (*rms_norm_weight)(float* dweight, const float* dy, const float* x, float rstd, int64_t n);
  void (*rotate)(float* x, const float* cosine, const float* sine, int64_t half);

  // --- head ---
  SoftmaxStats (*softmax_stats)(const float* x, float factor, int64_t n);
  /// x[i] = factor * p_i * (entropy_weight * (log p_i + entropy) - gradient), p = softmax(factor * x) given its stats.
  void (*softmax_gradient)(float* x, float factor, const SoftmaxStats& stats, float log_sum, float gradient,
                           float entropy_weight, float entropy, int64_t n);
  /// y[i] = exp((x[i] - max) * inverse_temperature); returns their sum (16 lanes, fixed tree).
  float (*masses)(float* y, const float* x, float max, float inverse_temperature, int64_t n);

  // --- optimizer ---
  void (*adamw)(float* p, const float* g, float* m, float* v, const AdamWScalars& o, int64_t n);
  double (*sum_of_squares)(const float* x, int64_t n);
  bool (*has_nonfinite)(const float* x, int64_t n);
};

namespace portable {
const Kernels& kernels();
}
namespace avx2 {
const Kernels& kernels();
}
namespace avx512 {
const Kernels& kernels();
}
namespace avx512vnni {
const Kernels& kernels();
}
namespace avx512bf16 {
const Kernels& kernels();
}
namespace amx {
const Kernels& kernels();
}

}  // namespace act::cpu
