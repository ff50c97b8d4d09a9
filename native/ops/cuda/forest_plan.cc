#include "forest_plan.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <utility>

#include "../host.h"

namespace act::cuda {
namespace {

class Builder {
 public:
  Builder(ForestPlan& plan, const Forest& forest)
      : plan_(plan),
        forest_(forest),
        paths_(segment_paths(forest)),
        run_queries_(std::max(1, kTileRows / plan.rule().group)) {}

  void run() {
    const size_t count = forest_.segments.size();
    std::vector<std::vector<int32_t>> children(count);
    for (size_t s = 0; s < count; s++) {
      const int32_t parent = forest_.segments[s].parent;
      if (parent >= 0) children[static_cast<size_t>(parent)].push_back(static_cast<int32_t>(s));
    }
    std::vector<int32_t> end_of(count), stack;
    std::vector<std::pair<int32_t, int32_t>> order;  // segment, its first query
    plan_.pieces.emplace_back();
    for (size_t root = 0; root < count; root++) {
      if (forest_.segments[root].parent >= 0) continue;
      close_run();
      stack.push_back(static_cast<int32_t>(root));
      while (!stack.empty()) {
        const int32_t index = stack.back();
        stack.pop_back();
        if (index < 0) {  // all descendants are done
          end_of[static_cast<size_t>(-index - 1)] = static_cast<int32_t>(plan_.queries.size());
          continue;
        }
        order.emplace_back(index, static_cast<int32_t>(plan_.queries.size()));
        add_queries(index);
        stack.push_back(-index - 1);
        const auto& below = children[static_cast<size_t>(index)];
        for (auto child = below.rbegin(); child != below.rend(); ++child) stack.push_back(*child);
      }
    }
    close_run();
    require(static_cast<int64_t>(plan_.queries.size()) == forest_.rows, "forest: rows must be the total of query_count");
    for (const auto& [index, first_query] : order) add_keys(index, first_query, end_of[static_cast<size_t>(index)]);
  }

 private:
  const Segment& segment(int32_t index) const { return forest_.segments[static_cast<size_t>(index)]; }
  int32_t partitions(int32_t keys) const { return (keys + plan_.rule().partition - 1) / plan_.rule().partition; }

  int32_t slot(const Segment& s, int32_t key) const {
    const int32_t lane = s.first_lane + key;
    return forest_.pages[static_cast<size_t>(s.first_page + lane / kPageKeys)] * kPageKeys + lane % kPageKeys;
  }

  void add_queries(int32_t index) {
    const Segment& s = segment(index);
    for (int32_t j = 0; j < s.query_count; j++) {
      const int32_t key = s.key_count - s.query_count + j, row = s.query_row + j, keys = s.position + key + 1;
      const int32_t partials = partitions(keys) > 1 ? partitions(keys) : 0;
      if (run_.queries >= run_queries_ || static_cast<int32_t>(run_blocks_.size()) >= kTileBlocks ||
          run_partials_ + partials > plan_.rule().max_partials) {
        close_run();
      }
      add_blocks(index, keys);
      run_.queries++;
      run_partials_ += partials;
      plan_.queries.push_back({row, keys, -1});
      require(plan_.row_slots[static_cast<size_t>(row)] < 0, "forest: two queries share a batch row");
      plan_.row_slots[static_cast<size_t>(row)] = slot(s, key);
    }
  }

  /// The key blocks of a query of segment `index` that sees `keys` keys. A block belongs to the deepest segment of the
  /// path with a key in it: those who see the same keys of a block share it. In depth-first order a query shares with
  /// those before it only what it shares with the last of them.
  void add_blocks(int32_t index, int32_t keys) {
    const auto& path = paths_[static_cast<size_t>(index)];
    const size_t count = static_cast<size_t>((keys + kPageKeys - 1) / kPageKeys);
    const size_t shared = std::min({last_blocks_.size(), count, shared_blocks(path)});
    for (size_t b = 0; b < shared; b++) run_blocks_[last_blocks_[b]].last = run_.queries;
    last_blocks_.resize(shared);
    size_t depth = 0;
    for (auto base = static_cast<int32_t>(shared) * kPageKeys; base < keys; base += kPageKeys) {
      while (depth + 1 < path.size() && segment(path[depth + 1]).position < base + kPageKeys) depth++;
      last_blocks_.push_back(run_blocks_.size());
      KeyBlock& block = run_blocks_.emplace_back(KeyBlock{base, run_.queries, run_.queries, 0, {}});
      fill_slots(block, path, depth);
    }
    last_path_ = &path;
  }

  /// How many leading blocks belong to segments that `path` has in common with the path of the query before.
  size_t shared_blocks(const std::vector<int32_t>& path) const {
    if (!last_path_) return 0;
    const auto [mine, other] = std::mismatch(path.begin(), path.end(), last_path_->begin(), last_path_->end());
    int32_t end = INT32_MAX;
    if (mine != path.end()) end = segment(*mine).position;
    if (other != last_path_->end()) end = std::min(end, segment(*other).position);
    return static_cast<size_t>(end / kPageKeys);
  }

  void fill_slots(KeyBlock& block, const std::vector<int32_t>& path, size_t depth) const {
    const Segment& owner = segment(path[depth]);
    const int32_t first = block.base - owner.position;
    if (first >= 0 && first + kPageKeys <= owner.key_count) {  // all keys are the owner's, as those of most blocks
      for (int32_t i = 0; i < kPageKeys; i++) block.slot[i] = slot(owner, first + i);
      return;
    }
    for (int32_t i = 0; i < kPageKeys; i++) block.slot[i] = slot_at(path, depth, block.base + i);
  }

  int32_t slot_at(const std::vector<int32_t>& path, size_t depth, int32_t position) const {
    for (size_t i = depth + 1; i-- > 0;) {
      const Segment& s = segment(path[i]);
      if (position >= s.position + s.key_count) return -1;
      if (position >= s.position) return slot(s, position - s.position);
    }
    return -1;
  }

  void close_run() {
    if (run_.queries > 0) emit_run();
    run_ = {static_cast<int32_t>(plan_.queries.size()), 0, 0, 0, 0, 0};
    run_blocks_.clear(), last_blocks_.clear();
    last_path_ = nullptr;
    run_partials_ = 0;
  }

  void emit_run() {
    const PlanRule& rule = plan_.rule();
    size_t count = 0;  // partitions
    for (auto query = plan_.queries.begin() + run_.first_query; query != plan_.queries.end(); ++query) {
      count = std::max(count, static_cast<size_t>(partitions(query->keys)));
    }
    if (const PlanPiece& full = plan_.pieces.back();
        full.runs > 0 && (full.blocks + run_blocks_.size() > kMaxPlanBlocks || full.tiles + count > kMaxPlanTiles ||
                          full.partials + run_partials_ > rule.max_partials)) {
      plan_.pieces.push_back({.first_tile = plan_.tiles.size(), .first_run = plan_.runs.size(),
                              .first_block = plan_.blocks.size(), .first_combined = plan_.combined.size()});
    }
    PlanPiece& piece = plan_.pieces.back();
    run_.first_block = static_cast<int32_t>(piece.blocks);
    run_.blocks = static_cast<int32_t>(run_blocks_.size());
    plan_.runs.push_back(run_);
    piece.runs++;
    // Partition after partition, and in each the order in which the blocks came: ascending for every query.
    std::vector<int32_t> blocks_of(count);
    const auto partition_of = [&](const KeyBlock& block) { return static_cast<size_t>(block.base / rule.partition); };
    for (const KeyBlock& block : run_blocks_) blocks_of[partition_of(block)]++;
    std::vector<size_t> at;
    size_t next = plan_.blocks.size();
    for (size_t p = 0; p < count; p++) {
      const auto partition = static_cast<int32_t>(p);
      const int32_t first_block = static_cast<int32_t>(next - piece.first_block), first_key = partition * rule.partition;
      plan_.tiles.push_back({run_.first_query, run_.queries, first_block, blocks_of[p], partition, first_key});
      at.push_back(next);
      next += static_cast<size_t>(blocks_of[p]);
    }
    piece.tiles += count;
    plan_.blocks.resize(plan_.blocks.size() + run_blocks_.size());
    for (const KeyBlock& block : run_blocks_) plan_.blocks[at[partition_of(block)]++] = block;
    piece.blocks += run_blocks_.size();
    for (int32_t i = run_.first_query; i < run_.first_query + run_.queries; i++) {
      TreeQuery& query = plan_.queries[static_cast<size_t>(i)];
      if (partitions(query.keys) == 1) continue;
      query.first_partial = piece.partials;
      piece.partials += partitions(query.keys);
      plan_.combined.push_back(i);
      piece.combined++;
    }
  }

  void add_keys(int32_t index, int32_t first_query, int32_t end_query) {
    const Segment& s = segment(index);
    if (s.key_count != s.query_count) return;
    for (int32_t first = 0; first < s.key_count; first += kTileKeys) {
      const int32_t count = std::min(kTileKeys, s.key_count - first);
      // Query j of the segment sees keys 0 .. j.
      plan_.key_tiles.push_back({static_cast<int32_t>(plan_.keys.size()), count, first_query + first, end_query});
      for (int32_t i = first; i < first + count; i++) {
        plan_.keys.push_back({s.query_row + i, s.position + i, slot(s, i)});
      }
    }
  }

  ForestPlan& plan_;
  const Forest& forest_;
  const std::vector<std::vector<int32_t>> paths_;
  const int32_t run_queries_;
  // The open run:
  QueryTile run_{};
  std::vector<KeyBlock> run_blocks_;
  std::vector<size_t> last_blocks_;  // of its last query, by base / 16: indices into run_blocks_
  const std::vector<int32_t>* last_path_ = nullptr;
  int32_t run_partials_ = 0;
};

}  // namespace

bool ForestPlan::fits(const Forest& forest, const PlanRule& rule) const {
  return rule == rule_ && forest.rows == rows_ && forest.segments.size() == made_for_.size() &&
         forest.pages.size() == pages_.size() && std::equal(pages_.begin(), pages_.end(), forest.pages.begin()) &&
         (made_for_.empty() ||
          std::memcmp(made_for_.data(), forest.segments.data(), made_for_.size() * sizeof(Segment)) == 0);
}

void ForestPlan::build(const Forest& forest, const PlanRule& rule, int pool_pages) {
  rows_ = -1;  // stays unfit when building throws
  rule_ = rule;
  for (const int32_t page : forest.pages) require(page >= 0 && page < pool_pages, "forest: page outside the pool");
  queries.clear(), tiles.clear(), runs.clear(), blocks.clear(), combined.clear(), pieces.clear();
  keys.clear(), key_tiles.clear();
  row_slots.assign(static_cast<size_t>(forest.rows), -1);
  Builder(*this, forest).run();
  // The backward pass needs whole runs; it reads no keys of earlier batches.
  const auto whole = [](const Segment& s) { return s.key_count == s.query_count; };
  if (!std::ranges::all_of(forest.segments, whole)) take_apart();
  pad_pieces();
  made_for_.assign(forest.segments.begin(), forest.segments.end());
  pages_.assign(forest.pages.begin(), forest.pages.end());
  rows_ = forest.rows;
}

/// Gives queries that share little of a partition a tile each, if that is quicker.
///
/// A thread block takes a step a key block, one after the other. Together, the queries of a tile read what they share
/// once, but also wait for each other's own keys; apart, each waits for its own only and reads the shared ones again.
/// Steps that run side by side take as long as one, so the time is the longest tile's steps or all steps over the places
/// there are for thread blocks, whichever is more. Tiles that are at least twice as long as their longest query's part
/// are taken apart where that makes the time of the whole plan less. So a small batch of a few long completions goes
/// apart, and a batch that fills the device, or a prompt that all of them share, stays together.
void ForestPlan::take_apart() {
  if (pieces.size() > 1) return;  // more work than places
  struct Time {
    int64_t longest = 0, total = 0, tiles = 0;
    void add(int64_t steps) { longest = std::max(longest, steps), total += steps, tiles++; }
    int64_t steps(const PlanRule& rule) const { return std::max(longest, total * rule.kv_heads / rule.side_by_side); }
  } together, apart;
  const auto sees = [&](const QueryTile& tile, int32_t query, const KeyBlock& block) {
    const TreeQuery& who = queries[static_cast<size_t>(tile.first_query + query)];
    return block.first <= query && query <= block.last && block.base < who.keys;
  };
  std::vector<bool> divided(tiles.size());
  std::vector<int32_t> seen;
  for (size_t t = 0; t < tiles.size(); t++) {
    const QueryTile& tile = tiles[t];
    seen.assign(static_cast<size_t>(tile.queries), 0);
    for (int32_t b = tile.first_block; b < tile.first_block + tile.blocks; b++) {
      const KeyBlock& block = blocks[static_cast<size_t>(b)];
      for (int32_t q = block.first; q <= block.last; q++) seen[static_cast<size_t>(q)] += sees(tile, q, block);
    }
    divided[t] = tile.queries > 1 && tile.blocks >= 2 * *std::ranges::max_element(seen);
    together.add(tile.blocks);
    if (!divided[t]) seen = {tile.blocks};
    for (const int32_t steps : seen) apart.add(steps);
  }
  const bool fits = apart.total <= kMaxPlanBlocks && apart.tiles <= kMaxPlanTiles;
  if (!fits || apart.steps(rule_) >= together.steps(rule_)) return;
  const std::vector<QueryTile> before = std::move(tiles);
  const std::vector<KeyBlock> all = std::move(blocks);
  tiles.clear(), blocks.clear(), runs.clear();
  for (size_t t = 0; t < before.size(); t++) {
    const QueryTile& tile = before[t];
    for (int32_t q = 0; q < (divided[t] ? tile.queries : 1); q++) {
      QueryTile part = tile;
      part.first_block = static_cast<int32_t>(blocks.size());
      if (divided[t]) part.first_query += q, part.queries = 1;
      for (int32_t b = tile.first_block; b < tile.first_block + tile.blocks; b++) {
        KeyBlock block = all[static_cast<size_t>(b)];
        if (divided[t] && !sees(tile, q, block)) continue;
        if (divided[t]) block.first = block.last = 0;
        blocks.push_back(block);
      }
      part.blocks = static_cast<int32_t>(blocks.size()) - part.first_block;
      if (part.blocks > 0) tiles.push_back(part);
    }
  }
  pieces.front().tiles = tiles.size(), pieces.front().runs = 0, pieces.front().blocks = blocks.size();
}

/// Room for a recorded step, whose grids must not change with every key: numbers of tiles and queries up to the next
/// power of two. Only a plan of one piece is worth it.
void ForestPlan::pad_pieces() {
  for (PlanPiece& piece : pieces) piece.padded_tiles = piece.tiles, piece.padded_combined = piece.combined;
  if (pieces.size() != 1) return;
  PlanPiece& piece = pieces.front();
  piece.padded_tiles = std::bit_ceil(piece.tiles);
  piece.padded_combined = piece.combined == 0 ? 0 : std::bit_ceil(piece.combined);
  tiles.resize(piece.padded_tiles);
  combined.resize(piece.padded_combined, -1);
}

}  // namespace act::cuda
