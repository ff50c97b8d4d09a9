#include "cpu_backend.h"

#include <algorithm>
#include <cstring>

#include "../floats.h"

#if defined(ACT_AMX)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace act {
namespace cpu {
namespace {

constexpr int64_t kBytesPerPiece = 256 << 10;

#if defined(ACT_X86)
/// The kernels for tile registers, where the processor has them and the system lets this process use them.
const Kernels* amx_kernels() {
#if defined(ACT_AMX)
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24;  // EDX of leaf 7
  constexpr long kRequest = 0x1023, kTileData = 18;       // ARCH_REQ_XCOMP_PERM
  static const bool granted = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kBf16) == 0 || (d & kTile) == 0) return false;
    return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;  // refused by old kernels and by some sandboxes
  }();
  if (granted) return &amx::kernels();
#endif
  return nullptr;
}
#endif

}  // namespace

CpuBackend::CpuBackend(int threads, const Kernels& kernels) : kernels_(kernels), pool_(threads) {}

std::string CpuBackend::describe() const {
  const int n = pool_.threads();
  return std::string(kernels_.name) + ", " + std::to_string(n) + (n == 1 ? " thread" : " threads") + ", batch-invariant";
}

// Moves: pieces for every thread, each as the host's plain loops do it.
void CpuBackend::copy(View to, View from) {
  require(to.size() == from.size() && to.dtype == from.dtype, "copy: both views must have one size and dtype");
  const auto size = static_cast<int64_t>(size_of(to.dtype));
  const char *begin = from.as<char>(), *target = to.as<char>();
  const int64_t bytes = to.size() * size;
  if (target < begin + bytes && begin < target + bytes) return HostBackend::copy(to, from);  // overlapping
  for_pieces(bytes, kBytesPerPiece, [&](int64_t first, int64_t count) {
    std::memcpy(to.as<char>() + first, from.as<char>() + first, static_cast<size_t>(count));
  });
}

void CpuBackend::fill(View x, float value) {
  const auto size = static_cast<int64_t>(size_of(x.dtype));
  for_pieces(x.size(), kBytesPerPiece / size, [&](int64_t first, int64_t count) {
    HostBackend::fill({x.as<char>() + first * size, 1, count, x.dtype}, value);
  });
}

void CpuBackend::gather_rows(View dst, View src, std::span<const int32_t> index) {
  require(dst.rows == static_cast<int64_t>(index.size()), "gather_rows: dst must have one row an index");
  const int64_t rows = std::max<int64_t>(1, kBytesPerPiece / 4 / std::max<int64_t>(1, dst.cols));
  for_pieces(dst.rows, rows, [&](int64_t first, int64_t count) {
    HostBackend::gather_rows(dst.rows_from(first, count), src,
                             index.subspan(static_cast<size_t>(first), static_cast<size_t>(count)));
  });
}

void CpuBackend::scatter_add_rows(View dst, View src, std::span<const int32_t> index) {
  require(dst.cols == src.cols && src.rows == static_cast<int64_t>(index.size()) && dst.dtype == DType::f32 &&
              src.dtype == DType::f32,
          "scatter_add_rows: src must have one row an index, and dst's columns; both f32");
  for (const int32_t i : index) require(i >= 0 && i < dst.rows, "scatter_add_rows: index outside dst");
  for_pieces(dst.cols, 128, [&](int64_t first, int64_t count) {  // by columns: rows may repeat
    for (size_t i = 0; i < index.size(); i++) {
      kernels_.add(dst.as<float>() + index[i] * dst.cols + first,
                   src.as<float>() + static_cast<int64_t>(i) * src.cols + first, count);
    }
  });
}

std::unique_ptr<Weight> CpuBackend::create_weight(int64_t rows, int64_t cols, DType dtype, bool trainable, Place master) {
  require(dtype == DType::f32 || dtype == DType::bf16, "create_weight: expected dtype f32 or bf16");
  require(master == Place::device, "create_weight: cpu computes in host memory");
  auto w = std::make_unique<CpuWeight>();
  w->rows = rows;
  w->cols = cols;
  w->dtype = dtype;
  w->trainable = trainable;
  w->row_major = Buffer(*this, rows, cols, trainable ? DType::f32 : dtype);
  w->packed = Buffer(*this, 1, packed_words(rows, cols, dtype == DType::bf16), DType::f32);
  return w;
}

size_t CpuBackend::weight_bytes(int64_t rows, int64_t cols, DType dtype, bool trainable) const {
  return static_cast<size_t>(rows * cols) * size_of(trainable ? DType::f32 : dtype) +
         static_cast<size_t>(packed_words(rows, cols, dtype == DType::bf16)) * 4;
}

void CpuBackend::load_weight(Weight& weight, const void* from, DType dtype) {
  auto& w = static_cast<CpuWeight&>(weight);
  const View to = w.row_major.view();
  if (to.dtype == dtype) {
    upload(to, from);
  } else {
    for_pieces(to.rows, std::max<int64_t>(1, 65536 / std::max<int64_t>(1, to.cols)), [&](int64_t first, int64_t count) {
      for (int64_t i = first * to.cols; i < (first + count) * to.cols; i++) {
        const float x = element_as_float(from, dtype, i);
        if (to.dtype == DType::f32) {
          to.as<float>()[i] = x;
        } else {
          to.as<uint16_t>()[i] = float_to_bf16(x);
        }
      }
    });
  }
  pack_weight(w);
}

void CpuBackend::read_weight(const Weight& weight, void* to) {
  const View from = static_cast<const CpuWeight&>(weight).row_major.view();
  if (from.dtype == weight.dtype) return download(to, from);
  for (int64_t i = 0; i < from.size(); i++) static_cast<uint16_t*>(to)[i] = float_to_bf16(from.as<float>()[i]);
}

View CpuBackend::master(Weight& weight) {
  require(weight.trainable, "master: the weight is not trainable");
  return static_cast<CpuWeight&>(weight).row_major.view();
}

void CpuBackend::refresh(Weight& weight) { pack_weight(static_cast<CpuWeight&>(weight)); }

}  // namespace cpu

std::unique_ptr<Backend> make_cpu_backend(int threads, Isa isa) {
  require(threads >= 1 && threads <= 1024, "threads: expected 1 to 1024");
  const cpu::Kernels* kernels = nullptr;
#if defined(ACT_X86)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool avx512vnni = avx512 && __builtin_cpu_supports("avx512vnni");
  const bool avx512bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
  const bool amx_wanted = avx512bf16 && (isa == Isa::automatic || isa == Isa::amx);
  if (const cpu::Kernels* amx = amx_wanted ? cpu::amx_kernels() : nullptr) {
    kernels = amx;
  } else if (avx512bf16 && (isa == Isa::automatic || isa == Isa::avx512bf16)) {
    kernels = &cpu::avx512bf16::kernels();
  } else if (avx512vnni && (isa == Isa::automatic || isa == Isa::avx512vnni)) {
    kernels = &cpu::avx512vnni::kernels();
  } else if (avx512 && (isa == Isa::automatic || isa == Isa::avx512)) {
    kernels = &cpu::avx512::kernels();
  } else if (avx2 && (isa == Isa::automatic || isa == Isa::avx2)) {
    kernels = &cpu::avx2::kernels();
  }
#endif
  if (!kernels && (isa == Isa::automatic || isa == Isa::portable)) kernels = &cpu::portable::kernels();
  if (!kernels)
    throw Error("DEVICE_NOT_FOUND", "This processor lacks the instruction set asked for. Leave `instructionSet` at `auto`.");
  return std::make_unique<cpu::CpuBackend>(threads, *kernels);
}

}  // namespace act
