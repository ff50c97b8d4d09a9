#include "rng.h"

#include <cmath>
#include <numbers>

namespace act {

// Known vectors of the authors' Random123 library (kat_vectors, philox4x32 10).
static_assert(philox4x32({0, 0, 0, 0}, {0, 0}) ==
              PhiloxBlock{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u});
static_assert(philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}) ==
              PhiloxBlock{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu});
static_assert(philox4x32({0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}, {0xa4093822u, 0x299f31d0u}) ==
              PhiloxBlock{0xd16cfe09u, 0x94fdcceb, 0x5001e420u, 0x24126ea1u});

void fill_normal(float* values, int64_t count, double standard_deviation, uint64_t seed, uint64_t stream) {
  for (int64_t i = 0; i < count; i += 2) {
    const PhiloxBlock block = random_block(seed, stream, static_cast<uint32_t>(i / 2), RandomUse::weights);
    // 1 - u is in (0, 1]: its logarithm is finite.
    const double radius = std::sqrt(-2.0 * std::log(1.0 - unit_interval(block[0], block[1])));
    const double angle = 2.0 * std::numbers::pi * unit_interval(block[2], block[3]);
    values[i] = static_cast<float>(standard_deviation * radius * std::cos(angle));
    if (i + 1 < count) values[i + 1] = static_cast<float>(standard_deviation * radius * std::sin(angle));
  }
}

}  // namespace act
