// Matrix products: the three products of a linear layer as one driver.
//
// C[M, N] = A[M, K] B[K, N]. B is in panels of up to 48 columns, A in panels of up to 8 rows, both packed unless they can
// be read as they lie, in blocks of the inner index; tasks are rectangles of C. Nothing of this changes a bit of the
// result: each element of C is a sum over ascending inner indices that continues from memory between blocks
// (kernels/gemm.cc), and chains end where blocks do.
#include <algorithm>
#include <cstring>

#include "cpu_backend.h"

namespace act::cpu {
namespace {

/// Units of the inner index per block: a panel of A stays in the first-level cache, a block of B panels in the second.
/// Tiles: panels of both do, which are larger (measured: 384 units are slower by 10 to 20 %).
constexpr int64_t kInnerBlock = 384, kTilesInnerBlock = 144;
/// Inner indices of a chain of an fp32 product (ops.h).
constexpr int64_t kChain = 64;
/// Packed operands of one round stay in the last-level cache.
constexpr int64_t kLeftUnits = 2 << 20, kRightUnits = 2 << 20;
constexpr int64_t kFirstLevelWords = 8 << 10, kFewRows = 128;  // read_in_place
constexpr int64_t kTilesPerTask = 16, kPanelsPerTask = 8, kCopiedRowsPerTask = 8;
/// Units that one task packs of a matrix whose rows are contiguous: reads whole stretches of few rows, so that every
/// cache line and page is met once.
constexpr int64_t kPackUnits = 32, kPackRows = 768;
static_assert(kPackUnits % kTileGroupUnits == 0 && kChain % kTileGroupUnits == 0 && kChain % kIntegerGroupUnits == 0);

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t step) { return ceil_div(a, step) * step; }

Arithmetic arithmetic_of(PanelFormat format) {
  switch (format) {
    case PanelFormat::f32:
    case PanelFormat::rounded: return Arithmetic::fp32;
    case PanelFormat::pairs:
    case PanelFormat::tiles: return Arithmetic::bf16;
    case PanelFormat::integers: return Arithmetic::integers;
  }
  return Arithmetic::fp32;
}
int64_t per_unit(PanelFormat format) { return arithmetic_of(format) == Arithmetic::fp32 ? 1 : 2; }
/// 32-bit words of a row.
int64_t words_of(PanelFormat format, int64_t units) {
  return format == PanelFormat::integers ? units / kIntegerGroupUnits * kIntegerGroupWords : units;
}

/// Equal blocks, as nearly as the chains allow. `left`: the format of A.
int64_t inner_block(int64_t units, PanelFormat left) {
  const bool tiles = left == PanelFormat::tiles;
  const int64_t blocks = std::max<int64_t>(1, ceil_div(units, tiles ? kTilesInnerBlock : kInnerBlock));
  return round_up(ceil_div(units, blocks), tiles ? kTileGroupUnits : kChain);
}

/// Units of A in one round, whatever its rows.
int64_t left_span(int64_t block) { return std::max(block, kLeftUnits / 128 / block * block); }

/// The packed form of one operand for a range of inner indices: panels of rows (of A) or columns (of B), block after
/// block.
struct Panels {
  PanelFormat format;
  int64_t rows;   // of the operand
  int64_t count;  // panels
  int64_t width;  // of a panel, zeros included; 0: rows are split evenly and panels are as wide as they have rows
  // Split evenly: rows of a panel, and how many have one more.
  int64_t least = count ? rows / count : 0, wider = count ? rows % count : 0;

  int64_t start(int64_t i) const { return width ? i * width : least * i + std::min(i, wider); }
  int64_t height(int64_t i) const { return width ? std::min(width, rows - i * width) : least + (i < wider ? 1 : 0); }
  int64_t padded_rows() const { return width ? count * width : rows; }
  int64_t words(int64_t units) const { return words_of(format, units); }
  /// Word at which panel i of the block of `block_units` units from `unit` on begins.
  int64_t offset(int64_t unit, int64_t block_units, int64_t i) const {
    return padded_rows() * words(unit) + start(i) * words(block_units);
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
      uint32_t* const out = to + panels.offset(unit, block_units, i) + panels.words(from) * width;
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
  /// Points the kernel to the tile's rows in the block of `block_units` units from `unit` on.
  void place(GemmTile& t, int64_t tile, int64_t unit, int64_t block_units) const {
    const Panels& tiles = packing.panels;
    t.rows = static_cast<int>(tiles.height(tile));
    if (form == Form::panels) {
      t.a = words + tiles.offset(unit, block_units, tile);
      t.a_row = 1, t.a_step = t.rows;
    } else {
      t.a = words + tiles.start(tile) * row_words + tiles.words(unit);
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
    return {words + packed.offset(unit, block_units, i - in_place), packed.width};
  }
};

/// The tiles of a panel share the prefetch of the next panel: one line a unit where that is enough, each tile its part,
/// else the first tiles whole units.
struct Prefetch {
  const char* from;
  int64_t steps, lines;  // units or groups of a tile, and lines of one
  int64_t step;          // bytes from one to the next
  int64_t all;           // how many tiles share it
  int64_t from_tile;     // bytes from one tile's part to the next's

  Prefetch(const RightPanels::Panel& next, const Panels& panels, int64_t units, int64_t tiles)
      : from(reinterpret_cast<const char*>(next.words)) {
    const bool integers = panels.format == PanelFormat::integers;
    steps = integers ? units / kIntegerGroupUnits : units;
    const int64_t line_count = ceil_div(panels.width * panels.words(units), 16);
    const int64_t share = ceil_div(line_count, steps * tiles);
    lines = integers || share == 1 ? share : ceil_div(line_count, steps);
    const bool lying = next.step != panels.width;
    all = ceil_div(line_count, steps * lines);
    step = lying ? next.step * 4 : lines * 64;
    from_tile = lying ? lines * 64 : steps * step;
  }
  void place(GemmTile& t, int64_t tile) const {
    t.prefetch = from && tile < all ? from + tile * from_tile : nullptr;
    t.prefetch_lines = static_cast<int>(lines);
    t.prefetch_step = step;
  }
};

/// How many panels a task takes at most: four tasks a thread, unless they would be too large.
int64_t panels_per_task(int64_t all_panels, int64_t tile_tasks, int64_t threads) {
  return std::min(kPanelsPerTask, std::max<int64_t>(1, all_panels * tile_tasks / (4 * threads)));
}

/// Where task `task` of a product begins to read, if it has as many rows as this one; null: not known.
const uint32_t* first_panel(const Follower& next, int64_t task, int64_t tile_tasks, int64_t threads) {
  if (!next.packed) return nullptr;
  const int64_t panel_tasks = ceil_div(next.panels, panels_per_task(next.all_panels, tile_tasks, threads));
  const int64_t p = task / tile_tasks;
  return p < panel_tasks ? next.packed + next.panels * p / panel_tasks * next.panel_words : nullptr;
}

/// Whether whole panels of B are read from the matrix as it lies: of fp32, where units follow each other. A packed
/// panel pays only if it stays in the first-level cache for many tiles.
bool read_in_place(const Product& x, PanelFormat format, int64_t width, int64_t block) {
  const RightOperand& b = x.outputs.front().b;
  const bool can = !b.packed && format == PanelFormat::f32 && !b.source.inner_contiguous && x.groups.empty();
  return can && (width * block > kFirstLevelWords || x.m <= kFewRows);
}

}  // namespace

PanelFormat CpuBackend::left_format(bool bf16, bool packed) const {
  if (!bf16) return PanelFormat::f32;
  return packed && kernels_.bf16_weight == PanelFormat::integers ? PanelFormat::integers : kernels_.bf16_left;
}

int64_t CpuBackend::inner_units(int64_t inner, PanelFormat left) const {
  switch (arithmetic_of(left)) {
    case Arithmetic::fp32: return inner;
    case Arithmetic::bf16: return round_up(ceil_div(inner, 2), kernels_.bf16_group);
    case Arithmetic::integers: return round_up(ceil_div(inner, 2), kIntegerGroupUnits);
  }
  return inner;
}

int CpuBackend::columns(PanelFormat left) const { return kernels_.gemm_columns[static_cast<int>(arithmetic_of(left))]; }

int64_t CpuBackend::packed_words(int64_t rows, int64_t cols, bool bf16) const {
  const PanelFormat left = left_format(bf16, true);
  return round_up(rows, columns(left)) * words_of(left, inner_units(cols, left));
}

void CpuBackend::pack_weight(CpuWeight& w) {
  const bool bf16 = w.dtype == DType::bf16;
  const PanelFormat left = left_format(bf16, true);
  const int64_t units = inner_units(w.cols, left), width = columns(left), block = inner_block(units, left);
  const PackSource source{w.row_major.view().data, w.cols, w.row_major.view().dtype == DType::bf16, true, 1};
  const PanelFormat format = bf16 ? kernels_.bf16_weight : PanelFormat::f32;
  const Panels panels{format, w.rows, ceil_div(w.rows, width), width};
  const Packing packing{source, panels, w.packed.view().as<uint32_t>(), 0, 0, units, block, w.cols};
  pool_.run(packing.tasks(), [&](int64_t task, int) { packing.run(kernels_, task); });
}

void CpuBackend::multiply(const Product& x) {
  require(x.k > 0, "matrix product: the inner dimension must not be empty");
  const Product::Output& first = x.outputs.front();
  if (x.m == 0 || first.n == 0) return;
  const PanelFormat format = left_format(x.bf16, first.b.packed);
  const int64_t units =
      x.groups.empty() ? inner_units(x.k, format) : static_cast<int64_t>(x.groups.size()) * kTileGroupUnits;
  const int64_t block = inner_block(units, format);
  // Rounds: at most kRightUnits of B where it has to be packed, at most kLeftUnits of A.
  int64_t span = std::min(units, left_span(block));
  if (!first.b.packed && !(read_in_place(x, format, columns(format), block) && first.n % columns(format) == 0)) {
    span = std::min(span, std::max<int64_t>(1, kRightUnits / (round_up(first.n, columns(format)) * block)) * block);
  }
  const int64_t rows = std::max<int64_t>(1, kLeftUnits / (span * 128)) * 128;
  for (int64_t u = 0; u < units; u += span) {
    for (int64_t r = 0; r < x.m; r += rows) {
      multiply_block(x, format, r, std::min(rows, x.m - r), u, std::min(span, units - u), block);
    }
  }
}

void CpuBackend::multiply_block(const Product& x, PanelFormat format, int64_t row0, int64_t rows, int64_t unit0,
                                int64_t units, int64_t block) {
  const auto arithmetic = static_cast<size_t>(arithmetic_of(format));
  const int64_t height = kernels_.gemm_rows[arithmetic], width = columns(format);
  const PanelFormat right_format = format == PanelFormat::tiles ? PanelFormat::pairs : format;
  const Panels tiles{format, rows, ceil_div(rows, height), format == PanelFormat::tiles ? height : 0};
  const Product::Output& first = x.outputs.front();

  const auto words = [](float* p) { return reinterpret_cast<uint32_t*>(p); };
  using Form = LeftOperand::Form;
  const bool as_it_lies = format == PanelFormat::f32 && x.a.scale == 1 && !x.make_row;
  const Form form = !x.a.inner_contiguous || format == PanelFormat::tiles ? Form::panels
                    : as_it_lies                                          ? Form::in_place
                                                                          : Form::copied_rows;
  const bool in_place = form == Form::in_place;
  uint32_t* const to_left = in_place ? nullptr : words(left_panels_.get(*this, tiles.padded_rows() * tiles.words(units)));
  const LeftOperand left{
      form,
      {x.a, tiles, to_left, row0, unit0, units, block, x.k, x.groups},
      in_place ? static_cast<const uint32_t*>(x.a.data) + row0 * x.a.stride + unit0 : to_left,
      in_place ? x.a.stride : tiles.words(units),
      x.make_row,
      x.make_row && format != PanelFormat::f32 ? made_rows_.get(*this, pool_.threads() * x.k) : nullptr,
  };

  // Tasks: some tiles by some panels of one output.
  struct Part {
    const Product::Output* output;
    RightPanels panels;
    int64_t panel_tasks, first_task;
  };
  std::vector<Part> parts;
  if (first.b.packed) {
    if (rows * units < 4096) {
      for (int64_t i = 0; i < left.tasks(); i++) left.run(kernels_, i, 0);
    } else {
      pool_.run(left.tasks(), [&](int64_t i, int thread) { left.run(kernels_, i, thread); });
    }
    for (const Product::Output& output : x.outputs) {
      const Panels panels{right_format, output.n, ceil_div(output.n, width), width};
      parts.push_back({&output, {panels, output.b.packed + panels.padded_rows() * panels.words(unit0)}, 0, 0});
    }
  } else {
    const PackSource& source = first.b.source;
    const int64_t lying = read_in_place(x, format, width, block) ? first.n / width : 0, rest = first.n - lying * width;
    const Panels panels{right_format, rest, ceil_div(rest, width), width};
    uint32_t* const to = rest ? words(right_panels_.get(*this, panels.padded_rows() * panels.words(units))) : nullptr;
    const Packing right{source, panels, to, lying * width, unit0, units, block, x.k, x.groups};
    const int64_t right_tasks = row0 == 0 ? right.tasks() : 0;  // later rounds of rows find it packed
    pool_.run(right_tasks + left.tasks(), [&](int64_t i, int thread) {
      i < right_tasks ? right.run(kernels_, i) : left.run(kernels_, i - right_tasks, thread);
    });
    const auto* const matrix = lying ? static_cast<const uint32_t*>(source.data) + unit0 * source.stride : nullptr;
    parts.push_back({&first, {panels, to, lying, matrix, source.stride}, 0, 0});
  }

  int64_t all_panels = 0, tasks = 0;
  for (const Part& part : parts) all_panels += part.panels.count();
  const int64_t tile_tasks = ceil_div(tiles.count, kTilesPerTask);
  const int64_t threads = pool_.threads();
  for (Part& part : parts) {
    part.panel_tasks = ceil_div(part.panels.count(), panels_per_task(all_panels, tile_tasks, threads));
    part.first_task = tasks;
    tasks += tile_tasks * part.panel_tasks;
  }
  struct Place {
    const Part& part;
    int64_t tiles, panel0, panel1;
  };
  const auto place_of = [&](int64_t task) {
    size_t i = parts.size() - 1;
    while (task < parts[i].first_task) i--;
    const Part& part = parts[i];
    const int64_t own = task - part.first_task, p = own / tile_tasks;
    return Place{part, own % tile_tasks, part.panels.count() * p / part.panel_tasks,
                 part.panels.count() * (p + 1) / part.panel_tasks};
  };
  pool_.run(tasks, [&](int64_t task, int) {
    const auto& [part, i, panel0, panel1] = place_of(task);
    const RightPanels& panels = part.panels;
    const int64_t n = part.output->n;
    const int64_t tile0 = tiles.count * i / tile_tasks, tile1 = tiles.count * (i + 1) / tile_tasks;
    // What this thread will probably read next comes from memory or a farther cache: the tiles share its prefetch.
    RightPanels::Panel next_task{};
    if (task + threads < tasks) {
      const Place later = place_of(task + threads);
      next_task = later.part.panels.at(0, std::min(block, units), later.panel0);
    } else if (x.follower) {
      next_task = {first_panel(*x.follower, task + threads - tasks, tile_tasks, threads), width};
    }
    GemmTile t{};
    t.chain = x.one_chain || x.bf16 ? 0 : kChain;
    t.c_stride = n;
    for (int64_t u = 0; u < units; u += block) {
      const int64_t count = std::min(block, units - u), later = u + block;
      const bool continues = x.accumulate || unit0 + u > 0;
      t.units = count;
      t.init_stride = continues ? n : 0;
      for (int64_t p = panel0; p < panel1; p++) {
        const RightPanels::Panel panel = panels.at(u, count, p);
        t.b = panel.words, t.b_step = panel.step;
        t.columns = static_cast<int>(panels.columns(p));
        float* const c = part.output->c + row0 * n + p * width;
        const RightPanels::Panel next = p + 1 < panel1  ? panels.at(u, count, p + 1)
                                        : later < units ? panels.at(later, std::min(block, units - later), panel0)
                                                        : next_task;
        const Prefetch prefetch(next, panels.packed, count, tile1 - tile0);
        for (int64_t tile = tile0; tile < tile1; tile++) {
          const int64_t r = tiles.start(tile);
          left.place(t, tile, u, count);
          t.c = c + r * n;
          t.init = continues ? t.c : part.output->bias ? part.output->bias + p * width : nullptr;
          t.next_c = tile + 1 < tile1 ? t.c + t.rows * n
                     : p + 1 < panel1 ? c + tiles.start(tile0) * n + width
                                      : nullptr;
          prefetch.place(t, tile - tile0);
          kernels_.gemm[arithmetic][t.rows](t);
        }
      }
    }
  });
}

size_t CpuBackend::left_panel_bytes(int64_t rows, int64_t cols) const {
  if (kernels_.bf16_left == PanelFormat::tiles) {
    // Rows padded to a tile; inner indices to a group, or, where they are rows of trees of at least two, eightfold.
    const int64_t most = std::max(rows * cols, 8 * round_up(rows, kMaxGemmRows) * round_up(cols, kMaxGemmRows));
    return static_cast<size_t>(std::min(kLeftUnits, most)) * 4;
  }
  // One round. Integers take 33 words for 64 inner indices or fewer.
  const int64_t integers = rows * words_of(PanelFormat::integers, inner_units(cols, PanelFormat::integers));
  return static_cast<size_t>(std::min(words_of(PanelFormat::integers, kLeftUnits), std::max(rows * cols, integers))) * 4;
}

size_t CpuBackend::product_scratch_bytes(int64_t rows, int64_t widest) const {
  const int64_t padded =
      std::max(round_up(widest, columns(PanelFormat::f32)), round_up(widest, columns(kernels_.bf16_left)));
  const int64_t inner = kernels_.bf16_group == 1 ? std::max(rows, widest) : std::max(8 * rows, widest) + kTileGroupUnits;
  const int64_t right = std::max(std::min(kRightUnits, padded * inner), padded * kInnerBlock);
  return left_panel_bytes(std::max(rows, widest), widest) + static_cast<size_t>(right + pool_.threads() * widest) * 4;
}

std::vector<InnerGroup> CpuBackend::row_groups(std::span<const int32_t> runs, int64_t rows) const {
  require(runs.empty() || runs.back() == rows, "gradients of weights: the runs must cover all rows");
  const int64_t most = 2 * kernels_.bf16_group;
  std::vector<InnerGroup> groups;
  int64_t first = 0;
  for (size_t run = 0; run < std::max<size_t>(1, runs.size()); run++) {
    const int64_t end = runs.empty() ? rows : runs[run];
    for (; first < end; first += groups.back().count) groups.push_back({first, std::min(most, end - first)});
  }
  return groups;
}

void CpuBackend::linear(View y, bool accumulate, View x, const Weight& weight, View bias, float scale) {
  const LinearOutput output{y, weight, bias};
  multiply_weights({&output, 1}, accumulate, x, scale);
}

void CpuBackend::linears(std::span<const LinearOutput> outputs, View x) { multiply_weights(outputs, false, x, 1); }

bool CpuBackend::takes_rows(std::span<const LinearOutput> outputs) const {
  if (outputs.empty()) return false;
  const Weight& w = outputs.front().w;
  const PanelFormat format = left_format(w.dtype == DType::bf16, true);
  const int64_t units = inner_units(w.cols, format);
  return format != PanelFormat::tiles && units <= left_span(inner_block(units, format));
}

void CpuBackend::norm_linears(std::span<const LinearOutput> outputs, View normed, View rstd, View x, View weight,
                              float eps) {
  if (!takes_rows(outputs)) return Backend::norm_linears(outputs, normed, rstd, x, weight, eps);
  const RowMaker make_row = [&](int64_t row, float* to) {
    kernels_.rms_norm(to, x.as<float>() + row * x.cols, weight.as<float>(), eps, x.cols);
  };
  multiply_weights(outputs, false, x, 1, &make_row);
}

void CpuBackend::swiglu_linear(const LinearOutput& output, View product, View gate, View up) {
  require(gate.rows == up.rows && gate.cols == up.cols, "swiglu_linear: gate and up must have one shape");
  if (!takes_rows({&output, 1})) return Backend::swiglu_linear(output, product, gate, up);
  const RowMaker make_row = [&](int64_t row, float* to) {
    kernels_.swiglu(to, gate.as<float>() + row * gate.cols, up.as<float>() + row * up.cols, gate.cols);
  };
  multiply_weights({&output, 1}, true, gate, 1, &make_row);
}

Follower CpuBackend::follower_of(std::span<const Product::Output> outputs, const CpuWeight& first) const {
  const PanelFormat left = left_format(first.dtype == DType::bf16, true);
  const int64_t width = columns(left), units = inner_units(first.cols, left);
  Follower f{outputs.front().b.packed, ceil_div(first.rows, width), 0, 0};
  for (const Product::Output& o : outputs) f.all_panels += ceil_div(o.n, width);
  f.panel_words = width * words_of(left, std::min(units, inner_block(units, left)));
  return f;
}

void CpuBackend::multiply_weights(std::span<const LinearOutput> outputs, bool accumulate, View x, float scale,
                                  const RowMaker* make_row) {
  if (outputs.empty()) return;
  const DType dtype = outputs.front().w.dtype;
  std::vector<Product::Output> parts;
  for (const LinearOutput& o : outputs) {
    const auto& w = static_cast<const CpuWeight&>(o.w);
    require_shape(x, x.rows, w.cols, "linear: x must be [T, w.cols]");
    require_shape(o.y, x.rows, w.rows, "linear: y must be [T, w.rows]");
    require(w.dtype == dtype, "linears: the weights must have one dtype");
    for (int64_t t = 0; accumulate && o.bias.data && t < x.rows; t++) {
      kernels_.add(o.y.as<float>() + t * o.y.cols, o.bias.as<float>(), o.y.cols);
    }
    parts.push_back({o.y.as<float>(), w.rows, o.bias.as<float>(), {w.packed.view().as<uint32_t>(), {}}});
  }
  Product p{};
  p.outputs = parts;
  p.m = x.rows, p.k = x.cols;
  p.accumulate = accumulate;
  p.bf16 = dtype == DType::bf16;
  p.a = {x.data, x.cols, false, true, scale};
  p.make_row = make_row;
  const auto& w = static_cast<const CpuWeight&>(outputs.front().w);
  if (last_follower_) *last_follower_ = follower_of(parts, w);
  last_follower_ = w.follower;
  p.follower = w.follower.get();
  multiply(p);
}

void CpuBackend::linear_backward_input(View dx, bool accumulate, View dy, const Weight& weight, float scale) {
  const auto& w = static_cast<const CpuWeight&>(weight);
  require_shape(dy, dy.rows, w.rows, "linear_backward_input: dy must be [T, w.rows]");
  require_shape(dx, dy.rows, w.cols, "linear_backward_input: dx must be [T, w.cols]");
  const PackSource source{w.row_major.view().data, w.cols, w.row_major.view().dtype == DType::bf16, false, 1};
  const Product::Output output{dx.as<float>(), w.cols, nullptr, {nullptr, source}};
  Product p{};
  p.outputs = {&output, 1};
  p.m = dy.rows, p.k = w.rows;
  p.accumulate = accumulate;
  p.bf16 = w.dtype == DType::bf16;
  p.a = {dy.data, dy.cols, false, true, scale};
  multiply(p);
}

void CpuBackend::linear_backward_weight(View dw, View dy, View x, DType dtype, float scale) {
  const bool grouped = dtype == DType::bf16 && kernels_.bf16_group > 1;
  add_weight_gradient(dw, dy, x, dtype, scale, grouped ? row_groups(row_runs, dy.rows) : std::vector<InnerGroup>());
}

void CpuBackend::add_weight_gradient(View dw, View dy, View x, DType dtype, float scale,
                                     std::span<const InnerGroup> groups) {
  require_shape(dw, dy.cols, x.cols, "linear_backward_weight: dw must be [dy.cols, x.cols]");
  require_shape(x, dy.rows, x.cols, "linear_backward_weight: x must have dy's rows");
  if (dy.rows == 0) return;
  const Product::Output output{dw.as<float>(), x.cols, nullptr, {nullptr, {x.data, x.cols, false, false, 1}}};
  Product p{};
  p.outputs = {&output, 1};
  p.m = dy.cols, p.k = dy.rows;
  p.accumulate = true;
  p.one_chain = true;
  p.bf16 = dtype == DType::bf16;
  p.a = {dy.data, dy.cols, false, false, scale};
  p.groups = groups;
  multiply(p);
}

}  // namespace act::cpu
