#include "cuda_backend.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "../floats.h"
#include "../host.h"
#include "kernels/kernels.h"

namespace act::cuda {
namespace {

size_t bytes_of(View x) { return static_cast<size_t>(x.size()) * size_of(x.dtype); }

}  // namespace

void* Scratch::get(Backend& backend, size_t bytes) {
  if (buffer_.bytes() < bytes) {
    buffer_ = Buffer();  // first, so that both never exist at once
    buffer_ = Buffer(backend, 1, static_cast<int64_t>((bytes + 3) / 4), DType::f32);
  }
  return buffer_.view().data;
}

const void* Mirror::get(CudaBackend& backend, const void* from, size_t bytes) {
  void* const to = memory_.get(backend, bytes);
  LaunchQueue& queue = backend.queue_;
  if (bytes != held_.size() || (bytes > 0 && std::memcmp(held_.data(), from, bytes) != 0)) {
    if (queue.step() != 0 && step_ == queue.step()) queue.leave();
    held_.assign(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
    backend.device_->upload(to, held_.data(), bytes);
  }
  step_ = queue.step();
  return to;
}

namespace {

/// ACT_CUDA_GRAPHS=0 switches recorded steps off.
size_t graph_limit(const Device& device) {
  const char* const wanted = std::getenv("ACT_CUDA_GRAPHS");
  return wanted && std::strcmp(wanted, "0") == 0 ? 0 : device.graph_limit();
}

}  // namespace

CudaBackend::CudaBackend(std::unique_ptr<Device> device, DType activations, bool batch_invariant)
    : device_(std::move(device)), queue_(*device_, graph_limit(*device_)), activations_(activations),
      batch_invariant_(batch_invariant), rule_(plan_rule(*device_)) {
  require(activations == DType::f32 || activations == DType::bf16, "cuda: expected activations f32 or bf16");
  if (!batch_invariant) cublaslt_ = CublasLt::open(device_->cublaslt_places(), no_cublaslt_);
}

CudaBackend::~CudaBackend() = default;

std::string CudaBackend::describe() const {
  std::string text = device_->describe() + (activations_ == DType::bf16 ? ", bf16" : ", fp32");
  if (batch_invariant_) {
    text += ", batch-invariant";
  } else {
    text += ", products by " + (cublaslt_ ? cublaslt_->name() : "own kernels. " + no_cublaslt_);
  }
  if (queue_.refused_bytes() > 0) {
    text += ", no graphs (one takes " + std::to_string(queue_.refused_bytes()) + " bytes, over the limit)";
  }
  return text;
}

// --- steps and copies ---------------------------------------------------------------------------------------------------

void CudaBackend::begin_step() {
  queue_.begin();
  in_step_ = true;
  steps_++;
}

void CudaBackend::end_step() noexcept {
  in_step_ = false;
  queue_.end();
  count_graphs();
}

int64_t CudaBackend::step_granularity() const { return queue_.records() ? kStepRows : 1; }

void CudaBackend::count_graphs() {
  allocated += queue_.graph_bytes() - counted_graph_bytes_;
  counted_graph_bytes_ = queue_.graph_bytes();
  peak = std::max(peak, allocated);
}

void CudaBackend::upload_after(void* to, const void* from, size_t bytes) {
  queue_.leave();
  device_->upload(to, from, bytes);
}

void CudaBackend::download_now(void* to, const void* from, size_t bytes) {
  queue_.finish();
  count_graphs();
  waits_ += in_step_;
  device_->download(to, from, bytes);
}

DType CudaBackend::activation_dtype(DType weights) const { return weights == DType::f32 ? DType::f32 : activations_; }

void* CudaBackend::allocate(size_t bytes) {
  if (bytes == 0) return nullptr;
  queue_.leave();
  void* const memory = device_->allocate(bytes);
  if (!memory) {
    throw Error("OUT_OF_MEMORY", "Allocating " + std::to_string(bytes) + " bytes on the GPU failed with " +
                                     std::to_string(allocated) + " bytes in use and " +
                                     std::to_string(device_->free_bytes()) + " free.");
  }
  allocated += bytes;
  peak = std::max(peak, allocated);
  return memory;
}

void CudaBackend::release(void* memory, size_t bytes) noexcept {
  if (!memory) return;
  queue_.end();  // launches held back may use it
  allocated -= bytes;
  device_->release(memory);
}

size_t CudaBackend::device_bytes() const {
  const size_t free = device_->free_bytes();
  return free == Device::kUnbounded ? 0 : allocated + free;
}

void* CudaBackend::allocate_host(size_t bytes) {
  if (bytes == 0) return nullptr;
  void* const memory = device_->allocate_host(bytes);
  if (!memory) {
    throw Error("OUT_OF_MEMORY", "Pinning " + std::to_string(bytes) + " bytes of host memory failed with " +
                                     std::to_string(host_allocated) +
                                     " bytes pinned. Choose optimizerState compact, leave offloadOptimizer off, or use a "
                                     "machine with more memory.");
  }
  host_allocated += bytes;
  return memory;
}

void CudaBackend::release_host(void* memory, size_t bytes) noexcept {
  if (!memory) return;
  queue_.end();  // launches held back may use it
  host_allocated -= bytes;
  device_->release_host(memory);
}

void CudaBackend::upload(View to, const void* from) {
  if (to.size()) upload_after(to.data, from, bytes_of(to));
}

void CudaBackend::download(void* to, View from) {
  if (from.size()) download_now(to, from.data, bytes_of(from));
}

void CudaBackend::copy(View to, View from) {
  require(to.size() == from.size() && to.dtype == from.dtype, "copy: both views must have one size and dtype");
  if (to.size() == 0) return;
  queue_.leave();
  device_->copy(to.data, from.data, bytes_of(to));
}

void CudaBackend::fill(View x, float value) {
  if (x.size() == 0) return;
  if (value == 0) {
    queue_.leave();
    return device_->zero(x.data, bytes_of(x));
  }
  require(x.dtype != DType::f16 && x.dtype != DType::u8, "fill: expected f32, bf16 or i32");
  launch_fill(queue(), x, value);
}

void CudaBackend::check_rows(std::span<const int32_t> index, int64_t rows, const char* what) const {
  for (const int32_t i : index) require(i >= 0 && i < rows, what);
}

void CudaBackend::gather_rows(View dst, View src, std::span<const int32_t> index) {
  require(dst.cols == src.cols && dst.dtype == src.dtype && dst.rows == static_cast<int64_t>(index.size()),
          "gather_rows: dst must have one row an index, and src's columns and dtype");
  check_rows(index, src.rows, "gather_rows: index outside src");
  if (dst.size()) launch_gather_rows(queue(), dst, src, ids_.get_as(*this, index));
}

void CudaBackend::scatter_add_rows(View dst, View src, std::span<const int32_t> index) {
  require(dst.cols == src.cols && src.rows == static_cast<int64_t>(index.size()),
          "scatter_add_rows: src must have one row an index, and dst's columns");
  check_rows(index, dst.rows, "scatter_add_rows: index outside dst");
  add_rows(dst, src, index);
}

void CudaBackend::add_rows(View dst, View src, std::span<const int32_t> index) {
  if (index.empty() || dst.cols == 0) return;
  // Rows of dst, each with the rows of src to add, in ascending order: one block a row of dst, no atomics.
  std::vector<int32_t> order(index.size());
  for (size_t i = 0; i < order.size(); i++) order[i] = static_cast<int32_t>(i);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return index[static_cast<size_t>(a)] < index[static_cast<size_t>(b)];
  });
  std::vector<int32_t> rows, starts;
  for (size_t i = 0; i < order.size(); i++) {
    const int32_t row = index[static_cast<size_t>(order[i])];
    if (!rows.empty() && rows.back() == row) continue;
    rows.push_back(row);
    starts.push_back(static_cast<int32_t>(i));
  }
  starts.push_back(static_cast<int32_t>(order.size()));
  std::vector<int32_t> packed = rows;
  packed.insert(packed.end(), starts.begin(), starts.end());
  packed.insert(packed.end(), order.begin(), order.end());
  const int32_t* const at = groups_.get_as<int32_t>(*this, packed);
  launch_add_grouped_rows(queue(), dst, src, at, at + rows.size(), at + rows.size() + starts.size(),
                          static_cast<int64_t>(rows.size()));
}

// --- weights --------------------------------------------------------------------------------------------------------------

std::unique_ptr<Weight> CudaBackend::create_weight(int64_t rows, int64_t cols, DType dtype, bool trainable, Place master) {
  require(dtype == DType::f32 || dtype == DType::bf16, "create_weight: expected dtype f32 or bf16");
  auto w = std::make_unique<CudaWeight>();
  w->rows = rows;
  w->cols = cols;
  w->dtype = dtype;
  w->trainable = trainable;
  w->values = Buffer(*this, rows, cols, dtype);
  if (trainable && dtype == DType::bf16) w->master_values = Buffer(*this, rows, cols, DType::f32, master);
  return w;
}

size_t CudaBackend::weight_bytes(int64_t rows, int64_t cols, DType dtype, bool trainable) const {
  return static_cast<size_t>(rows * cols) * (size_of(dtype) + (trainable && dtype == DType::bf16 ? 4 : 0));
}

void CudaBackend::load_weight(Weight& weight, const void* from, DType dtype) {
  auto& w = static_cast<CudaWeight&>(weight);
  const View to = w.master_values ? w.master_values.view() : w.values.view();
  if (dtype == to.dtype) {
    upload(to, from);
  } else {
    // Converted on the host, a piece at a time: weights are read from files anyway.
    constexpr int64_t kPiece = 1 << 20;
    std::vector<float> wide;
    std::vector<uint16_t> narrow;
    for (int64_t first = 0; first < to.size(); first += kPiece) {
      const int64_t count = std::min(kPiece, to.size() - first);
      wide.resize(static_cast<size_t>(count));
      for (int64_t i = 0; i < count; i++) wide[static_cast<size_t>(i)] = element_as_float(from, dtype, first + i);
      const void* piece = wide.data();
      if (to.dtype == DType::bf16) {
        narrow.resize(wide.size());
        std::transform(wide.begin(), wide.end(), narrow.begin(), float_to_bf16);
        piece = narrow.data();
      }
      upload_after(to.as<char>() + static_cast<size_t>(first) * size_of(to.dtype), piece,
                   static_cast<size_t>(count) * size_of(to.dtype));
    }
  }
  refresh(weight);
}

void CudaBackend::read_weight(const Weight& weight, void* to) {
  download(to, static_cast<const CudaWeight&>(weight).values.view());
}

View CudaBackend::master(Weight& weight) {
  require(weight.trainable, "master: the weight is not trainable");
  auto& w = static_cast<CudaWeight&>(weight);
  return w.master_values ? w.master_values.view() : w.values.view();
}

void CudaBackend::refresh(Weight& weight) {
  auto& w = static_cast<CudaWeight&>(weight);
  if (w.master_values && w.values.view().size()) launch_convert(queue(), w.values.view(), w.master_values.view(), 1);
}

// --- optimizer ------------------------------------------------------------------------------------------------------------

double CudaBackend::sum_of_squares(View x) {
  require(x.dtype == DType::f32, "sum_of_squares: expected f32");
  if (x.size() == 0) return 0;
  auto* const partial = sums_.get_as<double>(*this, kSumBlocks + 1);
  launch_sum_of_squares(queue(), partial, x);
  double total = 0;
  download_now(&total, partial + kSumBlocks, sizeof total);
  return total;
}

bool CudaBackend::has_nonfinite(View x) {
  require(x.dtype == DType::f32, "has_nonfinite: expected f32");
  if (x.size() == 0) return false;
  auto* const flag = reinterpret_cast<int32_t*>(sums_.get_as<double>(*this, kSumBlocks + 1));
  queue_.leave();
  device_->zero(flag, sizeof *flag);
  launch_find_nonfinite(queue(), flag, x);
  int32_t found = 0;
  download_now(&found, flag, sizeof found);
  return found != 0;
}

void CudaBackend::adamw(View parameter, View gradient, View moment1, View moment2, const AdamW& o) {
  for (const View& x : {parameter, gradient, moment1, moment2}) {
    require(x.dtype == DType::f32 && x.size() == parameter.size(), "adamw: expected four f32 views of one size");
  }
  if (parameter.size() == 0) return;
  const double step = static_cast<double>(o.step);
  const auto correction = [&](float beta) { return static_cast<float>(1 - std::pow(static_cast<double>(beta), step)); };
  launch_adamw(queue(), parameter.as<float>(), gradient.as<float>(), moment1.as<float>(), moment2.as<float>(),
               parameter.size(), o, correction(o.beta1), correction(o.beta2));
}

void CudaBackend::adamw_compact(Weight& weight, View gradient, const CompactMoments& m, const AdamW& o, uint64_t stream) {
  const compact::Scalars scalars = check_compact(weight, gradient, m, o);
  auto& w = static_cast<CudaWeight&>(weight);
  if (w.values.view().size() == 0) return;
  const CompactState state{w.values.view().as<uint16_t>(), gradient.as<float>(),  m.codes1.as<uint8_t>(),
                           m.codes2.as<uint8_t>(),         m.scales1.as<float>(), m.scales2.as<float>()};
  launch_adamw_compact(queue(), state, w.values.view().size(), scalars, o.step, stream);
}

/// Upper bound of what the operations above and in layers.cc and attention.cc keep. `widest` bounds every row they see.
size_t CudaBackend::scratch_bytes(int64_t rows, int64_t widest) const {
  const auto r = static_cast<size_t>(rows), w = static_cast<size_t>(widest);
  const size_t operands = 2 * r * w * 2, delta = r * w * 4, rope = r * w * 4;
  const size_t column_sums = static_cast<size_t>(column_sum_pieces(INT64_MAX / 2)) * w * 4;
  const size_t indices = r * (6 * 4 + 3 * 4 + sizeof(TreeQuery) + sizeof(TreeKey) + sizeof(KeyTile));
  const size_t plan = size_t{kMaxPlanBlocks} * sizeof(KeyBlock) + size_t{kMaxPlanTiles} * sizeof(QueryTile);
  const size_t workspace = cublaslt_ ? CublasLt::kWorkspaceBytes : 0;
  return workspace + operands + delta + rope + column_sums + indices + plan + kPartialBytes + queue_.graph_limit() +
         w * 4 + (kSumBlocks + 1) * sizeof(double) + 4096;
}

}  // namespace act::cuda
