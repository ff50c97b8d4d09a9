// act_cuda_test --speed: single operations at the Qwen3 shapes, bf16, random data, with the bytes and floating-point
// operations that bound each. One JSON line an operation; products by cuBLASLt and by our own kernels, where both are there.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>

#include "../ops/compact.h"
#include "../ops/floats.h"
#include "cuda_checks.h"

namespace act::test {
namespace {

struct Speed {
  std::string name;
  double flops, bytes;
  std::function<void()> call;
};

class Bench {
 public:
  explicit Bench(Backend& b) : b_(b) {}
  Buffer fresh(int64_t rows, int64_t cols, DType dtype = DType::bf16, double scale = 1) {
    Buffer buffer(b_, rows, cols, dtype);
    std::vector<uint16_t> bits(dtype == DType::bf16 ? static_cast<size_t>(rows * cols) : 0);
    std::vector<float> wide(dtype == DType::f32 ? static_cast<size_t>(rows * cols) : 0);
    for (uint16_t& x : bits) x = float_to_bf16(static_cast<float>((rng_.uniform() - 0.5) * 3.4 * scale));
    for (float& x : wide) x = static_cast<float>((rng_.uniform() - 0.5) * 3.4 * scale);
    b_.upload(buffer.view(), dtype == DType::bf16 ? static_cast<const void*>(bits.data()) : wide.data());
    return buffer;
  }
  std::unique_ptr<Weight> weight(int64_t rows, int64_t cols) {
    auto w = b_.create_weight(rows, cols, DType::bf16, false);
    std::vector<uint16_t> bits(static_cast<size_t>(rows * cols));
    for (uint16_t& x : bits) x = float_to_bf16(static_cast<float>((rng_.uniform() - 0.5) * 0.1));
    b_.load_weight(*w, bits.data(), DType::bf16);
    return w;
  }
  /// Median over five rounds of the time of a call, queued back to back.
  void report(const Speed& s) {
    const Buffer one(b_, 1, 1, DType::f32);
    float sink = 0;
    const auto round = [&](int calls) {
      const auto start = std::chrono::steady_clock::now();
      for (int i = 0; i < calls; i++) s.call();
      b_.download(&sink, one.view());  // waits for all of them
      return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / calls;
    };
    round(2);
    const int calls = std::clamp(static_cast<int>(0.05 / round(3)), 1, 200);
    std::vector<double> times;
    for (int i = 0; i < 5; i++) times.push_back(round(calls));
    std::sort(times.begin(), times.end());
    const double t = times[2];
    std::printf("{\"name\":\"%s\",\"seconds\":%.4g,\"flops\":%.4g,\"bytes\":%.4g,\"tflops\":%.4g,\"gbytes_per_s\":%.4g}\n",
                s.name.c_str(), t, s.flops, s.bytes, s.flops / t * 1e-12, s.bytes / t * 1e-9);
    std::fflush(stdout);
  }
  Backend& b_;
  Rng rng_{1};
};

/// `small`: a toy's products. `by` follows the name.
void products(Bench& bench, bool small, const std::string& by) {
  Backend& b = bench.b_;
  const auto run = [&](const std::string& name, int64_t m, int64_t n, int64_t k) {
    const auto w = bench.weight(n, k);
    const Buffer x = bench.fresh(m, k), y = bench.fresh(m, n), dw(b, n, k, DType::f32);
    const double flops = 2.0 * static_cast<double>(m * n * k), bytes = 2.0 * static_cast<double>(n * k + m * k + m * n);
    bench.report({"linear " + name + by, flops, bytes, [&] { b.linear(y.view(), false, x.view(), *w, {}); }});
    if (m < (small ? 64 : 1024)) return;
    bench.report({"linear_backward_input " + name + by, flops, bytes, [&] { b.linear_backward_input(x.view(), false, y.view(), *w); }});
    bench.report({"linear_backward_weight " + name + by, flops, bytes + 6.0 * static_cast<double>(n * k),
                  [&] { b.linear_backward_weight(dw.view(), y.view(), x.view(), DType::bf16); }});
  };
  if (small) {
    for (const int64_t m : {1, 64}) run("toy up M=" + std::to_string(m), m, 48, 32);
    return;
  }
  for (const int64_t m : {1, 8, 64, 256, 4096}) run("0.6B up M=" + std::to_string(m), m, 3072, 1024);
  for (const int64_t m : {1, 256, 4096}) run("8B up M=" + std::to_string(m), m, 12288, 4096);
}

void attention(Bench& bench, const std::string& name, const ForestShape& shape, bool backward, int heads = 16) {
  constexpr int kKvHeads = 8, kDim = 128;
  Backend& b = bench.b_;
  const auto pool = b.create_kv_pool(1, kKvHeads, kDim, static_cast<int>(shape.pages.size()), DType::bf16);
  const Buffer q = bench.fresh(shape.rows, heads * kDim), k = bench.fresh(shape.rows, kKvHeads * kDim), v = bench.fresh(shape.rows, kKvHeads * kDim);
  const Buffer out(b, shape.rows, heads * kDim, DType::bf16), lse(b, shape.rows, heads, DType::f32);
  const float scale = 1 / std::sqrt(static_cast<float>(kDim));
  double pairs = 0, keys = 0;
  for (const Segment& s : shape.segments) {
    keys += s.key_count;
    for (int32_t i = 0; i < s.query_count; i++) pairs += s.position + s.key_count - s.query_count + i + 1;
  }
  b.write_kv(*pool, 0, shape.forest(), k.view(), v.view());
  const double bytes = keys * kKvHeads * kDim * 4;  // each key and value once
  bench.report({"attention " + name, pairs * heads * kDim * 4, bytes,
                [&] { b.attention(out.view(), lse.view(), q.view(), *pool, 0, shape.forest(), scale); }});
  if (!backward) return;
  const Buffer dout = bench.fresh(shape.rows, heads * kDim), dq(b, shape.rows, heads * kDim, DType::bf16);
  const Buffer dk(b, shape.rows, kKvHeads * kDim, DType::bf16), dv(b, shape.rows, kKvHeads * kDim, DType::bf16);
  bench.report({"attention_backward " + name, pairs * heads * kDim * 10, 2 * bytes, [&] {
                  b.attention_backward(dq.view(), dk.view(), dv.view(), dout.view(), out.view(), lse.view(), q.view(), *pool, 0, shape.forest(), scale);
                }});
}

void forests(Bench& bench) {
  ForestShape flat, group, step, lone;
  for (int i = 0; i < 4; i++) flat.add(-1, 4096, 4096);
  attention(bench, "4 x 4096 causal", flat, true);
  const int32_t prompt = group.add(-1, 700, 700);
  for (int i = 0; i < 8; i++) group.add(prompt, 300, 300, 700 % kPageKeys);
  attention(bench, "700 + 8 x 300", group, true);
  for (int g = 0; g < 32; g++) {
    const int32_t shared = step.add(-1, 700, 0);
    for (int i = 0; i < 8; i++) step.add(shared, 150, 1, 700 % kPageKeys);
  }
  attention(bench, "decode 32 groups of 8, 700 + 150", step, false);
  lone.add(-1, 4096, 1);
  attention(bench, "decode 1 of 4096", lone, false);
  attention(bench, "decode 1 of 4096, 32 heads", lone, false, 32);
}

/// The numbers of attention that are to be tuned on a card (docs/cuda.md): keys of a partition, where it costs (a causal
/// forward pass) and where it pays (a lone long sequence), and the places that decide whether a group reads together.
void attention_numbers(const Device& device) {
  ForestShape flat, lone;
  flat.add(-1, 4096, 4096);
  lone.add(-1, 4096, 1);
  for (const char* partition : {"128", "256", "512", "1024", "2048", "4096"}) {
    Device cut = device;
    cut.partition = partition;
    const auto backend = cut.open(DType::bf16);
    Bench bench(*backend);
    const std::string name = std::string(", partitions of ") + partition;
    attention(bench, "4096 causal" + name, flat, false);
    attention(bench, "decode 1 of 4096, 32 heads" + name, lone, false, 32);
  }
  for (const char* places : {"1", "264", "528", "1056", "1048576"}) {
    Device sized = device;
    sized.places = places;
    const auto backend = sized.open(DType::bf16);
    Bench bench(*backend);
    for (const int groups : {1, 4, 32}) {
      ForestShape step;
      for (int g = 0; g < groups; g++) {
        const int32_t shared = step.add(-1, 700, 0);
        for (int i = 0; i < 8; i++) step.add(shared, 150, 1, 700 % kPageKeys);
      }
      attention(bench, "decode " + std::to_string(groups) + " groups of 8, 700 + 150, places " + places, step, false);
    }
  }
}

void layers(Bench& bench) {
  Backend& b = bench.b_;
  constexpr int64_t kRows = 16384, kWidth = 1024;
  const double elements = static_cast<double>(kRows * kWidth);
  const Buffer x = bench.fresh(kRows, kWidth), y = bench.fresh(kRows, kWidth), z = bench.fresh(kRows, kWidth);
  const Buffer w = bench.fresh(1, kWidth, DType::f32), dw(b, 1, kWidth, DType::f32), rstd(b, kRows, 1, DType::f32);
  bench.report({"rms_norm", 0, 4 * elements, [&] { b.rms_norm(y.view(), rstd.view(), x.view(), w.view(), 1e-6f); }});
  bench.report({"rms_norm_backward", 0, 12 * elements, [&] { b.rms_norm_backward(z.view(), true, dw.view(), y.view(), x.view(), rstd.view(), w.view()); }});
  bench.report({"swiglu", 0, 6 * elements, [&] { b.swiglu(z.view(), x.view(), y.view()); }});
  const Buffer p = bench.fresh(kRows, kWidth, DType::f32), g = bench.fresh(kRows, kWidth, DType::f32);
  const Buffer m(b, kRows, kWidth, DType::f32), v(b, kRows, kWidth, DType::f32);
  bench.report({"adamw", 0, 28 * elements, [&] { b.adamw(p.view(), g.view(), m.view(), v.view(), {1e-6f, 0.9f, 0.95f, 1e-8f, 0.1f, 3, 1}); }});
  const auto matrix = bench.weight(kRows, kWidth);
  const Buffer codes1(b, kRows, kWidth, DType::u8), codes2(b, kRows, kWidth, DType::u8);
  const int64_t blocks = compact::blocks(kRows * kWidth);
  const Buffer scales1(b, 1, blocks, DType::f32), scales2(b, 1, blocks, DType::f32);
  const CompactMoments moments{codes1.view(), scales1.view(), codes2.view(), scales2.view()};
  bench.report({"adamw_compact", 0, 12 * elements,
                [&] { b.adamw_compact(*matrix, g.view(), moments, {1e-6f, 0.9f, 0.95f, 1e-8f, 0.1f, 3, 1}, 1); }});
  const Buffer far_m(b, kRows, kWidth, DType::f32, Place::host), far_v(b, kRows, kWidth, DType::f32, Place::host);
  bench.report({"adamw, moments in host memory", 0, 28 * elements, [&] {
                  b.adamw(p.view(), g.view(), far_m.view(), far_v.view(), {1e-6f, 0.9f, 0.95f, 1e-8f, 0.1f, 3, 1});
                }});
  bench.report({"sum_of_squares", 0, 4 * elements, [&] { b.sum_of_squares(g.view()); }});
}

void head(Bench& bench) {
  Backend& b = bench.b_;
  constexpr int64_t kVocabulary = 151936, kWidth = 1024, kRows = 4096, kDraws = 256;
  const auto w = bench.weight(kVocabulary, kWidth);
  const Buffer hidden = bench.fresh(kRows, kWidth), dhidden(b, kRows, kWidth, DType::bf16), dw(b, kVocabulary, kWidth, DType::f32);
  const std::vector<int32_t> target(kRows, 7);
  const std::vector<float> ce(kRows, 1.0f / kRows);
  LossRows rows;
  rows.count = kRows, rows.target = target.data(), rows.ce_weight = ce.data();
  const double flops = 2.0 * kRows * kVocabulary * kWidth, weights = 2.0 * kVocabulary * kWidth;
  LossResults results;
  bench.report({"head_loss 4096 rows", flops, weights, [&] { b.head_loss(results, {}, {}, hidden.view(), *w, rows); }});
  bench.report({"head_loss 4096 rows with gradients", 3 * flops, 5 * weights, [&] { b.head_loss(results, dhidden.view(), dw.view(), hidden.view(), *w, rows); }});
  std::vector<SampleParams> params(kDraws);
  for (SampleParams& p : params) p.uniform = 0.4, p.top_p = 0.95f;
  std::vector<SampleResult> drawn(kDraws);
  const View few = hidden.view().rows_from(0, kDraws);
  bench.report({"head_sample 256 rows, top_p", flops * kDraws / kRows, weights, [&] { b.head_sample(drawn, few, *w, params); }});
}

}  // namespace

int run_speed(Device device, bool small) {
  device.batch_invariant = true;
  const auto own = device.open(DType::bf16);
  device.batch_invariant = false;
  const auto backend = device.open(DType::bf16);
  std::printf("{\"device\":\"%s\"}\n", backend->describe().c_str());
  Bench bench(*backend);
  products(bench, small, "");
  if (by_cublaslt(*backend)) {
    Bench own_bench(*own);
    products(own_bench, small, ", own kernels");
  }
  if (small) return 0;
  forests(bench);
  layers(bench);
  head(bench);
  attention_numbers(device);
  return 0;
}

}  // namespace act::test
