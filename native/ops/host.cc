#include "host.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "floats.h"

namespace act {
namespace {

[[noreturn]] void out_of_memory(size_t bytes, size_t in_use) {
  throw Error("OUT_OF_MEMORY", "Allocating " + std::to_string(bytes) + " bytes failed with " + std::to_string(in_use) +
                                   " bytes in use.");
}

/// Blocks of at least so many bytes come from slabs, or have huge pages of their own.
constexpr size_t kSlabFrom = size_t{64} << 10, kMapFrom = size_t{4} << 20;

}  // namespace

float element_as_float(const void* from, DType dtype, int64_t index) {
  switch (dtype) {
    case DType::f32: return static_cast<const float*>(from)[index];
    case DType::bf16: return bf16_to_float(static_cast<const uint16_t*>(from)[index]);
    case DType::f16: return f16_to_float(static_cast<const uint16_t*>(from)[index]);
    case DType::i32:
    case DType::u8: break;
  }
  throw Error("BAD_ARGUMENT", "expected a float dtype, got integers");
}

std::vector<std::vector<int32_t>> segment_paths(const Forest& forest) {
  std::vector<std::vector<int32_t>> paths(forest.segments.size());
  for (size_t i = 0; i < forest.segments.size(); i++) {
    const Segment& s = forest.segments[i];
    require(s.parent >= -1 && s.parent < static_cast<int32_t>(i), "forest: a parent must come before its children");
    require(s.key_count >= 0 && s.query_count >= 0 && s.query_count <= s.key_count,
            "forest: query_count must be within key_count");
    require(s.query_row >= 0 && s.query_row + s.query_count <= forest.rows, "forest: query rows outside the batch");
    const int64_t pages = (static_cast<int64_t>(s.first_lane) + s.key_count + kPageKeys - 1) / kPageKeys;
    require(s.first_lane >= 0 && s.first_lane < kPageKeys && s.first_page >= 0 &&
                s.first_page + (s.key_count > 0 ? pages : 0) <= static_cast<int64_t>(forest.pages.size()),
            "forest: pages outside the list");
    int32_t position = 0;
    if (s.parent >= 0) {
      const Segment& parent = forest.segments[static_cast<size_t>(s.parent)];
      position = parent.position + parent.key_count;
      paths[i] = paths[static_cast<size_t>(s.parent)];
    }
    require(s.position == position, "forest: a segment's position must continue its parent's keys");
    paths[i].push_back(static_cast<int32_t>(i));
  }
  return paths;
}

void* HostBackend::allocate(size_t bytes) {
  if (bytes == 0) return nullptr;
  if (bytes > PTRDIFF_MAX - kMapFrom) out_of_memory(bytes, allocated);
  void* memory = nullptr;
  if (bytes >= kMapFrom) {
    memory = map_huge(bytes);
  } else if (bytes >= kSlabFrom) {
    memory = slabs_.take(bytes);
  } else {
    memory = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (memory) std::memset(memory, 0, bytes);
  }
  if (!memory) out_of_memory(bytes, allocated);
  allocated += bytes;
  peak = std::max(peak, allocated);
  return memory;
}

void HostBackend::release(void* memory, size_t bytes) noexcept {
  if (!memory) return;
  allocated -= bytes;
  if (bytes >= kMapFrom) return unmap_huge(memory, bytes);
  if (bytes >= kSlabFrom) return slabs_.give_back(memory);
  std::free(memory);
}

void HostBackend::upload(View to, const void* from) {
  if (to.size()) std::memcpy(to.data, from, static_cast<size_t>(to.size()) * size_of(to.dtype));
}

void HostBackend::download(void* to, View from) {
  if (from.size()) std::memcpy(to, from.data, static_cast<size_t>(from.size()) * size_of(from.dtype));
}

void HostBackend::copy(View to, View from) {
  require(to.size() == from.size() && to.dtype == from.dtype, "copy: both views must have one size and dtype");
  if (to.size()) std::memmove(to.data, from.data, static_cast<size_t>(to.size()) * size_of(to.dtype));
}

void HostBackend::fill(View x, float value) {
  switch (x.dtype) {
    case DType::f32: std::fill_n(x.as<float>(), x.size(), value); break;
    case DType::bf16: std::fill_n(x.as<uint16_t>(), x.size(), float_to_bf16(value)); break;
    case DType::f16: std::fill_n(x.as<uint16_t>(), x.size(), float_to_f16(value)); break;
    case DType::i32: std::fill_n(x.as<int32_t>(), x.size(), static_cast<int32_t>(value)); break;
    case DType::u8: std::fill_n(x.as<uint8_t>(), x.size(), static_cast<uint8_t>(value)); break;
  }
}

void HostBackend::gather_rows(View dst, View src, std::span<const int32_t> index) {
  require(dst.cols == src.cols && dst.dtype == src.dtype && dst.rows == static_cast<int64_t>(index.size()),
          "gather_rows: dst must have one row an index, and src's columns and dtype");
  const size_t row = static_cast<size_t>(src.cols) * size_of(src.dtype);
  for (size_t i = 0; i < index.size(); i++) {
    require(index[i] >= 0 && index[i] < src.rows, "gather_rows: index outside src");
    std::memcpy(dst.as<char>() + i * row, src.as<char>() + static_cast<size_t>(index[i]) * row, row);
  }
}

void HostBackend::scatter_add_rows(View dst, View src, std::span<const int32_t> index) {
  require(dst.cols == src.cols && src.rows == static_cast<int64_t>(index.size()) && dst.dtype == DType::f32 &&
              src.dtype == DType::f32,
          "scatter_add_rows: src must have one row an index, and dst's columns; both f32");
  for (size_t i = 0; i < index.size(); i++) {
    require(index[i] >= 0 && index[i] < dst.rows, "scatter_add_rows: index outside dst");
    float* to = dst.as<float>() + index[i] * dst.cols;
    const float* from = src.as<float>() + static_cast<int64_t>(i) * src.cols;
    for (int64_t c = 0; c < src.cols; c++) to[c] += from[c];
  }
}

compact::Scalars check_compact(const Weight& w, View gradient, const CompactMoments& m, const AdamW& o) {
  const int64_t count = w.rows * w.cols;
  require(w.dtype == DType::bf16 && !w.trainable, "adamw_compact: expected a bf16 weight without a master");
  require(gradient.dtype == DType::f32 && gradient.size() == count, "adamw_compact: gradient must be f32 of w's size");
  for (const View& codes : {m.codes1, m.codes2}) {
    require(codes.dtype == DType::u8 && codes.size() == count, "adamw_compact: codes must be u8 of w's size");
  }
  for (const View& scales : {m.scales1, m.scales2}) {
    require(scales.dtype == DType::f32 && scales.size() == compact::blocks(count),
            "adamw_compact: expected one f32 scale for every 256 values");
  }
  const auto correction = [&](float beta) {
    return static_cast<float>(1 - std::pow(static_cast<double>(beta), static_cast<double>(o.step)));
  };
  return {o.learning_rate, o.beta1, o.beta2, o.epsilon, o.weight_decay, correction(o.beta1), correction(o.beta2), o.grad_scale};
}

void step_blocks(View weight, View gradient, const CompactMoments& moments, const compact::Scalars& scalars, int64_t step,
                 uint64_t stream, int64_t first_block, int64_t count) {
  auto *const w = weight.as<uint16_t>();
  const auto *const g = gradient.as<float>();
  auto *const codes1 = moments.codes1.as<uint8_t>(), *const codes2 = moments.codes2.as<uint8_t>();
  compact::Element block[compact::kBlock];
  for (int64_t b = first_block; b < first_block + count; b++) {
    float &scale1 = moments.scales1.as<float>()[b], &scale2 = moments.scales2.as<float>()[b];
    const int64_t first = b * compact::kBlock, size = std::min(compact::kBlock, weight.size() - first);
    float largest1 = 0, largest2 = 0;
    for (int64_t i = 0; i < size; i++) {
      const int64_t at = first + i;
      block[i] = compact::step({bf16_to_float(w[at]), compact::moment1_of(codes1[at], scale1),
                                compact::root2_of(codes2[at], scale2)},
                               g[at], scalars);
      largest1 = std::max(largest1, std::fabs(block[i].moment1));
      largest2 = std::max(largest2, block[i].root2);
    }
    scale1 = largest1 >= compact::kLeast1 ? largest1 : 0;
    scale2 = largest2 >= compact::kLeast2 ? largest2 : 0;
    for (int64_t i = 0; i < size; i++) {
      const int64_t at = first + i;
      const compact::Randoms random = compact::randoms_of(stream, step, at);
      codes1[at] = compact::code1_of(block[i].moment1, largest1, compact::threshold_of(random.moment1));
      codes2[at] = compact::code2_of(block[i].root2, largest2, compact::threshold_of(random.moment2));
      w[at] = compact::round_stochastically(block[i].weight, random.weight);
    }
  }
}

}  // namespace act
