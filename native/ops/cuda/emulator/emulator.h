// The CUDA thread model on the CPU, for tests: kernels' own source compiled by the host compiler (-DACT_EMULATED_GPU).
//
// One block runs at a time. Every thread of it is a fiber that runs until it has to wait for others; a warp operation
// deposits each lane's value in a slot and the last lane opens the gate. The emulator stops the launch with a message on:
// lanes of one warp at different warp operations, a lane outside its mask, a deadlock, misaligned cp.async and ldmatrix
// addresses, uncommitted copies, and more shared memory than a block can have. What it cannot show: bank conflicts,
// occupancy, registers, memory ordering, and the real rounding inside mma.
#pragma once
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static thread_local
#define __restrict__ __restrict

namespace act::emulator {

struct Dim3 {
  unsigned x, y, z;
  Dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

/// How a launch is scheduled; process-wide, set between launches.
struct Schedule {
  uint64_t seed = 0;         // order of warps and of lanes; 0: ascending
  bool async_early = false;  // when cp.async lands: at once (shows a buffer overwritten too soon) or at its wait
};
Schedule& schedule();

/// One block's worth of copies a thread has issued.
struct AsyncCopy {
  void* to;
  const void* from;
  int bytes, total;  // the rest up to `total` is zero
};

constexpr int kSlotBytes = 64;
constexpr size_t kStackBytes = 64 * 1024;
constexpr size_t kMaxSharedBytes = 227 * 1024;

/// The calling fiber's place.
struct Place {
  Dim3 thread, block, block_size, grid_size;
  int lane;
};
const Place& place();
void* dynamic_shared();

/// Ends the launch with an error; called from a fiber.
[[noreturn]] void fail(const std::string& why);

void block_barrier();
/// All lanes of `mask` meet; returns the base of 32 slots of kSlotBytes, valid until the warp's next but one operation.
const char* warp_meet(const char* operation, const void* value, size_t size, unsigned mask);

template <class T>
struct Slots {
  const char* base;
  T operator[](int lane) const {
    T value;
    std::memcpy(&value, base + lane * kSlotBytes, sizeof(T));
    return value;
  }
};
template <class T>
Slots<T> warp_exchange(const char* operation, const T& value, unsigned mask = ~0u) {
  static_assert(sizeof(T) <= kSlotBytes);
  return {warp_meet(operation, &value, sizeof(T), mask)};
}

void async_copy(void* to, const void* from, int bytes, int total);
void async_commit();
void async_wait(int groups_left);

/// Runs `body` as every thread of every block. Throws std::runtime_error with the emulator's finding.
void launch(Dim3 grid, Dim3 block, size_t shared_bytes, const char* kernel, const std::function<void()>& body);

inline float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
inline uint32_t bits_of(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return u;
}

}  // namespace act::emulator

using dim3 = act::emulator::Dim3;
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
using cudaStream_t = void*;

#define threadIdx (::act::emulator::place().thread)
#define blockIdx (::act::emulator::place().block)
#define blockDim (::act::emulator::place().block_size)
#define gridDim (::act::emulator::place().grid_size)

inline void __syncthreads() { act::emulator::block_barrier(); }
inline void __syncwarp(unsigned mask = ~0u) { act::emulator::warp_exchange<int>("__syncwarp", 0, mask); }
template <class T>
T __shfl_sync(unsigned mask, T value, int source) {
  return act::emulator::warp_exchange(  "shfl", value, mask)[source & 31];
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int flip) {
  return act::emulator::warp_exchange("shfl.bfly", value, mask)[(act::emulator::place().lane ^ flip) & 31];
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, int distance) {
  const int lane = act::emulator::place().lane;
  return act::emulator::warp_exchange("shfl.up", value, mask)[lane >= distance ? lane - distance : lane];
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const auto all = act::emulator::warp_exchange<int>("vote", predicate != 0, mask);
  unsigned votes = 0;
  for (int i = 0; i < 32; i++) {
    if (mask >> i & 1) votes |= static_cast<unsigned>(all[i]) << i;
  }
  return votes;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
template <class T>
T atomicAdd(T* at, T value) {
  const T before = *at;
  *at = before + value;
  return before;
}
inline float __uint_as_float(uint32_t bits) { return act::emulator::float_of(bits); }
inline uint32_t __float_as_uint(float x) { return act::emulator::bits_of(x); }
