// adamw, adamw_compact and the sums over gradients.
#include <cmath>

#include "../../ops/compact.h"
#include "../../ops/floats.h"
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

/// All backends have the same bits: bounds are zero.
struct CompactCase final : Case {
  int64_t rows, cols;
  CompactCase(int64_t rows, int64_t cols) : rows(rows), cols(cols) {
    name = "adamw_compact " + std::to_string(rows) + "x" + std::to_string(cols);
  }
  Tensors inputs(Rng& rng) const override { return {random(rng, "w", rows, cols, 0.1), random(rng, "g", rows, cols)}; }
  Tensors forward(Backend& b, const Tensors& in) const override { return compact_steps(b, in[0], in[1], Place::device); }
  Tensors bounds(Backend& reference, const Tensors& in, const Tensors& seeds) const override {
    Tensors out = forward(reference, in);
    for (Tensor& t : out) t = zeros("(bits)", t.rows, t.cols);
    return out;
  }
  bool differentiable() const override { return false; }
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

Tensors compact_steps(Backend& b, const Tensor& weight, const Tensor& gradient, Place place) {
  const int64_t rows = weight.rows, cols = weight.cols, blocks = compact::blocks(rows * cols);
  const auto w = make_weight(b, weight, DType::bf16, false);
  const Buffer codes1(b, rows, cols, DType::u8, place), codes2(b, rows, cols, DType::u8, place);
  const Buffer scales1(b, 1, blocks, DType::f32, place), scales2(b, 1, blocks, DType::f32, place);
  for (int step = 1; step <= 4; step++) {
    Tensor g = gradient;  // of many sizes in one block, with zeros; a first block of zeros only; a small second step
    for (size_t i = 0; i < g.values.size(); i++) {
      const bool zero = i % 7 == 0 || (step < 3 && i < 256 && g.values.size() > 256);
      g.values[i] = zero ? 0.0f : std::ldexp(g.values[i], -static_cast<int>(i % 40) - (step == 2 ? 13 : 0));
    }
    const OnDevice on_device(b, g);
    b.adamw_compact(*w, on_device, {codes1.view(), scales1.view(), codes2.view(), scales2.view()},
                    {1e-2f, 0.9f, 0.95f, 1e-8f, 0.1f, step, 0.75f}, 0x123456789abcdefull);
  }
  const auto count = static_cast<size_t>(rows * cols);
  std::vector<uint16_t> bits(count);
  b.read_weight(*w, bits.data());
  Tensors all{zeros("w", rows, cols)};
  for (size_t i = 0; i < count; i++) all[0].values[i] = bf16_to_float(bits[i]);
  for (const Buffer* codes : {&codes1, &codes2}) {
    std::vector<uint8_t> bytes(count);
    b.download(bytes.data(), codes->view());
    all.push_back(zeros("codes", rows, cols));
    all.back().values.assign(bytes.begin(), bytes.end());
  }
  for (const Buffer* scales : {&scales1, &scales2}) {
    all.push_back(zeros("scales", 1, blocks));
    b.download(all.back().values.data(), scales->view());
  }
  return all;
}

void optimizer_cases(Cases& cases) {
  cases.push_back(std::make_unique<AdamWCase>());
  for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{1, 1}, {3, 85}, {2, 128}, {7, 111}, {130, 128}}) {
    cases.push_back(std::make_unique<CompactCase>(rows, cols));
  }
  cases.push_back(std::make_unique<SumCase>());
}

}  // namespace act::test
