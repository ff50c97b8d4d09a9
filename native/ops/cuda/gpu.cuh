// The one header a kernel file includes. nvcc sees a thin layer over CUDA; the host compiler (-DACT_EMULATED_GPU) sees
// the emulator. Rules for kernels (docs/cuda.md, checked by test/tools/check-kernels.mjs): no CUDA headers, no `asm`
// outside ptx.cuh, launches only through GPU_LAUNCH, dynamic shared memory only through GPU_SHARED, no atomics on floats.
#pragma once
#include <cstddef>
#include <cstdint>
#include <utility>

#include "launch_queue.h"

#ifdef ACT_EMULATED_GPU
#include "emulator/emulator.h"
#define GPU_SHARED(T, name) T* name = reinterpret_cast<T*>(::act::emulator::dynamic_shared())
#define GPU_UNROLL
#define GPU_KEEP_LOOP
#else
#include <cuda_runtime.h>
namespace act::cuda {
/// Allows the kernel its shared memory and launches it; throws on a CUDA error (device_cuda.cc).
void start_kernel(const Launch& launch, void** arguments, void* stream);
}  // namespace act::cuda
#define GPU_SHARED(T, name)                                          \
  extern __shared__ __align__(128) unsigned char gpu_shared_bytes_[]; \
  T* name = reinterpret_cast<T*>(gpu_shared_bytes_)
#define GPU_UNROLL _Pragma("unroll")
#define GPU_KEEP_LOOP _Pragma("unroll 1")
#endif

/// Submits a kernel (in parentheses where its name has a comma) to a LaunchQueue.
#define GPU_LAUNCH(kernel, grid, block, shared_bytes, queue, ...) \
  (queue)->submit(::act::cuda::make_launch(#kernel, kernel, (grid), (block), (shared_bytes), __VA_ARGS__))

namespace act::cuda {

/// Reads a Launch's arguments back as those of a kernel that takes P...
template <class... P>
struct KernelCall {
  static void start(const Launch& launch, void* stream) { start(launch, stream, std::index_sequence_for<P...>()); }

 private:
  static constexpr std::array<size_t, sizeof...(P)> places() {
    std::array<size_t, sizeof...(P)> all{};
    size_t i = 0, end = 0;
    ((all[i] = Launch::place<P>(end), end = all[i++] + sizeof(P)), ...);
    return all;
  }
  template <size_t... I>
  static void start(const Launch& launch, [[maybe_unused]] void* stream, std::index_sequence<I...>) {
    static_assert(places().back() + 16 <= Launch::kArgumentBytes, "raise kArgumentBytes");
    constexpr std::array<size_t, sizeof...(P)> at = places();
#ifdef ACT_EMULATED_GPU
    const auto kernel = reinterpret_cast<void (*)(P...)>(launch.kernel);
    const dim3 grid(launch.grid[0], launch.grid[1], launch.grid[2]);
    const dim3 block(launch.block[0], launch.block[1], launch.block[2]);
    emulator::launch(grid, block, launch.shared_bytes, launch.name,
                     [&] { kernel(*reinterpret_cast<const P*>(launch.arguments + at[I])...); });
#else
    void* arguments[] = {const_cast<unsigned char*>(launch.arguments + at[I])...};
    start_kernel(launch, arguments, stream);
#endif
  }
};

template <class... P, class... A>
Launch make_launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
                   const A&... arguments) {
  static_assert(sizeof...(P) == sizeof...(A), "a kernel takes another number of arguments");
  Launch launch;
  launch.name = name;
  launch.kernel = reinterpret_cast<void (*)()>(kernel);
  launch.start = &KernelCall<P...>::start;
  launch.grid = {grid.x, grid.y, grid.z};
  launch.block = {block.x, block.y, block.z};
  launch.shared_bytes = shared_bytes;
  (launch.add_argument<P>(arguments), ...);
  return launch;
}

/// bf16 as stored: the same bits and the same rounding with both compilers.
struct bf16 {
  uint16_t bits;
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }

/// Round to nearest even; a NaN stays a quiet NaN.
__device__ __forceinline__ bf16 round_bf16(float x) {
  const uint32_t u = __float_as_uint(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((u >> 16) | 0x40)};
  return {static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1)) >> 16)};
}

template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) {
  return round_bf16(x);
}

/// Two values as an mma operand register: `low` in the lower half.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  return static_cast<uint32_t>(round_bf16(low).bits) | static_cast<uint32_t>(round_bf16(high).bits) << 16;
}

constexpr unsigned kFullWarp = 0xffffffffu;

/// Sums and maxima over a warp or a block of kWarps warps, in a fixed tree; every thread gets the result.
template <class T>
__device__ __forceinline__ T warp_sum(T x) {
  for (int flip = 16; flip; flip >>= 1) x += __shfl_xor_sync(kFullWarp, x, flip);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
  for (int flip = 16; flip; flip >>= 1) x = fmaxf(x, __shfl_xor_sync(kFullWarp, x, flip));
  return x;
}
template <int kWarps, class T>
__device__ __forceinline__ T block_sum(T x) {
  __shared__ T parts[32];
  x = warp_sum(x);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x % 32);
  const T total = warp_sum(lane < kWarps ? parts[lane] : T(0));
  __syncthreads();  // parts may be used again
  return total;
}
template <int kWarps>
__device__ __forceinline__ float block_max(float x) {
  __shared__ float parts[32];
  x = warp_max(x);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  const float most = warp_max(parts[threadIdx.x % 32 < kWarps ? threadIdx.x % 32 : 0]);
  __syncthreads();
  return most;
}

__device__ __forceinline__ int64_t global_thread() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

}  // namespace act::cuda

#include "ptx.cuh"
