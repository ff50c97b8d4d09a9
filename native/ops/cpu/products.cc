// Matrix products: the three products of a linear layer as one driver.
//
// C[M, N] = A[M, K] B[K, N]. A is packed in panels of up to 8 rows, B in panels of up to 48 columns, both in blocks of
// the inner index; tasks are rectangles of C. Nothing of this changes a bit of the result: each element of C is one chain
// over ascending inner indices that continues from memory between blocks (kernels/gemm.cc).
#include <algorithm>

#include "cpu_backend.h"

namespace act::cpu {
namespace {

/// Units of the inner index per block: a panel of A stays in the first-level cache, a block of B panels in the second.
constexpr int64_t kInnerBlock = 384;
/// Packed operands of one round stay in the last-level cache.
constexpr int64_t kLeftUnits = 2 << 20, kRightUnits = 2 << 20;
constexpr int64_t kTilesPerTask = 16, kPanelsPerTask = 8;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Equal blocks of at most kInnerBlock units.
int64_t inner_block(int64_t units) {
  const int64_t blocks = std::max<int64_t>(1, ceil_div(units, kInnerBlock));
  return ceil_div(ceil_div(units, blocks), 8) * 8;
}

/// Rows of tile i when `rows` rows are split evenly into `tiles`.
int64_t tile_start(int64_t rows, int64_t tiles, int64_t i) { return rows / tiles * i + std::min(i, rows % tiles); }

}  // namespace

int64_t CpuBackend::packed_units(int64_t rows, int64_t cols, bool bf16) const {
  return ceil_div(rows, kernels_.gemm_columns) * kernels_.gemm_columns * (bf16 ? ceil_div(cols, 2) : cols);
}

void CpuBackend::pack_weight(CpuWeight& w) {
  const bool bf16 = w.dtype == DType::bf16;
  const int64_t per_unit = bf16 ? 2 : 1, units = ceil_div(w.cols, per_unit), block = inner_block(units);
  const int64_t width = kernels_.gemm_columns, panels = ceil_div(w.rows, width);
  const PackSource source{w.row_major.view().data, w.cols, w.row_major.view().dtype == DType::bf16, true, 1};
  float* const packed = w.packed.view().as<float>();
  pool_.run(panels, [&](int64_t p, int) {
    for (int64_t u = 0; u < units; u += block) {
      const int64_t count = std::min(block, units - u);
      kernels_.pack(source, p * width, static_cast<int>(std::min(width, w.rows - p * width)), u * per_unit,
                    std::min(count * per_unit, w.cols - u * per_unit), bf16 ? PanelFormat::pairs : PanelFormat::f32,
                    static_cast<int>(width), packed + panels * width * u + p * width * count);
    }
  });
}

void CpuBackend::multiply(const Product& x) {
  require(x.k > 0, "matrix product: the inner dimension must not be empty");
  if (x.m == 0 || x.n == 0) return;
  const int64_t units = ceil_div(x.k, x.bf16 ? 2 : 1), block = inner_block(units);
  // Rounds: at most kRightUnits of B where it has to be packed, at most kLeftUnits of A.
  int64_t span = units;
  if (!x.b.packed) {
    const int64_t padded = ceil_div(x.n, kernels_.gemm_columns) * kernels_.gemm_columns;
    span = std::min(units, std::max<int64_t>(1, kRightUnits / (padded * block)) * block);
  }
  const int64_t rows = std::max<int64_t>(1, kLeftUnits / (span * 128)) * 128;
  for (int64_t u = 0; u < units; u += span) {
    for (int64_t r = 0; r < x.m; r += rows) {
      multiply_block(x, r, std::min(rows, x.m - r), u, std::min(span, units - u));
    }
  }
}

void CpuBackend::multiply_block(const Product& x, int64_t row0, int64_t rows, int64_t unit0, int64_t units) {
  const int64_t per_unit = x.bf16 ? 2 : 1, total_units = ceil_div(x.k, per_unit), block = inner_block(total_units);
  const int64_t width = kernels_.gemm_columns, panels = ceil_div(x.n, width);
  const int64_t tiles = ceil_div(rows, kernels_.gemm_rows), blocks = ceil_div(units, block);
  const PanelFormat left_format = !x.bf16 ? PanelFormat::f32 : kernels_.bf16_dot ? PanelFormat::pairs : PanelFormat::rounded;
  const int64_t left_size = left_format == PanelFormat::rounded ? 2 : 1;  // floats a unit
  float* const left = left_panels_.get(*this, rows * units * left_size);
  auto inner_count = [&](int64_t u, int64_t count) { return std::min(count * per_unit, x.k - (unit0 + u) * per_unit); };
  auto left_panel = [&](int64_t u, int64_t count, int64_t tile) {
    return left + (rows * u + tile_start(rows, tiles, tile) * count) * left_size;
  };
  auto pack_left = [&](int64_t tile) {
    const int64_t r = tile_start(rows, tiles, tile), height = tile_start(rows, tiles, tile + 1) - r;
    for (int64_t u = 0; u < units; u += block) {
      const int64_t count = std::min(block, units - u);
      kernels_.pack(x.a, row0 + r, static_cast<int>(height), (unit0 + u) * per_unit, inner_count(u, count), left_format,
                    static_cast<int>(height), left_panel(u, count, tile));
    }
  };
  const uint32_t* right = x.b.packed;  // where the first block of this round begins
  int64_t right_tasks = 0;
  uint32_t* packing = nullptr;
  if (right) {
    right += panels * width * unit0;
  } else {
    packing = reinterpret_cast<uint32_t*>(right_panels_.get(*this, panels * width * units));
    right = packing;
    if (row0 == 0) right_tasks = panels * blocks;  // later rounds of rows find it packed
  }
  auto pack_right = [&](int64_t i) {
    const int64_t p = i / blocks, u = i % blocks * block, count = std::min(block, units - u);
    kernels_.pack(x.b.source, p * width, static_cast<int>(std::min(width, x.n - p * width)), (unit0 + u) * per_unit,
                  inner_count(u, count), x.bf16 ? PanelFormat::pairs : PanelFormat::f32, static_cast<int>(width),
                  packing + panels * width * u + p * width * count);
  };
  if (right_tasks == 0 && rows * units < 16384) {
    for (int64_t i = 0; i < tiles; i++) pack_left(i);
  } else {
    pool_.run(tiles + right_tasks, [&](int64_t i, int) { i < tiles ? pack_left(i) : pack_right(i - tiles); });
  }

  const int64_t tile_tasks = ceil_div(tiles, kTilesPerTask);
  const int64_t wanted = std::max<int64_t>(1, panels * tile_tasks / (4 * pool_.threads()));
  const int64_t panel_tasks = ceil_div(panels, std::min(kPanelsPerTask, wanted));
  pool_.run(tile_tasks * panel_tasks, [&](int64_t task, int) {
    const int64_t i = task % tile_tasks, j = task / tile_tasks;
    const int64_t tile0 = tiles * i / tile_tasks, tile1 = tiles * (i + 1) / tile_tasks;
    const int64_t panel0 = panels * j / panel_tasks, panel1 = panels * (j + 1) / panel_tasks;
    for (int64_t u = 0; u < units; u += block) {
      const int64_t count = std::min(block, units - u);
      const bool first = unit0 + u == 0;
      for (int64_t p = panel0; p < panel1; p++) {
        for (int64_t tile = tile0; tile < tile1; tile++) {
          const int64_t r = tile_start(rows, tiles, tile), height = tile_start(rows, tiles, tile + 1) - r;
          GemmTile t;
          t.units = count;
          t.a = left_panel(u, count, tile);
          t.b = right + panels * width * u + p * width * count;
          t.c = x.c + (row0 + r) * x.n + p * width;
          t.c_stride = x.n;
          t.init = first && !x.accumulate ? (x.bias ? x.bias + p * width : nullptr) : t.c;
          t.init_stride = first && !x.accumulate ? 0 : x.n;
          t.columns = static_cast<int>(std::min(width, x.n - p * width));
          t.prefetch = nullptr;
          kernels_.gemm[x.bf16][height](t);
        }
      }
    }
  });
}

size_t CpuBackend::product_scratch_bytes(int64_t rows, int64_t widest) const {
  // Packed A: one round, widened bf16 takes two floats a unit (but has half the units). Packed B: one round.
  const int64_t padded = ceil_div(widest, kernels_.gemm_columns) * kernels_.gemm_columns;
  const int64_t inner = std::max(rows, widest);
  const int64_t left = std::min(std::max<int64_t>(kLeftUnits, 128 * inner), std::max<int64_t>(rows, widest) * inner);
  const int64_t right = std::max(kRightUnits, padded * kInnerBlock);
  return static_cast<size_t>(2 * left + right) * 4;
}

void CpuBackend::linear(View y, bool accumulate, View x, const Weight& weight, View bias, float scale) {
  const auto& w = static_cast<const CpuWeight&>(weight);
  require_shape(x, x.rows, w.cols, "linear: x must be [T, w.cols]");
  require_shape(y, x.rows, w.rows, "linear: y must be [T, w.rows]");
  if (accumulate && bias.data) {
    for (int64_t t = 0; t < y.rows; t++) kernels_.add(y.as<float>() + t * y.cols, bias.as<float>(), y.cols);
  }
  Product p{};
  p.c = y.as<float>();
  p.m = x.rows, p.n = w.rows, p.k = w.cols;
  p.accumulate = accumulate;
  p.bias = bias.as<float>();
  p.bf16 = w.dtype == DType::bf16;
  p.a = {x.data, x.cols, false, true, scale};
  p.b.packed = w.packed.view().as<uint32_t>();
  multiply(p);
}

void CpuBackend::linear_backward_input(View dx, bool accumulate, View dy, const Weight& weight, float scale) {
  const auto& w = static_cast<const CpuWeight&>(weight);
  require_shape(dy, dy.rows, w.rows, "linear_backward_input: dy must be [T, w.rows]");
  require_shape(dx, dy.rows, w.cols, "linear_backward_input: dx must be [T, w.cols]");
  Product p{};
  p.c = dx.as<float>();
  p.m = dy.rows, p.n = w.cols, p.k = w.rows;
  p.accumulate = accumulate;
  p.bf16 = w.dtype == DType::bf16;
  p.a = {dy.data, dy.cols, false, true, scale};
  p.b.source = {w.row_major.view().data, w.cols, w.row_major.view().dtype == DType::bf16, false, 1};
  multiply(p);
}

void CpuBackend::linear_backward_weight(View dw, View dy, View x, DType dtype, float scale) {
  require_shape(dw, dy.cols, x.cols, "linear_backward_weight: dw must be [dy.cols, x.cols]");
  require_shape(x, dy.rows, x.cols, "linear_backward_weight: x must have dy's rows");
  if (dy.rows == 0) return;
  Product p{};
  p.c = dw.as<float>();
  p.m = dy.cols, p.n = x.cols, p.k = dy.rows;
  p.accumulate = true;
  p.bf16 = dtype == DType::bf16;
  p.a = {dy.data, dy.cols, false, false, scale};
  p.b.source = {x.data, x.cols, false, false, 1};
  multiply(p);
}

}  // namespace act::cpu
