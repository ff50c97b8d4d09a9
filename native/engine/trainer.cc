#include "trainer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <list>
#include <string>
#include <utility>

#include "seeded.h"
#include "tape.h"

namespace act {
namespace {

/// Without a tape of every layer nothing reads a layer's keys after the layer, so all layers share one.
int pool_layers(const ModelConfig& config, const Model::Options& options) {
  return options.trainable && !options.recompute ? config.layers : 1;
}

/// The caller's streams in the order of a micro-batch. An empty stream stays absent, except the clips: absent means
/// no clipping, which is infinity to the head.
class GatheredRows {
 public:
  GatheredRows(const MicroBatch& m, const ForestRows& r) {
    const size_t count = m.sources.size();
    target_.resize(count, 0);
    for (size_t i = 0; i < count; i++)
      if (m.sources[i] >= 0) target_[i] = r.targets[static_cast<size_t>(m.sources[i])];
    view_.count = static_cast<int64_t>(count);
    view_.target = target_.data();
    view_.ce_weight = gather(m, r.ce_weight, 0);
    view_.advantage = gather(m, r.advantage, 0);
    view_.old_logprob = gather(m, r.old_logprob, 0);
    view_.clip_low = gather(m, r.clip_low, kNoClip);
    view_.clip_high = gather(m, r.clip_high, kNoClip);
    view_.policy_weight = gather(m, r.policy_weight, 0);
    view_.ref_logprob = gather(m, r.ref_logprob, 0);
    view_.kl_weight = gather(m, r.kl_weight, 0);
    view_.entropy_weight = gather(m, r.entropy_weight, 0);
    view_.kl = r.kl;
    view_.inverse_temperature = r.inverse_temperature;
    view_.runs = m.row_runs;
  }
  const LossRows& view() const { return view_; }

 private:
  static constexpr float kNoClip = std::numeric_limits<float>::infinity();

  const float* gather(const MicroBatch& m, std::span<const float> stream, float absent) {
    if (stream.empty() && absent == 0) return nullptr;
    std::vector<float>& values = streams_.emplace_back(m.sources.size(), absent);
    for (size_t i = 0; i < values.size() && !stream.empty(); i++)
      values[i] = m.sources[i] < 0 ? 0 : stream[static_cast<size_t>(m.sources[i])];
    return values.data();
  }

  std::vector<int32_t> target_;
  std::list<std::vector<float>> streams_;
  LossRows view_;
};

/// The loss of ops.h from per-row results, row after row.
void add_terms(LossReport& report, const ForestRows& r) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const auto at = [](std::span<const float> stream, size_t i, double absent = 0) {
    return stream.empty() ? absent : double{stream[i]};
  };
  for (size_t i = 0; i < r.rows.size(); i++) {
    report.ce -= at(r.ce_weight, i) * report.logprob[i];
    report.entropy_term -= at(r.entropy_weight, i) * report.entropy[i];
    const double ratio = report.ratio[i], advantage = at(r.advantage, i);
    const double clipped = std::clamp(ratio, 1 - at(r.clip_low, i, infinity), 1 + at(r.clip_high, i, infinity));
    report.policy -=
        weighted(at(r.policy_weight, i), std::min(weighted(advantage, ratio), weighted(advantage, clipped)));
    report.kl_term += weighted(at(r.kl_weight, i), report.kl[i]);
  }
}

void check(bool holds, const char* what, double got) {
  if (!holds) throw Error("BAD_ARGUMENT", std::string("Expected ") + what + ", got " + std::to_string(got) + ".");
}

void check(const StepOptions& o) {
  check(std::isfinite(o.learning_rate) && o.learning_rate >= 0, "a learning rate >= 0", o.learning_rate);
  check(o.beta1 >= 0 && o.beta1 < 1, "beta1 in [0, 1)", o.beta1);
  check(o.beta2 >= 0 && o.beta2 < 1, "beta2 in [0, 1)", o.beta2);
  check(std::isfinite(o.epsilon) && o.epsilon > 0, "epsilon > 0", o.epsilon);
  check(std::isfinite(o.weight_decay) && o.weight_decay >= 0, "a weight decay >= 0", o.weight_decay);
  check(std::isfinite(o.max_grad_norm) && o.max_grad_norm >= 0, "a maximal gradient norm >= 0", o.max_grad_norm);
}

}  // namespace

Trainer::Trainer(Model& model) : model_(model) {
  Backend& backend = model.backend();
  const ModelConfig& config = model.config();
  const Model::Options& options = model.options();
  const DType dtype = backend.activation_dtype(options.dtype);
  pool_ = backend.create_kv_pool(pool_layers(config, options), config.kv_heads, config.head_dim,
                                 pages_for(options.max_rows), backend.cache_dtype(options.dtype));
  hidden_ = Buffer(backend, options.max_rows, config.hidden_size, dtype);
  if (!options.trainable) return;
  dhidden_ = Buffer(backend, options.max_rows, config.hidden_size, dtype);
  tape_ = model.make_tape();
}

Trainer::~Trainer() = default;

Trainer::Bytes Trainer::planned_bytes(const Backend& backend, const ModelConfig& config,
                                      const Model::Options& options) {
  Bytes bytes;
  bytes.pool = static_cast<size_t>(pool_layers(config, options)) * static_cast<size_t>(pages_for(options.max_rows)) *
               backend.kv_page_bytes(config.kv_heads, config.head_dim, backend.cache_dtype(options.dtype));
  bytes.hidden = static_cast<size_t>(options.max_rows * config.hidden_size) *
                 size_of(backend.activation_dtype(options.dtype)) * (options.trainable ? 2 : 1);
  bytes.tape = Model::planned_bytes(backend, config, options).tape;
  return bytes;
}

LossReport Trainer::score(const TokenForest& forest, const ForestRows& rows, bool adapters,
                          const Cancelled& cancelled) {
  const bool before = std::exchange(model_.adapters_enabled, adapters);
  try {
    LossReport report = run(forest, rows, cancelled, false);
    model_.adapters_enabled = before;
    return report;
  } catch (...) {
    model_.adapters_enabled = before;
    throw;
  }
}

LossReport Trainer::accumulate(const TokenForest& forest, const ForestRows& rows, const Cancelled& cancelled) {
  if (!tape_) throw Error("BAD_ARGUMENT", "This engine was made without training. Open it with training: true.");
  if (!model_.adapters_enabled) throw Error("BAD_ARGUMENT", "Adapters cannot be trained while they are switched off.");
  return run(forest, rows, cancelled, true);
}

LossReport Trainer::run(const TokenForest& forest, const ForestRows& rows, const Cancelled& cancelled, bool training) {
  const ModelConfig& config = model_.config();
  const std::vector<MicroBatch> batches =
      split_forest(forest, rows, {model_.options().max_rows, config.vocab_size, config.max_positions});
  const size_t count = rows.rows.size();
  LossReport report;
  for (std::vector<float>* values : {&report.logprob, &report.entropy, &report.ratio, &report.kl})
    values->resize(count);
  report.clipped.resize(count);

  if (cancelled)
    model_.between_layers = [&] {
      if (cancelled()) throw Error("ABORTED", "The call was cancelled.");
    };
  try {
    for (const MicroBatch& batch : batches) {
      if (between_batches && &batch != batches.data()) between_batches();
      run_batch(batch, rows, report, training);
    }
  } catch (...) {
    model_.between_layers = nullptr;
    model_.backend().row_runs = {};
    if (training) zero_gradients();
    throw;
  }
  model_.between_layers = nullptr;
  model_.backend().row_runs = {};
  add_terms(report, rows);
  return report;
}

void Trainer::run_batch(const MicroBatch& m, const ForestRows& rows, LossReport& report, bool training) {
  const int64_t count = static_cast<int64_t>(m.rows.size());
  const size_t size = m.rows.size();
  const View hidden = hidden_.view().rows_from(0, count);
  const View dhidden = training ? dhidden_.view().rows_from(0, count) : View{};
  model_.forward(m.batch, *pool_, m.rows, hidden, training ? tape_.get() : nullptr);

  const GatheredRows gathered(m, rows);
  std::vector<float> logprob(size), entropy(size), ratio(size), kl(size);
  std::vector<uint8_t> clipped(size);
  LossResults results;
  results.logprob = logprob.data();
  results.entropy = entropy.data();
  results.ratio = ratio.data();
  results.kl = kl.data();
  results.clipped = clipped.data();
  model_.backend().head_loss(results, dhidden, training ? model_.head_gradient() : View{}, hidden, model_.head(),
                             gathered.view());
  for (size_t i = 0; i < size; i++) {
    if (m.sources[i] < 0) continue;
    const size_t row = static_cast<size_t>(m.sources[i]);
    if (!std::isfinite(logprob[i]) || !std::isfinite(entropy[i]))
      throw Error("NUMERICS", "The log-prob of loss row " + std::to_string(row) +
                                  " is not finite. The weights have diverged: go back to a checkpoint and lower the "
                                  "learning rate.");
    report.logprob[row] = logprob[i];
    report.entropy[row] = entropy[i];
    report.ratio[row] = ratio[i];
    report.kl[row] = kl[i];
    report.clipped[row] = clipped[i];
  }
  if (!training) return;
  model_.backend().row_runs = m.token_runs;
  model_.backward(m.batch, *pool_, m.rows, dhidden, *tape_);
}

void Trainer::zero_gradients() { model_.zero_gradients(); }

StepReport Trainer::step(const StepOptions& o) {
  if (!tape_) throw Error("BAD_ARGUMENT", "This engine was made without training. Open it with training: true.");
  check(o);
  Backend& backend = model_.backend();
  model_.complete_gradients();
  double squares = 0;
  for (auto& [name, p] : model_.parameters()) {
    if (!p.gradient) continue;
    // fp32 squares added in double precision cannot overflow: a sum that is not finite has a term that is not.
    const double sum = backend.sum_of_squares(p.gradient.view());
    if (!std::isfinite(sum))
      throw Error("NUMERICS", "The gradient of `" + name +
                                  "` holds NaN or infinite values; no weight was changed. Lower the learning rate or "
                                  "check the weights of the loss rows, then zero the gradients.");
    squares += sum;
  }
  const double norm = std::sqrt(squares);
  const double grad_scale = o.max_grad_norm > 0 && norm > o.max_grad_norm ? o.max_grad_norm / norm : 1;

  optimizer_step++;
  AdamW adamw{static_cast<float>(o.learning_rate), static_cast<float>(o.beta1), static_cast<float>(o.beta2),
              static_cast<float>(o.epsilon), 0, optimizer_step, static_cast<float>(grad_scale)};
  for (auto& [name, p] : model_.parameters()) {
    if (!p.gradient) continue;
    adamw.weight_decay = p.matrix ? static_cast<float>(o.weight_decay) : 0;
    if (p.compact()) {
      backend.adamw_compact(*p.matrix, p.gradient.view(), p.compact_moments(), adamw, stream_of(name, o.seed));
      continue;
    }
    backend.adamw(model_.master(p), p.gradient.view(), p.moment1.view(), p.moment2.view(), adamw);
    model_.refresh(p);
  }
  zero_gradients();
  return {norm, optimizer_step};
}

}  // namespace act
