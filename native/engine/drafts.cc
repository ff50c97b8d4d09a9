#include "drafts.h"

#include <algorithm>

namespace act {
namespace {

/// FNV-1a over whole tokens, its bits spread by a multiplication at the end.
uint64_t hash(std::span<const int32_t> tokens) {
  uint64_t value = 0xcbf29ce484222325u;
  for (const int32_t token : tokens) value = (value ^ static_cast<uint32_t>(token)) * 0x100000001b3u;
  return value * 0x9e3779b97f4a7c15u;
}

uint32_t tag_of(uint64_t hash) { return static_cast<uint32_t>(hash); }
size_t slot_of(uint64_t hash, size_t entries) { return static_cast<size_t>(hash >> 32) % entries; }

}  // namespace

DraftTable::DraftTable() {
  for (auto& table : tables_) table.resize(kEntries);
}

void DraftTable::learn(std::span<const int32_t> context, int32_t token) {
  for (size_t i = 0; i < kContexts.size(); ++i) {
    if (context.size() < kContexts[i]) continue;
    const uint64_t key = hash(context.last(kContexts[i]));
    Entry& entry = tables_[i][slot_of(key, kEntries)];
    if (entry.tag == tag_of(key) && entry.token == token) {
      entry.trust = std::min(entry.trust + 1, kTrusted);
    } else if (entry.trust > 0) {
      --entry.trust;
    } else {
      entry = {tag_of(key), token, 1};
    }
  }
}

int32_t DraftTable::guess(std::span<const int32_t> context) const {
  for (size_t i = 0; i < kContexts.size(); ++i) {
    if (context.size() < kContexts[i]) continue;
    const uint64_t key = hash(context.last(kContexts[i]));
    const Entry& entry = tables_[i][slot_of(key, kEntries)];
    if (entry.tag == tag_of(key) && entry.trust >= kBelieved) return entry.token;
  }
  return -1;
}

void DraftTable::extend(std::vector<int32_t>& tokens, int32_t count) const {
  for (; count > 0; --count) {
    const int32_t next = guess(tokens);
    if (next < 0) return;
    tokens.push_back(next);
  }
}

}  // namespace act
