#include "fill.h"

#define ACT_STRING2(x) #x
#define ACT_STRING(x) ACT_STRING2(x)

namespace act::cpu::ACT_ISA {

const Kernels& kernels() {
  static const Kernels table = [] {
    Kernels k{};
    k.name = ACT_STRING(ACT_ISA);
    fill_gemm(k);
    fill_pack(k);
    fill_attention(k);
    fill_elementwise(k);
    fill_head(k);
    fill_optimizer(k);
    return k;
  }();
  return table;
}

}  // namespace act::cpu::ACT_ISA
