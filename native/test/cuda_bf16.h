// The CUDA backend with bf16 activations behind an fp32 face, so that the case structs test it as they are: activations
// are rounded to bf16 on the way in and widened on the way out, everything that is fp32 by contract stays fp32.
#pragma once
#include <memory>

#include "../ops/host.h"

namespace act::test {

/// `inner` must have been made with bf16 activations.
std::unique_ptr<Backend> make_bf16_face(std::unique_ptr<Backend> inner);

}  // namespace act::test
