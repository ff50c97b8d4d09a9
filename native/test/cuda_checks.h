// Checks of the CUDA backend beside the cases: invariance, sampling, what happens when memory runs out.
#pragma once
#include "cuda_waiting.h"
#include "harness.h"

namespace act::test {

/// A way to open the backend; the emulator's settings are those of the last one opened.
struct Device {
  std::string name = {};       // cuda, or the emulated way
  bool async_early = false;
  int seed = 0;
  std::string library = {};    // beside the test program; empty: the real one
  std::string bytes = {};      // the emulated device's memory; empty: unlimited
  std::string places = {};     // for thread blocks of attention (ACT_CUDA_PLACES); empty: as the device has them
  std::string partition = {};  // keys of a partition of attention (ACT_CUDA_PARTITION); empty: as it comes
  bool graphs = true;
  bool batch_invariant = true;
  std::string cublaslt = "act_emulated_cublaslt.so";  // on the emulated device, where not batch_invariant; empty: none
  std::string cublaslt_fault = {};                    // ACT_EMULATED_CUBLASLT_FAULT
  std::unique_ptr<Backend> open(DType activations) const;
};

/// Whether cuBLASLt computes its products.
bool by_cublaslt(const Backend& backend);
/// Where the test program and the shared objects lie, with a slash.
std::string own_folder();
/// Early and late cp.async, two orders each.
std::vector<Device> emulated_devices();
/// A tensor in the backend's memory, rounded where that is bf16, and back.
Buffer on_device(Backend& b, const Tensor& t, DType dtype);
Tensor read_back(Backend& b, View from);
/// For engine_checks and decode_checks: a tiny Qwen3, the engine's name for the device, seeded weights.
EngineOptions tiny_options(const Device& device, DType dtype);
std::string engine_device(const Device& device);
void initialize(WaitingEngine& engine);

void cuda_checks(std::vector<Check>& checks, const Device& device);
/// cuda_decode.cc: on a device, the long ones (in one way of the emulator), and what needs no device.
void decode_checks(std::vector<Check>& checks, const Device& device);
void graph_checks(std::vector<Check>& checks, const Device& device);
void plan_checks(std::vector<Check>& checks);
void engine_checks(std::vector<Check>& checks, const Device& device);
void device_memory_is_planned();
void large_models_fit();
/// For a device that is not batch-invariant.
void cublaslt_engine_checks(std::vector<Check>& checks, const Device& device);
void memory_limit_checks(std::vector<Check>& checks);
/// cuda_cublaslt.cc: products by the emulated cuBLASLt, how the real one is found, and what of it can be tried without a GPU.
void cublaslt_checks(std::vector<Check>& checks);
/// Whether cublasLt.h was there to be compared with (cuda_cublaslt_header.cc).
bool cublaslt_header_compared();
/// cuda_speed.cc: single operations; cuda_speed_engine.cc: whole steps. A toy's where `small`.
int run_speed(Device device, bool small);
int run_engine_speed(Device device, bool small);

}  // namespace act::test
