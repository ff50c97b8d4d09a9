// embed, rms_norm, rope, swiglu, add, scale.
#include <cmath>

#include "../harness.h"

namespace act::test {
namespace {

Tensor times(Tensor t, double factor) {
  for (float& x : t.values) x = static_cast<float>(std::fabs(x) * factor);
  return t;
}

struct EmbedCase final : Case {
  DType dtype;
  bool trainable;
  std::vector<int32_t> ids;
  EmbedCase(DType dtype, bool trainable) : dtype(dtype), trainable(trainable), ids{3, 0, 6, 3, 3, 1} {
    name = std::string("embed ") + (dtype == DType::f32 ? "f32" : "bf16") + (trainable ? "" : " frozen");
  }
  bool differentiable() const override { return dtype == DType::f32; }
  Tensors inputs(Rng& rng) const override { return {random(rng, "w", 7, 131)}; }
  Tensors forward(Backend& b, const Tensors& in) const override {
    const auto w = make_weight(b, in[0], dtype, trainable);
    const OnDevice out(b, static_cast<int64_t>(ids.size()), 131);
    b.embed(out, *w, ids);
    return {out.read("out")};
  }
  Tensors backward(Backend& b, const Tensors& in, const Tensors& seeds) const override {
    const OnDevice dw(b, 7, 131), dout(b, seeds[0]);
    b.embed_backward(dw, dout, ids);
    return {dw.read("dw")};
  }
  // Copies, and sums in one prescribed order: exact.
  Tensors bounds(Backend& reference, const Tensors& in, const Tensors& seeds) const override {
    return {zeros("out", static_cast<int64_t>(ids.size()), 131), zeros("dw", 7, 131)};
  }
};

struct RmsNormCase final : Case {
  int64_t rows, cols;
  RmsNormCase(int64_t rows, int64_t cols) : rows(rows), cols(cols) {
    name = "rms_norm " + std::to_string(rows) + "x" + std::to_string(cols);
  }
  Tensors inputs(Rng& rng) const override { return {random(rng, "x", rows, cols), random(rng, "weight", 1, cols)}; }
  Tensors forward(Backend& b, const Tensors& in) const override {
    const OnDevice x(b, in[0]), w(b, in[1]), y(b, rows, cols), rstd(b, rows, 1);
    b.rms_norm(y, rstd, x, w, 1e-5f);
    return {y.read("y"), rstd.read("(rstd)")};
  }
  Tensors backward(Backend& b, const Tensors& in, const Tensors& seeds) const override {
    const OnDevice x(b, in[0]), w(b, in[1]), dy(b, seeds[0]), y(b, rows, cols), rstd(b, rows, 1);
    const OnDevice dx(b, rows, cols), dw(b, 1, cols);
    b.rms_norm(y, rstd, x, w, 1e-5f);
    b.rms_norm_backward(dx, true, dw, dy, x, rstd, w);
    return {dx.read("dx"), dw.read("dweight")};
  }
  // The sum of squares has positive terms only: relative error at most (cols + 8) u, half of it in rstd.
  Tensors bounds(Backend& reference, const Tensors& in, const Tensors& seeds) const override {
    const Tensors out = forward(reference, in);
    const double relative = static_cast<double>(cols + 16) * kRoundoff;
    Tensor dx = zeros("dx", rows, cols), dw = zeros("dweight", 1, cols);
    for (int64_t t = 0; t < rows; t++) {
      const double r = out[1].values[static_cast<size_t>(t)];
      double dot = 0;
      auto at = [&](const Tensor& x, int64_t c) {
        return std::fabs(static_cast<double>(x.values[static_cast<size_t>(t * cols + c)]));
      };
      for (int64_t c = 0; c < cols; c++)
        dot += at(seeds[0], c) * std::fabs(in[1].values[static_cast<size_t>(c)]) * at(in[0], c);
      for (int64_t c = 0; c < cols; c++) {
        const auto i = static_cast<size_t>(t * cols + c);
        const double g = at(seeds[0], c) * std::fabs(in[1].values[static_cast<size_t>(c)]);
        dx.values[i] =
            static_cast<float>(3 * relative * r * (g + at(in[0], c) * r * r * dot / static_cast<double>(cols)));
        dw.values[static_cast<size_t>(c)] += static_cast<float>((relative + 2 * static_cast<double>(rows) * kRoundoff) *
                                                                at(seeds[0], c) * at(in[0], c) * r);
      }
    }
    return {times(out[0], relative), times(out[1], relative), dx, dw};
  }
};

struct RopeCase final : Case {
  int head_dim;
  float factor;
  std::vector<int32_t> positions{0, 1, 700, 3, 255, 256};
  std::vector<float> inv_freq;
  RopeCase(int head_dim, float factor) : head_dim(head_dim), factor(factor) {
    name = "rope d=" + std::to_string(head_dim) + (factor != 1 ? " factor" : "");
    for (int i = 0; i < head_dim / 2; i++)
      inv_freq.push_back(static_cast<float>(std::pow(10000.0, -2.0 * i / head_dim)));
  }
  Tensors inputs(Rng& rng) const override { return {random(rng, "x", 6, 3 * head_dim)}; }
  Tensors turn(Backend& b, const Tensor& x, bool inverse) const {
    const OnDevice y(b, x);
    b.rope(y, head_dim, positions, inv_freq, factor, inverse);
    return {y.read(inverse ? "dx" : "y")};
  }
  Tensors forward(Backend& b, const Tensors& in) const override { return turn(b, in[0], false); }
  Tensors backward(Backend& b, const Tensors& in, const Tensors& seeds) const override {
    return turn(b, seeds[0], true);
  }
  Tensors bounds(Backend& reference, const Tensors& in, const Tensors& seeds) const override {
    auto bound = [&](const Tensor& x) {  // four roundings of terms no larger than |a| + |b|
      Tensor t = zeros("", x.rows, x.cols);
      for (int64_t i = 0; i < x.rows * x.cols; i++) {
        const int64_t within = i % head_dim, other = within < head_dim / 2 ? i + head_dim / 2 : i - head_dim / 2;
        t.values[static_cast<size_t>(i)] = static_cast<float>(
            4 * kRoundoff * factor *
            (std::fabs(x.values[static_cast<size_t>(i)]) + std::fabs(x.values[static_cast<size_t>(other)])));
      }
      return t;
    };
    return {bound(in[0]), bound(seeds[0])};
  }
};

struct SwigluCase final : Case {
  SwigluCase() { name = "swiglu 5x77"; }
  Tensors inputs(Rng& rng) const override {
    Tensor gate = random(rng, "gate", 5, 77, 3);
    gate.values[0] = -120, gate.values[1] = 120, gate.values[2] = 0;
    return {gate, random(rng, "up", 5, 77)};
  }
  Tensors forward(Backend& b, const Tensors& in) const override {
    const OnDevice gate(b, in[0]), up(b, in[1]), y(b, 5, 77);
    b.swiglu(y, gate, up);
    return {y.read("y")};
  }
  Tensors backward(Backend& b, const Tensors& in, const Tensors& seeds) const override {
    const OnDevice gate(b, in[0]), up(b, in[1]), dy(b, seeds[0]);
    b.swiglu_backward(gate, up, dy, gate, up);  // in place, as the engine calls it
    return {gate.read("dgate"), up.read("dup")};
  }
  // exp and a division: below 4 roundings; every other step one. Below the normal range: one subnormal step.
  Tensors bounds(Backend& reference, const Tensors& in, const Tensors& seeds) const override {
    Tensor y = zeros("y", 5, 77), dgate = y, dup = y;
    for (size_t i = 0; i < y.values.size(); i++) {
      const double g = in[0].values[i], u = std::fabs(in[1].values[i]), d = std::fabs(seeds[0].values[i]);
      const double s = 1 / (1 + std::exp(-g)), tiny = 1.5e-45;
      y.values[i] = static_cast<float>(8 * kRoundoff * std::fabs(g) * s * u + tiny);
      dup.values[i] = static_cast<float>(8 * kRoundoff * d * std::fabs(g) * s + tiny);
      dgate.values[i] = static_cast<float>(12 * kRoundoff * d * u * s * (1 + std::fabs(g) * (1 - s)) + tiny);
    }
    return {y, dgate, dup};
  }
};

struct AddScaleCase final : Case {
  AddScaleCase() { name = "add, scale 3x41"; }
  Tensors inputs(Rng& rng) const override { return {random(rng, "y", 3, 41), random(rng, "x", 3, 41)}; }
  Tensors forward(Backend& b, const Tensors& in) const override {
    const OnDevice y(b, in[0]), x(b, in[1]);
    b.add(y, x);
    b.scale(y, 0.3f);
    return {y.read("y")};
  }
  Tensors bounds(Backend& reference, const Tensors& in, const Tensors& seeds) const override {
    return {zeros("y", 3, 41)};  // the same two fp32 operations
  }
};

template <class Call>
void add_layer_timing(std::vector<Timing>& timings, const char* name, int64_t rows, int64_t cols, double arrays,
                      Call call) {
  timings.push_back({std::string(name) + " " + std::to_string(rows) + "x" + std::to_string(cols), 0,
                     arrays * 4 * static_cast<double>(rows * cols), [=](Backend& b) -> std::function<void()> {
                       Rng rng(1);
                       std::vector<std::shared_ptr<OnDevice>> t;
                       for (int i = 0; i < 4; i++)
                         t.push_back(std::make_shared<OnDevice>(b, random(rng, "", rows, cols, 0.1)));
                       return [=, &b] { call(b, *t[0], *t[1], *t[2], *t[3]); };
                     }});
}

}  // namespace

void layer_cases(Cases& cases) {
  cases.push_back(std::make_unique<EmbedCase>(DType::f32, true));
  cases.push_back(std::make_unique<EmbedCase>(DType::bf16, true));
  cases.push_back(std::make_unique<EmbedCase>(DType::bf16, false));
  for (const int64_t cols : {1, 16, 64, 147}) cases.push_back(std::make_unique<RmsNormCase>(7, cols));
  cases.push_back(std::make_unique<RopeCase>(64, 1.0f));
  cases.push_back(std::make_unique<RopeCase>(6, 1.25f));
  cases.push_back(std::make_unique<SwigluCase>());
  cases.push_back(std::make_unique<AddScaleCase>());
}

void layer_timings(std::vector<Timing>& timings) {
  add_layer_timing(timings, "rms_norm", 2048, 576, 2, [](Backend& b, View y, View x, View w, View r) {
    b.rms_norm(y, {r.data, 2048, 1}, x, {w.data, 1, 576}, 1e-5f);
  });
  add_layer_timing(timings, "rms_norm_backward", 2048, 576, 5, [](Backend& b, View dx, View dy, View x, View w) {
    b.rms_norm_backward(dx, false, {w.as<float>() + 576, 1, 576}, dy, x, {w.as<float>() + 2000, 2048, 1},
                        {w.data, 1, 576});
  });
  add_layer_timing(timings, "swiglu", 2048, 1536, 3,
                   [](Backend& b, View y, View g, View u, View) { b.swiglu(y, g, u); });
  add_layer_timing(timings, "swiglu_backward", 2048, 1536, 5,
                   [](Backend& b, View d, View g, View u, View e) { b.swiglu_backward(d, e, d, g, u); });
  add_layer_timing(timings, "add", 2048, 576, 3, [](Backend& b, View y, View x, View, View) { b.add(y, x); });
  add_layer_timing(timings, "rope", 2048, 576, 2, [](Backend& b, View x, View, View, View) {
    static const std::vector<float> freq(32, 0.5f);
    static const std::vector<int32_t> positions = [] {
      std::vector<int32_t> p(2048);
      for (int i = 0; i < 2048; i++) p[static_cast<size_t>(i)] = i % 256;
      return p;
    }();
    b.rope(x, 64, positions, freq, 1, false);
  });
  add_layer_timing(timings, "adamw", 1536, 5760, 7, [](Backend& b, View p, View g, View m, View v) {
    b.adamw(p, g, m, v, {1e-6f, 0.9f, 0.999f, 1e-8f, 0.01f, 3, 1});
    b.fill(v, 1);
  });
  add_layer_timing(timings, "sum_of_squares", 1536, 5760, 1,
                   [](Backend& b, View p, View, View, View) { b.sum_of_squares(p); });
}

}  // namespace act::test
