// adamw and the sums over gradients.
#include <cmath>

#include "../harness.h"

namespace act::test {
namespace {

struct AdamWCase final : Case {
  AdamW options{1e-3f, 0.9f, 0.999f, 1e-8f, 0.1f, 3, 0.5f};
  AdamWCase() { name = "adamw 3x45"; }
  Tensors inputs(Rng& rng) const override {
    return {random(rng, "p", 3, 45), random(rng, "g", 3, 45), random(rng, "m", 3, 45, 0.1),
            absolute(random(rng, "v", 3, 45, 0.01))};
  }
  Tensors forward(Backend& b, const Tensors& in) const override {
    const OnDevice p(b, in[0]), g(b, in[1]), m(b, in[2]), v(b, in[3]);
    b.adamw(p, g, m, v, options);
    return {p.read("p"), m.read("m"), v.read("v")};
  }
  // Two or three roundings a step. Where the two terms of a moment cancel the error is that of the terms.
  Tensors bounds(Backend& reference, const Tensors& in, const Tensors& seeds) const override {
    Tensors out = forward(reference, in);
    const double c1 = 1 - std::pow(static_cast<double>(options.beta1), 3),
                 c2 = 1 - std::pow(static_cast<double>(options.beta2), 3);
    for (size_t i = 0; i < out[0].values.size(); i++) {
      const double g = std::fabs(in[1].values[i]) * options.grad_scale,
                   terms = 0.9 * std::fabs(in[2].values[i]) + 0.1 * g;
      const double step =
          options.learning_rate * (0.1 * std::fabs(in[0].values[i]) + terms / c1 / std::sqrt(out[2].values[i] / c2));
      // 1 - beta is rounded: relative error u / (1 - beta) of its own.
      out[0].values[i] =
          static_cast<float>(2 * kRoundoff * std::fabs(in[0].values[i]) + step * (16 + 2 / 0.001) * kRoundoff);
      out[1].values[i] = static_cast<float>(terms * (6 + 2 / 0.1) * kRoundoff);
      out[2].values[i] = static_cast<float>(out[2].values[i] * (6 + 2 / 0.001) * kRoundoff);
    }
    return out;
  }
};

struct SumCase final : Case {
  SumCase() { name = "sum_of_squares, has_nonfinite 3x47003"; }
  Tensors inputs(Rng& rng) const override { return {random(rng, "x", 3, 47003)}; }
  Tensors forward(Backend& b, const Tensors& in) const override {
    const OnDevice x(b, in[0]);
    Tensor out = zeros("sum", 1, 5);
    out.values[0] = static_cast<float>(b.sum_of_squares(x));
    out.values[1] = b.has_nonfinite(x);
    for (const size_t at : {size_t{0}, in[0].values.size() - 1, size_t{70001}}) {
      Tensor bad = in[0];
      bad.values[at] = at ? NAN : -INFINITY;
      const OnDevice y(b, bad);
      out.values[2 + at % 3] += b.has_nonfinite(y);
    }
    return {out};
  }
  Tensors bounds(Backend& reference, const Tensors& in, const Tensors& seeds) const override {
    Tensor t = zeros("sum", 1, 5);
    t.values[0] = static_cast<float>(2 * kRoundoff * forward(reference, in)[0].values[0]);
    return {t};
  }
};

}  // namespace

void optimizer_cases(Cases& cases) {
  cases.push_back(std::make_unique<AdamWCase>());
  cases.push_back(std::make_unique<SumCase>());
}

}  // namespace act::test
