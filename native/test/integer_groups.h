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

struct IntegerGroup {
  std::vector<int64_t> numbers;  // of up to 64 inner indices
  float scale;
};

/// factor * x in groups. `weight`: the magnitudes of a group's integers add up to no more than (2^31 - 1) / 8160.
inline std::vector<IntegerGroup> integer_groups(std::span<const float> x, float factor, bool weight) {
  std::vector<IntegerGroup> groups;
  for (size_t first = 0; first < x.size(); first += 64) {
    std::vector<float> rounded;
    float most = 0;
    bool finite = true;
    for (const float number : x.subspan(first, std::min<size_t>(64, x.size() - first))) {
      rounded.push_back(bf16_to_float(float_to_bf16(number * factor)));
      finite = finite && std::isfinite(rounded.back());
      most = std::max(most, std::fabs(rounded.back()));
    }
    IntegerGroup group{std::vector<int64_t>(rounded.size()), std::numeric_limits<float>::quiet_NaN()};
    int exponent = std::max(finite && most > 0 ? std::ilogb(most) - 12 : -126, -126);
    for (bool fits = !finite; !fits; exponent++) {
      int64_t sum = 0;
      for (size_t i = 0; i < rounded.size(); i++) {
        group.numbers[i] = std::llrint(std::ldexp(static_cast<double>(rounded[i]), -exponent));
        sum += std::abs(group.numbers[i]);
      }
      group.scale = std::ldexp(1.0f, exponent);
      fits = !weight || sum <= std::numeric_limits<int32_t>::max() / 8160;
    }
    groups.push_back(std::move(group));
  }
  return groups;
}

}  // namespace act::test
