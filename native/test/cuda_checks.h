// Checks of the CUDA backend beside the cases: invariance, sampling, what happens when memory runs out.
#pragma once
#include "harness.h"

namespace act::test {

/// A way to open the backend; the emulator's settings are those of the last one opened.
struct Device {
  std::string name = {};       // cuda, or the emulated way
  bool async_early = false;
  int seed = 0;
  std::string library = {};    // beside the test program; empty: the real one
  std::string bytes = {};      // the emulated device's memory; empty: unlimited
  bool batch_invariant = true;
  std::unique_ptr<Backend> open(DType activations) const;
};

/// Early and late cp.async, two orders each.
std::vector<Device> emulated_devices();
void cuda_checks(std::vector<Check>& checks, const Device& device);
void engine_checks(std::vector<Check>& checks, const Device& device);
void device_memory_is_planned();
void large_models_fit();
void memory_limit_checks(std::vector<Check>& checks);
/// cuda_speed.cc: single operations; cuda_speed_engine.cc: whole steps, of a toy where `small`.
int run_speed(const Device& device);
int run_engine_speed(const Device& device, bool small);

}  // namespace act::test
