#include "sampling.h"

#include <algorithm>
#include <cmath>

#include "../host.h"

namespace act::cpu {
namespace {

/// Tokens that may still be drawn, as ids into the row; `mass[i]` belongs to id(i).
struct Candidates {
  const float* logits;
  const int32_t* ids;  // null: 0 .. count - 1
  int64_t count;
  float* mass;
  float* sums;  // of every kSumBlock masses
  int32_t id(int64_t i) const { return ids ? ids[i] : static_cast<int32_t>(i); }
  float logit(int64_t i) const { return logits[id(i)]; }
};

/// Fills masses and sums; returns the sum of all.
double sum_masses(const Kernels& k, const Candidates& c, float max, float inverse_temperature) {
  double total = 0;
  for (int64_t i = 0; i < c.count; i += kSumBlock) {
    const int64_t n = std::min(kSumBlock, c.count - i);
    for (int64_t j = i; c.ids && j < i + n; j++) c.mass[j] = c.logit(j);
    float& sum = c.sums[i / kSumBlock];
    sum = k.masses(c.mass + i, c.ids ? c.mass + i : c.logits + i, max, inverse_temperature, n);
    total += static_cast<double>(sum);
  }
  return total;
}

struct Entry {
  float logit, mass;
  int32_t id;
};
/// The order of truncation: larger logit first, ties by lower id.
bool better(const Entry& a, const Entry& b) { return a.logit != b.logit ? a.logit > b.logit : a.id < b.id; }

/// The worst of the k best candidates, 0 < k <= count.
Entry last_of_top_k(const Candidates& c, int64_t k) {
  std::vector<Entry> heap;  // its front is the worst kept: one comparison turns almost every token away
  for (int64_t i = 0; i < c.count; i++) {
    const Entry entry{c.logit(i), c.mass[i], c.id(i)};
    if (static_cast<int64_t>(heap.size()) < k) {
      heap.push_back(entry);
      std::push_heap(heap.begin(), heap.end(), better);
    } else if (better(entry, heap.front())) {
      std::pop_heap(heap.begin(), heap.end(), better);
      heap.back() = entry;
      std::push_heap(heap.begin(), heap.end(), better);
    }
  }
  return heap.front();
}

/// The worst of the smallest set of best candidates whose mass reaches top_p of `total`. Candidates are gathered above
/// a falling threshold of mass, so that few are looked at twice, and a selection halves the range that holds the one
/// looked for, so that nothing is sorted.
Entry last_of_top_p(const Candidates& c, double top_p, double total) {
  std::vector<Entry> entries;
  double wanted = top_p * total;
  for (float threshold = 1.0f / 16;; threshold = threshold < 1e-30f ? 0 : threshold / 16) {
    entries.clear();
    double mass = 0;
    for (int64_t i = 0; i < c.count; i++) {
      if (c.mass[i] < threshold) continue;
      entries.push_back({c.logit(i), c.mass[i], c.id(i)});
      mass += static_cast<double>(c.mass[i]);
    }
    if (mass >= wanted || threshold == 0) break;
  }
  auto first = entries.begin(), last = entries.end();  // the entry is in between; `wanted` counts from first on
  while (last - first > 1) {
    const auto middle = first + (last - first) / 2;
    std::nth_element(first, middle, last, better);
    double mass = 0;
    for (auto e = first; e != middle; e++) mass += static_cast<double>(e->mass);
    if (mass >= wanted) {
      last = middle;
    } else {
      wanted -= mass;
      first = middle;
    }
  }
  return *first;
}

/// Index of the candidate at which the running mass passes `wanted`.
int64_t draw(const Candidates& c, double wanted) {
  double sum = 0;
  for (int64_t i = 0; i < c.count; i += kSumBlock) {
    const double after = sum + static_cast<double>(c.sums[i / kSumBlock]);
    const int64_t end = after > wanted ? std::min(c.count, i + kSumBlock) : i;
    for (int64_t j = i; j < end; j++) {
      sum += static_cast<double>(c.mass[j]);
      if (sum > wanted) return j;
    }
    sum = after;
  }
  int64_t last = c.count - 1;  // rounding left `wanted` unreached: the last candidate with any mass
  while (last > 0 && !(c.mass[last] > 0)) last--;
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
  SampleResult result;
  const LogSoftmax s = log_softmax_stats(kernels, logits, 1, vocabulary);
  if (!std::isfinite(s.stats.sum) || !std::isfinite(s.stats.max)) return result;
  result.entropy = s.entropy;
  Candidates c{logits, nullptr, vocabulary, scratch, scratch + vocabulary};
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
  auto narrow = [&](auto keep) {  // to the candidates that keep(i) accepts, still ascending
    narrower.clear();
    for (int64_t i = 0; i < c.count; i++) {
      if (keep(i)) narrower.push_back(c.id(i));
    }
    kept.swap(narrower);
    c.ids = kept.data();
    c.count = static_cast<int64_t>(kept.size());
    left = sum_masses(kernels, c, max, inverse_temperature);
  };
  auto cut_after = [&](const Entry& last) {
    narrow([&](int64_t i) { return !better(last, {c.logit(i), c.mass[i], c.id(i)}); });
  };
  if (params.top_k > 0 && params.top_k < c.count) cut_after(last_of_top_k(c, params.top_k));
  if (params.top_p < 1) cut_after(last_of_top_p(c, static_cast<double>(params.top_p), left));
  if (params.min_p > 0) narrow([&](int64_t i) { return c.mass[i] >= params.min_p; });
  const int32_t token = c.id(draw(c, params.uniform * left));
  finish(token);
  result.kept_mass = static_cast<float>(left / all);
  const double z =
      (static_cast<double>(logits[token]) - static_cast<double>(max)) * static_cast<double>(inverse_temperature);
  result.sampling_logprob =
      params.from_policy(vocabulary) ? result.logprob : static_cast<float>(z - std::log(left));
  return result;
}

}  // namespace act::cpu
