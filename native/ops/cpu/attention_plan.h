// How the queries of a forest are cut into tiles that read shared keys once.
#pragma once
#include "../ops.h"

namespace act::cpu {

/// The tile's queries first .. last (within the tile) see keys of `segment`.
struct Visit {
  int32_t segment, first, last;
};

/// Queries of one tree in depth-first order, so that the queries which see a segment are neighbors, and the visits in
/// the same order, so that each query meets its keys in ascending position.
struct Tile {
  int32_t first_query, queries;  // into AttentionPlan::queries
  int32_t first_visit, visits;   // into AttentionPlan::visits
  int32_t keys;                  // most keys any query sees
};

struct Query {
  int32_t row;   // of the batch
  int32_t keys;  // it sees, itself included
};

struct Tree {
  int32_t first_tile, tiles;
  int32_t first_segment, segments;  // into AttentionPlan::tree_segments
};

/// Where a batch row's own key lies.
struct KeyPlace {
  int32_t page_index, lane;  // page_index into Forest::pages
};

struct AttentionPlan {
  std::vector<Tile> tiles;
  std::vector<Query> queries;
  std::vector<Visit> visits;
  std::vector<Tree> trees;
  std::vector<int32_t> tree_segments;
  std::vector<KeyPlace> places;  // by batch row

  /// Whether the plan was made for a forest of this shape. Page numbers may differ: a plan does not hold them.
  bool fits(const Forest& forest, int group) const;
  int group() const { return group_; }
  /// `group`: query heads per key-value head. Throws BAD_ARGUMENT on a malformed forest.
  void build(const Forest& forest, int group);

 private:
  std::vector<Segment> made_for_;
  size_t page_count_ = 0;
  int64_t rows_ = -1;
  int group_ = 1;
};

}  // namespace act::cpu
