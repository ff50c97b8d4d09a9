// Language-model head of the reference backend: loss rows and sampling, one row of logits at a time.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "../floats.h"
#include "reference.h"

namespace act {
namespace {

double at(const float* stream, int64_t i) { return stream ? stream[i] : 0; }
/// Logits of one hidden row as the backend computes them: fp32 values from double sums.
std::vector<double> logits_of(const float* hidden, const ReferenceWeight& w) {
  std::vector<double> logits(static_cast<size_t>(w.rows));
  for (int64_t n = 0; n < w.rows; n++) {
    double sum = 0;
    for (int64_t k = 0; k < w.cols; k++) {
      const double x = w.dtype == DType::bf16 ? round_to_bf16(hidden[k]) : hidden[k];
      sum += x * w.values.view().as<float>()[n * w.cols + k];
    }
    logits[static_cast<size_t>(n)] = static_cast<float>(sum);
  }
  return logits;
}

/// log softmax(logits * factor).
std::vector<double> log_softmax(std::vector<double> logits, double factor) {
  for (double& x : logits) x *= factor;
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (double x : logits) sum += std::exp(x - top);
  for (double& x : logits) x -= top + std::log(sum);
  return logits;
}

double entropy_of(const std::vector<double>& logp) {
  double h = 0;
  for (double x : logp) h -= std::exp(x) * x;
  return h;
}

}  // namespace

void ReferenceBackend::head_loss(LossResults& results, View dhidden, View dw, View hidden, const Weight& head,
                                 const LossRows& rows) {
  const auto& w = static_cast<const ReferenceWeight&>(head);
  require_shape(hidden, rows.count, w.cols, "head_loss: hidden must be [rows.count, head.cols]");
  results.ce = results.policy = results.kl_term = results.entropy_term = 0;
  std::vector<double> dw_sum(dw.data ? static_cast<size_t>(dw.size()) : 0);
  for (int64_t i = 0; i < rows.count; i++) {
    const std::vector<double> logp =
        log_softmax(logits_of(hidden.as<float>() + i * w.cols, w), rows.inverse_temperature);
    require(rows.target[i] >= 0 && rows.target[i] < w.rows, "head_loss: target outside the vocabulary");
    const auto target = static_cast<size_t>(rows.target[i]);
    const double lp = static_cast<float>(logp[target]), entropy = entropy_of(logp);
    const double ce_weight = at(rows.ce_weight, i), policy_weight = at(rows.policy_weight, i);
    const double kl_weight = at(rows.kl_weight, i), entropy_weight = at(rows.entropy_weight, i);
    double gradient = -ce_weight;  // d(loss) / d(logp)

    const double ratio = rows.old_logprob ? std::exp(lp - rows.old_logprob[i]) : 1;
    const double advantage = at(rows.advantage, i);
    const double low = 1 - at(rows.clip_low, i), high = 1 + at(rows.clip_high, i);
    const double free = weighted(advantage, ratio), bounded = std::clamp(ratio, low, high) * advantage;
    const bool clipped = bounded < free;
    if (!clipped) gradient -= weighted(policy_weight, free);

    const double difference = rows.ref_logprob ? lp - rows.ref_logprob[i] : 0;
    double kl = 0, kl_gradient = 0;
    switch (rows.kl) {
      case KlEstimator::k1: kl = difference, kl_gradient = 1; break;
      case KlEstimator::k2: kl = difference * difference / 2, kl_gradient = difference; break;
      case KlEstimator::k3: kl = std::exp(-difference) + difference - 1, kl_gradient = 1 - std::exp(-difference); break;
    }
    gradient += weighted(kl_weight, kl_gradient);

    results.ce -= ce_weight * lp;
    results.policy -= weighted(policy_weight, std::min(free, bounded));
    results.kl_term += weighted(kl_weight, kl);
    results.entropy_term -= entropy_weight * entropy;
    if (results.logprob) results.logprob[i] = static_cast<float>(lp);
    if (results.entropy) results.entropy[i] = static_cast<float>(entropy);
    if (results.ratio) results.ratio[i] = static_cast<float>(ratio);
    if (results.kl) results.kl[i] = static_cast<float>(kl);
    if (results.clipped) results.clipped[i] = clipped && policy_weight != 0;

    if (!dhidden.data) continue;
    // d(logp_t)/d(z_j) = [j = t] - p_j and d(H)/d(z_j) = -p_j (log p_j + H), z the scaled logits.
    std::vector<double> dlogits(logp.size());
    for (size_t j = 0; j < logp.size(); j++) {
      const double p = std::exp(logp[j]);
      const double d = gradient * ((j == target ? 1 : 0) - p) + entropy_weight * p * (logp[j] + entropy);
      const float rounded = static_cast<float>(d * rows.inverse_temperature);
      dlogits[j] = w.dtype == DType::bf16 ? round_to_bf16(rounded) : rounded;
    }
    for (int64_t k = 0; k < w.cols; k++) {
      double sum = 0;
      for (size_t j = 0; j < logp.size(); j++) {
        sum += dlogits[j] * w.values.view().as<float>()[static_cast<int64_t>(j) * w.cols + k];
      }
      dhidden.as<float>()[i * w.cols + k] = static_cast<float>(sum);
      if (!dw.data) continue;
      const float raw = hidden.as<float>()[i * w.cols + k];
      const double x = w.dtype == DType::bf16 ? round_to_bf16(raw) : raw;
      for (size_t j = 0; j < logp.size(); j++)
        dw_sum[j * static_cast<size_t>(w.cols) + static_cast<size_t>(k)] += dlogits[j] * x;
    }
  }
  for (size_t i = 0; i < dw_sum.size(); i++) dw.as<float>()[i] += static_cast<float>(dw_sum[i]);
}

void ReferenceBackend::head_sample(std::span<SampleResult> results, View hidden, const Weight& head,
                                   std::span<const SampleParams> params) {
  const auto& w = static_cast<const ReferenceWeight&>(head);
  require(static_cast<int64_t>(results.size()) == hidden.rows && params.size() == results.size(),
          "head_sample: expected one result and one set of parameters a row");
  for (size_t i = 0; i < results.size(); i++) {
    const SampleParams& p = params[i];
    SampleResult& result = results[i];
    const std::vector<double> logits = logits_of(hidden.as<float>() + static_cast<int64_t>(i) * w.cols, w);
    const std::vector<double> logp = log_softmax(logits, 1);
    result = {};
    if (!std::isfinite(logp.front())) continue;
    result.entropy = static_cast<float>(entropy_of(logp));

    std::vector<int32_t> kept(p.allowed.begin(), p.allowed.end());
    if (kept.empty()) {
      kept.resize(logits.size());
      std::iota(kept.begin(), kept.end(), 0);
    }
    for (int32_t id : kept) require(id >= 0 && id < w.rows, "head_sample: allowed id outside the vocabulary");
    auto logit = [&](int32_t id) { return logits[static_cast<size_t>(id)]; };
    // Most probable first, ties by lower id.
    std::stable_sort(kept.begin(), kept.end(), [&](int32_t a, int32_t b) { return logit(a) > logit(b); });
    if (p.temperature == 0) {
      result.token = kept.front();
      result.logprob = static_cast<float>(logp[static_cast<size_t>(result.token)]);
      result.sampling_logprob = 0;
      result.kept_mass = 1;
      continue;
    }
    const double top = logit(kept.front());
    auto mass = [&](int32_t id) { return std::exp((logit(id) - top) / p.temperature); };
    auto total = [&] {
      double sum = 0;
      for (int32_t id : kept) sum += mass(id);
      return sum;
    };
    const double all = total();
    if (p.top_k > 0 && static_cast<size_t>(p.top_k) < kept.size()) kept.resize(static_cast<size_t>(p.top_k));
    if (p.top_p < 1) {
      const double wanted = p.top_p * total();
      double sum = 0;
      size_t count = 0;
      while (count < kept.size() && (count == 0 || sum < wanted)) sum += mass(kept[count++]);
      kept.resize(count);
    }
    if (p.min_p > 0) std::erase_if(kept, [&](int32_t id) { return mass(id) < p.min_p; });
    std::sort(kept.begin(), kept.end());
    const double left = total();
    double sum = 0;
    for (int32_t id : kept) {
      sum += mass(id);
      result.token = id;
      if (sum > p.uniform * left) break;
    }
    result.logprob = static_cast<float>(logp[static_cast<size_t>(result.token)]);
    result.sampling_logprob =
        p.from_policy(w.rows) ? result.logprob : static_cast<float>(std::log(mass(result.token) / left));
    result.kept_mass = static_cast<float>(left / all);
  }
}

size_t ReferenceBackend::head_scratch_bytes(int64_t vocabulary, int64_t) const {
  return static_cast<size_t>(vocabulary) * sizeof(double) * 3;
}

}  // namespace act
