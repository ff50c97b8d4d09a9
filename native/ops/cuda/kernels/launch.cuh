// What launchers share: grids, and the step from a View's dtype to a type.
#pragma once
#include "../gpu.cuh"
#include "kernels.h"

namespace act::cuda {

inline unsigned blocks_for(int64_t count, int per_block) {
  return static_cast<unsigned>((count + per_block - 1) / per_block);
}

/// Calls f(T()) with the element type of `dtype`.
template <class F>
void with_type(DType dtype, F f) {
  if (dtype == DType::bf16) {
    f(bf16{});
  } else {
    f(float{});
  }
}

}  // namespace act::cuda
