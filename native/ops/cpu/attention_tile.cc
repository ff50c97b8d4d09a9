#include "attention_tile.h"

namespace act::cpu {

void score_visit(const Kernels& k, const TileRows& tile, const Visit& visit, const SegmentPages& pages, const float* q,
                 int64_t q_stride, int64_t depth, float scale, float* scores, int64_t stride) {
  const Segment& s = pages.segment;
  const void* chunk[kPagesPerChunk];
  float kept[kMaxTileRows][kPageKeys];
  const int32_t all_pages = page_span(pages.first_lane + tile.seen(s, visit.first, visit.last + 1));
  for (int32_t from = 0; from < all_pages; from += kPagesPerChunk) {
    const int32_t to = std::min(all_pages, from + kPagesPerChunk);
    for (int32_t i = from; i < to; i++) chunk[i - from] = pages.at(i);
    tile.for_row_blocks(visit, k.score_rows, [&](int64_t row, int rows, int32_t first_query, int32_t end_query) {
      const int32_t end = std::min(to, page_span(pages.first_lane + tile.seen(s, first_query, end_query)));
      if (end <= from) return;
      float* at = scores + row * stride + kScoreMargin + s.position - pages.first_lane + int64_t{from} * kPageKeys;
      const bool shared_page = from == 0 && pages.first_lane > 0;  // its first lanes are positions before this segment
      if (shared_page) {
        for (int r = 0; r < rows; r++) std::copy_n(at + r * stride, pages.first_lane, kept[r]);
      }
      k.scores(rows, end - from, depth, q + row * q_stride, q_stride, chunk, pages.bf16(), tile.begins(visit, row),
               scale, at, stride);
      if (shared_page) {
        for (int r = 0; r < rows; r++) std::copy_n(kept[r], pages.first_lane, at + r * stride);
      }
    });
  }
}

}  // namespace act::cpu
