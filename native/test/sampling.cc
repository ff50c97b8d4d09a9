// head_sample: against the reference's plain sorting, against head_loss, and at the edges.
#include <cmath>

#include "harness.h"

namespace act::test {
namespace {

struct Head {
  Tensor hidden, w;
  Head(int64_t rows, int64_t vocabulary) {
    Rng rng(17);
    hidden = random(rng, "hidden", rows, 24);
    w = random(rng, "w", vocabulary, 24, 0.6);
  }
};

std::vector<SampleResult> sample(Backend& b, const Head& h, const std::vector<SampleParams>& params,
                                 DType dtype = DType::f32) {
  const auto head = make_weight(b, h.w, dtype, false);
  const OnDevice hidden(b, h.hidden);
  std::vector<SampleResult> results(params.size());
  b.head_sample(results, hidden, *head, params);
  return results;
}

void matches_reference(Isa isa) {
  const int rows = 60;
  const Head h(rows, 1001);
  std::vector<int32_t> some;
  for (int32_t i = 3; i < 1001; i += 7) some.push_back(i);
  std::vector<SampleParams> params(rows);
  Rng rng(4);
  for (int i = 0; i < rows; i++) {
    SampleParams& p = params[static_cast<size_t>(i)];
    p.uniform = rng.uniform();
    p.temperature = i % 5 == 4 ? 0.0f : 0.5f + 0.25f * static_cast<float>(i % 4);
    p.top_k = i % 3 == 1 ? 1 + i : 0;
    p.top_p = i % 4 >= 2 ? 0.3f + 0.01f * static_cast<float>(i) : 1;
    p.min_p = i % 6 == 5 ? 0.05f : 0;
    if (i % 7 == 3) p.allowed = some;
  }
  auto reference = make_reference_backend();
  auto cpu = make_cpu_backend(2, isa);
  const auto want = sample(*reference, h, params), got = sample(*cpu, h, params);
  for (size_t i = 0; i < want.size(); i++) {
    const std::string row = "row " + std::to_string(i) + " ";
    expect(got[i].token == want[i].token, row + "token");
    // Sums of a thousand fp32 masses: (V / 16 + 16) roundings at most, logits' own errors beside.
    const double bound = (1001.0 / 16 + 16 + 100) * kRoundoff * 4;
    expect(std::fabs(got[i].logprob - want[i].logprob) <= bound * 8, row + "logprob");
    expect(std::fabs(got[i].sampling_logprob - want[i].sampling_logprob) <= bound * 8, row + "sampling_logprob");
    expect(std::fabs(got[i].kept_mass - want[i].kept_mass) <= bound, row + "kept_mass");
    expect(std::fabs(got[i].entropy - want[i].entropy) <= bound * 8, row + "entropy");
  }
}

/// The log-probability of the drawn token is the very number that head_loss reports for it: the ratio is 1.
void equals_loss(Isa isa, DType dtype) {
  const int rows = 33;
  const Head h(rows, 2003);
  auto b = make_cpu_backend(2, isa);
  std::vector<SampleParams> params(rows);
  Rng rng(8);
  for (SampleParams& p : params) p.uniform = rng.uniform();
  const auto sampled = sample(*b, h, params, dtype);
  const auto head = make_weight(*b, h.w, dtype, false);
  for (int i = 0; i < rows; i++) {
    Tensor one = zeros("", 1, 24);
    std::copy_n(h.hidden.values.begin() + i * 24, 24, one.values.begin());
    const OnDevice hidden(*b, one);
    const SampleResult& s = sampled[static_cast<size_t>(i)];
    const float weight = 1, advantage = 1.5f, clip = 0.2f;
    float logprob = 0, entropy = 0, ratio = 0;
    LossRows loss;
    loss.count = 1, loss.target = &s.token, loss.policy_weight = &weight, loss.advantage = &advantage;
    loss.old_logprob = &s.logprob, loss.clip_low = &clip, loss.clip_high = &clip;
    LossResults r;
    r.logprob = &logprob, r.entropy = &entropy, r.ratio = &ratio;
    b->head_loss(r, {}, {}, hidden, *head, loss);
    expect(logprob == s.logprob && entropy == s.entropy && ratio == 1,
           "row " + std::to_string(i) + " differs from head_loss");
    expect(s.sampling_logprob == s.logprob && s.kept_mass == 1, "untruncated at temperature 1 both are one number");
  }
}

/// Greedy takes the lowest id among equals; a uniform near 1 ends at the last token with mass; NaN draws none.
void edges(Isa isa) {
  auto b = make_cpu_backend(2, isa);
  Head h(2, 100);
  h.hidden = zeros("hidden", 2, 24);
  h.hidden.values[0] = h.hidden.values[24] = 1;
  for (int64_t n = 0; n < 100; n++)
    h.w.values[static_cast<size_t>(n * 24)] = n == 40 || n == 71 ? 2.0f : n > 90 ? -200.0f : 0.5f;
  std::vector<SampleParams> params(2);
  params[0].temperature = 0;
  params[1].uniform = 1 - 0x1p-53;
  auto results = sample(*b, h, params);
  expect(results[0].token == 40, "greedy must take the lowest of equal ids");
  expect(results[0].sampling_logprob == 0 && results[0].kept_mass == 1, "greedy draws with certainty");
  expect(results[1].token == 90, "the last token with any mass ends the distribution");
  params[0].temperature = 1, params[0].top_k = 1, params[0].uniform = 0.999;
  params[1].top_k = 0, params[1].top_p = 1e-6f;
  results = sample(*b, h, params);
  expect(results[0].token == 40 && results[1].token == 40, "ties are cut at the lower id");
  expect(results[0].sampling_logprob == 0 && results[0].kept_mass < 0.1f, "one kept token is certain");
  // Of two rows only the first overflows.
  h.w.values[24 * 5] = 3e38f;
  h.hidden.values[0] = 2;
  results = sample(*b, h, params);
  expect(results[0].token == -1, "logits that overflow must not be sampled from");
  expect(results[1].token == 5, "a row beside one that overflows");
  h.w.values[24 * 5] = NAN;
  results = sample(*b, h, params);
  expect(results[0].token == -1 && results[1].token == -1, "NaN logits must not be sampled from");
}

/// Frequencies of 4000 draws against the probabilities, five standard deviations.
void follows_distribution() {
  auto b = make_cpu_backend(2);
  const int draws = 4000;
  Head h(draws, 12);
  for (int i = 1; i < draws; i++) std::copy_n(h.hidden.values.begin(), 24, h.hidden.values.begin() + i * 24);
  std::vector<SampleParams> params(draws);
  Rng rng(77);
  for (SampleParams& p : params) p.uniform = rng.uniform(), p.temperature = 1.5f;
  std::vector<int> count(12);
  std::vector<double> p(12);
  for (const SampleResult& r : sample(*b, h, params)) {
    count[static_cast<size_t>(r.token)]++;
    p[static_cast<size_t>(r.token)] = std::exp(static_cast<double>(r.sampling_logprob));
  }
  for (size_t i = 0; i < 12; i++) {
    const double sigma = std::sqrt(draws * p[i] * (1 - p[i]));
    expect(std::fabs(count[i] - draws * p[i]) <= 5 * sigma + 1e-9,
           "token " + std::to_string(i) + " is drawn too often or too rarely");
  }
}

}  // namespace

void sampling_checks(std::vector<Check>& checks) {
  for (const Isa isa : available_isas()) {
    checks.push_back({"sampling matches the reference " + isa_name(isa), [=] { matches_reference(isa); }});
    checks.push_back({"sampling log-probs are the loss's f32 " + isa_name(isa), [=] { equals_loss(isa, DType::f32); }});
    checks.push_back(
        {"sampling log-probs are the loss's bf16 " + isa_name(isa), [=] { equals_loss(isa, DType::bf16); }});
    checks.push_back({"sampling at the edges " + isa_name(isa), [=] { edges(isa); }});
  }
  checks.push_back({"sampling follows the distribution", follows_distribution});
  checks.push_back({"what weighs nothing is left out of the loss", [] {
                      leaves_out_what_weighs_nothing(*make_cpu_backend(2));
                      leaves_out_what_weighs_nothing(*make_reference_backend());
                    }});
}

}  // namespace act::test
