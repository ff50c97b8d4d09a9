// linear, linear_backward_input, linear_backward_weight, bias_backward.
#include <cmath>

#include "../harness.h"
#include "../integer_groups.h"

namespace act::test {
namespace {

struct LinearCase final : Case {
  int64_t m, n, k;
  DType dtype;
  bool accumulate, with_bias, trainable;
  float scale;

  LinearCase(int64_t m, int64_t n, int64_t k, DType dtype, bool accumulate, bool with_bias, float scale, bool trainable)
      : m(m),
        n(n),
        k(k),
        dtype(dtype),
        accumulate(accumulate),
        with_bias(with_bias),
        trainable(trainable),
        scale(scale) {
    name = std::string("linear ") + (dtype == DType::f32 ? "f32" : "bf16") + (trainable ? " " : " frozen ") +
           std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k) + (accumulate ? " accumulate" : "") +
           (with_bias ? " bias" : "") + (scale != 1 ? " scale" : "");
  }
  // Accumulating, every result starts from an input of its shape, so it is no longer the gradient alone.
  bool differentiable() const override { return dtype == DType::f32 && !accumulate; }
  Tensors inputs(Rng& rng) const override {
    return {random(rng, "x", m, k), random(rng, "w", n, k), random(rng, "bias", 1, n), random(rng, "start", m, n)};
  }
  Tensors forward(Backend& b, const Tensors& in) const override {
    const OnDevice x(b, in[0]), bias(b, in[2]), y(b, in[3]);
    const auto w = make_weight(b, in[1], dtype, trainable);
    b.linear(y, accumulate, x, *w, with_bias ? bias.view() : View{}, scale);
    return {y.read("y")};
  }
  Tensors backward(Backend& b, const Tensors& in, const Tensors& seeds) const override {
    const auto w = make_weight(b, in[1], dtype, trainable);
    const OnDevice x(b, in[0]), dy(b, seeds[0]);
    const OnDevice dx(b, in[0]);
    const OnDevice dw(b, accumulate ? in[1] : zeros("", n, k));
    const OnDevice dbias(b, accumulate ? in[2] : zeros("", 1, n));
    b.linear_backward_input(dx, accumulate, dy, *w, scale);
    b.linear_backward_weight(dw, dy, x, dtype, scale);
    if (with_bias) b.bias_backward(dbias, dy);
    return {dx.read("dx"), dw.read("dw"), dbias.read("dbias")};
  }
  // A chain of n products and sums in fp32: at most 2 n roundings, each of at most u times the sum of magnitudes; and
  // what bf16 loses where it is multiplied as integers.
  Tensors bounds(Backend& reference, const Tensors& in, const Tensors& seeds) const override {
    Tensors positive, positive_seeds;
    for (const Tensor& t : in) positive.push_back(absolute(t));
    for (const Tensor& t : seeds) positive_seeds.push_back(absolute(t));
    Tensors all = forward(reference, positive);
    for (Tensor& t : backward(reference, positive, positive_seeds)) all.push_back(std::move(t));
    const double terms[] = {static_cast<double>(k), static_cast<double>(n), static_cast<double>(m),
                            static_cast<double>(m)};
    for (size_t i = 0; i < all.size(); i++) {
      for (float& x : all[i].values) x = static_cast<float>(x * 2 * (terms[i] + 4) * kRoundoff);
    }
    if (dtype == DType::bf16) add_integers(all[0], in[0], in[1]);
    return all;
  }
  void add_integers(Tensor& bound, const Tensor& x, const Tensor& w) const {
    const auto row = [](const Tensor& t, int64_t r) {
      return std::span(t.values).subspan(static_cast<size_t>(r * t.cols), static_cast<size_t>(t.cols));
    };
    const auto exact = [](float number) { return static_cast<double>(bf16_to_float(float_to_bf16(number))); };
    for (int64_t t = 0; t < m; t++) {
      const std::vector<IntegerGroup> left = integer_groups(row(x, t), scale);
      for (int64_t c = 0; c < n; c++) {
        const std::vector<IntegerGroup> right = integer_groups(row(w, c), 1);
        double lost = 0;
        for (size_t i = 0; i < static_cast<size_t>(k); i++) {
          const IntegerGroup &a = left[i / kIntegerNumbers], &b = right[i / kIntegerNumbers];
          const int64_t product = a.numbers[i % kIntegerNumbers] * b.numbers[i % kIntegerNumbers];
          const double got = static_cast<double>(product) * a.scale * b.scale;
          lost += std::fabs(got - exact(row(x, t)[i] * scale) * exact(row(w, c)[i]));
        }
        bound.values[static_cast<size_t>(t * n + c)] += static_cast<float>(lost);
      }
    }
  }
};

/// One product of a linear layer at a real size; 16 weights in turn at small M, so that they come from memory.
void add_timing(std::vector<Timing>& timings, const char* layer, int64_t m, int64_t n, int64_t k, DType dtype,
                const char* form) {
  const std::string f = form;
  Timing t;
  t.name = f + " " + (dtype == DType::f32 ? "f32" : "bf16") + " " + layer + " M=" + std::to_string(m);
  t.flops = 2.0 * static_cast<double>(m * n * k);
  t.bytes = m <= 64 ? static_cast<double>(n * k) * static_cast<double>(size_of(dtype)) : 0;
  t.prepare = [=](Backend& b) -> std::function<void()> {
    Rng rng(1);
    struct State {
      std::vector<std::unique_ptr<Weight>> w;
      std::unique_ptr<OnDevice> x, y, dw;
      size_t next = 0;
    };
    auto s = std::make_shared<State>();
    const Tensor w = random(rng, "w", n, k);
    const int64_t copies = m > 64 ? 1 : std::max<int64_t>(1, (int64_t{128} << 20) / (n * k * 4));
    for (int64_t i = 0; i < copies; i++) s->w.push_back(make_weight(b, w, dtype));
    s->x = std::make_unique<OnDevice>(b, random(rng, "x", m, k));
    s->y = std::make_unique<OnDevice>(b, random(rng, "y", m, n));
    if (f == "TN") s->dw = std::make_unique<OnDevice>(b, n, k);
    return [s, f, dtype, &b] {
      const Weight& weight = *s->w[s->next++ % s->w.size()];
      if (f == "NT") b.linear(*s->y, false, *s->x, weight, {});
      if (f == "NN") b.linear_backward_input(*s->x, false, *s->y, weight);
      if (f == "TN") b.linear_backward_weight(*s->dw, *s->y, *s->x, dtype);
    };
  };
  timings.push_back(std::move(t));
}

}  // namespace

void product_cases(Cases& cases) {
  auto add = [&](int64_t m, int64_t n, int64_t k, DType dtype, bool accumulate = false, bool bias = false,
                 float scale = 1, bool trainable = true) {
    cases.push_back(std::make_unique<LinearCase>(m, n, k, dtype, accumulate, bias, scale, trainable));
  };
  for (const DType dtype : {DType::f32, DType::bf16}) {
    add(1, 1, 1, dtype);
    add(1, 50, 37, dtype, false, true);
    add(5, 97, 33, dtype, true);
    add(9, 49, 801, dtype, false, true, 0.37f);
    add(8, 48, 64, dtype, true, true, 2.0f, false);
    add(141, 130, 67, dtype);
    add(3, 5, 900, dtype, true, false, 1.5f, false);
  }
}

void product_timings(std::vector<Timing>& timings) {
  struct Layer {
    const char* name;
    int64_t n, k;
  };
  for (const Layer& l : {Layer{"S-up", 1536, 576}, Layer{"S-down", 576, 1536}, Layer{"S-kv", 192, 576},
                         Layer{"Q-up", 3072, 1024}, Layer{"S-head", 49152, 576}}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const int64_t m : {1, 8, 32, 64, 512, 2048}) {
        if (l.n > 10000 && m > 512) continue;
        add_timing(timings, l.name, m, l.n, l.k, dtype, "NT");
        if (m >= 64) add_timing(timings, l.name, m, l.n, l.k, dtype, "NN");
        if (m >= 64) add_timing(timings, l.name, m, l.n, l.k, dtype, "TN");
      }
    }
  }
}

}  // namespace act::test
