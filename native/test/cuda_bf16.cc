#include "cuda_bf16.h"

#include "../ops/floats.h"

namespace act::test {
namespace {

/// A host view in the inner backend's memory for the time of a call.
class Lent {
 public:
  Lent(Backend& inner, View host, DType dtype) : inner_(inner), host_(host) {
    if (!host.data) return;
    buffer_ = Buffer(inner, host.rows, host.cols, dtype);
    if (dtype == host.dtype) {
      inner.upload(buffer_.view(), host.data);
      return;
    }
    bits_.resize(static_cast<size_t>(host.size()));
    for (size_t i = 0; i < bits_.size(); i++) bits_[i] = float_to_bf16(host.as<float>()[i]);
    inner.upload(buffer_.view(), bits_.data());
  }
  operator View() const { return host_.data ? buffer_.view() : View{}; }
  void back() {
    if (!host_.data) return;
    if (buffer_.view().dtype == host_.dtype) return inner_.download(host_.data, buffer_.view());
    inner_.download(bits_.data(), buffer_.view());
    for (size_t i = 0; i < bits_.size(); i++) host_.as<float>()[i] = bf16_to_float(bits_[i]);
  }

 private:
  Backend& inner_;
  View host_;
  Buffer buffer_;
  std::vector<uint16_t> bits_;
};

class Bf16Face final : public HostBackend {
 public:
  explicit Bf16Face(std::unique_ptr<Backend> inner) : inner_(std::move(inner)) {}
  std::string name() const override { return inner_->name(); }
  std::string describe() const override { return inner_->describe(); }

  std::unique_ptr<Weight> create_weight(int64_t rows, int64_t cols, DType dtype, bool trainable, Place master) override {
    return inner_->create_weight(rows, cols, dtype, trainable, master);
  }
  size_t weight_bytes(int64_t rows, int64_t cols, DType dtype, bool trainable) const override {
    return inner_->weight_bytes(rows, cols, dtype, trainable);
  }
  void load_weight(Weight& w, const void* from, DType dtype) override { inner_->load_weight(w, from, dtype); }
  void read_weight(const Weight& w, void* to) override { inner_->read_weight(w, to); }
  View master(Weight& w) override { return inner_->master(w); }
  void refresh(Weight& w) override { inner_->refresh(w); }

  void embed(View out, const Weight& w, std::span<const int32_t> ids) override {
    Lent o = narrow(out);
    inner_->embed(o, w, ids);
    o.back();
  }
  void embed_backward(View dw, View dout, std::span<const int32_t> ids) override {
    Lent w = wide(dw), d = narrow(dout);
    inner_->embed_backward(w, d, ids);
    w.back();
  }
  void rms_norm(View y, View rstd, View x, View weight, float eps) override {
    Lent to = narrow(y), r = wide(rstd), from = narrow(x), w = wide(weight);
    inner_->rms_norm(to, r, from, w, eps);
    to.back(), r.back();
  }
  void rms_norm_backward(View dx, bool accumulate, View dweight, View dy, View x, View rstd, View weight) override {
    Lent to = narrow(dx), dw = wide(dweight), d = narrow(dy), from = narrow(x), r = wide(rstd), w = wide(weight);
    inner_->rms_norm_backward(to, accumulate, dw, d, from, r, w);
    to.back(), dw.back();
  }
  void linear(View y, bool accumulate, View x, const Weight& w, View bias, float scale) override {
    Lent to = narrow(y), from = narrow(x), b = wide(bias);
    inner_->linear(to, accumulate, from, w, b, scale);
    to.back();
  }
  void linear_backward_input(View dx, bool accumulate, View dy, const Weight& w, float scale) override {
    Lent to = narrow(dx), d = narrow(dy);
    inner_->linear_backward_input(to, accumulate, d, w, scale);
    to.back();
  }
  void linear_backward_weight(View dw, View dy, View x, DType dtype, float scale) override {
    Lent to = wide(dw), d = narrow(dy), from = narrow(x);
    inner_->linear_backward_weight(to, d, from, dtype, scale);
    to.back();
  }
  void bias_backward(View dbias, View dy) override {
    Lent to = wide(dbias), d = narrow(dy);
    inner_->bias_backward(to, d);
    to.back();
  }
  void rope(View x, int head_dim, std::span<const int32_t> positions, std::span<const float> inv_freq, float factor,
            bool inverse) override {
    Lent y = narrow(x);
    inner_->rope(y, head_dim, positions, inv_freq, factor, inverse);
    y.back();
  }
  void swiglu(View y, View gate, View up) override {
    Lent to = narrow(y), g = narrow(gate), u = narrow(up);
    inner_->swiglu(to, g, u);
    to.back();
  }
  void swiglu_backward(View dgate, View dup, View dy, View gate, View up) override {
    Lent dg = narrow(dgate), du = narrow(dup), d = narrow(dy), g = narrow(gate), u = narrow(up);
    inner_->swiglu_backward(dg, du, d, g, u);
    dg.back(), du.back();
  }
  void add(View y, View x) override {
    Lent to = narrow(y), from = narrow(x);
    inner_->add(to, from);
    to.back();
  }
  void scale(View y, float factor) override {
    Lent to = narrow(y);
    inner_->scale(to, factor);
    to.back();
  }

  std::unique_ptr<KvPool> create_kv_pool(int layers, int kv_heads, int head_dim, int pages, DType) override {
    return inner_->create_kv_pool(layers, kv_heads, head_dim, pages, DType::bf16);
  }
  size_t kv_page_bytes(int kv_heads, int head_dim, DType) const override {
    return inner_->kv_page_bytes(kv_heads, head_dim, DType::bf16);
  }
  void write_kv(KvPool& pool, int layer, const Forest& forest, View k, View v) override {
    inner_->write_kv(pool, layer, forest, narrow(k), narrow(v));
  }
  void attention(View out, View lse, View q, const KvPool& pool, int layer, const Forest& forest, float scale) override {
    Lent to = narrow(out), sums = wide(lse), from = narrow(q);
    inner_->attention(to, sums, from, pool, layer, forest, scale);
    to.back(), sums.back();
  }
  void attention_backward(View dq, View dk, View dv, View dout, View out, View lse, View q, const KvPool& pool, int layer,
                          const Forest& forest, float scale) override {
    Lent tq = narrow(dq), tk = narrow(dk), tv = narrow(dv), d = narrow(dout), o = narrow(out), s = wide(lse), from = narrow(q);
    inner_->attention_backward(tq, tk, tv, d, o, s, from, pool, layer, forest, scale);
    tq.back(), tk.back(), tv.back();
  }

  void head_loss(LossResults& results, View dhidden, View dw, View hidden, const Weight& head, const LossRows& rows) override {
    Lent dh = narrow(dhidden), w = wide(dw), h = narrow(hidden);
    inner_->head_loss(results, dh, w, h, head, rows);
    dh.back(), w.back();
  }
  void head_sample(std::span<SampleResult> results, View hidden, const Weight& head, std::span<const SampleParams> params) override {
    inner_->head_sample(results, narrow(hidden), head, params);
  }
  size_t head_scratch_bytes(int64_t vocabulary, int64_t rows) const override { return inner_->head_scratch_bytes(vocabulary, rows); }

  double sum_of_squares(View x) override { return inner_->sum_of_squares(wide(x)); }
  void adamw(View parameter, View gradient, View moment1, View moment2, const AdamW& options) override {
    Lent p = wide(parameter), g = wide(gradient), m = wide(moment1), v = wide(moment2);
    inner_->adamw(p, g, m, v, options);
    p.back(), m.back(), v.back();
  }
  void adamw_compact(Weight& w, View gradient, const CompactMoments& m, const AdamW& options, uint64_t stream) override {
    Lent codes1(*inner_, m.codes1, DType::u8), codes2(*inner_, m.codes2, DType::u8);
    Lent scales1 = wide(m.scales1), scales2 = wide(m.scales2);
    inner_->adamw_compact(w, wide(gradient), {codes1, scales1, codes2, scales2}, options, stream);
    codes1.back(), codes2.back(), scales1.back(), scales2.back();
  }
  bool has_nonfinite(View x) override { return inner_->has_nonfinite(wide(x)); }
  size_t scratch_bytes(int64_t rows, int64_t widest) const override { return inner_->scratch_bytes(rows, widest); }
  size_t rope_bytes(int64_t positions, int head_dim) const override { return inner_->rope_bytes(positions, head_dim); }

 private:
  Lent narrow(View host) { return {*inner_, host, DType::bf16}; }
  Lent wide(View host) { return {*inner_, host, DType::f32}; }
  std::unique_ptr<Backend> inner_;
};

}  // namespace

std::unique_ptr<Backend> make_bf16_face(std::unique_ptr<Backend> inner) { return std::make_unique<Bf16Face>(std::move(inner)); }

}  // namespace act::test
