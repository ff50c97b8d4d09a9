#include "forest_plan.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "../host.h"

namespace act::cuda {
namespace {

class Builder {
 public:
  Builder(ForestPlan& plan, const Forest& forest, int group)
      : plan_(plan), forest_(forest), paths_(segment_paths(forest)), tile_queries_(std::max(1, kTileRows / group)) {}

  void run() {
    const size_t count = forest_.segments.size();
    std::vector<std::vector<int32_t>> children(count);
    for (size_t s = 0; s < count; s++) {
      const int32_t parent = forest_.segments[s].parent;
      if (parent >= 0) children[static_cast<size_t>(parent)].push_back(static_cast<int32_t>(s));
    }
    std::vector<int32_t> end_of(count), stack;
    std::vector<std::pair<int32_t, int32_t>> order;  // segment, its first query
    for (size_t root = 0; root < count; root++) {
      if (forest_.segments[root].parent >= 0) continue;
      close_tile();
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
    close_tile();
    require(static_cast<int64_t>(plan_.queries.size()) == forest_.rows, "forest: rows must be the total of query_count");
    for (const auto& [index, first_query] : order) add_keys(index, first_query, end_of[static_cast<size_t>(index)]);
  }

 private:
  const Segment& segment(int32_t index) const { return forest_.segments[static_cast<size_t>(index)]; }

  int32_t slot(const Segment& s, int32_t key) const {
    const int32_t lane = s.first_lane + key;
    return forest_.pages[static_cast<size_t>(s.first_page + lane / kPageKeys)] * kPageKeys + lane % kPageKeys;
  }

  void add_queries(int32_t index) {
    const Segment& s = segment(index);
    for (int32_t j = 0; j < s.query_count; j++) {
      const int32_t key = s.key_count - s.query_count + j, row = s.query_row + j;
      if (open_.queries >= tile_queries_ || static_cast<int32_t>(tile_blocks_.size()) >= kTileBlocks) close_tile();
      add_blocks(index, s.position + key + 1);
      open_.queries++;
      plan_.queries.push_back({row, s.position + key + 1});
      require(plan_.row_slots[static_cast<size_t>(row)] < 0, "forest: two queries share a batch row");
      plan_.row_slots[static_cast<size_t>(row)] = slot(s, key);
    }
  }

  /// The key blocks of a query of segment `index` that sees `keys` keys. A block belongs to the deepest segment of the
  /// path with a key in it: those who see the same keys of a block share it.
  void add_blocks(int32_t index, int32_t keys) {
    const auto& path = paths_[static_cast<size_t>(index)];
    size_t depth = 0;
    for (int32_t base = 0; base < keys; base += kPageKeys) {
      while (depth + 1 < path.size() && has_key_below(path[depth + 1], base + kPageKeys)) depth++;
      const int32_t owner = path[depth];
      const auto [found, added] = tile_blocks_.try_emplace({base, owner}, KeyBlock{});
      KeyBlock& block = found->second;
      if (added) {
        block.base = base;
        block.first = open_.queries;
        for (int32_t i = 0; i < kPageKeys; i++) block.slot[i] = slot_at(path, depth, base + i);
      }
      block.last = open_.queries;
    }
  }

  /// Whether the segment begins before position `end` (an empty one owns nothing, but may lead to one that does).
  bool has_key_below(int32_t index, int32_t end) const { return segment(index).position < end; }

  int32_t slot_at(const std::vector<int32_t>& path, size_t depth, int32_t position) const {
    for (size_t i = depth + 1; i-- > 0;) {
      const Segment& s = segment(path[i]);
      if (position >= s.position + s.key_count) return -1;
      if (position >= s.position) return slot(s, position - s.position);
    }
    return -1;
  }

  void close_tile() {
    if (open_.queries > 0) {
      // Ascending position for every query: the map's order.
      for (const auto& [key, block] : tile_blocks_) plan_.blocks.push_back(block);
      open_.blocks = static_cast<int32_t>(plan_.blocks.size()) - open_.first_block;
      plan_.tiles.push_back(open_);
    }
    tile_blocks_.clear();
    open_ = {static_cast<int32_t>(plan_.queries.size()), 0, static_cast<int32_t>(plan_.blocks.size()), 0};
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
  const int32_t tile_queries_;
  QueryTile open_{};
  std::map<std::pair<int32_t, int32_t>, KeyBlock> tile_blocks_;  // by base and owner, of the open tile
};

}  // namespace

bool ForestPlan::fits(const Forest& forest, int group) const {
  return group == group_ && forest.rows == rows_ && forest.segments.size() == made_for_.size() &&
         forest.pages.size() == pages_.size() && std::equal(pages_.begin(), pages_.end(), forest.pages.begin()) &&
         (made_for_.empty() ||
          std::memcmp(made_for_.data(), forest.segments.data(), made_for_.size() * sizeof(Segment)) == 0);
}

void ForestPlan::build(const Forest& forest, int group, int pool_pages) {
  rows_ = -1;  // stays unfit when building throws
  for (const int32_t page : forest.pages) require(page >= 0 && page < pool_pages, "forest: page outside the pool");
  queries.clear(), tiles.clear(), blocks.clear(), keys.clear(), key_tiles.clear();
  row_slots.assign(static_cast<size_t>(forest.rows), -1);
  Builder(*this, forest, group).run();
  made_for_.assign(forest.segments.begin(), forest.segments.end());
  pages_.assign(forest.pages.begin(), forest.pages.end());
  rows_ = forest.rows;
  group_ = group;
}

}  // namespace act::cuda
