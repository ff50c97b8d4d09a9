#include "kv_cache.h"

#include <algorithm>
#include <string>

namespace act {

PageTable::PageTable(int pages) : holders_(pages, 0), pins_(pages, 0) {
  for (int32_t page = pages - 1; page >= 0; --page) free_.push_back(page);
}

int32_t PageTable::take() {
  const int32_t page = free_.back();
  free_.pop_back();
  holders_[page] = 1;
  return page;
}

void PageTable::hold(int32_t page) { ++holders_[page]; }

void PageTable::release(int32_t page) {
  if (--holders_[page] == 0) free_.push_back(page);
}

void PageTable::pin(int32_t page) {
  if (pins_[page]++ == 0) ++pinned_pages_;
}

void PageTable::unpin(int32_t page) {
  if (--pins_[page] == 0) --pinned_pages_;
}

KvCache::KvCache(int pages, int trees) : table_(pages) {
  for (int i = 0; i < trees; ++i) roots_.push_back(std::make_unique<CacheNode>());
}

KvCache::~KvCache() = default;

/// Keeps `evictable_` equal to the unpinned leaves. To be called after a node's pins or children changed; last_used
/// and serial may change only while the node is not in the set.
void KvCache::update_evictable(CacheNode* node) {
  if (node->parent == nullptr) return;
  const Age age{node->last_used, node->serial, node};
  if (node->pins == 0 && node->children.empty()) {
    evictable_.insert(age);
  } else {
    evictable_.erase(age);
  }
}

CacheNode* KvCache::split(CacheNode* node, int32_t at) {
  // The new node takes the front, because whoever points to `node` means the place where it ends.
  auto front = std::make_unique<CacheNode>();
  const int32_t front_pages = pages_for(node->position, at);
  const int32_t dropped = (node->first_lane() + at) / kPageKeys;
  front->parent = node->parent;
  front->tokens.assign(node->tokens.begin(), node->tokens.begin() + at);
  front->position = node->position;
  front->computed = std::min(node->computed, at);
  front->pages.assign(node->pages.begin(), node->pages.begin() + front_pages);
  front->pins = node->pins;
  front->last_used = node->last_used;
  front->serial = serials_++;
  if (front_pages > dropped) {  // the cut is inside a page, which both hold now
    table_.hold(front->pages.back());
    if (node->pins > 0) table_.pin(front->pages.back());
  }
  node->tokens.erase(node->tokens.begin(), node->tokens.begin() + at);
  node->pages.erase(node->pages.begin(), node->pages.begin() + dropped);
  node->position += at;
  node->computed -= front->computed;

  auto& slot = node->parent->children.at(front->tokens[0]);
  front->children[node->tokens[0]] = std::move(slot);
  node->parent = front.get();
  slot = std::move(front);
  return node->parent;
}

/// The node at which the longest known beginning of `tokens` ends; splits where it ends inside a run.
CacheNode* KvCache::longest_prefix(int tree, std::span<const int32_t> tokens) {
  CacheNode* node = roots_[tree].get();
  size_t at = 0;
  while (at < tokens.size()) {
    const auto found = node->children.find(tokens[at]);
    if (found == node->children.end()) break;
    CacheNode* child = found->second.get();
    const auto rest = tokens.subspan(at);
    const size_t limit = std::min(rest.size(), child->tokens.size());
    const size_t same = std::mismatch(rest.begin(), rest.begin() + limit, child->tokens.begin()).first - rest.begin();
    if (same < child->tokens.size()) return split(child, static_cast<int32_t>(same));
    node = child;
    at += same;
  }
  return node;
}

CacheNode* KvCache::open(int tree, std::span<const int32_t> prompt, int extra, int* reused) {
  CacheNode* prefix = longest_prefix(tree, prompt);
  const int32_t known = prefix->position + prefix->size();
  const int32_t missing = static_cast<int32_t>(prompt.size()) - known;
  pin(prefix);
  if (available() < pages_for(known, missing) + extra) {
    unpin(prefix);
    return nullptr;
  }
  reserved_ += extra;
  *reused = known;
  if (missing == 0) return prefix;

  auto added = std::make_unique<CacheNode>();
  CacheNode* node = added.get();
  node->parent = prefix;
  node->tokens.assign(prompt.begin() + known, prompt.end());
  node->position = known;
  node->serial = serials_++;
  for (int32_t i = 0; i < pages_for(known, missing); ++i) node->pages.push_back(take_page());
  prefix->children[node->tokens[0]] = std::move(added);
  pin(node);
  unpin(prefix);
  return node;
}

bool KvCache::reserve(int pages) {
  if (available() < pages) return false;
  reserved_ += pages;
  return true;
}

void KvCache::unreserve(int pages) { reserved_ -= pages; }

void KvCache::pin(CacheNode* node) {
  for (; node != nullptr; node = node->parent) {
    if (node->pins++ > 0) continue;
    for (const int32_t page : node->pages) table_.pin(page);
    update_evictable(node);
  }
}

void KvCache::unpin(CacheNode* node) {
  while (node != nullptr) {
    CacheNode* parent = node->parent;
    if (--node->pins == 0 && parent != nullptr) {
      for (const int32_t page : node->pages) table_.unpin(page);
      // Children of an incomplete node were pinned together with it, were never computed, and are gone by now.
      if (node->computed == 0) {
        remove_leaf(node);
      } else {
        truncate(node, node->computed);
        node->last_used = ++clock_;
        update_evictable(node);
      }
    }
    node = parent;
  }
}

std::unique_ptr<CacheNode> KvCache::make_tail(CacheNode* parent) {
  auto tail = std::make_unique<CacheNode>();
  tail->parent = parent;
  tail->position = parent->position + parent->size();
  tail->pins = 1;
  tail->tail = true;
  return tail;
}

void KvCache::append(CacheNode& tail, int32_t token, int32_t& reserved) {
  if (pages_for(tail.position, tail.size() + 1) > static_cast<int32_t>(tail.pages.size())) {
    --reserved;
    --reserved_;
    tail.pages.push_back(take_page());
    table_.pin(tail.pages.back());
  }
  tail.tokens.push_back(token);
}

void KvCache::retract(CacheNode& tail, int32_t size, int32_t& reserved) {
  for (auto page = tail.pages.begin() + pages_for(tail.position, size); page != tail.pages.end(); ++page) {
    table_.unpin(*page);
    ++reserved;
    ++reserved_;
  }
  truncate(&tail, size);
}

void KvCache::adopt(std::unique_ptr<CacheNode> tail) {
  for (const int32_t page : tail->pages) table_.unpin(page);
  tail->pins = 0;
  truncate(tail.get(), tail->computed);
  CacheNode* parent = tail->parent;
  int32_t at = 0;
  while (at < tail->size()) {
    const auto found = parent->children.find(tail->tokens[at]);
    if (found == parent->children.end()) break;
    CacheNode* child = found->second.get();
    const int32_t limit = std::min(tail->size() - at, child->size());
    const int32_t same = static_cast<int32_t>(
        std::mismatch(child->tokens.begin(), child->tokens.begin() + limit, tail->tokens.begin() + at).first -
        child->tokens.begin());
    parent = same < child->size() ? split(child, same) : child;
    at += same;
    // Another sequence is computing the same run: keys may hang only under computed ones, so the rest is let go.
    if (!parent->complete()) at = tail->size();
  }
  // What the tree has already is dropped from the front; the rest stays in its pages.
  const int32_t dropped = at == tail->size() ? static_cast<int32_t>(tail->pages.size())
                                             : (tail->first_lane() + at) / kPageKeys;
  for (int32_t i = 0; i < dropped; ++i) table_.release(tail->pages[i]);
  if (at == tail->size()) return;
  tail->pages.erase(tail->pages.begin(), tail->pages.begin() + dropped);
  tail->tokens.erase(tail->tokens.begin(), tail->tokens.begin() + at);
  tail->position += at;
  tail->computed -= at;
  tail->parent = parent;
  tail->tail = false;
  tail->serial = serials_++;
  tail->last_used = ++clock_;
  cached_tokens_ += tail->computed;
  CacheNode* node = tail.get();
  parent->children[node->tokens[0]] = std::move(tail);
  update_evictable(parent);
  update_evictable(node);
}

void KvCache::discard(std::unique_ptr<CacheNode> tail) {
  for (const int32_t page : tail->pages) {
    table_.unpin(page);
    table_.release(page);
  }
}

void KvCache::mark_computed(CacheNode& node, int32_t count) {
  node.computed += count;
  if (!node.tail) cached_tokens_ += count;
}

void KvCache::clear() {
  while (!evictable_.empty()) {
    remove_leaf(std::get<CacheNode*>(*evictable_.begin()));
  }
}

int32_t KvCache::take_page() {
  while (table_.free_count() == 0) evict_one_page();
  return table_.take();
}

/// Shortens the least recently used leaf by its last page. That page becomes free unless a neighbor shares it.
void KvCache::evict_one_page() {
  if (evictable_.empty()) throw Error("INTERNAL", "The key-value cache ran out of pages it had promised.");
  CacheNode* node = std::get<CacheNode*>(*evictable_.begin());
  const int32_t in_last = (node->first_lane() + node->size() - 1) % kPageKeys + 1;
  if (in_last < node->size()) {
    truncate(node, node->size() - in_last);
  } else {
    remove_leaf(node);
  }
}

/// Removes an unpinned leaf.
void KvCache::remove_leaf(CacheNode* node) {
  evictable_.erase(Age{node->last_used, node->serial, node});
  CacheNode* parent = node->parent;
  const int32_t key = node->tokens[0];
  truncate(node, 0);
  parent->children.erase(key);
  update_evictable(parent);
}

void KvCache::truncate(CacheNode* node, int32_t size) {
  const int32_t computed = std::min(node->computed, size);
  if (!node->tail) cached_tokens_ -= node->computed - computed;
  node->computed = computed;
  node->tokens.resize(size);
  const size_t keep = pages_for(node->position, size);
  while (node->pages.size() > keep) {
    table_.release(node->pages.back());
    node->pages.pop_back();
  }
}

void KvCache::check(std::span<CacheNode* const> tails) const {
  const auto fail = [](const char* what) { throw Error("INTERNAL", std::string("key-value cache: ") + what); };
  std::vector<int32_t> holders(table_.total(), 0), pins(table_.total(), 0);
  int64_t cached = 0;
  size_t evictable = 0;
  const auto count_pages = [&](const CacheNode& node) {
    if (static_cast<int32_t>(node.pages.size()) != pages_for(node.position, node.size())) fail("pages of a node");
    for (const int32_t page : node.pages) {
      ++holders[page];
      if (node.pins > 0) ++pins[page];
    }
  };
  std::vector<const CacheNode*> open;
  for (const auto& root : roots_) open.push_back(root.get());
  while (!open.empty()) {
    const CacheNode* node = open.back();
    open.pop_back();
    if (node->parent != nullptr) {
      if (node->size() == 0 || node->position != node->parent->position + node->parent->size()) fail("node's place");
      if (node->pins > node->parent->pins) fail("a pinned node under a less pinned one");
      if (node->computed > 0 && !node->parent->complete()) fail("computed under incomplete");
      if (node->pins == 0 && !node->complete()) fail("unpinned and incomplete");
      if (node->pins == 0 && node->children.empty()) {
        ++evictable;
        const Age age{node->last_used, node->serial, const_cast<CacheNode*>(node)};
        if (!evictable_.contains(age)) fail("eviction order");
      }
      count_pages(*node);
      cached += node->computed;
    }
    for (const auto& [token, child] : node->children) {
      if (child->tokens.empty() || child->tokens[0] != token || child->parent != node) fail("a child's key");
      open.push_back(child.get());
    }
  }
  for (const CacheNode* tail : tails) count_pages(*tail);
  int held = 0, pinned = 0;
  for (int page = 0; page < table_.total(); ++page) {
    held += holders[page] > 0;
    pinned += pins[page] > 0;
  }
  if (held + table_.free_count() != table_.total()) fail("free pages");
  if (pinned != table_.pinned_count()) fail("pinned pages");
  if (cached != cached_tokens_) fail("cached tokens");
  if (evictable != evictable_.size()) fail("evictable leaves");
  if (reserved_ < 0 || available() < 0) fail("reservations");
}

}  // namespace act
