// The key-value cache: a radix tree of token runs over pages of 16 keys.
//
// A node is a run of tokens whose keys lie in pages of its own; a prompt is the path from the root to a node. Prompts
// that begin alike share the nodes of their common beginning, whether it is computed already, being computed or only
// planned: every distinct token is computed once. Nodes split anywhere without copying, because two nodes may share a
// page (Segment::first_lane): pages are reference-counted. The lane of a key is always its absolute position modulo 16.
//
// A node is *pinned* while a running sequence needs it; pinning a node pins its ancestors. Everything else is a cache
// that gives way, least recently used first, one page at a time from the end of a leaf. Sequences *reserve* their worst
// case of pages before they start, so that no allocation can fail midway: pinned + reserved <= pages, always.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <tuple>
#include <vector>

#include "../ops/ops.h"

namespace act {

/// Page numbers, counted by the nodes that hold them and by the pinned nodes among these.
class PageTable {
 public:
  explicit PageTable(int pages);
  int total() const { return static_cast<int>(holders_.size()); }
  int free_count() const { return static_cast<int>(free_.size()); }
  int pinned_count() const { return pinned_pages_; }
  int32_t take();              // a free page, held once; there must be one
  void hold(int32_t page);     // one more holder
  void release(int32_t page);  // one less; free when none is left
  void pin(int32_t page);      // one more pinned holder
  void unpin(int32_t page);

 private:
  std::vector<int32_t> holders_, pins_, free_;
  int pinned_pages_ = 0;
};

/// A run of tokens. Owned by its parent, or by a sequence while that one still writes it (a *tail*, not in the tree).
struct CacheNode {
  CacheNode* parent = nullptr;
  std::map<int32_t, std::unique_ptr<CacheNode>> children;  // by first token
  std::vector<int32_t> tokens;
  int32_t position = 0;   // absolute, of tokens[0]
  int32_t computed = 0;   // leading tokens whose keys and values are written
  std::vector<int32_t> pages;
  int32_t pins = 0;
  bool tail = false;
  uint64_t last_used = 0;
  uint64_t serial = 0;    // order of creation; makes eviction order a function of the calls alone

  int32_t size() const { return static_cast<int32_t>(tokens.size()); }
  int32_t first_lane() const { return position % kPageKeys; }
  bool complete() const { return computed == size(); }
};

/// Pages that `count` keys from absolute position `position` on take when they start on a fresh page.
constexpr int32_t pages_for(int32_t position, int32_t count) {
  return count == 0 ? 0 : (position % kPageKeys + count + kPageKeys - 1) / kPageKeys;
}

/// Pages of the pool behind those of the cache: for the keys of rows that fill a step up (Backend::step_granularity).
inline int padding_pages(const Backend& backend) { return backend.step_granularity() > 1 ? 1 : 0; }

class KvCache {
 public:
  /// `trees`: independent sets of keys (with and without adapters).
  KvCache(int pages, int trees);
  ~KvCache();

  int pages() const { return table_.total(); }
  /// Pages neither pinned nor reserved: what a newcomer may reserve.
  int available() const { return table_.total() - table_.pinned_count() - reserved_; }
  /// Tokens whose keys are held by the trees.
  int64_t cached_tokens() const { return cached_tokens_; }

  /// Pins the path of `prompt` in `tree`, adding what is missing, provided that afterwards `extra` more pages can be
  /// reserved; reserves them. Null (and nothing changed but splits) when the pages do not suffice now.
  /// `reused` gets the number of leading tokens that the tree had.
  CacheNode* open(int tree, std::span<const int32_t> prompt, int extra, int* reused);
  bool reserve(int pages);
  void unreserve(int pages);
  void pin(CacheNode* node);
  /// Nodes that nobody needs and whose keys were never computed vanish.
  void unpin(CacheNode* node);

  /// A run that continues `parent`, which must be pinned until the tail is adopted or discarded.
  std::unique_ptr<CacheNode> make_tail(CacheNode* parent);
  /// Appends a token; takes a page when it needs one, out of `reserved` (the sequence's own count, and reserve()'s).
  void append(CacheNode& tail, int32_t token, int32_t& reserved);
  /// Takes back the tokens behind the first `size`; their pages are reserved again.
  void retract(CacheNode& tail, int32_t size, int32_t& reserved);
  /// Gives the computed part of a finished tail to the tree.
  void adopt(std::unique_ptr<CacheNode> tail);
  void discard(std::unique_ptr<CacheNode> tail);

  /// After the forward pass wrote keys of `count` more tokens.
  void mark_computed(CacheNode& node, int32_t count);
  /// Forgets every node that is not pinned.
  void clear();
  /// Verifies every count against the trees; throws Error INTERNAL. For tests.
  void check(std::span<CacheNode* const> tails) const;

 private:
  CacheNode* longest_prefix(int tree, std::span<const int32_t> tokens);
  CacheNode* split(CacheNode* node, int32_t at);
  int32_t take_page();
  void evict_one_page();
  void remove_leaf(CacheNode* node);
  void truncate(CacheNode* node, int32_t size);
  void update_evictable(CacheNode* node);

  PageTable table_;
  std::vector<std::unique_ptr<CacheNode>> roots_;
  using Age = std::tuple<uint64_t, uint64_t, CacheNode*>;
  std::set<Age> evictable_;  // unpinned leaves, oldest first
  int reserved_ = 0;
  int64_t cached_tokens_ = 0;
  uint64_t clock_ = 0, serials_ = 0;
};

}  // namespace act
