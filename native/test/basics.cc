// Memory, conversions, argument checks, and the vector exponential.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>
#include <thread>
#include <utility>

#include "../ops/cpu/kernels/kernels.h"
#include "../ops/cpu/operands.h"
#include "../ops/cpu/thread_pool.h"
#include "../ops/floats.h"
#include "harness.h"

namespace act::test {
namespace {

template <class Call>
void expect_error(const std::string& code, Call call) {
  try {
    call();
  } catch (const Error& e) {
    expect(e.code == code, "expected " + code + ", got " + e.code + ": " + e.what());
    return;
  }
  throw Failure{"expected an error " + code};
}

void counts_memory() {
  for (auto& b : {make_reference_backend(), make_cpu_backend(2)}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const bool trainable : {false, true}) {
        for (const int64_t rows : {1, 50, 97}) {
          const size_t before = b->allocated;
          auto w = b->create_weight(rows, 33, dtype, trainable);
          expect(b->allocated - before == b->weight_bytes(rows, 33, dtype, trainable),
                 "weight_bytes is not what create_weight takes");
          w.reset();
          expect(b->allocated == before, "a freed weight stays counted");
        }
      }
    }
    const size_t before = b->allocated;
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const auto pool = b->create_kv_pool(3, 2, 20, 5, dtype);
      expect(b->allocated - before == 3 * 5 * b->kv_page_bytes(2, 20, dtype), "kv_page_bytes is not what a pool takes");
    }
    {
      Buffer large(*b, 3000, 1001, DType::f32);  // has pages of its own
      expect(reinterpret_cast<uintptr_t>(large.view().data) % 64 == 0, "not aligned");
      for (int64_t i = 0; i < large.view().size(); i += 997)
        expect(large.view().as<float>()[i] == 0, "not zero-filled");
      Buffer moved = std::move(large);
      expect(!large && b->allocated == before + 3000 * 1001 * 4, "moving a buffer changes the count");
    }
    expect(b->allocated == before && b->peak >= before + 3000 * 1001 * 4, "the count or the peak is wrong");
    expect_error("OUT_OF_MEMORY", [&] { Buffer impossible(*b, int64_t{1} << 45, 64, DType::f32); });
    expect(b->allocated == before, "a failed allocation stays counted");
  }
}

/// Blocks of all sizes come and go: zero-filled, aligned, apart from each other, and what is freed is used again.
void allocates_and_frees() {
  auto b = make_cpu_backend(1);
  Rng rng(5);
  std::vector<Buffer> held(40);
  const auto all_equal = [](const View& v, float value) {
    return std::all_of(v.as<float>(), v.as<float>() + v.size(), [value](float x) { return x == value; });
  };
  for (int round = 1; round <= 400; round++) {
    Buffer& one = held[static_cast<size_t>(rng.below(40))];
    one = Buffer();
    one = Buffer(*b, 1, 1 + static_cast<int64_t>(std::exp(rng.uniform() * 12)), DType::f32);  // to 650 KB
    const View v = one.view();
    expect(reinterpret_cast<uintptr_t>(v.data) % 64 == 0, "not aligned");
    expect(all_equal(v, 0), "not zero-filled");
    b->fill(v, static_cast<float>(round));
    for (const Buffer& other : held) {
      if (round % 20 == 0 && other) expect(all_equal(other.view(), other.view().as<float>()[0]), "blocks overlap");
    }
  }
  Buffer again(*b, 300, 300, DType::f32);
  const void* const place = again.view().data;
  again = Buffer();
  again = Buffer(*b, 300, 300, DType::f32);
  expect(again.view().data == place, "freed memory is not used again");
  held.clear();
  again = Buffer();
  expect(b->allocated == 0, "freed memory stays counted");
}

/// After every operation of a training step at these sizes the backend holds no more scratch than it planned.
void keeps_to_planned_scratch() {
  for (const auto& [rows, width, inner, heads, vocabulary] :
       {std::array{70, 48, 130, 3, 300}, std::array{400, 192, 1000, 6, 5000}, std::array{33, 16, 20, 1, 70000}}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      auto b = make_cpu_backend(2);
      Rng rng(1);
      const auto w = make_weight(*b, random(rng, "w", inner, width), dtype);
      const auto head = make_weight(*b, random(rng, "head", vocabulary, width, 0.1), dtype);
      const OnDevice x(*b, random(rng, "x", rows, width)), y(*b, rows, inner), dw(*b, inner, width),
          dx(*b, rows, width);
      const OnDevice dhead(*b, vocabulary, width), lse(*b, rows, heads), dk(*b, rows, width), dv(*b, rows, width);
      ForestShape shape;
      const int32_t root = shape.add(-1, rows / 3, rows / 3);
      for (int32_t i = rows / 3; i < rows; i++) shape.add(root, 1, 1, i % kPageKeys);
      const int head_dim = width / heads;
      auto pool = b->create_kv_pool(1, heads, head_dim, static_cast<int>(shape.pages.size()), dtype);
      const size_t before = b->allocated;
      b->linear(y, false, x, *w, {});
      b->linear_backward_input(dx, false, y, *w);
      b->linear_backward_weight(dw, y, x, dtype);
      b->write_kv(*pool, 0, shape.forest(), x, x);
      b->attention(dx, lse, x, *pool, 0, shape.forest(), 1);
      b->attention_backward(dx, dk, dv, x, x, lse, x, *pool, 0, shape.forest(), 1);
      std::vector<int32_t> positions(static_cast<size_t>(rows));
      std::iota(positions.begin(), positions.end(), 0);
      b->rope(dx, head_dim, positions, std::vector<float>(static_cast<size_t>(head_dim) / 2, 0.5f), 1, false);
      const std::vector<int32_t> target(static_cast<size_t>(rows));
      LossRows loss;
      loss.count = rows, loss.target = target.data();
      LossResults results;
      b->head_loss(results, dx, dhead, x, *head, loss);
      std::vector<SampleResult> drawn(static_cast<size_t>(rows));
      b->head_sample(drawn, x, *head, std::vector<SampleParams>(static_cast<size_t>(rows)));
      const size_t planned = b->scratch_bytes(rows, std::max(inner, width)) + b->rope_bytes(rows, head_dim) +
                             b->head_scratch_bytes(vocabulary, rows);
      expect(b->allocated - before <= planned, "holds " + std::to_string(b->allocated - before) +
                                                   " bytes of scratch, planned " + std::to_string(planned));
    }
  }
}

void rejects_bad_arguments() {
  expect_error("BAD_ARGUMENT", [] { make_cpu_backend(0); });
  for (auto& b : {make_reference_backend(), make_cpu_backend(2)}) {
    const Tensor t = zeros("w", 4, 6);
    const auto w = make_weight(*b, t, DType::f32, false);
    const OnDevice x(*b, 2, 5), y(*b, 2, 4);
    expect_error("BAD_ARGUMENT", [&] { b->linear(y, false, x, *w, {}); });
    expect_error("BAD_ARGUMENT", [&] { b->master(*w); });
    expect_error("BAD_ARGUMENT", [&] { b->create_weight(2, 2, DType::i32, false); });
    auto pool = b->create_kv_pool(1, 1, 4, 2, DType::f32);
    const OnDevice k(*b, 3, 4);
    ForestShape f;
    f.add(-1, 3, 3);
    ForestShape wrong = f;
    wrong.segments[0].position = 1;
    expect_error("BAD_ARGUMENT", [&] { b->write_kv(*pool, 0, wrong.forest(), k, k); });
    wrong = f;
    wrong.segments[0].first_lane = 14;
    expect_error("BAD_ARGUMENT", [&] { b->write_kv(*pool, 0, wrong.forest(), k, k); });
  }
  auto cpu = make_cpu_backend(1);
  auto pool = cpu->create_kv_pool(1, 1, 4, 2, DType::f32);
  ForestShape f;
  f.add(-1, 3, 3);
  f.pages[0] = 2;
  const OnDevice k(*cpu, 3, 4);
  expect_error("BAD_ARGUMENT", [&] { cpu->write_kv(*pool, 0, f.forest(), k, k); });
}

void converts_weights() {
  // Every bf16 and every f16 value, and ties, through load and read.
  expect(float_to_bf16(1.00390625f) == 0x3f80, "a tie must go to the even neighbor");
  expect(float_to_bf16(1.01171875f) == 0x3f82, "a tie must go to the even neighbor");
  expect(std::isnan(bf16_to_float(float_to_bf16(float_from_bits(0x7f800001)))), "a NaN must stay a NaN");
  for (uint32_t h = 0; h < 65536; h++) {
    const float x = f16_to_float(static_cast<uint16_t>(h)), y = bf16_to_float(static_cast<uint16_t>(h));
    if (!std::isnan(x)) expect(float_to_f16(x) == h, "f16 does not survive");
    if (!std::isnan(y)) expect(float_to_bf16(y) == h, "bf16 does not survive");
  }
  expect(f16_to_float(0x0001) == 0x1p-24f && f16_to_float(0x7bff) == 65504.0f && float_to_f16(65520.0f) == 0x7c00,
         "f16 ends");
  Rng rng(2);
  const Tensor t = random(rng, "w", 13, 21);
  for (auto& b : {make_reference_backend(), make_cpu_backend(2)}) {
    for (const bool trainable : {false, true}) {
      const auto w = make_weight(*b, t, DType::bf16, trainable);
      std::vector<uint16_t> read(t.values.size());
      b->read_weight(*w, read.data());
      for (size_t i = 0; i < read.size(); i++)
        expect(read[i] == float_to_bf16(t.values[i]), "bf16 weight reads back wrong");
      if (!trainable) continue;
      std::vector<float> master(t.values.size());
      b->download(master.data(), b->master(*w));
      expect(std::memcmp(master.data(), t.values.data(), master.size() * 4) == 0, "the master must keep fp32");
      b->scale(b->master(*w), 2);
      b->refresh(*w);
      const OnDevice x(*b, 1, 21), y(*b, 1, 13);
      b->fill(x, 0);
      x.view().as<float>()[5] = 1;
      b->linear(y, false, x, *w, {});
      for (int64_t n = 0; n < 13; n++) {
        expect(y.view().as<float>()[n] == round_to_bf16(2 * t.values[static_cast<size_t>(n * 21 + 5)]),
               "refresh does not reach the forward pass");
      }
    }
  }
}

void pool_runs_everything() {
  for (int round = 0; round < 200; round++) {
    cpu::ThreadPool first(3), second(2);
    std::atomic<int64_t> sum{0};
    for (int job = 0; job < 20; job++) {
      first.run(job, [&](int64_t i, int) { sum += i; });
      second.run(job, [&](int64_t i, int) { sum -= i; });
    }
    expect(sum == 0, "a task ran twice or not at all");
  }
  cpu::ThreadPool pool(3);
  expect_error("ABORTED", [&] {
    pool.run(100, [](int64_t i, int) {
      if (i == 40) throw Error("ABORTED", "");
    });
  });
  std::atomic<int> after{0};
  pool.run(50, [&](int64_t, int) { after++; });
  expect(after == 50, "the pool is broken after an exception");
}

void threads_begin_with_their_shares() {
  cpu::ThreadPool pool(3);
  for (int round = 0; round < 20; round++) {
    std::atomic<int> inside{0};
    std::vector<std::pair<int, int64_t>> began(3, {-1, -1});
    std::vector<int> ran(9);
    pool.run(9, [&](int64_t i, int thread) {
      ran[static_cast<size_t>(i)]++;
      auto& [number, first] = began[static_cast<size_t>(thread)];
      if (number++ >= 0) return;
      first = i;
      inside++;
      while (inside < 3) std::this_thread::yield();  // nobody goes on before all have begun
    });
    for (size_t t = 0; t < 3; t++) {
      expect(began[t].second == 3 * static_cast<int64_t>(t), "a thread began with another's task");
    }
    for (const int n : ran) expect(n == 1, "a task ran twice or not at all");
  }
}

const cpu::Kernels& kernels_of(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx2) return cpu::avx2::kernels();
  if (isa == Isa::avx512) return cpu::avx512::kernels();
  if (isa == Isa::avx512vnni) return cpu::avx512vnni::kernels();
  if (isa == Isa::avx512bf16 || isa == Isa::amx) return cpu::avx512bf16::kernels();  // one exp
#endif
  return cpu::portable::kernels();
}

/// Largest error of exp in units of the last place of the true value, over the whole range.
void exponential_is_accurate(Isa isa) {
  const auto& k = kernels_of(isa);
  std::vector<float> x, y;
  for (double v = -104.5; v < 88.7; v += 0.00037) x.push_back(static_cast<float>(v));
  for (const float special : {0.0f, -0.0f, -1e-30f, 88.7228f, -87.4f, -103.97f}) x.push_back(special);
  y.resize(x.size());
  k.exp(y.data(), x.data(), static_cast<int64_t>(x.size()));
  double worst = 0;
  for (size_t i = 0; i < x.size(); i++) {
    const double want = std::exp(static_cast<double>(x[i]));
    const double ulp = std::ldexp(1.0, std::max(-149, std::ilogb(want) - 23));
    worst = std::max(worst, std::fabs(y[i] - want) / ulp);
  }
  expect(worst <= 2, "exp is off by " + std::to_string(worst) + " ulp");
  const float edges[] = {-INFINITY, INFINITY, 200, -200, NAN};
  float out[5];
  k.exp(out, edges, 5);
  expect(out[0] == 0 && std::isinf(out[1]) && std::isinf(out[2]) && out[3] == 0 && std::isnan(out[4]),
         "exp at the edges");
}

/// Rows that are split evenly: panels are alike, and so are equal numbers of them (the groups that threads begin with).
void panels_split_rows_evenly() {
  for (int64_t count = 1; count <= 24; count++) {
    for (int64_t rows = count; rows <= 150; rows++) {
      const cpu::Panels panels{cpu::PanelFormat::f32, rows, count, 0};
      expect(panels.start(0) == 0 && panels.start(count) == rows, "panels leave rows out");
      for (int64_t groups = 1; groups <= count; groups++) {
        for (int64_t i = 0, each = count / groups; count % groups == 0 && i < count; i += each) {
          const int64_t got = panels.start(i + each) - panels.start(i);
          expect(got == rows / groups || got == cpu::ceil_div(rows, groups),
                 std::to_string(each) + " of " + std::to_string(count) + " panels have " + std::to_string(got) +
                     " of " + std::to_string(rows) + " rows");
        }
      }
    }
  }
}

}  // namespace

void memory_checks(std::vector<Check>& checks) {
  checks.push_back({"memory is counted and freed", counts_memory});
  checks.push_back({"memory comes and goes", allocates_and_frees});
  checks.push_back({"scratch stays within the plan", keeps_to_planned_scratch});
  checks.push_back({"bad arguments are refused", rejects_bad_arguments});
  checks.push_back({"weights convert and refresh", converts_weights});
  checks.push_back({"thread pool", pool_runs_everything});
  checks.push_back({"thread shares", threads_begin_with_their_shares});
  checks.push_back({"panels split rows evenly", panels_split_rows_evenly});
}

void math_checks(std::vector<Check>& checks) {
  for (const Isa isa : available_isas()) {
    checks.push_back({"exp within 2 ulp " + isa_name(isa), [isa] { exponential_is_accurate(isa); }});
  }
}

}  // namespace act::test
