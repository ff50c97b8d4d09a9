// Opens the CUDA backend from its shared object at run time, so that one package works with and without a GPU.
#pragma once
#include <memory>
#include <string>

#include "../ops.h"

namespace act {

enum class CudaFlavor : uint8_t { gpu, emulated };

/// `activations`: f32, or bf16 for bf16 keys, values and (with bf16 weights) activations. `batch_invariant`: one order of
/// additions for every shape (ops.h), so that a row's bits do not depend on its batch; else whatever is fastest, the same
/// bits for the same call (docs/cuda.md). The shared object stays loaded. Throws Error DEVICE_UNAVAILABLE with a sentence that names what is missing: the shared object, the driver, a device.
std::unique_ptr<Backend> make_cuda_backend(CudaFlavor flavor, DType activations, bool batch_invariant, int ordinal = 0);

}  // namespace act
