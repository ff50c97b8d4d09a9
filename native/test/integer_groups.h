// Numbers of bf16 as the integers of kernels.h (PanelFormat::integers), written out plainly.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "../ops/floats.h"

namespace act::test {

constexpr size_t kIntegerNumbers = 128;

struct IntegerGroup {
  std::vector<int64_t> numbers;  // of up to kIntegerNumbers inner indices
  float scale;
};

/// factor * x in groups.
inline std::vector<IntegerGroup> integer_groups(std::span<const float> x, float factor) {
  std::vector<IntegerGroup> groups;
  for (size_t first = 0; first < x.size(); first += kIntegerNumbers) {
    std::vector<float> rounded;
    float most = 0;
    bool finite = true;
    for (const float number : x.subspan(first, std::min(kIntegerNumbers, x.size() - first))) {
      rounded.push_back(bf16_to_float(float_to_bf16(number * factor)));
      finite = finite && std::isfinite(rounded.back());
      most = std::max(most, std::fabs(rounded.back()));
    }
    IntegerGroup group{std::vector<int64_t>(rounded.size()), std::numeric_limits<float>::quiet_NaN()};
    const int exponent = std::max(finite && most > 0 ? std::ilogb(most) - 11 : -126, -126);
    for (size_t i = 0; finite && i < rounded.size(); i++) {
      group.numbers[i] = std::llrint(std::ldexp(static_cast<double>(rounded[i]), -exponent));
    }
    if (finite) group.scale = std::ldexp(1.0f, exponent);
    groups.push_back(std::move(group));
  }
  return groups;
}

}  // namespace act::test
