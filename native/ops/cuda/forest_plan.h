// How attention over a forest is cut into the work of thread blocks.
//
// Queries are put in depth-first order, in which those that see a segment are neighbors. A tile is a run of queries of one
// tree; it reads every block of 16 key positions once for all of its queries that see the same keys there, shared prompts
// included. Blocks are aligned to absolute positions, whatever segments and pages the keys lie in: a query's softmax and
// sums go over blocks in ascending order, so its bits depend on its own keys alone, not on the shape of the forest
// around it, not on the batch. That makes decoding, prefill in pieces and scoring agree.
#pragma once
#include <vector>

#include "kernels/kernels.h"

namespace act::cuda {

struct ForestPlan {
  std::vector<TreeQuery> queries;
  std::vector<QueryTile> tiles;
  std::vector<KeyBlock> blocks;
  std::vector<int32_t> row_slots;  // by batch row: where its own key lies, page * 16 + lane
  // Only where every key is a row of the batch (attention_backward):
  std::vector<TreeKey> keys;
  std::vector<KeyTile> key_tiles;

  /// Whether the plan was made for this very forest, pages included.
  bool fits(const Forest& forest, int group) const;
  int group() const { return group_; }
  /// `group`: query heads per key-value head. Throws BAD_ARGUMENT on a malformed forest.
  void build(const Forest& forest, int group, int pool_pages);

 private:
  std::vector<Segment> made_for_;
  std::vector<int32_t> pages_;
  int64_t rows_ = -1;
  int group_ = 1;
};

/// Blocks a plan may hold at once on the device: longer ones are worked off in pieces of whole tiles.
constexpr int32_t kMaxPlanBlocks = 1 << 17;
/// A tile is closed before it grows beyond this (a single query may).
constexpr int32_t kTileBlocks = 1 << 14;

}  // namespace act::cuda
