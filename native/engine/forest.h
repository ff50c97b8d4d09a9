// A token forest as the caller gives it, its loss rows, and how both are cut into micro-batches.
//
// A micro-batch holds whole trees. Each tree is padded to an even number of token rows (a lone token 0 that nothing
// attends to and no loss row reads) and of loss rows (weights 0): bf16 gradients add rows in pairs, and a pair that
// straddled two trees would make the sum depend on the split. Trees keep their order, so gradients are one chain over
// all trees however they are cut.
#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "model.h"

namespace act {

/// Segment i holds the next lengths[i] tokens and continues segment parents[i] < i (-1: a root).
struct TokenForest {
  std::span<const int32_t> tokens, parents, lengths;
};

/// Loss rows over a TokenForest: after token rows[i] (index into tokens) comes targets[i]. Streams as in LossRows; an
/// empty stream is absent: weights 0, no clipping, ratio 1 (no old_logprob), KL 0 (no ref_logprob). clip_low and
/// clip_high may hold infinity, everything else must be finite.
struct ForestRows {
  std::span<const int32_t> rows, targets;
  std::span<const float> ce_weight, advantage, old_logprob, clip_low, clip_high, policy_weight, ref_logprob, kl_weight,
      entropy_weight;
  KlEstimator kl = KlEstimator::k3;
  float inverse_temperature = 1;

  struct Stream {
    const char* name;
    std::span<const float> values;
  };
  std::array<Stream, 9> streams() const {
    return {{{"ceWeight", ce_weight},
             {"advantage", advantage},
             {"oldLogprob", old_logprob},
             {"clipLow", clip_low},
             {"clipHigh", clip_high},
             {"policyWeight", policy_weight},
             {"refLogprob", ref_logprob},
             {"klWeight", kl_weight},
             {"entropyWeight", entropy_weight}}};
  }
};

struct MicroBatch {
  ForestBatch batch;
  std::vector<int32_t> rows;     // batch rows the head reads; trees in order, within a tree the caller's order
  std::vector<int64_t> sources;  // for each of `rows` its index among the caller's rows, -1 for padding
  std::vector<int32_t> token_runs, row_runs;  // where each tree's tokens and loss rows end (Backend::row_runs)
};

struct ForestLimits {
  int64_t rows;  // of a micro-batch, padding included: tokens, and likewise loss rows
  int32_t vocabulary, positions;
};

/// Checks everything and splits. Trees without a loss row are left out: they change nothing. Throws Error BAD_ARGUMENT,
/// TOKEN_OUT_OF_RANGE, SEQUENCE_TOO_LONG (deeper than `positions`), BATCH_TOO_LARGE (one tree over `rows`).
std::vector<MicroBatch> split_forest(const TokenForest& forest, const ForestRows& rows, const ForestLimits& limits);

/// Pages that hold the keys of `rows` batch rows: key of row r is lane r % 16 of page r / 16.
inline int pages_for(int64_t rows) { return static_cast<int>((rows + kPageKeys - 1) / kPageKeys); }

}  // namespace act
