#include "sampler.h"

#include <algorithm>

#include "rng.h"

namespace act {

StopMatcher::StopMatcher(std::span<const std::string> strings) : strings_(strings) {
  for (const std::string& text : strings) longest_ = std::max(longest_, text.size());
}

bool StopMatcher::append(std::string_view bytes) {
  if (strings_.empty()) return false;
  const size_t before = recent_.size();
  recent_ += bytes;
  for (const std::string& text : strings_) {
    // A match has to end behind `before`, so it cannot start earlier than this.
    const size_t from = before + 1 > text.size() ? before + 1 - text.size() : 0;
    if (recent_.find(text, from) != std::string::npos) return true;
  }
  if (recent_.size() >= longest_) recent_.erase(0, recent_.size() - (longest_ - 1));
  return false;
}

ChoiceTrie::ChoiceTrie(std::span<const std::vector<int32_t>> choices, std::span<const int32_t> stop_tokens)
    : nodes_(1) {
  std::vector<bool> ends(1, false);
  for (const std::vector<int32_t>& choice : choices) {
    int32_t node = kRoot;
    for (const int32_t token : choice) node = add(node, token);
    ends.resize(nodes_.size(), false);
    ends[node] = true;
  }
  for (size_t node = 0; node < nodes_.size(); ++node) {
    if (!ends[node]) continue;
    for (const int32_t token : stop_tokens) {
      const auto at = std::lower_bound(nodes_[node].allowed.begin(), nodes_[node].allowed.end(), token);
      const auto offset = at - nodes_[node].allowed.begin();
      // A stop token that also continues a longer choice ends this one.
      if (at != nodes_[node].allowed.end() && *at == token) {
        nodes_[node].next[offset] = -1;
      } else {
        nodes_[node].allowed.insert(at, token);
        nodes_[node].next.insert(nodes_[node].next.begin() + offset, -1);
      }
    }
  }
}

int32_t ChoiceTrie::add(int32_t node, int32_t token) {
  const auto at = std::lower_bound(nodes_[node].allowed.begin(), nodes_[node].allowed.end(), token);
  const auto offset = at - nodes_[node].allowed.begin();
  if (at != nodes_[node].allowed.end() && *at == token) return nodes_[node].next[offset];
  const int32_t created = static_cast<int32_t>(nodes_.size());
  nodes_[node].allowed.insert(at, token);
  nodes_[node].next.insert(nodes_[node].next.begin() + offset, created);
  nodes_.emplace_back();
  return created;
}

int32_t ChoiceTrie::next(int32_t node, int32_t token) const {
  const Node& from = nodes_[node];
  const auto at = std::lower_bound(from.allowed.begin(), from.allowed.end(), token);
  return from.next[at - from.allowed.begin()];
}

Sampler::Sampler(const SamplingRule& rule, uint64_t index, const TokenBytes* token_bytes)
    : rule_(rule), token_bytes_(token_bytes), stream_(rule.stream + index), stop_(rule.stop_strings) {}

SampleParams Sampler::params(int32_t position) const {
  SampleParams params;
  params.temperature = rule_.temperature;
  params.top_k = rule_.top_k;
  params.top_p = rule_.top_p;
  params.min_p = rule_.min_p;
  params.uniform = sample_uniform(rule_.seed, stream_, static_cast<uint32_t>(position));
  if (rule_.choices) params.allowed = rule_.choices->allowed(choice_);
  return params;
}

bool Sampler::accept(int32_t token) {
  if (rule_.choices) {
    choice_ = rule_.choices->next(choice_, token);
    return choice_ < 0;
  }
  if (std::binary_search(rule_.stop_tokens.begin(), rule_.stop_tokens.end(), token)) return true;
  return token_bytes_ != nullptr && stop_.append(token_bytes_->of(token));
}

}  // namespace act
