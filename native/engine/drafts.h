// Guesses of what a sequence goes on with, for speculative decoding without a second model (Leviathan et al. 2023,
// arXiv:2211.17192, with the n-gram drafts of Fu et al. 2024, arXiv:2402.02057): a step reads a sequence's keys once and
// checks several tokens with them.
//
// A guess decides nothing but speed. Every token is drawn from the model's own distribution with the random number of
// its position (rng.h); a guess that is not the token drawn is thrown away, with everything behind it.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace act {

/// Rows of a step in which `sequences` decode, each with all its guesses.
constexpr int64_t decode_rows(int64_t sequences, int64_t draft_tokens) { return sequences * (1 + draft_tokens); }

/// What came after the last few tokens whenever they were seen, in prompts and completions of all sequences: one guess
/// for each context, with a count of how far it can be trusted, as branch predictors keep it. Fixed memory; contexts
/// that fall on one entry displace each other.
class DraftTable {
 public:
  /// Lengths of the contexts looked up, the longest known first.
  static constexpr std::array<size_t, 3> kContexts{6, 4, 2};
  static constexpr size_t kLongest = kContexts[0];

  DraftTable();
  /// `token` came after `context` (at least its last kLongest tokens, or all there are).
  void learn(std::span<const int32_t> context, int32_t token);
  /// Appends to `tokens` what probably follows it, `count` tokens at most; stops where nothing is known.
  void extend(std::vector<int32_t>& tokens, int32_t count) const;

 private:
  struct Entry {
    uint32_t tag = 0;  // the rest of the context's hash
    int32_t token = -1;
    int32_t trust = 0;  // 0 to kTrusted: up where the guess is right, down where it is wrong
  };
  static constexpr int32_t kBelieved = 2;  // guesses that were right once are too often chance (docs/log.md)
  static constexpr int32_t kTrusted = 7;
  static constexpr size_t kEntries = size_t{1} << 15;  // for each length of context

  int32_t guess(std::span<const int32_t> context) const;

  std::array<std::vector<Entry>, kContexts.size()> tables_;
};

}  // namespace act
