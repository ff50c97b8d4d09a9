// The language-model head: logits exist only for a chunk of rows at a time, become their own gradient in place, and go
// straight into the gradients of the hidden states and of the head.
#include <algorithm>
#include <cmath>

#include "cpu_backend.h"
#include "sampling.h"

namespace act::cpu {
namespace {

constexpr int64_t kLogitBytes = int64_t{48} << 20;

/// Rows of logits that exist at once: a multiple of the `group` rows that the head's gradient adds up at once.
int64_t rows_per_chunk(int64_t vocabulary, int64_t group) {
  return std::max<int64_t>(group, kLogitBytes / (vocabulary * 4) / group * group);
}

double at(const float* stream, int64_t i) { return stream ? static_cast<double>(stream[i]) : 0; }

/// The terms of one loss row and d(loss) / d(logp) (formulas: LossRows in ops.h).
struct RowLoss {
  double ce, policy, kl_term, entropy_term, ratio, kl, gradient;
  bool clipped;
};

RowLoss loss_of(const LossRows& rows, int64_t i, double logp, double entropy) {
  RowLoss r{};
  const double ce_weight = at(rows.ce_weight, i), policy_weight = at(rows.policy_weight, i);
  r.ce = -ce_weight * logp;
  r.gradient = -ce_weight;

  const double advantage = at(rows.advantage, i);
  r.ratio = rows.old_logprob ? std::exp(logp - static_cast<double>(rows.old_logprob[i])) : 1;
  const double free = weighted(advantage, r.ratio);
  const double bounded = std::clamp(r.ratio, 1 - at(rows.clip_low, i), 1 + at(rows.clip_high, i)) * advantage;
  r.policy = -weighted(policy_weight, std::min(free, bounded));
  if (bounded < free) {
    r.clipped = policy_weight != 0;
  } else {
    r.gradient -= weighted(policy_weight, free);
  }

  const double difference = rows.ref_logprob ? logp - static_cast<double>(rows.ref_logprob[i]) : 0;
  double slope = 1;
  switch (rows.kl) {
    case KlEstimator::k1: r.kl = difference; break;
    case KlEstimator::k2: r.kl = difference * difference / 2, slope = difference; break;
    case KlEstimator::k3: r.kl = std::expm1(-difference) + difference, slope = -std::expm1(-difference); break;
  }
  r.kl_term = weighted(at(rows.kl_weight, i), r.kl);
  r.gradient += weighted(at(rows.kl_weight, i), slope);
  r.entropy_term = -at(rows.entropy_weight, i) * entropy;
  return r;
}

}  // namespace

size_t CpuBackend::head_scratch_bytes(int64_t vocabulary, int64_t rows) const {
  const int64_t chunk = std::min(rows, rows_per_chunk(vocabulary, 2 * kernels_.bf16_group));
  const int64_t logits = chunk * vocabulary;
  // The products take packed panels as a layer's do (scratch_bytes), except that a row of logits is a wider operand.
  return static_cast<size_t>(logits + pool_.threads() * sample_scratch_floats(vocabulary)) * 4 +
         left_panel_bytes(chunk, vocabulary);
}

void CpuBackend::head_loss(LossResults& results, View dhidden, View dw, View hidden, const Weight& head,
                           const LossRows& rows) {
  require_shape(hidden, rows.count, head.cols, "head_loss: hidden must be [rows.count, head.cols]");
  if (dhidden.data) require_shape(dhidden, rows.count, head.cols, "head_loss: dhidden must have hidden's shape");
  if (dw.data) require_shape(dw, head.rows, head.cols, "head_loss: dw must have the head's shape");
  const int64_t vocabulary = head.rows, chunk = rows_per_chunk(vocabulary, 2 * kernels_.bf16_group);
  const std::vector<InnerGroup> groups = row_groups(rows.runs, rows.count);
  for (int64_t i = 0; i < rows.count; i++) {
    require(rows.target[i] >= 0 && rows.target[i] < vocabulary, "head_loss: target outside the vocabulary");
  }
  float* const scratch = logits_.get(*this, std::min(rows.count, chunk) * vocabulary);
  std::vector<RowLoss> losses(static_cast<size_t>(std::min(rows.count, chunk)));
  results.ce = results.policy = results.kl_term = results.entropy_term = 0;
  const float factor = rows.inverse_temperature;

  std::vector<InnerGroup> own;  // groups of one chunk, numbered from its first row
  for (size_t g = 0; g < groups.size();) {
    const int64_t first = groups[g].first;
    int64_t count = 0;
    own.clear();
    for (; g < groups.size() && count + groups[g].count <= chunk; count += groups[g++].count) {
      own.push_back({count, groups[g].count});
    }
    const View logits{scratch, count, vocabulary, DType::f32};
    const View part = hidden.rows_from(first, count);
    linear(logits, false, part, head, {}, 1);
    pool_.run(count, [&](int64_t r, int) {
      const int64_t i = first + r;
      float* const row = scratch + r * vocabulary;
      const LogSoftmax s = log_softmax_stats(kernels_, row, factor, vocabulary);
      const float logp = s.log_probability(row[rows.target[i]], factor);
      const RowLoss loss = loss_of(rows, i, static_cast<double>(logp), static_cast<double>(s.entropy));
      losses[static_cast<size_t>(r)] = loss;
      if (results.logprob) results.logprob[i] = logp;
      if (results.entropy) results.entropy[i] = s.entropy;
      if (results.ratio) results.ratio[i] = static_cast<float>(loss.ratio);
      if (results.kl) results.kl[i] = static_cast<float>(loss.kl);
      if (results.clipped) results.clipped[i] = loss.clipped;
      if (!dhidden.data && !dw.data) return;
      // d(logp_t)/d(z_j) = [j = t] - p_j and d(H)/d(z_j) = -p_j (log p_j + H), z = factor * logits.
      const auto gradient = static_cast<float>(loss.gradient);
      kernels_.softmax_gradient(row, factor, s.stats, s.log_sum, gradient,
                                static_cast<float>(at(rows.entropy_weight, i)), s.entropy, vocabulary);
      row[rows.target[i]] += gradient * factor;
    });
    for (int64_t r = 0; r < count; r++) {
      const RowLoss& loss = losses[static_cast<size_t>(r)];
      results.ce += loss.ce;
      results.policy += loss.policy;
      results.kl_term += loss.kl_term;
      results.entropy_term += loss.entropy_term;
    }
    if (dhidden.data) linear_backward_input(dhidden.rows_from(first, count), false, logits, head, 1);
    const bool grouped = head.dtype == DType::bf16 && kernels_.bf16_group > 1;
    if (dw.data) {
      add_weight_gradient(dw, logits, part, head.dtype, 1, grouped ? std::span(own) : std::span<InnerGroup>());
    }
  }
}

void CpuBackend::head_sample(std::span<SampleResult> results, View hidden, const Weight& head,
                             std::span<const SampleParams> params) {
  const auto rows = static_cast<int64_t>(results.size());
  require_shape(hidden, rows, head.cols, "head_sample: hidden must be [results, head.cols]");
  require(params.size() == results.size(), "head_sample: expected one set of parameters a row");
  const int64_t vocabulary = head.rows, chunk = rows_per_chunk(vocabulary, 2 * kernels_.bf16_group);
  float* const scratch = logits_.get(*this, std::min(rows, chunk) * vocabulary);
  const int64_t per_thread = sample_scratch_floats(vocabulary);
  float* const masses = row_scratch_.get(*this, per_thread * pool_.threads());
  for (int64_t first = 0; first < rows; first += chunk) {
    const int64_t count = std::min(chunk, rows - first);
    linear({scratch, count, vocabulary, DType::f32}, false, hidden.rows_from(first, count), head, {}, 1);
    pool_.run(count, [&](int64_t r, int thread) {
      const auto i = static_cast<size_t>(first + r);
      results[i] = sample_row(kernels_, scratch + r * vocabulary, vocabulary, params[i], masses + thread * per_thread);
    });
  }
}

}  // namespace act::cpu
