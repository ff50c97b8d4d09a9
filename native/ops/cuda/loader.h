// Opens the CUDA backend from its shared object at run time, so that one package works with and without a GPU.
#pragma once
#include <memory>
#include <string>

#include "../ops.h"

namespace act {

enum class CudaFlavor : uint8_t { gpu, emulated };

/// `activations`: f32, or bf16 for bf16 keys, values and (with bf16 weights) activations. The shared object stays loaded.
/// Throws Error DEVICE_UNAVAILABLE with a sentence that names what is missing: the shared object, the driver, a device.
std::unique_ptr<Backend> make_cuda_backend(CudaFlavor flavor, DType activations, int ordinal = 0);

}  // namespace act
