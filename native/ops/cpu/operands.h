// The operands of a matrix product as its kernels read them (products.cc): packed, copied or as they lie.
#pragma once
#include <algorithm>
#include <cstring>

#include "cpu_backend.h"

namespace act::cpu {

/// Units of the inner index per block: a panel of A stays in the first-level cache, a block of B panels in the second.
/// Tiles: panels of both do, which are larger (measured: 384 units are slower by 10 to 20 %).
constexpr int64_t kInnerBlock = 384, kTilesInnerBlock = 144;
/// Inner indices of a chain of an fp32 product (ops.h).
constexpr int64_t kChain = 64;
/// Packed operands of one round stay in the last-level cache.
constexpr int64_t kLeftUnits = 2 << 20, kRightUnits = 2 << 20;
constexpr int64_t kCopiedRowsPerTask = 8;
/// Units that one task packs of a matrix whose rows are contiguous: reads whole stretches of few rows, so that every
/// cache line and page is met once.
constexpr int64_t kPackUnits = 32, kPackRows = 768;
static_assert(kPackUnits % kTileGroupUnits == 0 && kChain % kTileGroupUnits == 0 && kChain % kIntegerGroupUnits == 0);

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t step) { return ceil_div(a, step) * step; }

inline Arithmetic arithmetic_of(PanelFormat format) {
  switch (format) {
    case PanelFormat::f32:
    case PanelFormat::rounded: return Arithmetic::fp32;
    case PanelFormat::pairs:
    case PanelFormat::tiles: return Arithmetic::bf16;
    case PanelFormat::integers: return Arithmetic::integers;
  }
  return Arithmetic::fp32;
}
inline int64_t per_unit(PanelFormat format) { return arithmetic_of(format) == Arithmetic::fp32 ? 1 : 2; }
/// 32-bit words of a row.
inline int64_t words_of(PanelFormat format, int64_t units) {
  return format == PanelFormat::integers ? units + ceil_div(units, kIntegerGroupUnits) : units;
}

/// Equal blocks, as nearly as the chains allow. `left`: the format of A.
inline int64_t inner_block(int64_t units, PanelFormat left) {
  const bool tiles = left == PanelFormat::tiles;
  const int64_t blocks = std::max<int64_t>(1, ceil_div(units, tiles ? kTilesInnerBlock : kInnerBlock));
  return round_up(ceil_div(units, blocks), tiles ? kTileGroupUnits : kChain);
}

/// Units of A in one round, whatever its rows.
inline int64_t left_span(int64_t block) { return std::max(block, kLeftUnits / 128 / block * block); }

/// The packed form of one operand for a range of inner indices: panels of rows (of A) or columns (of B), block after
/// block.
struct Panels {
  PanelFormat format;
  int64_t rows;   // of the operand
  int64_t count;  // panels
  int64_t width;  // of a panel, zeros included; 0: rows are split evenly and panels are as wide as they have rows

  /// The row that panel i begins with; of `count` the end of the rows. Any equal numbers of panels have equally many
  /// rows, as nearly as they can.
  int64_t start(int64_t i) const { return width ? std::min(i * width, rows) : rows * i / count; }
  int64_t height(int64_t i) const { return start(i + 1) - start(i); }
  int64_t padded_rows() const { return width ? count * width : rows; }
  int64_t words(int64_t units) const { return words_of(format, units); }
  /// Word at which the panel from `row` on begins, in the block of `block_units` units from `unit` on.
  int64_t offset(int64_t unit, int64_t block_units, int64_t row) const {
    return padded_rows() * words(unit) + row * words(block_units);
  }
};

/// What has to be packed for one round of a product.
struct Packing {
  const PackSource& source;
  Panels panels;
  uint32_t* to;
  int64_t first_row, first_unit, units, block;  // of the round
  int64_t inner;                                // all inner indices of the product
  std::span<const InnerGroup> groups = {};  // where units do not simply follow the inner indices

  int64_t panels_per_task() const {
    if (source.inner_contiguous) return 1;
    return std::max<int64_t>(1, kPackRows / std::max<int64_t>(1, panels.height(0)));
  }
  int64_t chunks_per_block() const { return source.inner_contiguous ? 1 : ceil_div(block, kPackUnits); }
  int64_t tasks() const {
    return ceil_div(panels.count, panels_per_task()) * ceil_div(units, block) * chunks_per_block();
  }
  void run(const Kernels& kernels, int64_t task) const {
    const int64_t stacks = ceil_div(panels.count, panels_per_task()), chunks = chunks_per_block();
    const int64_t first = task % stacks * panels_per_task(), last = std::min(panels.count, first + panels_per_task());
    const int64_t chunk = task / stacks % chunks, unit = task / stacks / chunks * block;
    const int64_t block_units = std::min(block, units - unit);
    const int64_t from = source.inner_contiguous ? 0 : chunk * kPackUnits;
    const int64_t count = source.inner_contiguous ? block_units : std::min(kPackUnits, block_units - from);
    if (count <= 0) return;
    const int64_t begin = first_unit + unit + from;
    for (int64_t i = first; i < last; i++) {
      const int64_t width = panels.width ? panels.width : panels.height(i);
      uint32_t* const out = to + panels.offset(unit, block_units, panels.start(i)) + panels.words(from) * width;
      if (groups.empty()) {
        const int64_t each = per_unit(panels.format), inner0 = begin * each;
        pack_units(kernels, i, inner0, std::min(count * each, inner - inner0), count, out);
        continue;
      }
      for (int64_t u = 0; u < count; u += kTileGroupUnits) {
        const InnerGroup& group = groups[static_cast<size_t>((begin + u) / kTileGroupUnits)];
        pack_units(kernels, i, group.first, group.count, kTileGroupUnits, out + u * width);
      }
    }
  }
  /// `units` units that hold the inner indices inner0 .. inner0 + there - 1, and zeros.
  void pack_units(const Kernels& kernels, int64_t panel, int64_t inner0, int64_t there, int64_t units,
                  uint32_t* out) const {
    const int64_t height = panels.height(panel), width = panels.width ? panels.width : height;
    kernels.pack(source, first_row + panels.start(panel), static_cast<int>(height), inner0, there, panels.format,
                 static_cast<int>(width), out);
    const int64_t packed = ceil_div(there, 2);
    if (panels.format == PanelFormat::pairs && packed < units) {
      std::memset(out + packed * width, 0, static_cast<size_t>((units - packed) * width) * 4);
    }
  }
};

/// The left operand of a round. Rows need no panels, but for tiles: the kernel reads them in place, or copies of them
/// that are scaled, rounded or made pairs or integers, or the results of an operation that makes them here.
struct LeftOperand {
  enum class Form : uint8_t { in_place, copied_rows, panels } form;
  Packing packing;  // copied rows: of which `panels` only tells their format and where tiles begin
  const uint32_t* words;
  int64_t row_words;  // from one row to the next
  const RowMaker* make_row;
  float* made;  // a row for every thread, where rows are made and then converted

  int64_t tasks() const {
    switch (form) {
      case Form::in_place: return 0;
      case Form::copied_rows: return ceil_div(packing.panels.rows, kCopiedRowsPerTask);
      case Form::panels: return packing.tasks();
    }
    return 0;
  }
  void run(const Kernels& kernels, int64_t task, int thread) const {
    if (form == Form::panels) return packing.run(kernels, task);
    const int64_t end = std::min(packing.panels.rows, (task + 1) * kCopiedRowsPerTask);
    for (int64_t r = task * kCopiedRowsPerTask; r < end; r++) copy_row(kernels, r, thread);
  }
  void copy_row(const Kernels& kernels, int64_t row, int thread) const {
    const PackSource& source = packing.source;
    const PanelFormat format = packing.panels.format;
    const int64_t inner0 = packing.first_unit * per_unit(format);
    const int64_t inner = std::min(packing.units * per_unit(format), packing.inner - inner0);
    uint32_t* const to = packing.to + row * row_words;
    const float* from = static_cast<const float*>(source.data) + (packing.first_row + row) * source.stride + inner0;
    if (make_row) {
      float* const row_made = format == PanelFormat::f32 ? reinterpret_cast<float*>(to) : made + thread * packing.inner;
      (*make_row)(packing.first_row + row, row_made);
      from = row_made;
    }
    if (arithmetic_of(format) != Arithmetic::fp32) return kernels.bf16_row(to, from, source.scale, inner);
    auto* const copy = reinterpret_cast<float*>(to);
    if (source.scale != 1) {
      std::copy_n(from, inner, copy);
      kernels.scale(copy, source.scale, inner);
      from = copy;
    }
    if (format == PanelFormat::rounded) kernels.round_bf16(copy, from, inner);
  }
  /// Points the kernel to the tile of `rows` rows from `row` on in the block of `block_units` units from `unit` on.
  void place(GemmTile& t, int64_t row, int64_t rows, int64_t unit, int64_t block_units) const {
    const Panels& tiles = packing.panels;
    t.rows = static_cast<int>(rows);
    if (form == Form::panels) {
      t.a = words + tiles.offset(unit, block_units, row);
      t.a_row = 1, t.a_step = t.rows;
    } else {
      t.a = words + row * row_words + tiles.words(unit);
      t.a_row = row_words, t.a_step = 1;
    }
  }
};

/// The right operand of a round: panels, of which the first `in_place` are the matrix as it lies.
struct RightPanels {
  Panels packed;          // the others
  const uint32_t* words;  // of those
  int64_t in_place = 0;
  const uint32_t* matrix = nullptr;  // from the round's first unit on
  int64_t stride = 0;                // of the matrix

  struct Panel {
    const uint32_t* words;
    int64_t step;  // from one unit to the next
  };
  int64_t count() const { return in_place + packed.count; }
  int64_t columns(int64_t i) const { return i < in_place ? packed.width : packed.height(i - in_place); }
  Panel at(int64_t unit, int64_t block_units, int64_t i) const {
    if (i < in_place) return {matrix + unit * stride + i * packed.width, stride};
    return {words + packed.offset(unit, block_units, packed.start(i - in_place)), packed.width};
  }
};

}  // namespace act::cpu
