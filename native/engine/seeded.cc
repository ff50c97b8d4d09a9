#include "seeded.h"

#include <cmath>

#include "rng.h"

namespace act {
namespace {

uint64_t fnv1a(uint64_t hash, uint8_t byte) { return (hash ^ byte) * 0x100000001B3ull; }

/// The stream of a tensor.
uint64_t stream_of(std::string_view name) {
  uint64_t hash = 0xCBF29CE484222325ull;
  for (const char c : name) hash = fnv1a(hash, static_cast<uint8_t>(c));
  return hash;
}

/// Block of random bits for element `i`. The second counter word is 1: samplers use 0 (rng.h).
PhiloxBlock random_block(uint64_t seed, uint64_t stream, size_t i) {
  return philox4x32({static_cast<uint32_t>(i), 1, static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)},
                    {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
}

/// Natural logarithm of x in (0, 1] from exact operations: x = m 2^e with m in [1/sqrt 2, sqrt 2), ln m = 2 atanh(s),
/// s = (m - 1) / (m + 1), |s| < 0.172: 11 odd terms reach double precision.
double logarithm(double x) {
  int exponent;
  double m = std::frexp(x, &exponent);
  if (m < 0.70710678118654752) {
    m *= 2;
    exponent--;
  }
  const double s = (m - 1) / (m + 1), square = s * s;
  double sum = 0;
  for (int k = 21; k >= 1; k -= 2) sum = sum * square + 1.0 / k;
  return exponent * 0.69314718055994531 + 2 * s * sum;
}

}  // namespace

uint64_t stream_of(std::string_view name, uint64_t seed) {
  uint64_t hash = stream_of(name);
  for (int byte = 0; byte < 8; byte++) hash = fnv1a(hash, static_cast<uint8_t>(seed >> (8 * byte)));
  return hash;
}

void seeded_normal(std::span<float> values, uint64_t seed, std::string_view name, double std) {
  const uint64_t stream = stream_of(name);
  for (size_t i = 0; i < values.size(); i++) {
    // Marsaglia's polar method: a point in the unit disc, attempt after attempt.
    for (uint64_t attempt = 0;; attempt++) {
      const PhiloxBlock r = random_block(seed, stream + attempt, i);
      const double u = 2 * unit_interval(r[0], r[1]) - 1, v = 2 * unit_interval(r[2], r[3]) - 1;
      const double s = u * u + v * v;
      if (s >= 1 || s == 0) continue;
      values[i] = static_cast<float>(std * (u * std::sqrt(-2 * logarithm(s) / s)));
      break;
    }
  }
}

void seeded_uniform(std::span<float> values, uint64_t seed, std::string_view name, double bound) {
  const uint64_t stream = stream_of(name);
  for (size_t i = 0; i < values.size(); i++) {
    const PhiloxBlock r = random_block(seed, stream, i);
    values[i] = static_cast<float>(bound * (2 * unit_interval(r[0], r[1]) - 1));
  }
}

}  // namespace act
