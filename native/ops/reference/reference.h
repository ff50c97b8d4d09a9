// The reference backend: plain loops, one at a time, double accumulators. It is the truth the fast backends are
// compared with, so nothing here may be clever.
#pragma once
#include "../host.h"

namespace act {

/// Row-major values only; bf16 weights are stored as the fp32 numbers they round to.
struct ReferenceWeight final : Weight {
  Buffer values;         // f32 [rows, cols], what the forward pass sees
  Buffer master_values;  // f32 [rows, cols], only for trainable bf16 weights
};

/// One page of one layer and head: keys [16][d], then values [16][d].
/// Numbers of bf16 lie here as fp32.
struct ReferenceKvPool final : KvPool {
  Buffer memory;
  float* key(int layer, int page, int head, int lane) const { return entry(layer, page, head) + lane * head_dim; }
  float* value(int layer, int page, int head, int lane) const {
    return entry(layer, page, head) + (kPageKeys + lane) * head_dim;
  }

 private:
  float* entry(int layer, int page, int head) const {
    return memory.view().as<float>() +
           ((static_cast<int64_t>(layer) * pages + page) * kv_heads + head) * 2 * kPageKeys * head_dim;
  }
};

class ReferenceBackend final : public HostBackend {
 public:
  std::string name() const override { return "reference"; }
  std::string describe() const override { return "plain loops, one thread, double accumulation"; }

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
  size_t scratch_bytes(int64_t, int64_t) const override { return 0; }
  size_t rope_bytes(int64_t, int) const override { return 0; }
};

}  // namespace act
