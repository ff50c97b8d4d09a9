// The one symbol of the shared object `act_cuda`. It is C, so that nothing but it has to be found by name; the backend it
// hands over is the C++ class of ops.h, hence `contract`: addon and shared object must come from the same build.
#pragma once
#include <cstddef>
#include <cstdint>

namespace act {
class Backend;
}

extern "C" {

struct ActCudaRequest {
  const char* contract;     // kCudaContract of the caller
  int32_t ordinal;          // which device
  int32_t bf16;             // 1: bf16 keys and values, and bf16 activations for bf16 weights; 0: fp32
  int32_t batch_invariant;  // 1: one order of additions for every shape
};
struct ActCudaAnswer {
  act::Backend* backend;  // the caller's; null: `code` and `message` say why
  char code[32];
  char message[768];
};
using ActCudaOpen = void (*)(const ActCudaRequest* request, ActCudaAnswer* answer);

}  // extern "C"

namespace act {
constexpr const char* kCudaEntry = "act_cuda_open";
/// What the two sides share, ops.h and this file, as a hash that CMake computes: both must be of the same text.
constexpr const char* kCudaContract = ACT_CUDA_CONTRACT;
}  // namespace act
