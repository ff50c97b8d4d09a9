// Where the CUDA backend's memory lies and its work is queued: a GPU through the CUDA runtime (device_cuda.cc), or host
// memory with kernels under the emulator (device_emulated.cc).
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "cublaslt_library.h"
#include "launch_queue.h"

namespace act::cuda {

class Device {
 public:
  virtual ~Device() = default;
  virtual std::string describe() const = 0;
  /// Zero-filled, 256-byte aligned; null when there is not enough.
  virtual void* allocate(size_t bytes) = 0;
  virtual void release(void* memory) noexcept = 0;
  /// Host memory, zero-filled, pinned, that kernels, upload and download reach by the same address; null: not enough.
  virtual void* allocate_host(size_t bytes) = 0;
  virtual void release_host(void* memory) noexcept = 0;
  /// In the order of the stream. upload has read `from` when it returns, but waits for nothing before it unless more is
  /// on its way than staging memory holds; download waits until `to` is written.
  virtual void upload(void* to, const void* from, size_t bytes) = 0;
  virtual void download(void* to, const void* from, size_t bytes) = 0;
  virtual void copy(void* to, const void* from, size_t bytes) = 0;
  virtual void zero(void* memory, size_t bytes) = 0;
  virtual void wait() = 0;
  virtual void start(const Launch& launch) = 0;
  virtual std::unique_ptr<Graph> make_graph(std::span<const Launch> launches) = 0;
  /// Device memory that graphs may take together.
  virtual size_t graph_limit() const = 0;
  virtual int multiprocessors() const = 0;
  virtual size_t free_bytes() const = 0;  // kUnbounded: no bound is known
  static constexpr size_t kUnbounded = SIZE_MAX;
  /// Where a cuBLASLt that computes in this device's memory may be.
  virtual LibraryPlaces cublaslt_places() const = 0;
};

/// Throws Error DEVICE_UNAVAILABLE with what is missing (driver, device, its age) and what to do.
std::unique_ptr<Device> open_device(int ordinal);

}  // namespace act::cuda
