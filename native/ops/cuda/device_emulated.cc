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

#include "../ops.h"
#include "device.h"
#include "emulator/emulator.h"
#include "requirements.h"

namespace act::cuda {
namespace {

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
  void* allocate_host(size_t bytes) override { return std::calloc(1, bytes); }
  void release_host(void* memory) noexcept override { std::free(memory); }
  void upload(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }
  void download(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }
  void copy(void* to, const void* from, size_t bytes) override { std::memmove(to, from, bytes); }
  void zero(void* memory, size_t bytes) override { std::memset(memory, 0, bytes); }
  void wait() override {}
  void* stream() override { return nullptr; }
  size_t free_bytes() const override { return limit_ == kUnbounded ? kUnbounded : limit_ - used_; }
  LibraryPlaces cublaslt_places() const override {
    const char* const path = std::getenv("ACT_EMULATED_CUBLASLT");
    return {"", path && *path ? std::vector<std::string>{path} : std::vector<std::string>{}};
  }

 private:
  size_t limit_ = kUnbounded, used_ = 0;
  std::map<void*, size_t> blocks_;
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
