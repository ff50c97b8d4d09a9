#include "sampling.h"

#include <algorithm>
#include <cmath>

#include "../host.h"

namespace act::cpu {
namespace {

/// Tokens per partial sum of the inverse CDF.
constexpr int64_t kSumBlock = 256;

/// Tokens that may still be drawn, as ids into the row; `mass[i]` belongs to id(i).
struct Candidates {
  const float* logits;
  const int32_t* ids;  // null: 0 .. count - 1
  int64_t count;
  float* mass;
  int32_t id(int64_t i) const { return ids ? ids[i] : static_cast<int32_t>(i); }
  float logit(int64_t i) const { return logits[id(i)]; }
};

double sum_masses(const Kernels& k, const Candidates& c, float max, float inverse_temperature) {
  double total = 0;
  for (int64_t i = 0; i < c.count; i += kSumBlock) {
    const int64_t n = std::min(kSumBlock, c.count - i);
    if (!c.ids) {
      total += static_cast<double>(k.masses(c.mass + i, c.logits + i, max, inverse_temperature, n));
      continue;
    }
    for (int64_t j = i; j < i + n; j++) c.mass[j] = c.logit(j);
    total += static_cast<double>(k.masses(c.mass + i, c.mass + i, max, inverse_temperature, n));
  }
  return total;
}

/// The order of truncation: larger logit first, ties by lower id.
struct Better {
  const float* logits;
  bool operator()(int32_t a, int32_t b) const { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; }
};

/// The k best candidates, in no particular order.
void keep_top_k(const Candidates& c, int64_t k, std::vector<int32_t>& kept) {
  const Better better{c.logits};
  // A heap whose front is the worst kept: one comparison turns almost every token away.
  kept.clear();
  for (int64_t i = 0; i < c.count; i++) {
    const int32_t id = c.id(i);
    if (static_cast<int64_t>(kept.size()) < k) {
      kept.push_back(id);
      std::push_heap(kept.begin(), kept.end(), better);
    } else if (better(id, kept.front())) {
      std::pop_heap(kept.begin(), kept.end(), better);
      kept.back() = id;
      std::push_heap(kept.begin(), kept.end(), better);
    }
  }
}

/// The smallest set of best candidates whose mass reaches top_p of `total`. Candidates are gathered above a falling
/// threshold, so that only the few that matter are sorted.
void keep_top_p(const Candidates& c, double top_p, double total, std::vector<int32_t>& kept) {
  struct Entry {
    int32_t id;
    float mass;
  };
  std::vector<Entry> entries;
  const double wanted = top_p * total;
  for (float threshold = 1.0f / 64;; threshold = threshold < 1e-30f ? 0 : threshold / 64) {
    entries.clear();
    double sum = 0;
    for (int64_t i = 0; i < c.count; i++) {
      if (c.mass[i] < threshold) continue;
      entries.push_back({c.id(i), c.mass[i]});
      sum += static_cast<double>(c.mass[i]);
    }
    if (sum >= wanted || threshold == 0) break;
  }
  const Better better{c.logits};
  std::sort(entries.begin(), entries.end(), [&](const Entry& a, const Entry& b) { return better(a.id, b.id); });
  kept.clear();
  double sum = 0;
  for (const Entry& entry : entries) {
    if (!kept.empty() && sum >= wanted) break;
    kept.push_back(entry.id);
    sum += static_cast<double>(entry.mass);
  }
}

/// Index of the candidate at which the running mass passes `wanted`.
int64_t draw(const Candidates& c, double wanted, const Kernels& k, float max, float inverse_temperature) {
  double sum = 0;
  int64_t last = 0;  // rounding may leave `wanted` unreached: then the last candidate with any mass
  for (int64_t i = 0; i < c.count; i += kSumBlock) {
    const int64_t n = std::min(kSumBlock, c.count - i);
    float block[kSumBlock];
    for (int64_t j = 0; j < n; j++) block[j] = c.logit(i + j);
    const double after = sum + static_cast<double>(k.masses(block, block, max, inverse_temperature, n));
    if (after > wanted) {
      for (int64_t j = 0; j < n; j++) {
        if (block[j] > 0) last = i + j;
        sum += static_cast<double>(block[j]);
        if (sum > wanted) return i + j;
      }
    }
    for (int64_t j = 0; j < n; j++) {
      if (block[j] > 0) last = i + j;
    }
    sum = after;
  }
  return last;
}

}  // namespace

LogSoftmax log_softmax_stats(const Kernels& kernels, const float* logits, float factor, int64_t vocabulary) {
  LogSoftmax s{};
  s.stats = kernels.softmax_stats(logits, factor, vocabulary);
  s.log_sum = static_cast<float>(std::log(static_cast<double>(s.stats.sum)));
  s.entropy = s.log_sum - s.stats.weighted / s.stats.sum;
  return s;
}

SampleResult sample_row(const Kernels& kernels, const float* logits, int64_t vocabulary, const SampleParams& params,
                        float* scratch) {
  require(params.temperature >= 0 && params.top_p > 0 && params.top_p <= 1 && params.min_p >= 0 && params.min_p <= 1 &&
              params.top_k >= 0 && params.uniform >= 0 && params.uniform < 1,
          "head_sample: expected temperature >= 0, 0 < top_p <= 1, 0 <= min_p <= 1, top_k >= 0, 0 <= uniform < 1");
  const LogSoftmax s = log_softmax_stats(kernels, logits, 1, vocabulary);
  if (!std::isfinite(s.stats.sum) || !std::isfinite(s.stats.max)) {
    throw Error("NUMERICS", "the logits hold a NaN or an infinity; check the weights for NaN, or lower the learning rate "
                            "if this happened during training");
  }
  SampleResult result;
  result.entropy = s.entropy;
  Candidates c{logits, nullptr, vocabulary, scratch};
  float max = s.stats.max;
  if (!params.allowed.empty()) {
    for (const int32_t id : params.allowed) {
      require(id >= 0 && id < vocabulary, "head_sample: allowed id outside the vocabulary");
    }
    c.ids = params.allowed.data();
    c.count = static_cast<int64_t>(params.allowed.size());
    require(c.count <= vocabulary, "head_sample: expected ascending allowed ids");
    max = logits[params.allowed.front()];
    for (const int32_t id : params.allowed) max = std::max(max, logits[id]);
  }
  auto finish = [&](int32_t token) {
    result.token = token;
    result.logprob = s.log_probability(logits[token], 1);
    return result;
  };
  if (params.temperature == 0) {
    int64_t i = 0;
    while (c.logit(i) != max) i++;
    return finish(c.id(i));
  }

  const float inverse_temperature = 1 / params.temperature;
  const double all = sum_masses(kernels, c, max, inverse_temperature);
  double left = all;
  std::vector<int32_t> kept, narrower;
  auto narrow = [&](std::vector<int32_t>& ids) {  // candidates are now `ids`, ascending
    std::sort(ids.begin(), ids.end());
    c.ids = ids.data();
    c.count = static_cast<int64_t>(ids.size());
    left = sum_masses(kernels, c, max, inverse_temperature);
  };
  if (params.top_k > 0 && params.top_k < c.count) {
    keep_top_k(c, params.top_k, kept);
    narrow(kept);
  }
  if (params.top_p < 1) {
    keep_top_p(c, static_cast<double>(params.top_p), left, narrower);
    kept.swap(narrower);
    narrow(kept);
  }
  if (params.min_p > 0) {
    narrower.clear();
    for (int64_t i = 0; i < c.count; i++) {
      if (c.mass[i] >= params.min_p) narrower.push_back(c.id(i));
    }
    kept.swap(narrower);
    narrow(kept);
  }
  const int64_t i = draw(c, params.uniform * left, kernels, max, inverse_temperature);
  const int32_t token = c.id(i);
  const double z = (static_cast<double>(logits[token]) - static_cast<double>(max)) * static_cast<double>(inverse_temperature);
  result.sampling_logprob = static_cast<float>(z - std::log(left));
  result.kept_mass = static_cast<float>(left / all);
  return finish(token);
}

}  // namespace act::cpu
