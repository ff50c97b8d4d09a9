// Each file of kernels fills its part of the table.
#pragma once
#include "simd.h"

namespace act::cpu::ACT_ISA {

void fill_gemm(Kernels& k);
void fill_pack(Kernels& k);
void fill_attention(Kernels& k);
void fill_elementwise(Kernels& k);
void fill_head(Kernels& k);
void fill_optimizer(Kernels& k);

}  // namespace act::cpu::ACT_ISA
