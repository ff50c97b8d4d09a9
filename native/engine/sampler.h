// What decides, token by token, how a completion goes on: stop strings, choices, and the random number of each draw.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "../ops/ops.h"

namespace act {

/// Bytes each token id stands for, concatenated; offsets has vocabulary + 1 entries.
struct TokenBytes {
  std::string bytes;
  std::vector<uint32_t> offsets;
  std::string_view of(int32_t token) const {
    return std::string_view(bytes).substr(offsets[token], offsets[token + 1] - offsets[token]);
  }
};

/// Finds stop strings in the bytes of a growing completion. Matching on bytes finds a string however it is tokenized.
class StopMatcher {
 public:
  StopMatcher() = default;
  /// `strings` are not empty and outlive the matcher.
  explicit StopMatcher(std::span<const std::string> strings);
  /// Whether the text now contains a stop string that ends within `bytes`.
  bool append(std::string_view bytes);

 private:
  std::span<const std::string> strings_;
  size_t longest_ = 0;
  std::string recent_;  // the last longest_ - 1 bytes
};

/// The set of allowed completions as a trie over token ids; every choice is followed by a stop token.
class ChoiceTrie {
 public:
  /// choices: not empty, each of at least one token. stop_tokens: ascending, not empty.
  ChoiceTrie(std::span<const std::vector<int32_t>> choices, std::span<const int32_t> stop_tokens);
  static constexpr int32_t kRoot = 0;
  /// Ascending ids allowed at `node`.
  std::span<const int32_t> allowed(int32_t node) const { return nodes_[node].allowed; }
  /// Node after `token`; -1 once the completion has ended.
  int32_t next(int32_t node, int32_t token) const;

 private:
  struct Node {
    std::vector<int32_t> allowed;  // ascending
    std::vector<int32_t> next;     // beside allowed; -1: the completion ends
  };
  int32_t add(int32_t node, int32_t token);
  std::vector<Node> nodes_;
};

/// How all completions of one request are sampled.
struct SamplingRule {
  float temperature = 1, top_p = 1, min_p = 0;
  int32_t top_k = 0;
  uint64_t seed = 0, stream = 0;
  std::vector<int32_t> stop_tokens;        // ascending
  std::vector<std::string> stop_strings;   // need TokenBytes
  std::optional<ChoiceTrie> choices;
};

/// One completion on its way: parameters of the next draw, and whether a drawn token ends it.
class Sampler {
 public:
  /// `index` is the completion's index in its group; rule and token_bytes outlive the sampler.
  Sampler(const SamplingRule& rule, uint64_t index, const TokenBytes* token_bytes);
  /// Parameters for the token at absolute `position` (the prompt's tokens counted).
  SampleParams params(int32_t position) const;
  /// Takes the drawn token in; true when it ends the completion.
  bool accept(int32_t token);

 private:
  const SamplingRule& rule_;
  const TokenBytes* token_bytes_;
  uint64_t stream_;
  int32_t choice_ = ChoiceTrie::kRoot;
  StopMatcher stop_;
};

}  // namespace act
