// The compact optimizer's numbers: codes that survive being written as fp32, rounding without bias, random numbers.
#include "../ops/compact.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "../engine/rng.h"
#include "../ops/floats.h"
#include "harness.h"

namespace act::test {
namespace {

/// Codes ascend, the last one is the block's largest, and every value they stand for is read back as the same code, at
/// scales over the whole range: what saving and loading a state relies on.
void codes_survive() {
  for (const float largest : {1.0f, 0.3333333f, 1.7e-5f, 3.1e-12f, 6.02e13f}) {
    for (int code = 0; code < 256; code++) {
      const auto byte = static_cast<uint8_t>(code);
      if (code != 128) {  // minus zero is never written
        const float m = compact::moment1_of(byte, largest);
        expect(compact::code1_of(m, largest, 0.5f) == byte, "first moment, code " + std::to_string(code));
      }
      const float root = compact::root2_of(byte, largest);
      expect(std::sqrt(root * root) == root, "a root is not the root of its square");
      expect(compact::code2_of(root, largest, 0.5f) == byte, "second moment, code " + std::to_string(code));
      expect(code == 0 || root > compact::root2_of(static_cast<uint8_t>(code - 1), largest), "codes do not ascend");
    }
    expect(compact::moment1_of(127, largest) == largest && compact::root2_of(255, largest) == largest, "the largest value");
    expect(compact::code2_of(largest * 1e-9f, largest, 0.999f) == 1, "a second moment became zero");
  }
}

/// The mean of `draws` values in [0, gap], each the lower or the upper end, must be `part` of the way: five standard
/// errors, and what thresholds in steps of 2^-24 and fp32 arithmetic may add, 2^-20 of a gap.
void expect_mean(double sum, double lower, double upper, double want, int64_t draws, const std::string& what) {
  const double gap = upper - lower, part = (want - lower) / gap;
  const double bound = gap * (5 * std::sqrt(part * (1 - part) / static_cast<double>(draws)) + 0x1p-20);
  const double error = std::fabs(sum / static_cast<double>(draws) - want);
  expect(error <= bound, what + ": mean off by " + std::to_string(error / gap) + " of a step, bound " + std::to_string(bound / gap));
}

/// Weight, first and second moment, each rounded.
using Rounded = std::array<double, 3>;
Rounded rounded(float x, float largest, const compact::Randoms& random) {
  const double weight = bf16_to_float(compact::round_stochastically(x, random.weight));
  const double moment1 = compact::moment1_of(compact::code1_of(x, largest, compact::threshold_of(random.moment1)), largest);
  const double root = compact::root2_of(compact::code2_of(std::fabs(x), largest, compact::threshold_of(random.moment2)), largest);
  return {weight, moment1, root * root};
}

/// E[w] = w, E[m] = m, E[root^2] = v: values all over the codes, 20,000 draws each.
void rounding_has_no_bias() {
  constexpr int64_t kDraws = 20000;
  constexpr float kLargest = 0.37f;
  Rng rng(31);
  for (int round = 0; round < 60; round++) {
    const float x = std::ldexp(static_cast<float>(0.5 + rng.uniform() / 2), -static_cast<int>(round % 14)) * kLargest;
    const float signed_x = round % 2 ? -x : x;
    const Rounded want{signed_x, signed_x, static_cast<double>(x) * x};
    const Rounded lower = rounded(signed_x, kLargest, {0, ~0u, ~0u}), upper = rounded(signed_x, kLargest, {~0u, 0, 0});
    Rounded sums{};
    for (int64_t i = 0; i < kDraws; i++) {
      const Rounded one = rounded(signed_x, kLargest, compact::randoms_of(99, round + 1, i));
      for (size_t k = 0; k < one.size(); k++) {
        expect(one[k] == lower[k] || one[k] == upper[k], "rounded to something else than a neighbor");
        sums[k] += one[k];
      }
    }
    const double gaps[] = {1.0 / 128, 1.0 / 8, 2.0 / 16 + 1.0 / 256};  // relative: of bf16, of 3 bits, of the square of 4
    for (size_t k = 0; k < want.size(); k++) {
      const std::string what = std::string(k == 0 ? "weight" : k == 1 ? "first moment" : "second moment") + " of " + std::to_string(signed_x);
      const double low = std::min(lower[k], upper[k]), high = std::max(lower[k], upper[k]);
      expect(low <= want[k] && want[k] <= high, what + ": not between its neighbors");
      expect(high - low <= gaps[k] * std::max(-low, high), what + ": the neighbors are far");
      if (high > low) expect_mean(sums[k], low, high, want[k], kDraws, what);
    }
  }
}

/// Second moments of 4,000 elements under normal gradients, beta2 = 0.95, beside those that fp32 keeps of the same
/// gradients: the mean difference is zero within five standard errors. Its deviation: rounding v between codes `gap` apart
/// adds a variance of at most gap |change|, where gap < 0.129 v and E|change| = (1 - beta2) E|g^2 - v| = 0.97 (1 - beta2) v;
/// what is added decays by beta2^2 a step, so the variance stays below 0.125 v^2 / (1 + beta2), the deviation below
/// 0.254 v. Changes of v itself are left out of that: a tenth more.
void second_moments_settle() {
  constexpr int kElements = 4000, kSteps = 150;
  constexpr float kBeta2 = 0.95f, kGradient = 0.011f, kLargest = 0.4f;
  std::vector<float> root(kElements, kGradient), exact(kElements, kGradient * kGradient);
  Rng rng(37);
  double mean = 0, square = 0;
  for (int step = 1; step <= kSteps; step++) {
    for (size_t i = 0; i < root.size(); i++) {
      const float g = rng.normal() * kGradient;
      exact[i] = kBeta2 * exact[i] + (1 - kBeta2) * g * g;
      const compact::Element e = compact::step({0, 0, root[i]}, g, {0, 0.9f, kBeta2, 1e-8f, 0, 1, 1, 1});
      const compact::Randoms random = compact::randoms_of(7, step, static_cast<int64_t>(i));
      root[i] = compact::root2_of(compact::code2_of(e.root2, kLargest, compact::threshold_of(random.moment2)), kLargest);
    }
  }
  for (size_t i = 0; i < root.size(); i++) {
    const double difference = (static_cast<double>(root[i]) * root[i] - exact[i]) / (kGradient * kGradient);
    mean += difference / kElements, square += difference * difference / kElements;
  }
  const double deviation = std::sqrt(square - mean * mean);
  expect(deviation > 0.01 && deviation < 1.1 * 0.254, "relative deviation " + std::to_string(deviation));
  expect(std::fabs(mean) < 5 * deviation / std::sqrt(kElements), "relative mean " + std::to_string(mean));
}

/// The same Philox as the sampler's, and another number for every stream, step and element.
void random_numbers_are_philox() {
  for (const uint64_t stream : {0ull, 0x123456789abcdefull}) {
    for (const int64_t step : {int64_t{1}, int64_t{1} << 33}) {
      for (const int64_t element : {int64_t{0}, int64_t{5}, (int64_t{1} << 32) + 5}) {
        const compact::Randoms got = compact::randoms_of(stream, step, element);
        const PhiloxBlock want = philox4x32({static_cast<uint32_t>(element), static_cast<uint32_t>(element >> 32),
                                             static_cast<uint32_t>(step), static_cast<uint32_t>(step >> 32)},
                                            {static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)});
        expect(got.weight == want[0] && got.moment1 == want[1] && got.moment2 == want[2], "not Philox4x32-10");
      }
    }
  }
}

}  // namespace

void compact_checks(std::vector<Check>& checks) {
  checks.push_back({"compact codes survive being written as fp32", codes_survive});
  checks.push_back({"compact rounding has no bias", rounding_has_no_bias});
  checks.push_back({"compact second moments have no bias over many steps", second_moments_settle});
  checks.push_back({"compact random numbers are the sampler's Philox", random_numbers_are_philox});
}

}  // namespace act::test
