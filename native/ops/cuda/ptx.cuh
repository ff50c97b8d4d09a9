// The only place with inline PTX. Every wrapper is warp-collective, takes generic pointers and plain register arrays, and
// has its emulated body beside it.
#pragma once

namespace act::cuda {

#ifndef ACT_EMULATED_GPU

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

/// c += A (16 x 16, row) * B (16 x 8, column); bf16 in, fp32 accumulation.
__device__ __forceinline__ void mma_16x8x16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Four 8 x 8 matrices of 16-bit values; lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
/// The same, each matrix transposed.
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

/// Starts a copy of 16 bytes from global to shared memory; !valid: writes zeros and reads nothing.
__device__ __forceinline__ void copy_async_16(void* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0],[%1],16,%2;" ::"r"(shared_address(to)), "l"(from), "r"(valid ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until at most kLeft of the thread's groups are on the way.
template <int kLeft>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

#else

inline void mma_16x8x16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Operands {
    uint32_t a[4], b[2];
  };
  const auto all = emulator::warp_exchange<Operands>("mma.m16n8k16", {{a[0], a[1], a[2], a[3]}, {b0, b1}});
  const int lane = emulator::place().lane, group = lane / 4, quad = lane % 4;
  auto low = [](uint32_t v) { return emulator::float_of(v << 16); };
  auto high = [](uint32_t v) { return emulator::float_of(v & 0xffff0000u); };
  Operands rows[4], columns[2][4];
  for (int q = 0; q < 4; q++) rows[q] = all[group * 4 + q];
  for (int j = 0; j < 2; j++) {
    for (int q = 0; q < 4; q++) columns[j][q] = all[(2 * quad + j) * 4 + q];
  }
  for (int half = 0; half < 2; half++) {  // row group + 8 half
    for (int j = 0; j < 2; j++) {         // column 2 quad + j
      float sum = c[half * 2 + j];
      for (int k = 0; k < 2; k++) {    // inner index 8 k + 2 q, + 1
        for (int q = 0; q < 4; q++) {
          const uint32_t av = rows[q].a[k * 2 + half], bv = columns[j][q].b[k];
          sum += low(av) * low(bv);
          sum += high(av) * high(bv);
        }
      }
      c[half * 2 + j] = sum;
    }
  }
}

inline void load_matrices_emulated(uint32_t (&r)[4], const void* row, bool transposed) {
  const auto all = emulator::warp_exchange<const void*>(transposed ? "ldmatrix.x4.trans" : "ldmatrix.x4", row);
  const int lane = emulator::place().lane;
  for (int m = 0; m < 4; m++) {
    uint16_t pair[2];
    for (int e = 0; e < 2; e++) {
      const int i = transposed ? lane % 4 * 2 + e : lane / 4, j = transposed ? lane / 4 : lane % 4 * 2 + e;
      const char* address = static_cast<const char*>(all[m * 8 + i]);
      if (reinterpret_cast<uintptr_t>(address) & 15) emulator::fail("ldmatrix row address is not 16-byte aligned");
      std::memcpy(&pair[e], address + 2 * j, 2);
    }
    r[m] = static_cast<uint32_t>(pair[0]) | static_cast<uint32_t>(pair[1]) << 16;
  }
}
inline void load_matrices(uint32_t (&r)[4], const void* row) { load_matrices_emulated(r, row, false); }
inline void load_matrices_transposed(uint32_t (&r)[4], const void* row) { load_matrices_emulated(r, row, true); }

inline void copy_async_16(void* to, const void* from, bool valid) { emulator::async_copy(to, from, valid ? 16 : 0, 16); }
inline void copy_async_commit() { emulator::async_commit(); }
template <int kLeft>
void copy_async_wait() {
  emulator::async_wait(kLeft);
}

#endif

}  // namespace act::cuda
