// The vectorized, threaded backend for host memory. Operations here decide what runs where (this folder); the
// arithmetic of one thread is in kernels/. One engine thread at a time may call a backend; several backends are
// independent.
#pragma once
#include <algorithm>
#include <functional>
#include <map>
#include <memory>

#include "../host.h"
#include "attention_tile.h"
#include "kernels/kernels.h"
#include "thread_pool.h"

namespace act::cpu {

/// The weights that were multiplied after another one the last time. Every step multiplies in the same order, so the end
/// of a product brings the beginning of the next one closer. Only addresses: the weights may be gone.
struct Follower {
  const uint32_t* packed = nullptr;  // of the first output
  int64_t panels = 0;                // of it
  int64_t panel_words = 0;           // of one panel's first block
};

/// Layouts of a weight:
///   f32             row-major f32 (for a trainable weight the master) and packed f32 panels;
///   bf16, frozen    row-major bf16 and packed pairs or integers (Kernels::bf16_weight);
///   bf16, trainable row-major f32 master and the same of its rounded values.
/// Packed: blocks of units of the inner index (products.cc: inner_block), each all panels in turn, so that a block of a
/// panel is contiguous; units are padded to whole groups.
struct CpuWeight final : Weight {
  Buffer row_major;  // f32 or bf16 [rows, cols]
  Buffer packed;     // 32-bit words
  std::shared_ptr<Follower> follower = std::make_shared<Follower>();
};

/// One layer and one key-value head after the other, all pages of it: keys [d][16], then values [16][padded d].
struct CpuKvPool final : KvPool {
  Buffer memory;
  int64_t page_size = 0;  // numbers
  int padded_dim = 0;     // head_dim rounded up to 16
  Pages pages_of(int layer, int head) const {
    const View first = memory.view().rows_from((static_cast<int64_t>(layer) * kv_heads + head) * pages, pages);
    return {first.as<char>(), page_size * static_cast<int64_t>(size_of(dtype)), dtype};
  }
  int64_t values_at() const { return int64_t{head_dim} * kPageKeys; }
};

/// Memory that grows to the largest request and is kept; counted by the backend.
class Scratch {
 public:
  float* get(Backend& backend, int64_t floats) {
    if (buffer_.view().size() < floats) {
      buffer_ = Buffer();  // first, so that both never exist at once
      buffer_ = Buffer(backend, 1, floats, DType::f32);
    }
    return buffer_.view().as<float>();
  }

 private:
  Buffer buffer_;
};

/// The right operand of a product C[M, N] = A[M, K] B[K, N]: already packed, or a source to pack on the way.
struct RightOperand {
  const uint32_t* packed = nullptr;
  PackSource source{};
};

/// Inner indices that take one group of units (32 of them, or fewer and zeros).
struct InnerGroup {
  int64_t first, count;
};

/// Writes row `row` of a left operand, all of it.
using RowMaker = std::function<void(int64_t row, float* to)>;

struct Product {
  /// B and C; products of one A have several, whose B are all packed.
  struct Output {
    float* c;
    int64_t n;
    const float* bias;  // [n] or null
    RightOperand b;
  };
  std::span<const Output> outputs;
  int64_t m, k;
  bool accumulate;
  bool one_chain;  // continues from C in one chain (gradients of weights), instead of adding chains of 64 units
  bool bf16;
  PackSource a;
  const RowMaker* make_row = nullptr;       // what A's rows are made by where they do not exist yet
  const Follower* follower = nullptr;       // what will probably be multiplied next
  std::span<const InnerGroup> groups = {};  // empty: inner indices follow each other, k of them
};

class CpuBackend final : public HostBackend {
 public:
  CpuBackend(int threads, const Kernels& kernels);

  std::string name() const override { return "cpu"; }
  std::string describe() const override;

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
  void linears(std::span<const LinearOutput> outputs, View x) override;
  void norm_linears(std::span<const LinearOutput> outputs, View normed, View rstd, View x, View weight,
                    float eps) override;
  void swiglu_linear(const LinearOutput& output, View product, View gate, View up) override;
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
  size_t rope_bytes(int64_t positions, int head_dim) const override;

 private:
  /// Calls body(first, count) on pieces of [0, n), of `piece` at most and as many for every thread; on the caller alone
  /// where one is enough.
  template <class Body>
  void for_pieces(int64_t n, int64_t piece, Body body) {
    if (n <= piece) {
      if (n > 0) body(int64_t{0}, n);
      return;
    }
    const int64_t threads = pool_.threads(), needed = (n + piece - 1) / piece;
    const int64_t pieces = std::min(n, (needed + threads - 1) / threads * threads);
    pool_.run(pieces, [&](int64_t i, int) {
      const int64_t first = n * i / pieces;
      body(first, n * (i + 1) / pieces - first);
    });
  }
  void pack_weight(CpuWeight& w);
  /// The format of a product's left operand, which tells the right one's and the kernel; packed: B is a weight's panels.
  PanelFormat left_format(bool bf16, bool packed) const;
  int64_t inner_units(int64_t inner, PanelFormat left) const;
  int columns(PanelFormat left) const;  // of a panel of B
  int64_t packed_words(int64_t rows, int64_t cols, bool bf16) const;
  size_t left_panel_bytes(int64_t rows, int64_t cols) const;
  size_t product_scratch_bytes(int64_t rows, int64_t widest) const;
  size_t attention_scratch_bytes(int64_t rows, int64_t widest) const;
  void multiply(const Product& product);
  /// `x`: [T, in], of which only the shape counts where a maker is given.
  void multiply_weights(std::span<const LinearOutput> outputs, bool accumulate, View x, float scale,
                        const RowMaker* make_row = nullptr);
  Follower follower_of(std::span<const Product::Output> outputs, const CpuWeight& first) const;
  /// Whether a product of such weights takes its left operand row by row, so that the rows can be made on the way.
  bool takes_rows(std::span<const LinearOutput> outputs) const;
  void multiply_block(const Product& product, PanelFormat left, int64_t row0, int64_t rows, int64_t unit0,
                      int64_t units, int64_t block);
  /// Rows in groups of 2 * bf16_group, a new one where a run ends.
  std::vector<InnerGroup> row_groups(std::span<const int32_t> runs, int64_t rows) const;
  void add_weight_gradient(View dw, View dy, View x, DType dtype, float scale, std::span<const InnerGroup> groups);
  const AttentionPlan& plan_for(const KvPool& pool, const Forest& forest, int group);

  const Kernels& kernels_;
  ThreadPool pool_;
  Scratch left_panels_, right_panels_, made_rows_, attention_scratch_, logits_, row_scratch_;
  std::shared_ptr<Follower> last_follower_;  // of the weight multiplied last
  AttentionPlan plan_;
  // Cosines and sines of 256 positions a block, [position][cosines, sines]; kept while the frequencies stay.
  std::vector<float> rope_frequencies_;
  std::map<int64_t, Buffer> rope_blocks_;
};

}  // namespace act::cpu
