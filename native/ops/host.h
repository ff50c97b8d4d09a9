// What every backend in host memory shares: allocation with counting, moves of rows, and argument checks.
#pragma once
#include "compact.h"
#include "huge_pages.h"
#include "ops.h"

namespace act {

/// Throws BAD_ARGUMENT. `what` names the operation and the expectation, e.g. "linear: x.cols must equal w.cols".
inline void require(bool holds, const char* what) {
  if (!holds) throw Error("BAD_ARGUMENT", what);
}

inline void require_shape(const View& view, int64_t rows, int64_t cols, const char* what) {
  require(view.dtype == DType::f32 && view.rows == rows && view.cols == cols && (view.data || rows * cols == 0), what);
}

/// Element `index` of host memory of a float type, as fp32.
float element_as_float(const void* from, DType dtype, int64_t index);

/// Checks the views of adamw_compact; its scalars.
compact::Scalars check_compact(const Weight& w, View gradient, const CompactMoments& moments, const AdamW& options);
/// adamw_compact of some blocks of 256 elements of a weight in host memory, row-major bf16.
void step_blocks(View weight, View gradient, const CompactMoments& moments, const compact::Scalars& scalars, int64_t step,
                 uint64_t stream, int64_t first_block, int64_t count);

/// For each segment of a forest: the indices of its path, root first, itself last. Throws BAD_ARGUMENT on a parent that
/// does not come before its child, on positions that do not continue the parent's, and on lanes outside the pages.
std::vector<std::vector<int32_t>> segment_paths(const Forest& forest);

class HostBackend : public Backend {
 public:
  DType activation_dtype(DType) const override { return DType::f32; }
  DType cache_dtype(DType weights) const override { return weights; }
  void* allocate(size_t bytes) override;
  void release(void* memory, size_t bytes) noexcept override;
  void upload(View to, const void* from) override;
  void download(void* to, View from) override;
  void copy(View to, View from) override;
  void fill(View x, float value) override;
  void gather_rows(View dst, View src, std::span<const int32_t> index) override;
  void scatter_add_rows(View dst, View src, std::span<const int32_t> index) override;

 private:
  Slabs slabs_;
};

}  // namespace act
