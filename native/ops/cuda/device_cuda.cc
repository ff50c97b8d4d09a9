// The GPU through the CUDA runtime, linked statically: without a driver this file loads and says so.
#include <cuda_runtime.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

#include "../ops.h"
#include "device.h"
#include "requirements.h"

namespace act::cuda {
namespace {

/// After an error that the CUDA context does not survive, every call says so and touches the device no more.
thread_local std::string device_lost;

std::string at(const char* file, int line) {
  const std::string path = file;
  return " (" + path.substr(path.rfind('/') + 1) + ":" + std::to_string(line) + ")";
}

void check(cudaError_t status, const char* file, int line) {
  if (!device_lost.empty()) throw Error("DEVICE_LOST", device_lost);
  if (status == cudaSuccess) return;
  cudaGetLastError();  // a status that is not sticky is forgotten, and the device goes on
  const std::string what = std::string(cudaGetErrorName(status)) + ": " + cudaGetErrorString(status) + at(file, line);
  if (status == cudaErrorMemoryAllocation)
    throw Error("OUT_OF_MEMORY", "The GPU is out of memory, " + what + ". Lower maxBatchTokens or cacheTokens.");
  if (status == cudaErrorInvalidValue || status == cudaErrorInvalidConfiguration)
    throw Error("INTERNAL", "A CUDA call was refused, " + what + ". This is a defect: report it.");
  device_lost = "The GPU is lost to this process, " + what +
                ". Dispose of the engine and start a new process; if it happens again, check the system log for Xid errors.";
  throw Error("DEVICE_LOST", device_lost);
}
#define ACT_CHECK(call) check((call), __FILE__, __LINE__)

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(int ordinal) : ordinal_(ordinal) {
    ACT_CHECK(cudaSetDevice(ordinal));
    ACT_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    ACT_CHECK(cudaGetDeviceProperties(&properties_, ordinal));
    ACT_CHECK(cudaDriverGetVersion(&driver_));
  }
  ~CudaDevice() override {
    if (stream_) cudaStreamDestroy(stream_);
  }
  std::string describe() const override {
    return std::string(properties_.name) + ", sm_" + std::to_string(properties_.major * 10 + properties_.minor) + ", " +
           std::to_string(properties_.totalGlobalMem >> 20) + " MiB, driver for CUDA " + std::to_string(driver_ / 1000) + "." +
           std::to_string(driver_ % 1000 / 10);
  }
  void* allocate(size_t bytes) override {
    void* memory = nullptr;
    const cudaError_t status = cudaMalloc(&memory, bytes);
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      return nullptr;
    }
    ACT_CHECK(status);
    zero(memory, bytes);
    return memory;
  }
  void release(void* memory) noexcept override { cudaFree(memory); }  // waits for the device: nothing still uses it
  void* allocate_host(size_t bytes) override {
    void* memory = nullptr;
    // Unified addressing, which every GPU served here has: one address for host and device.
    const cudaError_t status = cudaHostAlloc(&memory, bytes, cudaHostAllocDefault);
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      return nullptr;
    }
    ACT_CHECK(status);
    pinned_.emplace(static_cast<const char*>(memory), bytes);
    std::memset(memory, 0, bytes);
    return memory;
  }
  void release_host(void* memory) noexcept override {
    cudaStreamSynchronize(stream_);  // kernels may still write there
    pinned_.erase(static_cast<const char*>(memory));
    cudaFreeHost(memory);
  }
  void upload(void* to, const void* from, size_t bytes) override {
    if (is_pinned(to)) {
      wait();
      std::memcpy(to, from, bytes);
      return;
    }
    // From pageable memory: the driver has copied `from` when the call returns.
    ACT_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_));
  }
  void download(void* to, const void* from, size_t bytes) override {
    if (!is_pinned(from)) ACT_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_));
    wait();
    if (is_pinned(from)) std::memcpy(to, from, bytes);
  }
  void copy(void* to, const void* from, size_t bytes) override {
    ACT_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_));
  }
  void zero(void* memory, size_t bytes) override { ACT_CHECK(cudaMemsetAsync(memory, 0, bytes, stream_)); }
  void wait() override { ACT_CHECK(cudaStreamSynchronize(stream_)); }
  void* stream() override { return stream_; }
  size_t free_bytes() const override {
    size_t free = 0, total = 0;
    ACT_CHECK(cudaMemGetInfo(&free, &total));
    return free;
  }
  LibraryPlaces cublaslt_places() const override { return cuda::cublaslt_places(std::getenv); }

 private:
  /// Whether `address` lies in memory of allocate_host.
  bool is_pinned(const void* address) const {
    auto after = pinned_.upper_bound(static_cast<const char*>(address));
    if (after == pinned_.begin()) return false;
    const auto& [begin, bytes] = *--after;
    return static_cast<const char*>(address) < begin + bytes;
  }

  int ordinal_, driver_ = 0;
  cudaStream_t stream_ = nullptr;
  std::map<const char*, size_t> pinned_;
  cudaDeviceProp properties_{};
};

}  // namespace

void allow_shared_bytes(const void* kernel, size_t bytes, const char* file, int line) {
  constexpr size_t kWithoutAsking = 48 * 1024;
  if (bytes <= kWithoutAsking) return;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)), file, line);
}

void check_launch(const char* file, int line) { check(cudaGetLastError(), file, line); }

std::unique_ptr<Device> open_device(int ordinal) {
  Found found;
  found.ordinal = ordinal;
  cudaRuntimeGetVersion(&found.runtime);
  if (cudaDriverGetVersion(&found.driver) != cudaSuccess) found.driver = 0;
  const cudaError_t status = cudaGetDeviceCount(&found.devices);
  cudaGetLastError();
  if (status != cudaSuccess) found.devices = 0;
  found.driver_too_old = status == cudaErrorInsufficientDriver;
  if (found.driver > 0 && status != cudaSuccess && !found.driver_too_old && status != cudaErrorNoDevice) {
    throw Error("DEVICE_UNAVAILABLE", std::string("CUDA could not start: ") + cudaGetErrorString(status) + ". Use device cpu.");
  }
  cudaDeviceProp properties{};
  if (ordinal >= 0 && ordinal < found.devices && cudaGetDeviceProperties(&properties, ordinal) == cudaSuccess) {
    found.name = properties.name;
    found.major = properties.major;
  }
  if (const std::string missing = what_is_missing(found); !missing.empty()) {
    throw Error("DEVICE_UNAVAILABLE", missing + " Use device cpu meanwhile.");
  }
  return std::make_unique<CudaDevice>(ordinal);
}

}  // namespace act::cuda
