// What the scheduler keeps of a request and of a running sequence, and the forward pass it builds of them.
#pragma once
#include <algorithm>
#include <memory>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "scheduler.h"

namespace act {

struct Scheduler::Request {
  GenerateRequest what;
  CacheNode* prompt = nullptr;  // pinned from the first start until all completions have started
  int32_t started = 0, finished = 0;
};

struct Scheduler::Sequence {
  Sequence(Request& request, int32_t index, const TokenBytes* token_bytes)
      : request(&request),
        index(index),
        prompt(request.prompt),
        sampler(request.what.rule, static_cast<uint64_t>(index), token_bytes) {}
  Request* request;
  int32_t index;
  CacheNode* prompt;                // pinned
  std::unique_ptr<CacheNode> tail;  // sampled tokens; the last of them has no keys yet
  int32_t reserved = 0;             // pages promised and not yet taken
  int32_t drafted = 0;              // of the tail's tokens, the last ones: guesses
  std::vector<int32_t> recent;      // the last tokens of prompt and completion: the context of the next guess
  Sampler sampler;
  Completion result;

  /// The guesses at the end of the tail.
  std::span<const int32_t> guesses() const {
    return tail ? std::span<const int32_t>(tail->tokens).last(static_cast<size_t>(drafted)) : std::span<const int32_t>{};
  }
  /// Absolute position of the next token to draw.
  int32_t position() const { return static_cast<int32_t>(request->what.prompt.size() + result.tokens.size()); }
};

/// One forward pass under construction.
struct Scheduler::Batch {
  ForestBatch forest;
  int32_t room = 0;  // rows that prompts may still add
  std::unordered_map<const CacheNode*, int32_t> segments;  // nodes that are in the forest already
  std::vector<std::pair<CacheNode*, int32_t>> computed;    // nodes and how many new keys they get
  std::vector<int32_t> rows;                               // distinct rows whose hidden states are needed
  std::unordered_map<const CacheNode*, int32_t> row_of;    // index into rows of a node's last token
  std::vector<Sequence*> draws;                            // the draws of one sequence lie together, in order
  std::vector<int32_t> draw_row;  // beside draws: index into rows

  /// Adds `node` below its ancestors, with its last `queries` tokens of the first `keys` as rows.
  int32_t add(const CacheNode& node, int32_t keys, int32_t queries) {
    if (const auto found = segments.find(&node); found != segments.end()) return found->second;
    // Ancestors that are not in the forest yet are complete: they take part with keys only.
    const CacheNode* above = node.parent;
    const int32_t parent = above == nullptr || above->parent == nullptr ? -1 : add(*above, above->size(), 0);
    const int32_t index = static_cast<int32_t>(forest.segments.size());
    forest.segments.push_back({parent, node.position, keys, static_cast<int32_t>(forest.pages.size()),
                               node.first_lane(), static_cast<int32_t>(forest.tokens.size()), queries});
    forest.pages.insert(forest.pages.end(), node.pages.begin(), node.pages.begin() + pages_for(node.position, keys));
    for (int32_t i = keys - queries; i < keys; ++i) {
      forest.tokens.push_back(node.tokens[i]);
      forest.positions.push_back(node.position + i);
    }
    if (!node.tail) room -= queries;  // decoding has its rows set aside
    segments.emplace(&node, index);
    return index;
  }

  /// The hidden state of the last token of `node` (the last row added) will be needed.
  void want_last_row(const CacheNode& node) {
    row_of.emplace(&node, static_cast<int32_t>(rows.size()));
    rows.push_back(static_cast<int32_t>(forest.tokens.size()) - 1);
  }

  /// `sequence` draws a token from each of the last `count` rows added.
  void want_rows(Sequence& sequence, int32_t count) {
    for (int32_t i = count; i > 0; --i) {
      draws.push_back(&sequence);
      draw_row.push_back(static_cast<int32_t>(rows.size()));
      rows.push_back(static_cast<int32_t>(forest.tokens.size()) - i);
    }
  }

  /// `sequence` draws a token from the last row of `node`.
  void draw(Sequence& sequence, const CacheNode& node) {
    draws.push_back(&sequence);
    draw_row.push_back(row_of.at(&node));
  }

  /// Adds rows that nothing reads, up to a multiple of `granularity` and at most `limit`: a tree of its own whose keys
  /// lie in `page`. Its tokens are one that another row has too, so they break no model that the others leave whole.
  void pad(int64_t granularity, int64_t limit, int32_t page) {
    const auto rows_now = static_cast<int64_t>(forest.tokens.size());
    const int64_t wanted = std::min((rows_now + granularity - 1) / granularity * granularity, limit);
    const auto count = static_cast<int32_t>(wanted - rows_now), first_row = static_cast<int32_t>(rows_now);
    if (count <= 0) return;
    forest.segments.push_back({-1, 0, count, static_cast<int32_t>(forest.pages.size()), 0, first_row, count});
    forest.pages.push_back(page);
    for (int32_t i = 0; i < count; ++i) {
      rows.push_back(static_cast<int32_t>(forest.tokens.size()));
      forest.tokens.push_back(forest.tokens.front());
      forest.positions.push_back(i);
    }
  }
};

}  // namespace act
