// Scores and trains: a token forest with loss rows in, per-row results, gradients and optimizer steps out.
// Every normalization is the caller's: the trainer only sums (docs/engine.md, weight streams).
#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "forest.h"
#include "model.h"

namespace act {

/// Per-row results in the caller's order, and the weighted sums that make up the loss. The sums are added up in the
/// caller's row order in double precision, so they do not depend on the split into micro-batches.
struct LossReport {
  std::vector<float> logprob, entropy, ratio, kl;
  std::vector<uint8_t> clipped;
  double ce = 0, policy = 0, kl_term = 0, entropy_term = 0;
  double loss() const { return ce + policy + kl_term + entropy_term; }
};

struct StepOptions {
  double learning_rate = 0, beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8;
  double weight_decay = 0;   // on matrices only, not on norm weights and biases
  double max_grad_norm = 0;  // global norm of all gradients; 0: off
  uint64_t seed = 0;         // of the compact optimizer's stochastic rounding
};
struct StepReport {
  double grad_norm = 0;  // before clipping
  int64_t step = 0;      // the optimizer's step counter after this step
};

class Trainer {
 public:
  /// Asked between layers: true ends the call with Error ABORTED.
  using Cancelled = std::function<bool()>;

  /// Allocates key-value pages, hidden rows and (for a trainable model) the tape for model.options().max_rows rows.
  explicit Trainer(Model& model);
  ~Trainer();

  /// Log-probs and entropies, no gradient. `adapters` false: the base model. Throws what split_forest throws, ABORTED,
  /// and NUMERICS when a log-prob is not finite.
  LossReport score(const TokenForest& forest, const ForestRows& rows, bool adapters = true,
                   const Cancelled& cancelled = {});
  /// Forward and backward, adding to the gradients. Invalid input is refused before anything is computed, with the
  /// gradients as they were; after any later failure (ABORTED, NUMERICS, OUT_OF_MEMORY) ALL gradients are zero: the
  /// whole optimizer step must be accumulated again.
  LossReport accumulate(const TokenForest& forest, const ForestRows& rows, const Cancelled& cancelled = {});
  /// One AdamW step from the accumulated gradients, which are then zeroed. Throws BAD_ARGUMENT; NUMERICS when a gradient
  /// is NaN or infinite, with no weight and no moment changed.
  StepReport step(const StepOptions& options);
  void zero_gradients();

  int64_t optimizer_step = 0;  // steps taken; part of exact resume
  /// Called between micro-batches, when the model is free for other forward passes (a step of generation).
  std::function<void()> between_batches;

  /// Bytes the constructor allocates.
  struct Bytes {
    size_t pool = 0, hidden = 0, tape = 0;
  };
  static Bytes planned_bytes(const Backend& backend, const ModelConfig& config, const Model::Options& options);

 private:
  LossReport run(const TokenForest& forest, const ForestRows& rows, const Cancelled& cancelled, bool training);
  void run_batch(const MicroBatch& batch, const ForestRows& rows, LossReport& report, bool training);

  Model& model_;
  std::unique_ptr<KvPool> pool_;
  std::unique_ptr<ForwardTape> tape_;
  Buffer hidden_, dhidden_;
};

}  // namespace act
