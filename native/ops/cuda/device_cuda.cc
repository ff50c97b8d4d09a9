// The GPU through the CUDA runtime, linked statically: without a driver this file loads and says so.
#include <cuda_runtime.h>

#include <algorithm>
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

/// `where`: this file, with the line, or a kernel.
void check(cudaError_t status, const char* where, int line = 0) {
  if (!device_lost.empty()) throw Error("DEVICE_LOST", device_lost);
  if (status == cudaSuccess) return;
  cudaGetLastError();  // a status that is not sticky is forgotten, and the device goes on
  std::string what = std::string(cudaGetErrorName(status)) + ": " + cudaGetErrorString(status) + " (" + where;
  if (line > 0) what.append(":").append(std::to_string(line));
  what += ")";
  if (status == cudaErrorMemoryAllocation)
    throw Error("OUT_OF_MEMORY", "The GPU is out of memory, " + what + ".");
  if (status == cudaErrorInvalidValue || status == cudaErrorInvalidConfiguration)
    throw Error("INTERNAL", "A CUDA call was refused, " + what + ". This is a defect: report it.");
  device_lost = "The GPU is lost to this process, " + what +
                ". Dispose of the engine and start a new process; if it happens again, check the system log for Xid errors.";
  throw Error("DEVICE_LOST", device_lost);
}
#define ACT_CHECK(call) check((call), "device_cuda.cc", __LINE__)

/// Pinned host memory that uploads go through: from pageable memory a copy of more than 64 KiB waits for the stream.
constexpr size_t kStagingBytes = size_t{8} << 20;
/// Graphs, all together. What one takes is not known before it is made on a card: a few hundred kernels.
constexpr size_t kGraphBytes = size_t{64} << 20;

class CudaGraph final : public Graph {
 public:
  CudaGraph(cudaStream_t stream, std::span<const Launch> launches) : stream_(stream) {
    const size_t before = free_bytes();
    ACT_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    cudaGraph_t graph = nullptr;
    try {
      for (const Launch& launch : launches) launch.start(launch, stream);
    } catch (...) {
      cudaStreamEndCapture(stream, &graph);  // whatever it says: the first error counts
      if (graph) cudaGraphDestroy(graph);
      throw;
    }
    ACT_CHECK(cudaStreamEndCapture(stream, &graph));
    const cudaError_t made = cudaGraphInstantiate(&graph_, graph, 0);
    cudaGraphDestroy(graph);
    ACT_CHECK(made);
    ACT_CHECK(cudaGraphUpload(graph_, stream));
    ACT_CHECK(cudaStreamSynchronize(stream));
    // Another process on the card may allocate meanwhile; the sum is a limit's measure, not an account.
    const size_t after = free_bytes();
    bytes_ = before > after ? before - after : 0;
  }
  ~CudaGraph() override {
    if (graph_) cudaGraphExecDestroy(graph_);
  }
  void launch() override { ACT_CHECK(cudaGraphLaunch(graph_, stream_)); }
  size_t bytes() const override { return bytes_; }

 private:
  static size_t free_bytes() {
    size_t free = 0, total = 0;
    ACT_CHECK(cudaMemGetInfo(&free, &total));
    return free;
  }
  cudaStream_t stream_;
  cudaGraphExec_t graph_ = nullptr;
  size_t bytes_ = 0;
};

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(int ordinal) : ordinal_(ordinal) {
    ACT_CHECK(cudaSetDevice(ordinal));
    ACT_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    ACT_CHECK(cudaGetDeviceProperties(&properties_, ordinal));
    ACT_CHECK(cudaDriverGetVersion(&driver_));
    ACT_CHECK(cudaMallocHost(&staging_, kStagingBytes));
  }
  ~CudaDevice() override {
    if (stream_) cudaStreamDestroy(stream_);
    if (staging_) cudaFreeHost(staging_);
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
    for (size_t done = 0; done < bytes;) {
      if (staged_ == kStagingBytes) wait();
      const size_t piece = std::min(bytes - done, kStagingBytes - staged_);
      char* const staged = staging_ + staged_;
      std::memcpy(staged, static_cast<const char*>(from) + done, piece);
      ACT_CHECK(cudaMemcpyAsync(static_cast<char*>(to) + done, staged, piece, cudaMemcpyHostToDevice, stream_));
      staged_ += std::min((piece + 255) / 256 * 256, kStagingBytes - staged_);
      done += piece;
    }
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
  void wait() override {
    ACT_CHECK(cudaStreamSynchronize(stream_));
    staged_ = 0;
  }
  void start(const Launch& launch) override { launch.start(launch, stream_); }
  std::unique_ptr<Graph> make_graph(std::span<const Launch> launches) override {
    return std::make_unique<CudaGraph>(stream_, launches);
  }
  size_t graph_limit() const override { return kGraphBytes; }
  int multiprocessors() const override { return properties_.multiProcessorCount; }
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
  char* staging_ = nullptr;
  size_t staged_ = 0;  // bytes of it that copies may still read
  cudaDeviceProp properties_{};
};

}  // namespace

void start_kernel(const Launch& launch, void** arguments, void* stream) {
  constexpr size_t kWithoutAsking = 48 * 1024;
  const auto* const kernel = reinterpret_cast<const void*>(launch.kernel);
  const auto checked = [&](cudaError_t status) { check(status, launch.name); };
  if (launch.shared_bytes > kWithoutAsking) {
    const int bytes = static_cast<int>(launch.shared_bytes);
    checked(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  }
  const dim3 grid(launch.grid[0], launch.grid[1], launch.grid[2]);
  const dim3 block(launch.block[0], launch.block[1], launch.block[2]);
  checked(cudaLaunchKernel(kernel, grid, block, arguments, launch.shared_bytes, static_cast<cudaStream_t>(stream)));
}

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
