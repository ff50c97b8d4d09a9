// The operations' tests: what a case is, and how it is judged.
//
// A case describes one operation at one shape: seeded inputs, how to run it forward and backward on any backend, and a
// bound for the rounding error of every result. From that come, for nothing more:
//   value     every available CPU instruction set against the reference backend, within the bound;
//   gradient  the reference's backward pass against central differences of its forward pass;
//   speed     `act_ops_test --speed NAME`.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "../ops/ops.h"

namespace act::test {

/// fp32 unit roundoff.
constexpr double kRoundoff = 5.9604644775390625e-8;

class Rng {
 public:
  explicit Rng(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15ull + 1) {}
  uint64_t bits();
  double uniform();  // [0, 1)
  float normal();
  int32_t below(int32_t n) { return static_cast<int32_t>(uniform() * n); }

 private:
  uint64_t state_;
};

struct Tensor {
  std::string name;
  int64_t rows = 0, cols = 0;
  std::vector<float> values;
};
using Tensors = std::vector<Tensor>;

Tensor zeros(std::string name, int64_t rows, int64_t cols);
Tensor random(Rng& rng, std::string name, int64_t rows, int64_t cols, double scale = 1);
Tensor absolute(Tensor t);

/// A tensor in a backend's memory.
class OnDevice {
 public:
  OnDevice(Backend& backend, const Tensor& t);
  OnDevice(Backend& backend, int64_t rows, int64_t cols) : OnDevice(backend, zeros("", rows, cols)) {}
  View view() const { return buffer_.view(); }
  operator View() const { return buffer_.view(); }
  Tensor read(std::string name) const;

 private:
  Backend& backend_;
  Buffer buffer_;
};
std::unique_ptr<Weight> make_weight(Backend& backend, const Tensor& t, DType dtype, bool trainable = true);

struct Case {
  std::string name;
  virtual ~Case() = default;
  virtual Tensors inputs(Rng& rng) const = 0;
  virtual Tensors forward(Backend& backend, const Tensors& in) const = 0;
  /// Results named in parentheses, "(lse)", are compared but take no part in the gradient.
  /// Gradients of sum(forward * seeds) for the first inputs, in their order; empty: none.
  virtual Tensors backward(Backend& backend, const Tensors& in, const Tensors& seeds) const { return {}; }
  /// Largest allowed error of every element of forward's, then backward's results.
  virtual Tensors bounds(Backend& reference, const Tensors& in, const Tensors& seeds) const = 0;
  /// Whether forward is the function that backward differentiates (not where values are rounded to bf16 on the way).
  virtual bool differentiable() const { return true; }
};

using Cases = std::vector<std::unique_ptr<Case>>;
void product_cases(Cases& cases);
void layer_cases(Cases& cases);
void attention_cases(Cases& cases);
void head_cases(Cases& cases);
void optimizer_cases(Cases& cases);
/// Weight, codes and scales (compact.h) after some steps of adamw_compact with seeded gradients of very different sizes.
/// The moments lie at `place`.
Tensors compact_steps(Backend& backend, const Tensor& weight, const Tensor& gradient, Place place);
/// The cases of every file of `cases/`.
Cases all_cases();

/// One call at a real size. `prepare` sets everything up and returns the call to time.
struct Timing {
  std::string name;
  double flops, bytes;  // of one call; 0: not reported
  std::function<std::function<void()>(Backend&)> prepare;
};
void product_timings(std::vector<Timing>& timings);
void attention_timings(std::vector<Timing>& timings);
void layer_timings(std::vector<Timing>& timings);
void head_timings(std::vector<Timing>& timings);
/// Loss rows whose terms are infinite or NaN but weigh 0.
void leaves_out_what_weighs_nothing(Backend& b);

/// A named check; it throws Failure.
struct Check {
  std::string name;
  std::function<void()> run;
};
struct Failure {
  std::string what;
};
void expect(bool holds, const std::string& what);
void expect_same_bits(const Tensor& a, const Tensor& b, const std::string& what);

void equality_checks(std::vector<Check>& checks);
void attention_equality_checks(std::vector<Check>& checks);
void memory_checks(std::vector<Check>& checks);
void math_checks(std::vector<Check>& checks);
void sampling_checks(std::vector<Check>& checks);
void compact_checks(std::vector<Check>& checks);

/// The instruction sets this processor has.
std::vector<Isa> available_isas();
std::string isa_name(Isa isa);

/// A forest whose pages are numbered on.
struct ForestShape {
  std::vector<Segment> segments;
  std::vector<int32_t> pages;
  int64_t rows = 0;
  Forest forest() const { return {segments, pages, rows}; }
  /// Adds a segment with pages of its own; its queries are the last `queries` of its `keys`. Returns its index.
  int32_t add(int32_t parent, int32_t keys, int32_t queries, int32_t first_lane = 0);
};

}  // namespace act::test
