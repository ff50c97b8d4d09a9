#include "api.h"

#include <cstdio>
#include <cstring>
#include <exception>

#include "cuda_backend.h"

extern "C" __attribute__((visibility("default"))) void act_cuda_open(const ActCudaRequest* request, ActCudaAnswer* answer) {
  const auto refuse = [&](const char* code, const char* message) {
    answer->backend = nullptr;
    std::snprintf(answer->code, sizeof answer->code, "%s", code);
    std::snprintf(answer->message, sizeof answer->message, "%s", message);
  };
  if (std::strcmp(request->contract, act::kCudaContract) != 0)
    return refuse("DEVICE_UNAVAILABLE", "The CUDA backend comes from another build than the addon: build both again.");
  try {
    const act::DType activations = request->bf16 ? act::DType::bf16 : act::DType::f32;
    answer->backend = new act::cuda::CudaBackend(act::cuda::open_device(request->ordinal), activations, request->batch_invariant != 0);
  } catch (const act::Error& error) {
    refuse(error.code.c_str(), error.what());
  } catch (const std::exception& error) {
    refuse("DEVICE_UNAVAILABLE", error.what());
  }
}
