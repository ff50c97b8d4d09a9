// The backend contract on NVIDIA GPUs. Operations here check arguments, bring small host arrays to the device and launch;
// the arithmetic is in kernels/. All work of a backend goes through one stream, in the order of the calls; only downloads,
// losses, samples and sums wait for it. One engine thread at a time may call a backend.
#pragma once
#include <vector>

#include "../ops.h"
#include "cublaslt.h"
#include "device.h"
#include "forest_plan.h"
#include "launch_queue.h"

namespace act::cuda {

/// Row-major: f32, or bf16 values with, where trainable, their f32 master.
struct CudaWeight final : Weight {
  Buffer values;         // what the forward pass multiplies with
  Buffer master_values;  // f32; only for trainable bf16
};

/// [layer][page][kv head]: keys [16][d], then values [16][d].
struct CudaKvPool final : KvPool {
  Buffer memory;
};

/// Device memory that grows to the largest request and is kept; counted by the backend.
class Scratch {
 public:
  void* get(Backend& backend, size_t bytes);
  template <class E>
  E* get_as(Backend& backend, int64_t count) {
    return static_cast<E*>(get(backend, static_cast<size_t>(count) * sizeof(E)));
  }

 private:
  Buffer buffer_;
};

class CudaBackend;

/// A host array on the device, uploaded when it differs from what is there. In a recorded step the upload comes before
/// the launches held back, so within one step it may be wanted with one content only; a second one leaves the step.
class Mirror {
 public:
  const void* get(CudaBackend& backend, const void* from, size_t bytes);
  template <class E>
  const E* get_as(CudaBackend& backend, std::span<const E> from) {
    return static_cast<const E*>(get(backend, from.data(), from.size_bytes()));
  }

 private:
  Scratch memory_;
  std::vector<char> held_;
  int64_t step_ = 0;  // that used it last
};

/// Partial results of attention on the device at once.
constexpr size_t kPartialBytes = size_t{64} << 20;
/// Rows of a recorded step come in multiples of this: products have tiles of 16 rows at least, so it costs them nothing.
constexpr int64_t kStepRows = 8;

class CudaBackend final : public Backend {
 public:
  /// As make_cuda_backend (loader.h).
  CudaBackend(std::unique_ptr<Device> device, DType activations, bool batch_invariant);
  ~CudaBackend() override;

  std::string name() const override { return "cuda"; }
  std::string describe() const override;
  void begin_step() override;
  void end_step() noexcept override;
  int64_t step_granularity() const override;
  StepCounts step_counts() const override { return {steps_, queue_.recorded, queue_.replayed, waits_}; }
  DType activation_dtype(DType weights) const override;
  DType cache_dtype(DType weights) const override { return activation_dtype(weights); }

  void* allocate(size_t bytes) override;
  void release(void* memory, size_t bytes) noexcept override;
  size_t device_bytes() const override;
  bool reaches_host_memory() const override { return true; }
  void* allocate_host(size_t bytes) override;
  void release_host(void* memory, size_t bytes) noexcept override;
  void upload(View to, const void* from) override;
  void download(void* to, View from) override;
  void copy(View to, View from) override;
  void fill(View x, float value) override;
  void gather_rows(View dst, View src, std::span<const int32_t> index) override;
  void scatter_add_rows(View dst, View src, std::span<const int32_t> index) override;

  std::unique_ptr<Weight> create_weight(int64_t rows, int64_t cols, DType dtype, bool trainable, Place master) override;
  size_t weight_bytes(int64_t rows, int64_t cols, DType dtype, bool trainable) const override;
  void load_weight(Weight& w, const void* from, DType dtype) override;
  void read_weight(const Weight& w, void* to) override;
  View master(Weight& w) override;
  void refresh(Weight& w) override;

  void embed(View out, const Weight& w, std::span<const int32_t> ids) override;
  void embed_backward(View dw, View dout, std::span<const int32_t> ids) override;
  void rms_norm(View y, View rstd, View x, View weight, float eps) override;
  void rms_norm_backward(View dx, bool accumulate, View dweight, View dy, View x, View rstd, View weight) override;
  void linear(View y, bool accumulate, View x, const Weight& w, View bias, float scale) override;
  void linear_backward_input(View dx, bool accumulate, View dy, const Weight& w, float scale) override;
  void linear_backward_weight(View dw, View dy, View x, DType dtype, float scale) override;
  void bias_backward(View dbias, View dy) override;
  void rope(View x, int head_dim, std::span<const int32_t> positions, std::span<const float> inv_freq, float factor,
            bool inverse) override;
  void swiglu(View y, View gate, View up) override;
  void swiglu_backward(View dgate, View dup, View dy, View gate, View up) override;
  void add(View y, View x) override;
  void scale(View y, float factor) override;

  std::unique_ptr<KvPool> create_kv_pool(int layers, int kv_heads, int head_dim, int pages, DType dtype) override;
  size_t kv_page_bytes(int kv_heads, int head_dim, DType dtype) const override;
  void write_kv(KvPool& pool, int layer, const Forest& forest, View k, View v) override;
  void attention(View out, View lse, View q, const KvPool& pool, int layer, const Forest& forest, float scale) override;
  void attention_backward(View dq, View dk, View dv, View dout, View out, View lse, View q, const KvPool& pool,
                          int layer, const Forest& forest, float scale) override;

  void head_loss(LossResults& results, View dhidden, View dw, View hidden, const Weight& head,
                 const LossRows& rows) override;
  void head_sample(std::span<SampleResult> results, View hidden, const Weight& head,
                   std::span<const SampleParams> params) override;
  size_t head_scratch_bytes(int64_t vocabulary, int64_t rows) const override;

  double sum_of_squares(View x) override;
  void adamw(View parameter, View gradient, View moment1, View moment2, const AdamW& options) override;
  void adamw_compact(Weight& w, View gradient, const CompactMoments& moments, const AdamW& options,
                     uint64_t stream) override;
  bool has_nonfinite(View x) override;
  size_t scratch_bytes(int64_t rows, int64_t widest) const override;
  size_t rope_bytes(int64_t, int) const override { return 0; }

 private:
  friend class Mirror;
  LaunchQueue* queue() { return &queue_; }
  /// Host to device, after what was launched before.
  void upload_after(void* to, const void* from, size_t bytes);
  /// Waits until `to` is written.
  void download_now(void* to, const void* from, size_t bytes);
  /// Memory that graphs take counts as allocated.
  void count_graphs();
  /// The view as a product reads it: itself, or a copy in `dtype` (scaled) in one of two scratch operands.
  const void* operand(View x, DType dtype, float scale, Scratch& scratch);
  /// `operands`: the type of g.a and g.b. By cuBLASLt where it serves the product, else by our own kernels.
  void multiply(const Gemm& g, DType operands);
  void column_sums(View out, View a, View b, const float* factor);
  /// dst row index[i] += src row i in ascending i.
  void add_rows(View dst, View src, std::span<const int32_t> index);
  /// Its partition and places, as the device or ACT_CUDA_PARTITION and ACT_CUDA_PLACES have them.
  static PlanRule plan_rule(const Device& device);
  /// heads 0: those of the plan before.
  void make_plan(const KvPool& pool, const Forest& forest, int heads);
  /// Calls each(shape) for the plan's pieces, with tiles of one partition or of whole runs.
  template <class Each>
  void for_plan_pieces(AttentionShape shape, bool whole_runs, Each each);
  AttentionShape attention_shape(const CudaKvPool& pool, int layer, int heads, float scale);
  void check_rows(std::span<const int32_t> index, int64_t rows, const char* what) const;

  const std::unique_ptr<Device> device_;
  LaunchQueue queue_;
  size_t counted_graph_bytes_ = 0;
  bool in_step_ = false;
  int64_t steps_ = 0, waits_ = 0;
  const DType activations_;
  const bool batch_invariant_;
  std::unique_ptr<CublasLt> cublaslt_;  // null: products by our own kernels
  std::string no_cublaslt_;             // why
  Scratch workspace_;
  Scratch left_operand_, right_operand_, partial_sums_, sums_, delta_, head_logits_, head_rows_, rope_table_;
  Scratch blocks_, partials_;
  Mirror tokens_, ids_, groups_, positions_, frequencies_, allowed_, losses_, draws_;
  Mirror plan_queries_, plan_tiles_, plan_combined_, plan_slots_, plan_keys_, plan_key_tiles_;
  int64_t rope_rows_ = 0;  // the table's
  std::vector<int32_t> rope_positions_;
  std::vector<float> rope_frequencies_;
  ForestPlan plan_;
  PlanRule rule_;
  bool plan_uploaded_ = false;
  int64_t blocks_step_ = 0;  // that used blocks_ last
};

}  // namespace act::cuda
