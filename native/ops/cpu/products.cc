// The driver of every matrix product.
//
// C[M, N] = A[M, K] B[K, N]. B is in panels of up to 48 columns, A in panels of up to 8 rows, both packed unless they can
// be read as they lie, in blocks of the inner index; tasks are rectangles of C. Nothing of this changes a bit of the
// result: each element of C is a sum over ascending inner indices that continues from memory between blocks
// (kernels/gemm.cc), and chains end where blocks do.
#include <array>

#include "operands.h"

namespace act::cpu {
namespace {

constexpr int64_t kTilesPerTask = 16, kPanelsPerTask = 8;
/// Threads have rows of their own where that leaves every one of them 8 for each thread there is: all of B is then read
/// once a group of rows, by all together no faster than one thread reads it for 8 rows.
constexpr int64_t kGroupRowsPerThread = 8;

/// Into how many groups the rows are divided: a divisor of the threads, and of the tiles (0: their number is free).
int64_t group_count(int64_t rows, int64_t tiles, int64_t threads) {
  int64_t groups = std::clamp<int64_t>(rows / (kGroupRowsPerThread * threads), 1, threads);
  while (threads % groups || tiles % groups) groups--;
  return groups;
}

/// Of panels_in_place: 32 KiB of B, and rows of A so few that packing B does not pay.
constexpr int64_t kFirstLevelWords = 8 << 10, kFewRows = 128;

/// How many panels of B, from the first on, are read from the matrix as it lies: whole ones of fp32 whose units follow
/// each other. A packed panel pays only if it stays in the first-level cache for many tiles.
int64_t panels_in_place(const Product& x, PanelFormat format, int64_t width, int64_t block) {
  const Product::Output& first = x.outputs.front();
  const bool can = !first.b.packed && format == PanelFormat::f32 && !first.b.source.inner_contiguous && x.groups.empty();
  return can && (width * block > kFirstLevelWords || x.m <= kFewRows) ? first.n / width : 0;
}

/// The tasks of a round: some tiles by some panels of one output. Each thread begins with the tasks of one rectangle of C
/// (ThreadPool::run), one group of rows by one slot of every output's columns: the same of all products of so many
/// rows, so that it mostly reads and adds to what it wrote itself. Groups begin with different panels: what one has
/// fetched from memory the others find in a cache, and none is always behind.
struct Tasks {
  struct Part {
    const Product::Output* output;
    RightPanels panels;
    int64_t panel_tasks = 0, first_task = 0;  // of a thread
  };
  struct Place {
    const Part& part;
    int64_t tile0, tile1, panel0, panel1;
  };
  std::vector<Part> parts;
  int64_t tiles, groups, slots, tile_tasks;  // tiles and tile tasks of a group
  int64_t thread_tasks = 0;

  Tasks(std::vector<Part> of, int64_t tiles, int64_t groups, int64_t threads)
      : parts(std::move(of)),
        tiles(tiles / groups),
        groups(groups),
        slots(threads / groups),
        tile_tasks(ceil_div(this->tiles, kTilesPerTask)) {
    int64_t all_panels = 0;
    for (const Part& part : parts) all_panels += part.panels.count();
    // Four tasks a thread, unless they would be too large.
    const int64_t most = std::clamp<int64_t>(all_panels * groups * tile_tasks / (4 * threads), 1, kPanelsPerTask);
    for (Part& part : parts) {
      part.panel_tasks = ceil_div(ceil_div(part.panels.count(), slots), most);
      part.first_task = thread_tasks;
      thread_tasks += tile_tasks * part.panel_tasks;
    }
  }
  int64_t count() const { return groups * slots * thread_tasks; }
  Place at(int64_t task) const {
    const int64_t group = task / thread_tasks / slots, slot = task / thread_tasks % slots, own = task % thread_tasks;
    size_t i = parts.size() - 1;
    while (own < parts[i].first_task) i--;
    const Part& part = parts[i];
    const int64_t t = (own - part.first_task) % tile_tasks;
    const int64_t p = ((own - part.first_task) / tile_tasks + part.panel_tasks * group / groups) % part.panel_tasks;
    const int64_t tile0 = tiles * group;
    const int64_t panel0 = part.panels.count() * slot / slots;
    const int64_t panel_count = part.panels.count() * (slot + 1) / slots - panel0;
    return {part, tile0 + tiles * t / tile_tasks, tile0 + tiles * (t + 1) / tile_tasks,
            panel0 + panel_count * p / part.panel_tasks, panel0 + panel_count * (p + 1) / part.panel_tasks};
  }
  /// Where `thread` probably begins to read in the next product, if that has as many rows; null: not known.
  const uint32_t* first_panel(const Follower& next, int64_t thread) const {
    const int64_t group = thread / slots, slot = thread % slots;
    const int64_t panel = next.panels * slot / slots + next.panels / slots * group / groups;
    return next.packed ? next.packed + panel * next.panel_words : nullptr;
  }
};

/// The tiles of a panel share the prefetch of the next one, as evenly as whole lines of every unit allow, so that no more
/// lines than needed are on their way at a time.
struct PrefetchShares {
  int64_t steps;  // of a tile: units, of integers 32 of them
  int64_t lines;  // of one of them
  int64_t tiles;  // how many share

  PrefetchShares(const Panels& panels, int64_t units, int64_t all_tiles)
      : steps(panels.format == PanelFormat::integers ? units / kIntegerStepUnits : units),
        lines(ceil_div(ceil_div(panels.width * panels.words(units), 16), steps)),
        tiles(all_tiles) {}
  void place(GemmTile& t, const RightPanels::Panel& next, int64_t packed_step, int64_t tile) const {
    const int64_t before = ceil_div(lines * tile, tiles), own = ceil_div(lines * (tile + 1), tiles) - before;
    const bool strided = next.step != packed_step;
    t.prefetch_lines = static_cast<int>(own);
    t.prefetch_step = strided ? next.step * 4 : own * 64;
    const int64_t first = before * 64 * (strided ? 1 : steps);
    t.prefetch = next.words && own ? reinterpret_cast<const char*>(next.words) + first : nullptr;
  }
};

}  // namespace

PanelFormat CpuBackend::left_format(bool bf16, bool packed) const {
  if (!bf16) return PanelFormat::f32;
  return packed && kernels_.bf16_weight == PanelFormat::integers ? PanelFormat::integers : kernels_.bf16_left;
}

int64_t CpuBackend::inner_units(int64_t inner, PanelFormat left) const {
  switch (arithmetic_of(left)) {
    case Arithmetic::fp32: return inner;
    case Arithmetic::bf16: return round_up(ceil_div(inner, 2), kernels_.bf16_group);
    case Arithmetic::integers: return round_up(ceil_div(inner, 2), kIntegerStepUnits);
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
  const int64_t block = inner_block(units, format), width = columns(format);
  // Rounds: at most kRightUnits of B where it has to be packed, at most kLeftUnits of A.
  int64_t span = std::min(units, left_span(block));
  if (!first.b.packed && panels_in_place(x, format, width, block) * width < first.n) {
    span = std::min(span, std::max<int64_t>(1, kRightUnits / (round_up(first.n, width) * block)) * block);
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
  const int64_t height = kernels_.gemm_rows[arithmetic], width = columns(format), threads = pool_.threads();
  const PanelFormat right_format = format == PanelFormat::tiles ? PanelFormat::pairs : format;
  const bool padded = format == PanelFormat::tiles;
  const int64_t least_tiles = ceil_div(rows, height), groups = group_count(rows, padded ? least_tiles : 0, threads);
  const Panels tiles{format, rows, round_up(least_tiles, groups), padded ? height : 0};
  const Product::Output& first = x.outputs.front();

  const auto words = [](float* p) { return reinterpret_cast<uint32_t*>(p); };
  using Form = LeftOperand::Form;
  const bool as_it_is = format == PanelFormat::f32 && x.a.scale == 1 && !x.make_row;
  const Form form = !x.a.inner_contiguous || format == PanelFormat::tiles ? Form::panels
                    : as_it_is                                            ? Form::in_place
                                                                          : Form::copied_rows;
  const bool in_place = form == Form::in_place;
  uint32_t* const to_left = in_place ? nullptr : words(left_panels_.get(*this, tiles.padded_rows() * tiles.words(units)));
  const LeftOperand left{
      form,
      {x.a, tiles, to_left, row0, unit0, units, block, x.k, x.groups},
      in_place ? static_cast<const uint32_t*>(x.a.data) + row0 * x.a.stride + unit0 : to_left,
      in_place ? x.a.stride : tiles.words(units),
      x.make_row,
      x.make_row && format != PanelFormat::f32 ? made_rows_.get(*this, threads * x.k) : nullptr,
  };

  std::vector<Tasks::Part> parts;
  if (first.b.packed) {
    if (rows * units < 4096) {
      for (int64_t i = 0; i < left.tasks(); i++) left.run(kernels_, i, 0);
    } else {
      pool_.run(left.tasks(), [&](int64_t i, int thread) { left.run(kernels_, i, thread); });
    }
    for (const Product::Output& output : x.outputs) {
      const Panels panels{right_format, output.n, ceil_div(output.n, width), width};
      parts.push_back({&output, {panels, output.b.packed + panels.padded_rows() * panels.words(unit0)}});
    }
  } else {
    const PackSource& source = first.b.source;
    const int64_t before = panels_in_place(x, format, width, block), rest = first.n - before * width;
    const Panels panels{right_format, rest, ceil_div(rest, width), width};
    uint32_t* const to = rest ? words(right_panels_.get(*this, panels.padded_rows() * panels.words(units))) : nullptr;
    const Packing right{source, panels, to, before * width, unit0, units, block, x.k, x.groups};
    const int64_t right_tasks = row0 == 0 ? right.tasks() : 0;  // later rounds of rows find it packed
    pool_.run(right_tasks + left.tasks(), [&](int64_t i, int thread) {
      i < right_tasks ? right.run(kernels_, i) : left.run(kernels_, i - right_tasks, thread);
    });
    const auto* const matrix = before ? static_cast<const uint32_t*>(source.data) + unit0 * source.stride : nullptr;
    parts.push_back({&first, {panels, to, before, matrix, source.stride}});
  }

  const Tasks tasks(std::move(parts), tiles.count, groups, threads);
  pool_.run(tasks.count(), [&](int64_t task, int thread) {
    const auto& [part, tile0, tile1, panel0, panel1] = tasks.at(task);
    const RightPanels& panels = part.panels;
    const int64_t n = part.output->n, tile_count = tile1 - tile0;
    std::array<int64_t, kTilesPerTask + 1> row;  // that a tile begins with
    for (int64_t i = 0; i <= tile_count; i++) row[static_cast<size_t>(i)] = tiles.start(tile0 + i);
    // What this thread will probably read next comes from memory or a farther cache: the tiles share its prefetch.
    RightPanels::Panel next_task{};
    if ((task + 1) % tasks.thread_tasks) {
      const Tasks::Place later = tasks.at(task + 1);
      next_task = later.part.panels.at(0, std::min(block, units), later.panel0);
    } else if (x.follower) {
      next_task = {tasks.first_panel(*x.follower, thread), width};
    }
    GemmTile t{};
    t.chain = x.one_chain || x.bf16 ? 0 : kChain;
    t.c_stride = n;
    for (int64_t u = 0; u < units; u += block) {
      const int64_t count = std::min(block, units - u), later = u + block;
      const bool continues = x.accumulate || unit0 + u > 0;
      const PrefetchShares prefetch(panels.packed, count, tile_count);
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
        for (int64_t i = 0; i < tile_count; i++) {
          const int64_t first = row[static_cast<size_t>(i)], end = row[static_cast<size_t>(i + 1)];
          left.place(t, first, end - first, u, count);
          t.c = c + first * n;
          t.init = continues ? t.c : part.output->bias ? part.output->bias + p * width : nullptr;
          t.next_c = i + 1 < tile_count ? c + end * n : p + 1 < panel1 ? c + row[0] * n + width : nullptr;
          prefetch.place(t, next, width, i);
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
  // One round. Integers have a scale for each group.
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

}  // namespace act::cpu
