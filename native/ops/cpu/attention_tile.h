// Rows of an attention tile: its queries times the query heads of one key-value head, query after query.
#pragma once
#include <algorithm>
#include <cstring>

#include "attention_plan.h"
#include "kernels/kernels.h"

namespace act::cpu {

/// Most rows of a tile: kTileRows of attention_plan.cc, or the heads of one group where those are more.
constexpr int64_t kMaxTileQueryRows = 1024;

/// Pages that hold lanes 0 .. lanes - 1.
inline int32_t page_span(int32_t lanes) { return (lanes + kPageKeys - 1) / kPageKeys; }

/// Pages of keys or values that all rows of a tile go over before the next ones are read.
constexpr int32_t kPagesPerChunk = 64;

/// Floats before position 0 of a row of scores: a page that begins with another segment's lanes is written whole.
constexpr int64_t kScoreMargin = kPageKeys;

/// Floats of one row of scores: the margin and room to write the last page whole.
inline int64_t score_stride(int64_t keys) { return kScoreMargin + (keys + 2 * kPageKeys - 1) / kPageKeys * kPageKeys; }

struct TileRows {
  const Query* queries;
  int32_t group;

  const Query& query_of(int64_t row) const { return queries[row / group]; }

  /// Whether a block of rows from `row` on is the visit's first: it reads pages that later ones find in a cache.
  bool begins(const Visit& visit, int64_t row) const { return row == int64_t{visit.first} * group; }

  /// Most keys of `s` that one of the tile's queries first .. end - 1 sees.
  int32_t seen(const Segment& s, int32_t first, int32_t end) const {
    int32_t most = 0;
    for (int32_t i = first; i < end; i++) most = std::max(most, queries[i].keys - s.position);
    return std::min(most, s.key_count);
  }

  /// body(first row, rows, first query, end query) over the visit's rows in blocks of at most `height`.
  template <class Body>
  void for_row_blocks(const Visit& visit, int height, Body body) const {
    const int64_t end = int64_t{visit.last + 1} * group;
    for (int64_t row = int64_t{visit.first} * group; row < end; row += height) {
      const int64_t rows = std::min<int64_t>(height, end - row);
      body(row, static_cast<int>(rows), static_cast<int32_t>(row / group),
           static_cast<int32_t>((row + rows - 1) / group + 1));
    }
  }

  /// Copies the tile's rows of x [T, H * d] for key-value head `head` into [rows][stride], zeros behind d.
  void gather(float* to, int64_t stride, View x, int64_t head, int64_t d, int32_t count) const {
    for (int32_t i = 0; i < count; i++) {
      for (int32_t g = 0; g < group; g++, to += stride) {
        std::memcpy(to, x.as<float>() + queries[i].row * x.cols + (head * group + g) * d, static_cast<size_t>(d) * 4);
        std::fill(to + d, to + stride, 0.0f);
      }
    }
  }
};

/// The pages of one layer and key-value head.
struct Pages {
  char* first;
  int64_t bytes;  // from one to the next
  DType dtype;    // of their numbers
  /// Number `i` of page `page`.
  char* at(int32_t page, int64_t i) const { return first + page * bytes + i * static_cast<int64_t>(size_of(dtype)); }
};

/// Where the pages of one segment lie.
struct SegmentPages {
  const Segment& segment;
  int32_t first_lane;      // of the segment's first key in its first page
  const int32_t* numbers;  // page numbers; null: one after the other from the first on
  Pages pages;
  bool bf16() const { return pages.dtype == DType::bf16; }
  const void* at(int32_t page, int64_t i = 0) const { return pages.at(numbers ? numbers[page] : page, i); }
};

/// Scores of a visit's rows with the keys (or transposed values) of its segment, into rows of `stride` floats by
/// absolute position, behind the margin: scale * q K^T. What a row does not see is left undefined.
void score_visit(const Kernels& k, const TileRows& tile, const Visit& visit, const SegmentPages& pages, const float* q,
                 int64_t q_stride, int64_t depth, float scale, float* scores, int64_t stride);

}  // namespace act::cpu
