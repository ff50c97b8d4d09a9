// The reduction-order contract (ops.h), checked bit for bit: nothing that only arranges work may change a result.
#include <array>
#include <cmath>

#include "harness.h"
#include "integer_groups.h"

namespace act::test {
namespace {

Tensor rows_of(const Tensor& t, int64_t first, int64_t count) {
  Tensor part = zeros(t.name, count, t.cols);
  std::copy_n(t.values.begin() + first * t.cols, count * t.cols, part.values.begin());
  return part;
}

/// Forward, input gradient and weight gradient of a layer whose sizes cross every block of the product driver.
Tensors layer(Backend& b, const Tensor& x, const Tensor& w, const Tensor& dy, DType dtype) {
  const auto weight = make_weight(b, w, dtype);
  const OnDevice dev_x(b, x), dev_dy(b, dy), y(b, x.rows, w.rows), dx(b, x.rows, w.cols), dw(b, w.rows, w.cols);
  b.linear(y, false, dev_x, *weight, {});
  b.linear_backward_input(dx, false, dev_dy, *weight);
  b.linear_backward_weight(dw, dev_dy, dev_x, dtype);
  return {y.read("y"), dx.read("dx"), dw.read("dw")};
}

struct LayerData {
  Tensor x, w, dy;
  LayerData() {
    Rng rng(11);
    x = random(rng, "x", 150, 801), w = random(rng, "w", 130, 801), dy = random(rng, "dy", 150, 130);
  }
};

Tensors head_results(Backend& b, const Tensor& hidden, const Tensor& w, DType dtype) {
  const auto head = make_weight(b, w, dtype);
  const OnDevice h(b, hidden), dh(b, hidden.rows, hidden.cols), dw(b, w.rows, w.cols);
  std::vector<int32_t> target(static_cast<size_t>(hidden.rows));
  for (size_t i = 0; i < target.size(); i++) target[i] = static_cast<int32_t>(i * 37 % static_cast<size_t>(w.rows));
  const std::vector<float> one(target.size(), 1), small(target.size(), 0.01f);
  Tensor logp = zeros("logprob", 1, hidden.rows), entropy = logp;
  LossRows rows;
  rows.count = hidden.rows, rows.target = target.data(), rows.ce_weight = one.data(),
  rows.entropy_weight = small.data();
  LossResults r;
  r.logprob = logp.values.data(), r.entropy = entropy.values.data();
  b.head_loss(r, dh, dw, h, *head, rows);
  return {logp, entropy, dh.read("dhidden"), dw.read("dw")};
}

void add_product_checks(std::vector<Check>& checks, Isa isa, DType dtype) {
  const std::string tail = std::string(dtype == DType::f32 ? " f32 " : " bf16 ") + isa_name(isa);
  checks.push_back({"equal threads 1/2/3/4" + tail, [=] {
                      const LayerData data;
                      auto one = make_cpu_backend(1, isa);
                      const Tensors want = layer(*one, data.x, data.w, data.dy, dtype);
                      for (const int threads : {2, 3, 4}) {
                        auto b = make_cpu_backend(threads, isa);
                        const Tensors got = layer(*b, data.x, data.w, data.dy, dtype);
                        for (size_t i = 0; i < want.size(); i++) expect_same_bits(got[i], want[i], want[i].name);
                      }
                    }});
  checks.push_back({"equal row alone and in a batch" + tail, [=] {
                      const LayerData data;
                      auto b = make_cpu_backend(4, isa);
                      const Tensors whole = layer(*b, data.x, data.w, data.dy, dtype);
                      for (const auto& [first, count] : {std::pair{0, 1}, {149, 1}, {7, 13}, {64, 70}}) {
                        const Tensors part =
                            layer(*b, rows_of(data.x, first, count), data.w, rows_of(data.dy, first, count), dtype);
                        expect_same_bits(part[0], rows_of(whole[0], first, count), "y");
                        expect_same_bits(part[1], rows_of(whole[1], first, count), "dx");
                      }
                    }});
  checks.push_back({"equal products of one input together and alone" + tail, [=] {
                      Rng rng(13);
                      auto b = make_cpu_backend(2, isa);
                      for (const int64_t rows : {1, 7, 150}) {
                        const OnDevice x(*b, random(rng, "x", rows, 801)), bias(*b, random(rng, "bias", 1, 130));
                        std::vector<std::unique_ptr<Weight>> weights;
                        for (const int64_t n : {130, 3, 50})
                          weights.push_back(make_weight(*b, random(rng, "w", n, 801), dtype));
                        const OnDevice y0(*b, rows, 130), y1(*b, rows, 3), y2(*b, rows, 50);
                        const std::array<LinearOutput, 3> outputs{
                            {{y0, *weights[0], bias}, {y1, *weights[1], {}}, {y2, *weights[2], {}}}};
                        b->linears(outputs, x);
                        for (size_t i = 0; i < outputs.size(); i++) {
                          const OnDevice want(*b, rows, outputs[i].y.cols);
                          b->linear(want, false, x, outputs[i].w, outputs[i].bias);
                          const OnDevice* const got[] = {&y0, &y1, &y2};
                          expect_same_bits(got[i]->read("y"), want.read("y"), "output " + std::to_string(i));
                        }
                      }
                    }});
  checks.push_back({"equal products of a norm and of swiglu made on the way and before" + tail, [=] {
                      Rng rng(17);
                      auto b = make_cpu_backend(2, isa);
                      // The last takes several rounds of inner indices.
                      for (const auto& [inner, rows] : {std::pair{801, 1}, {801, 7}, {801, 150}, {20000, 7}}) {
                        const auto w0 = make_weight(*b, random(rng, "w0", 130, inner), dtype);
                        const auto w1 = make_weight(*b, random(rng, "w1", 3, inner), dtype);
                        const OnDevice norm(*b, random(rng, "norm", 1, inner)), bias(*b, random(rng, "bias", 1, 130));
                        const OnDevice x(*b, random(rng, "x", rows, inner)), up(*b, random(rng, "up", rows, inner));
                        const OnDevice made(*b, rows, inner), rstd(*b, rows, 1), y0(*b, rows, 130), y1(*b, rows, 3);
                        const OnDevice want0(*b, rows, 130), want1(*b, rows, 3);
                        const std::array<LinearOutput, 2> got{{{y0, *w0, bias}, {y1, *w1, {}}}};
                        const std::array<LinearOutput, 2> want{{{want0, *w0, bias}, {want1, *w1, {}}}};
                        b->norm_linears(got, made, rstd, x, norm, 1e-5f);
                        b->rms_norm(made, rstd, x, norm, 1e-5f);
                        b->linears(want, made);
                        expect_same_bits(y0.read("y"), want0.read("y"), "norm, first output");
                        expect_same_bits(y1.read("y"), want1.read("y"), "norm, second output");
                        b->swiglu_linear(got[0], made, x, up);
                        b->swiglu(made, x, up);
                        b->linear(want0, true, made, *w0, bias);
                        expect_same_bits(y0.read("y"), want0.read("y"), "swiglu, added");
                      }
                    }});
  checks.push_back({"equal weight gradient split and whole" + tail, [=] {
                      const LayerData data;
                      auto b = make_cpu_backend(2, isa);
                      const std::vector<int32_t> runs{2, 44, 98, 150};  // even: bf16 takes pairs
                      b->row_runs = runs;
                      const Tensor whole = layer(*b, data.x, data.w, data.dy, dtype)[2];
                      const OnDevice dw(*b, data.w.rows, data.w.cols);
                      for (const auto& [first, count] : {std::pair{0, 2}, {2, 96}, {98, 52}}) {
                        const std::vector<int32_t> own = count == 96 ? std::vector<int32_t>{42, 96}
                                                                     : std::vector<int32_t>{count};
                        b->row_runs = own;
                        const OnDevice x(*b, rows_of(data.x, first, count)), dy(*b, rows_of(data.dy, first, count));
                        b->linear_backward_weight(dw, dy, x, dtype);
                      }
                      expect_same_bits(dw.read("dw"), whole, "dw");
                    }});
  checks.push_back({"equal accumulating as one longer chain" + tail, [=] {
                      // y += x2 W2^T after y = x1 W1^T is the product of the concatenated inner index, where fp32 is
                      // cut at a multiple of 64.
                      const LayerData data;
                      auto b = make_cpu_backend(2, isa);
                      auto columns = [](const Tensor& t, int64_t first, int64_t count) {
                        Tensor part = zeros(t.name, t.rows, count);
                        for (int64_t r = 0; r < t.rows; r++) {
                          std::copy_n(t.values.begin() + r * t.cols + first, count, part.values.begin() + r * count);
                        }
                        return part;
                      };
                      const Tensor whole = layer(*b, data.x, data.w, data.dy, dtype)[0];
                      const OnDevice y(*b, data.x.rows, data.w.rows);
                      for (const auto& [first, count] : {std::pair{0, 384}, {384, 417}}) {
                        const auto w = make_weight(*b, columns(data.w, first, count), dtype);
                        const OnDevice x(*b, columns(data.x, first, count));
                        b->linear(y, first > 0, x, *w, {});
                      }
                      expect_same_bits(y.read("y"), whole, "y");
                    }});
  checks.push_back({"equal head rows alone, threads, chunks" + tail, [=] {
                      Rng rng(5);
                      // Large enough a vocabulary that 48 MiB of logits hold fewer than all rows.
                      const Tensor w = random(rng, "w", 140001, 8, 0.3), hidden = random(rng, "h", 124, 8);
                      auto one = make_cpu_backend(1, isa), two = make_cpu_backend(2, isa);
                      const Tensors all = head_results(*one, hidden, w, dtype),
                                    again = head_results(*two, hidden, w, dtype);
                      for (size_t i = 0; i < all.size(); i++) expect_same_bits(again[i], all[i], all[i].name);
                      const Tensors alone = head_results(*two, rows_of(hidden, 0, 1), w, dtype);
                      expect_same_bits(alone[2], rows_of(all[2], 0, 1), "dhidden");
                      expect(alone[0].values[0] == all[0].values[0], "logprob differs");
                    }});
}

/// `linear` of rows of `inner` numbers is what the integers of kernels.h, written out plainly, give.
void multiplies_integers(Isa isa, size_t inner) {
  constexpr size_t kRows = 9, kOutputs = 19;
  Rng rng(4);
  Tensor x = random(rng, "x", kRows, inner), w = random(rng, "w", kOutputs, inner);
  const auto fill = [inner](Tensor& t, size_t row, auto number) {
    for (size_t i = 0; i < inner; i++) t.values[row * inner + i] = number(i);
  };
  // Nothing; the largest integers only (2.65625 * 0.75 is 1.9921875); magnitudes far apart; subnormal numbers.
  fill(x, 0, [](size_t) { return 0.0f; });
  fill(x, 1, [](size_t i) { return i % 2 ? 2.65625f : -2.65625f; });
  fill(x, 2, [](size_t i) { return std::ldexp(1.37f, -static_cast<int>(i % 40)); });
  fill(x, 3, [](size_t i) { return std::ldexp(1.0f + 0.001f * static_cast<float>(i), -130); });
  fill(w, 0, [](size_t) { return 0.0f; });
  fill(w, 1, [](size_t i) { return i % 2 ? 1.9921875f : -1.9921875f; });
  fill(w, 2, [](size_t i) { return i % 3 ? 1e30f : -1.0f; });
  x.values[4 * inner + 700] = std::numeric_limits<float>::infinity();
  x.values[5 * inner + 3] = std::numeric_limits<float>::quiet_NaN();
  w.values[18 * inner + inner - 1] = std::numeric_limits<float>::quiet_NaN();
  auto b = make_cpu_backend(2, isa);
  const auto weight = make_weight(*b, w, DType::bf16);
  const OnDevice dev(*b, x), y(*b, kRows, kOutputs);
  b->linear(y, false, dev, *weight, {}, 0.75f);
  const Tensor got = y.read("y");
  const auto row = [inner](const Tensor& t, size_t r) {
    return std::span(t.values).subspan(r * inner, inner);
  };
  for (size_t t = 0; t < kRows; t++) {
    const auto left = integer_groups(row(x, t), 0.75f);
    for (size_t n = 0; n < kOutputs; n++) {
      const auto right = integer_groups(row(w, n), 1);
      float chain = 0;
      for (size_t g = 0; g < left.size(); g++) {
        int64_t sum = 0;
        for (size_t i = 0; i < left[g].numbers.size(); i++) {
          sum += left[g].numbers[i] * right[g].numbers[i];
        }
        expect(std::abs(sum) <= std::numeric_limits<int32_t>::max(), "a group's sum overflows");
        chain = std::fma(static_cast<float>(sum) * left[g].scale, right[g].scale, chain);
      }
      const float result = got.values[t * kOutputs + n];
      expect(result == chain || (std::isnan(result) && std::isnan(chain)),
             "y[" + std::to_string(t) + ", " + std::to_string(n) + "] is " +
                 std::to_string(result) + ", expected " + std::to_string(chain));
    }
  }
}

}  // namespace

void equality_checks(std::vector<Check>& checks) {
  for (const Isa isa : available_isas()) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      // The slowest instruction set proves the driver once; the head's chunks are the same code.
      if (isa == Isa::portable && dtype == DType::bf16) continue;
      add_product_checks(checks, isa, dtype);
    }
  }
  for (const Isa isa : available_isas()) {
    checks.push_back({"equal fp32 chains written out " + isa_name(isa), [=] {
                        // The contract to the letter: chains of 64 fused multiply-adds over ascending k, whatever the
                        // blocks.
                        if (isa == Isa::portable) return;  // no fused multiply-add to compare with
                        Rng rng(3);
                        const Tensor x = random(rng, "x", 3, 1000), w = random(rng, "w", 5, 1000);
                        auto b = make_cpu_backend(2, isa);
                        const auto weight = make_weight(*b, w, DType::f32);
                        const OnDevice dev(*b, x), y(*b, 3, 5);
                        b->linear(y, false, dev, *weight, {});
                        Tensor want = zeros("y", 3, 5);
                        for (size_t t = 0; t < 3; t++) {
                          for (size_t n = 0; n < 5; n++) {
                            float sum = 0;
                            for (size_t first = 0; first < 1000; first += 64) {
                              float chain = 0;
                              for (size_t k = first; k < std::min<size_t>(first + 64, 1000); k++) {
                                chain = std::fma(x.values[t * 1000 + k], w.values[n * 1000 + k], chain);
                              }
                              sum += chain;
                            }
                            want.values[t * 5 + n] = sum;
                          }
                        }
                        expect_same_bits(y.read("y"), want, "y");
                      }});
    checks.push_back({"equal bf16 as integers written out " + isa_name(isa), [=] {
                        if (isa == Isa::avx512bf16 || isa == Isa::amx) return;  // they multiply bf16 itself
                        for (const size_t inner : {1000, 936}) multiplies_integers(isa, inner);  // end in 64 and 32 units
                      }});
    checks.push_back({"equal gradients of vectors split and whole " + isa_name(isa), [=] {
                        Rng rng(9);
                        const Tensor x = random(rng, "x", 40, 200), dy = random(rng, "dy", 40, 200),
                                     w = random(rng, "w", 1, 200);
                        const std::vector<int32_t> ids{4, 1, 1, 0, 4, 4, 2, 1, 0, 3};
                        auto results = [&](int threads, std::initializer_list<std::pair<int, int>> parts) {
                          auto b = make_cpu_backend(threads, isa);
                          const OnDevice weight(*b, w), dw(*b, 1, 200), dbias(*b, 1, 200), dtable(*b, 5, 200);
                          for (const auto& [first, count] : parts) {
                            const OnDevice px(*b, rows_of(x, first, count)), pdy(*b, rows_of(dy, first, count));
                            const OnDevice y(*b, count, 200), rstd(*b, count, 1), dx(*b, count, 200);
                            b->rms_norm(y, rstd, px, weight, 1e-6f);
                            b->rms_norm_backward(dx, false, dw, pdy, px, rstd, weight);
                            b->bias_backward(dbias, pdy);
                            for (int i = 0; i < count; i += 10) {
                              const OnDevice ten(*b, rows_of(dy, first + i, 10));
                              b->embed_backward(dtable, ten, ids);
                            }
                          }
                          return Tensors{dw.read("dweight"), dbias.read("dbias"), dtable.read("dtable")};
                        };
                        const Tensors whole = results(1, {{0, 40}}), split = results(2, {{0, 10}, {10, 30}});
                        for (size_t i = 0; i < whole.size(); i++) expect_same_bits(split[i], whole[i], whole[i].name);
                      }});
  }
}

}  // namespace act::test
