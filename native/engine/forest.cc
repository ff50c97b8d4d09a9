#include "forest.h"

#include <cmath>
#include <numeric>
#include <string>
#include <string_view>

namespace act {
namespace {

[[noreturn]] void bad(const std::string& message) { throw Error("BAD_ARGUMENT", message); }

/// The caller's segments with what the split needs to know of each.
struct Layout {
  std::vector<int64_t> first_token;  // index into tokens
  std::vector<int32_t> position;     // of the segment's first token
  std::vector<int32_t> tree;         // number of its root among roots
  int32_t trees = 0;
};

Layout lay_out(const TokenForest& f, const ForestLimits& limits) {
  if (f.parents.size() != f.lengths.size())
    bad("Expected one length a segment, got " + std::to_string(f.parents.size()) + " parents and " +
        std::to_string(f.lengths.size()) + " lengths.");
  Layout l;
  int64_t next_token = 0;
  for (size_t i = 0; i < f.parents.size(); i++) {
    const int32_t parent = f.parents[i], length = f.lengths[i];
    if (parent < -1 || parent >= static_cast<int32_t>(i))
      bad("Expected the parent of segment " + std::to_string(i) + " to be -1 or an earlier segment, got " +
          std::to_string(parent) + ".");
    if (length < 1)
      bad("Expected at least one token in segment " + std::to_string(i) + ", got " + std::to_string(length) + ".");
    const size_t p = static_cast<size_t>(parent);
    const int64_t position = parent < 0 ? 0 : int64_t{l.position[p]} + f.lengths[p];
    if (position + length > limits.positions)
      throw Error("SEQUENCE_TOO_LONG", "Segment " + std::to_string(i) + " ends " + std::to_string(position + length) +
                                           " tokens deep; the model's context is " + std::to_string(limits.positions) +
                                           ". Shorten the sequence.");
    l.first_token.push_back(next_token);
    l.position.push_back(static_cast<int32_t>(position));
    l.tree.push_back(parent < 0 ? l.trees++ : l.tree[p]);
    next_token += length;
  }
  if (next_token != static_cast<int64_t>(f.tokens.size()))
    bad("Segment lengths add up to " + std::to_string(next_token) + ", but there are " +
        std::to_string(f.tokens.size()) + " tokens.");
  for (size_t i = 0; i < f.tokens.size(); i++)
    if (f.tokens[i] < 0 || f.tokens[i] >= limits.vocabulary)
      throw Error("TOKEN_OUT_OF_RANGE", "Token " + std::to_string(i) + " is " + std::to_string(f.tokens[i]) +
                                            "; the vocabulary has " + std::to_string(limits.vocabulary) + " entries.");
  return l;
}

void check_rows(const TokenForest& f, const ForestRows& r, const ForestLimits& limits) {
  const size_t count = r.rows.size();
  if (r.targets.size() != count)
    bad("Expected one target a loss row, got " + std::to_string(r.targets.size()) + " for " + std::to_string(count) +
        ".");
  for (size_t i = 0; i < count; i++) {
    if (r.rows[i] < 0 || r.rows[i] >= static_cast<int64_t>(f.tokens.size()))
      bad("Loss row " + std::to_string(i) + " names token " + std::to_string(r.rows[i]) + " of " +
          std::to_string(f.tokens.size()) + ".");
    if (r.targets[i] < 0 || r.targets[i] >= limits.vocabulary)
      throw Error("TOKEN_OUT_OF_RANGE", "The target of loss row " + std::to_string(i) + " is " +
                                            std::to_string(r.targets[i]) + "; the vocabulary has " +
                                            std::to_string(limits.vocabulary) + " entries.");
  }
  for (const auto& [name, values] : r.streams()) {
    if (values.empty()) continue;
    if (values.size() != count)
      bad("Expected " + std::to_string(count) + " values in `" + name + "`, got " + std::to_string(values.size()) +
          ".");
    const bool clip = std::string_view(name).starts_with("clip");
    for (size_t i = 0; i < count; i++)
      if (clip ? !(values[i] >= 0) : !std::isfinite(values[i]))
        bad(std::string("Expected a ") + (clip ? "value >= 0" : "finite number") + " in `" + name + "` of loss row " +
            std::to_string(i) + ", got " + std::to_string(values[i]) + ".");
  }
  if (!(r.inverse_temperature > 0) || !std::isfinite(r.inverse_temperature)) bad("Expected a temperature > 0.");
}

/// What one tree takes in a batch, padding included.
struct Tree {
  std::vector<int32_t> segments;
  std::vector<int64_t> rows;  // indices of its loss rows
  int64_t tokens = 0;

  int64_t padded_tokens() const { return tokens + tokens % 2; }
  int64_t padded_rows() const { return static_cast<int64_t>(rows.size() + rows.size() % 2); }
};

std::vector<Tree> group_trees(const TokenForest& f, const ForestRows& r, const Layout& l) {
  std::vector<Tree> trees(static_cast<size_t>(l.trees));
  std::vector<int32_t> tree_of_token(f.tokens.size());
  for (size_t i = 0; i < f.parents.size(); i++) {
    Tree& tree = trees[static_cast<size_t>(l.tree[i])];
    tree.segments.push_back(static_cast<int32_t>(i));
    tree.tokens += f.lengths[i];
    std::fill_n(tree_of_token.begin() + l.first_token[i], f.lengths[i], l.tree[i]);
  }
  for (size_t i = 0; i < r.rows.size(); i++)
    trees[static_cast<size_t>(tree_of_token[static_cast<size_t>(r.rows[i])])].rows.push_back(static_cast<int64_t>(i));
  return trees;
}

void add_segment(ForestBatch& b, int32_t parent, int32_t position, std::span<const int32_t> tokens) {
  const int32_t row = static_cast<int32_t>(b.tokens.size()), count = static_cast<int32_t>(tokens.size());
  b.segments.push_back({parent, position, count, row / kPageKeys, row % kPageKeys, row, count});
  b.tokens.insert(b.tokens.end(), tokens.begin(), tokens.end());
  for (int32_t i = 0; i < count; i++) b.positions.push_back(position + i);
}

/// batch_row and batch_segment: where the caller's tokens and segments come to lie; filled for this tree.
void add_tree(MicroBatch& m, const TokenForest& f, const ForestRows& r, const Layout& l, const Tree& tree,
              std::vector<int32_t>& batch_row, std::vector<int32_t>& batch_segment) {
  for (const int32_t s : tree.segments) {
    const size_t i = static_cast<size_t>(s);
    batch_segment[i] = static_cast<int32_t>(m.batch.segments.size());
    const size_t first = static_cast<size_t>(l.first_token[i]), length = static_cast<size_t>(f.lengths[i]);
    std::iota(batch_row.begin() + l.first_token[i], batch_row.begin() + l.first_token[i] + f.lengths[i],
              static_cast<int32_t>(m.batch.tokens.size()));
    add_segment(m.batch, f.parents[i] < 0 ? -1 : batch_segment[static_cast<size_t>(f.parents[i])], l.position[i],
                f.tokens.subspan(first, length));
  }
  const int32_t padding = 0;
  if (tree.tokens % 2) add_segment(m.batch, -1, 0, {&padding, 1});
  for (const int64_t row : tree.rows) {
    m.rows.push_back(batch_row[static_cast<size_t>(r.rows[static_cast<size_t>(row)])]);
    m.sources.push_back(row);
  }
  if (tree.rows.size() % 2) {
    m.rows.push_back(m.rows.back());
    m.sources.push_back(-1);
  }
  m.token_runs.push_back(static_cast<int32_t>(m.batch.tokens.size()));
  m.row_runs.push_back(static_cast<int32_t>(m.rows.size()));
}

}  // namespace

std::vector<MicroBatch> split_forest(const TokenForest& f, const ForestRows& r, const ForestLimits& limits) {
  const Layout layout = lay_out(f, limits);
  check_rows(f, r, limits);
  std::vector<MicroBatch> batches;
  std::vector<int32_t> batch_row(f.tokens.size()), batch_segment(f.parents.size());
  for (const Tree& tree : group_trees(f, r, layout)) {
    if (tree.rows.empty()) continue;
    const int64_t tokens = tree.padded_tokens(), rows = tree.padded_rows();
    if (tokens > limits.rows || rows > limits.rows)
      throw Error("BATCH_TOO_LARGE", "The tree of segment " + std::to_string(tree.segments[0]) + " has " +
                                         std::to_string(tree.tokens) + " tokens and " +
                                         std::to_string(tree.rows.size()) + " loss rows; a micro-batch holds " +
                                         std::to_string(limits.rows) +
                                         ". Raise maxBatchTokens or split the tree at its root.");
    const bool fits = !batches.empty() &&
                      static_cast<int64_t>(batches.back().batch.tokens.size()) + tokens <= limits.rows &&
                      static_cast<int64_t>(batches.back().rows.size()) + rows <= limits.rows;
    if (!fits) batches.emplace_back();
    add_tree(batches.back(), f, r, layout, tree, batch_row, batch_segment);
  }
  for (MicroBatch& m : batches) {
    m.batch.pages.resize(static_cast<size_t>(pages_for(static_cast<int64_t>(m.batch.tokens.size()))));
    std::iota(m.batch.pages.begin(), m.batch.pages.end(), 0);
  }
  return batches;
}

}  // namespace act
