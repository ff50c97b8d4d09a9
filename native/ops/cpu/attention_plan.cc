#include "attention_plan.h"

#include <algorithm>
#include <cstring>

#include "../host.h"

namespace act::cpu {
namespace {

/// Rows (queries times heads of a group) a tile should have: enough to pay for reading a page, few enough that there
/// are tiles for every thread.
constexpr int32_t kTileRows = 64;
/// Scores of one tile stay in the second-level cache or close to it.
constexpr int64_t kTileScores = 1 << 20;

}  // namespace

bool AttentionPlan::fits(const Forest& forest, int group) const {
  return group == group_ && forest.rows == rows_ && forest.pages.size() == page_count_ &&
         forest.segments.size() == made_for_.size() &&
         (made_for_.empty() ||
          std::memcmp(made_for_.data(), forest.segments.data(), made_for_.size() * sizeof(Segment)) == 0);
}

void AttentionPlan::build(const Forest& forest, int group) {
  rows_ = -1;  // stays unfit when building throws
  const auto paths = segment_paths(forest);
  const auto count = static_cast<int32_t>(forest.segments.size());
  tiles.clear(), queries.clear(), visits.clear(), trees.clear(), tree_segments.clear();
  places.assign(static_cast<size_t>(forest.rows), {-1, 0});
  queries.reserve(static_cast<size_t>(forest.rows));

  std::vector<std::vector<int32_t>> children(static_cast<size_t>(count));
  for (int32_t s = 0; s < count; s++) {
    const int32_t parent = forest.segments[static_cast<size_t>(s)].parent;
    if (parent >= 0) children[static_cast<size_t>(parent)].push_back(s);
  }

  std::vector<int32_t> visit_of(static_cast<size_t>(count), -1);  // in the open tile
  auto close_tile = [&] {
    if (tiles.empty()) return;
    for (int32_t v = tiles.back().first_visit; v < static_cast<int32_t>(visits.size()); v++) {
      visit_of[static_cast<size_t>(visits[static_cast<size_t>(v)].segment)] = -1;
    }
    tiles.back().visits = static_cast<int32_t>(visits.size()) - tiles.back().first_visit;
  };
  auto open_tile = [&] {
    close_tile();
    tiles.push_back({static_cast<int32_t>(queries.size()), 0, static_cast<int32_t>(visits.size()), 0, 0});
  };
  auto add_query = [&](int32_t segment, int32_t index, bool new_tree) {
    const Segment& s = forest.segments[static_cast<size_t>(segment)];
    const int32_t own = s.key_count - s.query_count + index + 1, keys = s.position + own;
    const auto wanted = static_cast<int32_t>(std::min<int64_t>(kTileRows, std::max<int64_t>(1, kTileScores / keys)));
    const int32_t room = std::max(1, wanted / group);
    if (new_tree || tiles.back().queries >= room) open_tile();
    Tile& tile = tiles.back();
    for (const int32_t seen : paths[static_cast<size_t>(segment)]) {
      int32_t& visit = visit_of[static_cast<size_t>(seen)];
      if (visit < 0) {
        visit = static_cast<int32_t>(visits.size());
        visits.push_back({seen, tile.queries, tile.queries});
      }
      visits[static_cast<size_t>(visit)].last = tile.queries;
    }
    tile.queries++;
    tile.keys = std::max(tile.keys, keys);
    const int32_t lane = s.first_lane + own - 1;
    require(places[static_cast<size_t>(s.query_row + index)].page_index < 0, "forest: two queries share a batch row");
    places[static_cast<size_t>(s.query_row + index)] = {s.first_page + lane / kPageKeys, lane % kPageKeys};
    queries.push_back({s.query_row + index, keys});
  };

  std::vector<int32_t> stack;
  for (int32_t root = 0; root < count; root++) {
    if (forest.segments[static_cast<size_t>(root)].parent >= 0) continue;
    const auto first_tile = static_cast<int32_t>(tiles.size());
    const auto first_segment = static_cast<int32_t>(tree_segments.size());
    bool new_tree = true;
    stack.assign(1, root);
    while (!stack.empty()) {
      const int32_t segment = stack.back();
      stack.pop_back();
      tree_segments.push_back(segment);
      for (int32_t i = 0; i < forest.segments[static_cast<size_t>(segment)].query_count; i++) {
        add_query(segment, i, new_tree);
        new_tree = false;
      }
      const auto& below = children[static_cast<size_t>(segment)];
      stack.insert(stack.end(), below.rbegin(), below.rend());
    }
    trees.push_back({first_tile, static_cast<int32_t>(tiles.size()) - first_tile, first_segment,
                     static_cast<int32_t>(tree_segments.size()) - first_segment});
  }
  close_tile();
  require(static_cast<int64_t>(queries.size()) == forest.rows, "forest: rows must be the total of query_count");

  made_for_.assign(forest.segments.begin(), forest.segments.end());
  page_count_ = forest.pages.size();
  group_ = group;
  rows_ = forest.rows;
}

}  // namespace act::cpu
