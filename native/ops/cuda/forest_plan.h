// How attention over a forest is cut into the work of thread blocks.
//
// Queries are put in depth-first order, in which those that see a segment are neighbors. A run is a few neighboring
// queries of one tree. Keys are cut at absolute positions, into blocks of 16 and partitions of `PlanRule::partition`,
// whatever segments and pages they lie in. A tile is the work of a thread block: the queries of a run and the key blocks
// of one partition, each block read once for all of them that see the same keys there, shared prompts included.
//
// A query's softmax and sums go over the blocks of a partition in ascending order, and its partitions are then combined
// in ascending order (attention_combine.cu). So its bits depend on its own keys alone, not on the shape of the forest
// around it, on the batch, or on which queries share a tile. That makes decoding, prefill in pieces and scoring agree,
// and leaves one thing free: whether the queries of a run read a partition together or apart (`take_apart`).
#pragma once
#include <vector>

#include "kernels/kernels.h"

namespace act::cuda {

/// Keys of a partition, unless ACT_CUDA_PARTITION says otherwise; a number of the order of additions, so results of two
/// sizes differ in their last bits. Where it comes from: docs/cuda.md. To be tuned on a card.
constexpr int kPartitionKeys = 512;

/// What a plan depends on beside its forest.
struct PlanRule {
  int group = 1, kv_heads = 1;     // query heads per key-value head; a thread block has one key-value head
  int partition = kPartitionKeys;  // a multiple of kPageKeys
  int side_by_side = 1;            // thread blocks that the device runs at once
  int max_partials = 1 << 20;      // results of one query and partition that a piece may have (one query may exceed it)
  bool operator==(const PlanRule&) const = default;
};

/// Work that is launched together: what it needs on the device is bounded.
struct PlanPiece {
  size_t first_tile = 0, tiles = 0, padded_tiles = 0;              // in ForestPlan::tiles; those behind are empty
  size_t first_run = 0, runs = 0;
  size_t first_block = 0, blocks = 0;
  size_t first_combined = 0, combined = 0, padded_combined = 0;  // in ForestPlan::combined; those behind are -1
  int32_t partials = 0;
};

struct ForestPlan {
  std::vector<TreeQuery> queries;
  std::vector<QueryTile> tiles;   // their blocks and partial results are counted from their piece's first
  std::vector<QueryTile> runs;    // the same work, all partitions of a run in one tile; not of plans taken apart
  std::vector<KeyBlock> blocks;
  std::vector<int32_t> combined;  // queries of more than one partition
  std::vector<PlanPiece> pieces;
  std::vector<int32_t> row_slots;  // by batch row: where its own key lies, page * 16 + lane
  // Only where every key is a row of the batch (attention_backward):
  std::vector<TreeKey> keys;
  std::vector<KeyTile> key_tiles;

  /// Whether the plan was made for this very forest, pages included.
  bool fits(const Forest& forest, const PlanRule& rule) const;
  const PlanRule& rule() const { return rule_; }
  /// Throws BAD_ARGUMENT on a malformed forest.
  void build(const Forest& forest, const PlanRule& rule, int pool_pages);

 private:
  void take_apart();
  void pad_pieces();

  std::vector<Segment> made_for_;
  std::vector<int32_t> pages_;
  int64_t rows_ = -1;
  PlanRule rule_;
};

/// Blocks and tiles a piece may have.
constexpr int32_t kMaxPlanBlocks = 1 << 17;
constexpr int32_t kMaxPlanTiles = 1 << 15;
/// A run is closed before it grows beyond this (a single query may).
constexpr int32_t kTileBlocks = 1 << 14;

}  // namespace act::cuda
