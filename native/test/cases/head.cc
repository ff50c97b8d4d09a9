// head_loss and head_sample.
#include <cmath>

#include "../harness.h"

namespace act::test {
namespace {

struct HeadCase final : Case {
  int64_t rows, vocabulary, width;
  DType dtype;
  KlEstimator kl;
  float inverse_temperature;
  HeadCase(int64_t rows, int64_t vocabulary, int64_t width, DType dtype, KlEstimator kl, float inverse_temperature)
      : rows(rows),
        vocabulary(vocabulary),
        width(width),
        dtype(dtype),
        kl(kl),
        inverse_temperature(inverse_temperature) {
    name = std::string("head ") + (dtype == DType::f32 ? "f32" : "bf16") + " " + std::to_string(rows) + "x" +
           std::to_string(vocabulary) + "x" + std::to_string(width) + " k" + std::to_string(static_cast<int>(kl) + 1);
  }
  bool differentiable() const override { return dtype == DType::f32; }

  struct Streams {
    std::vector<int32_t> target;
    std::vector<float> ce, advantage, old, low, high, policy, ref, kl, entropy;
  };
  // Old log-probabilities are set from the target's id, away from the edges of the clip range.
  Streams streams() const {
    Streams s;
    Rng rng(7);
    for (int64_t i = 0; i < rows; i++) {
      s.target.push_back(rng.below(static_cast<int32_t>(vocabulary)));
      s.ce.push_back(i % 3 == 0 ? 0.5f : 0);
      s.policy.push_back(i % 3 != 0 ? 0.7f : 0);
      s.advantage.push_back(static_cast<float>(rng.normal()));
      s.old.push_back(static_cast<float>(-std::log(static_cast<double>(vocabulary)) + 2 * rng.uniform() - 1));
      s.low.push_back(0.2f);
      s.high.push_back(0.28f);
      s.ref.push_back(static_cast<float>(-std::log(static_cast<double>(vocabulary)) + rng.uniform() - 0.5));
      s.kl.push_back(i % 2 ? 0.1f : 0);
      s.entropy.push_back(i % 4 == 1 ? 0.05f : 0);
    }
    return s;
  }
  LossRows loss_rows(const Streams& s) const {
    LossRows r;
    r.count = rows;
    r.target = s.target.data();
    r.ce_weight = s.ce.data(), r.advantage = s.advantage.data(), r.old_logprob = s.old.data();
    r.clip_low = s.low.data(), r.clip_high = s.high.data(), r.policy_weight = s.policy.data();
    r.ref_logprob = s.ref.data(), r.kl_weight = s.kl.data(), r.entropy_weight = s.entropy.data();
    r.kl = kl;
    r.inverse_temperature = inverse_temperature;
    return r;
  }
  Tensors inputs(Rng& rng) const override {
    return {random(rng, "hidden", rows, width),
            random(rng, "head", vocabulary, width, 0.5 / std::sqrt(static_cast<double>(width)))};
  }
  Tensors run(Backend& b, const Tensors& in, bool gradients) const {
    const OnDevice hidden(b, in[0]), dhidden(b, rows, width), dw(b, vocabulary, width);
    const auto head = make_weight(b, in[1], dtype);
    const Streams s = streams();
    Tensor per_row = zeros("(rows)", 5, rows), loss = zeros("loss", 1, 1), terms = zeros("(terms)", 1, 4);
    std::vector<uint8_t> clipped(static_cast<size_t>(rows));
    LossResults r;
    r.logprob = per_row.values.data(), r.entropy = r.logprob + rows, r.ratio = r.entropy + rows, r.kl = r.ratio + rows;
    r.clipped = clipped.data();
    b.head_loss(r, gradients ? dhidden.view() : View{}, gradients ? dw.view() : View{}, hidden, *head, loss_rows(s));
    for (size_t i = 0; i < clipped.size(); i++) per_row.values[4 * static_cast<size_t>(rows) + i] = clipped[i];
    loss.values[0] = static_cast<float>(r.ce + r.policy + r.kl_term + r.entropy_term);
    terms.values = {static_cast<float>(r.ce), static_cast<float>(r.policy), static_cast<float>(r.kl_term),
                    static_cast<float>(r.entropy_term)};
    if (gradients) return {dhidden.read("dhidden"), dw.read("dw")};
    return {loss, terms, per_row};
  }
  Tensors forward(Backend& b, const Tensors& in) const override { return run(b, in, false); }
  Tensors backward(Backend& b, const Tensors& in, const Tensors& seeds) const override {
    Tensors gradients = run(b, in, true);
    for (Tensor& t : gradients) {
      for (float& x : t.values) x *= seeds[0].values[0];
    }
    return gradients;
  }
  // A logit's error e is at most (2 D + 4) u |h| |w|. Log-probability and entropy move by at most 2 e (1 + log V) plus
  // the roundings of the softmax, (V / 64 + 32) u each; every loss term is at most 4 times as steep (ratios stay below
  // 4). A row of logit gradients has magnitudes adding up to at most G; with bf16 each may fall to the other neighbor,
  // 2^-8.
  Tensors bounds(Backend& reference, const Tensors& in, const Tensors& seeds) const override {
    auto largest = [&](const Tensor& t) {
      double most = 0;
      for (int64_t r = 0; r < t.rows; r++) {
        double sum = 0;
        for (int64_t c = 0; c < t.cols; c++)
          sum += std::pow(static_cast<double>(t.values[static_cast<size_t>(r * t.cols + c)]), 2);
        most = std::max(most, std::sqrt(sum));
      }
      return most;
    };
    const double h = largest(in[0]), w = largest(in[1]), log_v = 1 + std::log(static_cast<double>(vocabulary));
    const double e = (2 * static_cast<double>(width) + 4) * kRoundoff * h * w * inverse_temperature;
    const double logp = 2 * log_v * e + (static_cast<double>(vocabulary) / 64 + 32) * kRoundoff * log_v;
    Tensors all = forward(reference, in);
    const double steep = 4, each = steep * logp + 8 * kRoundoff;
    for (float& x : all[0].values) x = static_cast<float>(static_cast<double>(rows) * 2 * each);
    for (float& x : all[1].values) x = static_cast<float>(static_cast<double>(rows) * each);
    for (size_t i = 0; i < all[2].values.size(); i++) {
      all[2].values[i] =
          i >= 4 * static_cast<size_t>(rows) ? 0 : static_cast<float>(each * (1 + std::fabs(all[2].values[i])));
    }
    const double G = 2 * (0.5 + 0.7 * 4 * 3 + 0.1 * 4 + 0.05 * 2 * log_v) * inverse_temperature;
    const double relative = 4 * logp + (2 * static_cast<double>(vocabulary + rows) + 16) * kRoundoff +
                            (dtype == DType::bf16 ? 1.0 / 256 : 0);
    const double seed = std::fabs(seeds[0].values[0]);
    all.push_back(zeros("dhidden", rows, width));
    all.push_back(zeros("dw", vocabulary, width));
    for (float& x : all[3].values) x = static_cast<float>(seed * G * w * relative);
    for (float& x : all[4].values) x = static_cast<float>(seed * G * h * relative * static_cast<double>(rows));
    return all;
  }
};

}  // namespace

void head_cases(Cases& cases) {
  cases.push_back(std::make_unique<HeadCase>(9, 131, 33, DType::f32, KlEstimator::k3, 1.0f));
  cases.push_back(std::make_unique<HeadCase>(5, 64, 16, DType::f32, KlEstimator::k1, 0.8f));
  cases.push_back(std::make_unique<HeadCase>(12, 17, 8, DType::f32, KlEstimator::k2, 1.0f));
  cases.push_back(std::make_unique<HeadCase>(9, 131, 33, DType::bf16, KlEstimator::k3, 1.25f));
}

void leaves_out_what_weighs_nothing(Backend& b) {
  Rng rng(3);
  const OnDevice hidden(b, random(rng, "", 3, 24)), dhidden(b, 3, 24), dw(b, 40, 24);
  const auto head = make_weight(b, random(rng, "", 40, 24, 0.3), DType::f32);
  const std::vector<int32_t> target{1, 2, 3};
  const std::vector<float> old{-1e30f, -1e30f, 0}, ref{0, 0, 1e30f}, clip{0.2f, 0.2f, 0.2f};
  const std::vector<float> advantage{-1, 0, 1}, policy{0, 1, 0}, kl{0, 0, 0};
  for (const KlEstimator estimator : {KlEstimator::k1, KlEstimator::k2, KlEstimator::k3}) {
    LossRows rows;
    rows.count = 3;
    rows.target = target.data(), rows.advantage = advantage.data(), rows.policy_weight = policy.data();
    rows.old_logprob = old.data(), rows.clip_low = rows.clip_high = clip.data();
    rows.ref_logprob = ref.data(), rows.kl_weight = kl.data(), rows.kl = estimator;
    LossResults results;
    b.head_loss(results, dhidden.view(), dw.view(), hidden, *head, rows);
    expect(results.policy == 0 && results.kl_term == 0, "a term that weighs nothing is in the loss");
    for (const Tensor& gradient : {dhidden.read("dhidden"), dw.read("dw")}) {
      for (const float x : gradient.values) expect(x == 0, "a term that weighs nothing is in the gradient " + gradient.name);
    }
  }
}

void head_timings(std::vector<Timing>& timings) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const bool gradients : {false, true}) {
      Timing t;
      t.name = std::string("head_loss ") + (dtype == DType::f32 ? "f32" : "bf16") + " 512x49152x576" +
               (gradients ? " with gradients" : "");
      t.flops = 2.0 * 512 * 49152 * 576 * (gradients ? 3 : 1);
      t.bytes = 0;
      t.prepare = [=](Backend& b) -> std::function<void()> {
        Rng rng(1);
        struct State {
          std::unique_ptr<OnDevice> hidden, dhidden, dw;
          std::unique_ptr<Weight> head;
          std::vector<int32_t> target;
          std::vector<float> ones, logprob;
        };
        auto s = std::make_shared<State>();
        s->hidden = std::make_unique<OnDevice>(b, random(rng, "", 512, 576));
        s->dhidden = std::make_unique<OnDevice>(b, 512, 576);
        s->dw = std::make_unique<OnDevice>(b, 49152, 576);
        s->head = make_weight(b, random(rng, "", 49152, 576, 0.02), dtype);
        s->target.assign(512, 11);
        s->ones.assign(512, 1);
        s->logprob.assign(512, 0);
        return [=, &b] {
          LossRows rows;
          rows.count = 512;
          rows.target = s->target.data();
          rows.ce_weight = s->ones.data();
          LossResults r;
          r.logprob = s->logprob.data();
          b.head_loss(r, gradients ? s->dhidden->view() : View{}, gradients ? s->dw->view() : View{}, *s->hidden,
                      *s->head, rows);
        };
      };
      timings.push_back(std::move(t));
    }
    for (const float top_p : {1.0f, 0.9f}) {
      Timing t;
      t.name = std::string("head_sample ") + (dtype == DType::f32 ? "f32" : "bf16") + " 32x49152x576" +
               (top_p < 1 ? " top_p" : "");
      t.flops = 2.0 * 32 * 49152 * 576;
      t.bytes = 49152.0 * 576 * static_cast<double>(size_of(dtype));
      t.prepare = [=](Backend& b) -> std::function<void()> {
        Rng rng(1);
        auto hidden = std::make_shared<OnDevice>(b, random(rng, "", 32, 576));
        std::shared_ptr<Weight> head = make_weight(b, random(rng, "", 49152, 576, 0.1), dtype);
        return [=, &b] {
          std::vector<SampleParams> params(32);
          for (SampleParams& p : params) p.uniform = 0.4, p.top_p = top_p;
          std::vector<SampleResult> results(32);
          b.head_sample(results, *hidden, *head, params);
        };
      };
      timings.push_back(std::move(t));
    }
  }
}

}  // namespace act::test
