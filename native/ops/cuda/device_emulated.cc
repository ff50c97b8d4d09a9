// The emulated device: host memory, kernels under emulator/. For tests of everything but the silicon.
//   ACT_EMULATED_BYTES   how much memory the device has (default: no limit)
//   ACT_EMULATED_ASYNC   early or late (default): when cp.async lands
//   ACT_EMULATED_CUBLASLT  a cuBLASLt in host memory, act_emulated_cublaslt.so (default: none)
//   ACT_EMULATED_SEED    order of warps and lanes (default 0: ascending)
//   ACT_EMULATED_MISSING driver, newer-driver, device or newer-device: what opening the device finds missing
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <stdexcept>
#include <vector>

#include "../ops.h"
#include "device.h"
#include "emulator/emulator.h"
#include "requirements.h"

namespace act::cuda {
namespace {

/// The launches as they were recorded: what a step changes must have come to them through device memory. Takes as much
/// memory as its arguments, so that graphs are counted and limited here too.
class EmulatedGraph final : public Graph {
 public:
  EmulatedGraph(Device& device, std::span<const Launch> launches)
      : device_(device), launches_(launches.begin(), launches.end()), memory_(device.allocate(bytes())) {
    if (!memory_) throw Error("OUT_OF_MEMORY", "The emulated GPU has no memory for a graph.");
  }
  ~EmulatedGraph() override { device_.release(memory_); }
  void launch() override {
    for (const Launch& launch : launches_) device_.start(launch);
  }
  size_t bytes() const override { return launches_.size() * Launch::kArgumentBytes; }

 private:
  Device& device_;
  const std::vector<Launch> launches_;
  void* const memory_;
};

class EmulatedDevice final : public Device {
 public:
  EmulatedDevice() {
    if (const char* bytes = std::getenv("ACT_EMULATED_BYTES")) limit_ = std::strtoull(bytes, nullptr, 10);
    if (const char* async = std::getenv("ACT_EMULATED_ASYNC")) emulator::schedule().async_early = *async == 'e';
    if (const char* seed = std::getenv("ACT_EMULATED_SEED")) emulator::schedule().seed = std::strtoull(seed, nullptr, 10);
  }
  ~EmulatedDevice() override {
    for (const auto& [memory, bytes] : blocks_) std::free(memory);
  }
  std::string describe() const override { return "emulated GPU"; }
  void* allocate(size_t bytes) override {
    if (bytes > free_bytes() || bytes > PTRDIFF_MAX - 256) return nullptr;
    void* memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (!memory) return nullptr;
    std::memset(memory, 0, bytes);
    blocks_.emplace(memory, bytes);
    used_ += bytes;
    return memory;
  }
  void release(void* memory) noexcept override {
    const auto block = blocks_.find(memory);
    if (block == blocks_.end()) return;
    used_ -= block->second;
    blocks_.erase(block);
    std::free(memory);
  }
  void* allocate_host(size_t bytes) override {
    void* const memory = std::calloc(1, bytes);
    if (memory) pinned_.emplace(memory, bytes);
    return memory;
  }
  void release_host(void* memory) noexcept override {
    pinned_.erase(memory);
    std::free(memory);
  }
  void upload(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }
  void download(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }
  void copy(void* to, const void* from, size_t bytes) override { std::memmove(to, from, bytes); }
  void zero(void* memory, size_t bytes) override { std::memset(memory, 0, bytes); }
  void wait() override {}
  void start(const Launch& launch) override {
    check_pointers(launch);
    launch.start(launch, nullptr);
  }
  std::unique_ptr<Graph> make_graph(std::span<const Launch> launches) override {
    return std::make_unique<EmulatedGraph>(*this, launches);
  }
  size_t graph_limit() const override { return size_t{1} << 20; }
  int multiprocessors() const override { return 4; }
  size_t free_bytes() const override { return limit_ == kUnbounded ? kUnbounded : limit_ - used_; }
  LibraryPlaces cublaslt_places() const override {
    const char* const path = std::getenv("ACT_EMULATED_CUBLASLT");
    return {"", path && *path ? std::vector<std::string>{path} : std::vector<std::string>{}};
  }

 private:
  /// Host memory is as good as the device's here: that a kernel got some is noticed by its address.
  void check_pointers(const Launch& launch) const {
    for (size_t word = 0; word * 8 < launch.argument_bytes; word++) {
      if (!(launch.pointers >> word & 1)) continue;
      const char* pointer = nullptr;
      std::memcpy(&pointer, launch.arguments + word * 8, sizeof pointer);
      if (!pointer) continue;
      if (holds(blocks_, pointer) || holds(pinned_, pointer)) continue;
      throw std::runtime_error(std::string(launch.name) + ": a pointer among its arguments is not to device memory");
    }
  }
  static bool holds(const std::map<void*, size_t>& blocks, const char* pointer) {
    auto block = blocks.upper_bound(const_cast<char*>(pointer));
    if (block == blocks.begin()) return false;
    --block;
    return pointer <= static_cast<const char*>(block->first) + block->second;
  }

  size_t limit_ = kUnbounded, used_ = 0;
  std::map<void*, size_t> blocks_, pinned_;
};

}  // namespace

std::unique_ptr<Device> open_device(int ordinal) {
  const char* const lacks = std::getenv("ACT_EMULATED_MISSING");
  const std::string missing = lacks ? lacks : "";
  Found found{.driver = 13000, .runtime = 13000, .devices = 1, .ordinal = ordinal, .name = "emulated GPU", .major = 8};
  if (missing == "driver") found.driver = 0;
  if (missing == "newer-driver") found.driver = 11040, found.driver_too_old = true;
  if (missing == "device") found.devices = 0;
  if (missing == "newer-device") found.major = 7;
  if (const std::string what = what_is_missing(found); !what.empty()) {
    throw Error("DEVICE_UNAVAILABLE", what + " Use device cpu meanwhile.");
  }
  return std::make_unique<EmulatedDevice>();
}

}  // namespace act::cuda
