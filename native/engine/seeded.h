// Initial values from a seed: element i of a tensor is a function of (seed, tensor name, i) and of nothing else, and
// the same on every machine, because only IEEE-exact operations are used (no library logarithm).
#pragma once
#include <cstdint>
#include <span>
#include <string_view>

namespace act {

/// FNV-1a of a tensor's name and of a seed: a stream of random numbers of their own.
uint64_t stream_of(std::string_view name, uint64_t seed);
/// Standard normal values times `std`.
void seeded_normal(std::span<float> values, uint64_t seed, std::string_view name, double std);
/// Uniform values in [-bound, bound).
void seeded_uniform(std::span<float> values, uint64_t seed, std::string_view name, double bound);

}  // namespace act
