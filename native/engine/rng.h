// Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2,
// 3", SC 2011). A number is a pure function of key and counter, so a sample cannot depend on what else is in the batch.
#pragma once
#include <array>
#include <cstdint>

namespace act {

using PhiloxBlock = std::array<uint32_t, 4>;

/// The ten-round bijection of `counter` under `key`. Checked against the authors' known vectors in rng.cc.
constexpr PhiloxBlock philox4x32(PhiloxBlock counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * counter[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(product0)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

/// 53 random bits of two words as a double in [0, 1).
constexpr double unit_interval(uint32_t high, uint32_t low) {
  const uint64_t bits = (uint64_t{high} << 32 | low) >> 11;
  return static_cast<double>(bits) * 0x1p-53;
}

/// The number that picks the token at absolute `position` of completion `stream` under `seed`. The counter's second
/// word tells uses apart, should there ever be another one.
constexpr double sample_uniform(uint64_t seed, uint64_t stream, uint32_t position) {
  const PhiloxBlock block =
      philox4x32({position, 0, static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)},
                 {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  return unit_interval(block[0], block[1]);
}

}  // namespace act
