// The backend contract: every operation the engine needs, with shapes and meaning.
//
// The model graph, the token forest, the sampler and the optimizer (native/engine) call only what is declared here and
// know no device. A backend is a class that implements `Backend`: `reference/` in plain loops with double accumulation
// (the truth that tests compare with), `cpu/` vectorized and threaded, `cuda/` on NVIDIA GPUs.
//
// Adding an operation: declare it here with shapes and formula; write it in reference/; add a case struct in
// native/test/cases (one struct gives value, gradient and speed test); write the fast versions.
//
// Notation: T tokens of a batch, D hidden size, H query heads, Hk key-value heads, d head size, V vocabulary,
// R loss rows. All matrices are row-major.
//
// Reduction order is part of the contract, because it is what makes results independent of batch neighbors, threads,
// micro-batches and the shape of the forest, bit for bit (docs/engine.md):
//   * an fp32 matrix product (linear, linear_backward_input, logits) adds chains of 64 inner indices: each chain is fused
//     multiply-adds over the inner index in ascending order, from zero; chains are added in ascending order to the
//     element's present value or bias. (One chain over all of 1,536 inner indices, measured on a 135M model, has seven
//     times the error.) A bf16 product is ONE such chain, in ascending pairs, from the present value or bias on; on
//     processors with tile registers (Isa::amx) the links of that chain are sums of 32 inner indices, added from zero.
//     On processors without a bf16 dot product the links of `linear`'s chain are exact sums of 128 products of integers
//     (cpu/kernels/kernels.h: PanelFormat::integers): numbers smaller than 1/16 of the largest of their 128 are rounded
//     to multiples of 1/4096 to 1/2048 of it; a group with an infinity or a NaN gives NaN;
//   * attention scores are such chains over the head dimension; the softmax sum runs over absolute key positions, 16
//     interleaved partial sums (position modulo 16) added in a fixed tree at the end; the weighted sum of values is one
//     chain over ascending key positions;
//   * gradients of parameters are ONE chain over token rows in ascending order (bf16: ascending pairs), from the present
//     value on, in both dtypes: that makes them independent of the split into micro-batches. Where links are sums of 32
//     rows, a link never holds rows of two runs (`Backend::row_runs`, `LossRows::runs`).
// The reference backend keeps double accumulators instead and is compared within derived tolerances. The CUDA backend in
// its default mode takes matrix products from a library (cuda/cublaslt.h): rounding as here, but in an order of additions
// that may be another for another number of rows. Its batch-invariant mode keeps the order of products, too.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace act {

enum class DType : uint8_t { f32, bf16, f16, i32, u8 };
constexpr size_t size_of(DType t) { return t == DType::u8 ? 1 : t == DType::f32 || t == DType::i32 ? 4 : 2; }

/// Every failure below the addon. `code` becomes the `code` of the JavaScript error, `what()` its message.
class Error : public std::runtime_error {
 public:
  Error(std::string code, const std::string& message) : std::runtime_error(message), code(std::move(code)) {}
  const std::string code;  // "OUT_OF_MEMORY", "ABORTED", "BAD_ARGUMENT", "DEVICE_LOST", "NUMERICS", ...
};

/// Row-major view of memory on the backend's device. Never owns.
struct View {
  void* data = nullptr;
  int64_t rows = 0, cols = 0;
  DType dtype = DType::f32;
  template <class E>
  E* as() const { return static_cast<E*>(data); }
  View rows_from(int64_t first, int64_t count) const {
    return {static_cast<char*>(data) + size_of(dtype) * static_cast<size_t>(first * cols), count, cols, dtype};
  }
  int64_t size() const { return rows * cols; }
};

class Backend;

/// Where a buffer lies: the device's memory, or the host's, pinned so that the device reaches it.
enum class Place : uint8_t { device, host };

/// Memory that frees itself; counted by the backend (`Backend::allocated`, `Backend::host_allocated`).
class Buffer {
 public:
  Buffer() = default;
  Buffer(Backend& backend, int64_t rows, int64_t cols, DType dtype, Place place = Place::device);  // throws OUT_OF_MEMORY
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();
  const View& view() const { return view_; }
  explicit operator bool() const { return view_.data != nullptr; }
  size_t bytes() const { return static_cast<size_t>(view_.size()) * size_of(view_.dtype); }

 private:
  Backend* backend_ = nullptr;
  View view_;
  Place place_ = Place::device;
};

/// A weight matrix [rows = outputs, cols = inputs] in whatever layouts the backend wants to keep (row-major, packed
/// panels, fp32 masters). Vectors (norm weights, biases) are Buffers of one row, not Weights.
class Weight {
 public:
  virtual ~Weight() = default;
  int64_t rows = 0, cols = 0;
  DType dtype = DType::f32;  // what the forward pass multiplies with: f32 or bf16
  bool trainable = false;    // trainable weights keep an fp32 master (for f32 the weight itself)
};

/// One of several products of the same input (Backend::linears).
struct LinearOutput {
  View y;
  const Weight& w;
  View bias;  // may be empty
};

/// Keys per page of the key-value pool.
constexpr int kPageKeys = 16;

/// Keys and values of many tokens, all layers, in pages of 16 keys, stored as f32 or rounded to nearest even bf16. The
/// layout is the backend's; on the CPU a page of one layer and one key-value head holds keys transposed [d][16], then
/// values [16][d].
class KvPool {
 public:
  virtual ~KvPool() = default;
  int layers = 0, kv_heads = 0, head_dim = 0, pages = 0;
  DType dtype = DType::f32;
};

/// A run of tokens in the forest. Its keys sit in pages of its own (or pages it reads of another segment's):
/// key i is lane (first_lane + i) % 16 of page pages[first_page + (first_lane + i) / 16], at absolute position
/// `position + i`. Parents come before children. A query attends to all keys of all ancestors (each ancestor's
/// `key_count`) and to the keys of its own segment up to and including itself.
struct Segment {
  int32_t parent;       // index of the parent segment, -1 for a root
  int32_t position;     // absolute position of key 0 (= parent's position + key_count, 0 for a root)
  int32_t key_count;    // keys of this segment, those of this batch's queries included
  int32_t first_page;   // index into Forest::pages
  int32_t first_lane;   // 0..15
  int32_t query_row;    // first row of this segment's queries in the batch
  int32_t query_count;  // queries are the LAST query_count tokens of the segment; 0: keys only
};

/// The shape of one batch: what attends to what. Host memory; rows of the batch are the segments' queries.
struct Forest {
  std::span<const Segment> segments;
  std::span<const int32_t> pages;
  int64_t rows = 0;  // T: total of query_count
};

/// How one row is sampled. temperature 0 means greedy (ties: lowest id). Order of truncation: temperature, top_k
/// (0 = off), top_p (1 = off; the smallest set whose mass reaches top_p), min_p (0 = off; relative to the largest
/// probability). `uniform` in [0,1) picks by inverse CDF over kept tokens in ascending id order.
struct SampleParams {
  float temperature = 1, top_p = 1, min_p = 0;
  int32_t top_k = 0;
  double uniform = 0;
  std::span<const int32_t> allowed;  // ascending ids; empty: all
  /// Whether draws are from the policy itself, nothing scaled and nothing cut.
  bool from_policy(int64_t vocabulary) const {
    return temperature == 1 && top_p == 1 && min_p == 0 && (top_k == 0 || top_k >= vocabulary) && allowed.empty();
  }
};
struct SampleResult {
  int32_t token = -1;          // -1: the row's logits hold a NaN or +infinity, and nothing else here counts
  float logprob = 0;           // log-probability at temperature 1, untruncated, unmasked
  float sampling_logprob = 0;  // under the distribution it was drawn from (0 for greedy); logprob if that is the policy
  float kept_mass = 1;         // mass, at the sampling temperature, of the tokens truncation kept
  float entropy = 0;           // of the untruncated distribution at temperature 1, nats
};

enum class KlEstimator : uint8_t { k1, k2, k3 };

/// Loss rows, structure of arrays in host memory, each `count` long (the weight streams, docs/engine.md):
///   loss_i = - ce_weight * logp
///            - policy_weight * min(r A, clip(r, 1 - clip_low, 1 + clip_high) A),  r = exp(logp - old_logprob)
///            + kl_weight * kl(logp, ref_logprob)     k1: logp - ref   k2: (logp - ref)^2 / 2
///                                                    k3: exp(ref - logp) - (ref - logp) - 1
///            - entropy_weight * entropy
/// logp and entropy are of softmax(logits * inverse_temperature). Rows whose weights are all 0 only report:
/// what has the weight or the advantage 0 is left out, whatever it is, infinite or NaN.
struct LossRows {
  int64_t count = 0;
  const int32_t* target = nullptr;
  const float *ce_weight = nullptr, *advantage = nullptr, *old_logprob = nullptr, *clip_low = nullptr,
              *clip_high = nullptr, *policy_weight = nullptr, *ref_logprob = nullptr, *kl_weight = nullptr,
              *entropy_weight = nullptr;
  KlEstimator kl = KlEstimator::k3;
  float inverse_temperature = 1;
  std::span<const int32_t> runs;  // ends of the runs of rows (trees), ascending, the last `count`; empty: one run
};
/// A term of LossRows.
inline double weighted(double weight, double x) { return weight == 0 ? 0 : weight * x; }
/// Per-row results, host memory, `count` long each.
struct LossResults {
  float *logprob = nullptr, *entropy = nullptr, *ratio = nullptr, *kl = nullptr;
  uint8_t* clipped = nullptr;  // 1: the clip was active and cut the gradient
  double ce = 0, policy = 0, kl_term = 0, entropy_term = 0;  // weighted sums over rows, as they enter the loss
};

struct AdamW {
  float learning_rate, beta1, beta2, epsilon, weight_decay;
  int64_t step;        // 1-based, for bias correction
  float grad_scale;    // multiplies gradients first (global-norm clipping)
};

/// AdamW moments of 8 bits a value for one matrix (compact.h): codes u8 [rows, cols], for every 256 of them (the last ones
/// of a matrix: fewer) the largest magnitude, f32 [1, blocks].
struct CompactMoments {
  View codes1, scales1, codes2, scales2;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string name() const = 0;      // "reference", "cpu", "cuda"
  virtual std::string describe() const = 0;  // instruction set or device, threads
  virtual DType activation_dtype(DType weights) const = 0;  // CPU: f32
  virtual DType cache_dtype(DType weights) const = 0;        // of keys and values; CPU: that of the weights

  // --- memory -------------------------------------------------------------------------------------------------------
  virtual void* allocate(size_t bytes) = 0;  // zero-filled, 64-byte aligned; throws OUT_OF_MEMORY
  virtual void release(void* memory, size_t bytes) noexcept = 0;
  size_t allocated = 0, peak = 0;            // bytes, Buffers, Weights and pools together
  /// Of the device's own memory, what is free or allocated here; 0: it has none of its own, or no bound is known.
  virtual size_t device_bytes() const { return 0; }
  /// Whether the device is apart from the host and reaches host memory: what Place::host asks for.
  virtual bool reaches_host_memory() const { return false; }
  /// As allocate, in pinned host memory, counted in host_allocated. Throws BAD_ARGUMENT where Place::host means nothing.
  virtual void* allocate_host(size_t bytes);
  virtual void release_host(void* memory, size_t bytes) noexcept {}
  size_t host_allocated = 0;
  /// Set by who calls linear_backward_weight: ends of the runs of token rows (trees), ascending, the last one the number
  /// of rows. Empty: one run. What lies in different runs may be split into calls of its own without changing a bit.
  std::span<const int32_t> row_runs;
  virtual void upload(View to, const void* from) = 0;    // host -> device, same dtype
  virtual void download(void* to, View from) = 0;        // device -> host, same dtype; waits
  virtual void copy(View to, View from) = 0;
  virtual void fill(View x, float value) = 0;
  /// dst row i = src row index[i]; index is host memory.
  virtual void gather_rows(View dst, View src, std::span<const int32_t> index) = 0;
  /// dst row index[i] += src row i, in ascending i.
  virtual void scatter_add_rows(View dst, View src, std::span<const int32_t> index) = 0;

  // --- steps --------------------------------------------------------------------------------------------------------
  /// Brackets a pass that comes again and again with other numbers in the same shapes: a step of decoding. A backend
  /// may remember what it queued and queue it as one piece the next time; results are the same bits either way.
  virtual void begin_step() {}
  virtual void end_step() noexcept {}
  /// The rows of such a pass are to be filled up to a multiple of this (1 .. kPageKeys), so that few shapes occur.
  virtual int64_t step_granularity() const { return 1; }
  struct StepCounts {
    int64_t steps = 0, recorded = 0, replayed = 0;
    int64_t waits = 0;  // of the host for the device, within steps
  };
  virtual StepCounts step_counts() const { return {}; }

  // --- weights ------------------------------------------------------------------------------------------------------
  /// `master`: where the fp32 master of a trainable bf16 weight lies.
  virtual std::unique_ptr<Weight> create_weight(int64_t rows, int64_t cols, DType dtype, bool trainable,
                                                Place master = Place::device) = 0;
  /// Bytes create_weight takes with all its layouts (for the memory plan), the master on the device. Must be exact.
  virtual size_t weight_bytes(int64_t rows, int64_t cols, DType dtype, bool trainable) const = 0;
  /// Whole matrix from host memory of any float dtype, rounded to nearest even where the weight is narrower.
  virtual void load_weight(Weight& w, const void* from, DType dtype) = 0;
  /// What the forward pass sees, as host memory of the weight's dtype; for trainable weights `master` gives fp32.
  virtual void read_weight(const Weight& w, void* to) = 0;
  virtual View master(Weight& w) = 0;        // fp32 [rows, cols]; throws BAD_ARGUMENT when not trainable
  virtual void refresh(Weight& w) = 0;       // after the master changed: round and re-pack

  // --- forward and backward of the layers ---------------------------------------------------------------------------
  /// out[t] = W[ids[t]], [T, D]; ids in host memory, already checked against rows.
  virtual void embed(View out, const Weight& w, std::span<const int32_t> ids) = 0;
  /// dW[ids[t]] += dout[t] in ascending t; dW fp32 [V, D].
  virtual void embed_backward(View dw, View dout, std::span<const int32_t> ids) = 0;

  /// y = x / rms(x) * weight, rms = sqrt(mean(x^2) + eps) over the last dimension; rstd[row] = 1 / rms.
  virtual void rms_norm(View y, View rstd, View x, View weight, float eps) = 0;
  /// dx (+)= d(y)/d(x)^T dy ; dweight += sum over rows. dweight may be empty (frozen).
  virtual void rms_norm_backward(View dx, bool accumulate, View dweight, View dy, View x, View rstd, View weight) = 0;

  // `scale` multiplies the row operand (x, dy) in fp32 before anything else; with bf16 weights the product is then
  // rounded to bf16. So accumulating with a scale keeps the order of additions.
  /// y (+)= scale * (x W^T) + bias; x [T, in], y [T, out]; bias may be empty. With bf16 weights x is rounded to bf16.
  virtual void linear(View y, bool accumulate, View x, const Weight& w, View bias, float scale = 1) = 0;
  /// y = x W^T + bias of every output: the bits of `linear` of each. A backend that takes x apart does so once.
  virtual void linears(std::span<const LinearOutput> outputs, View x) {
    for (const LinearOutput& o : outputs) linear(o.y, false, x, o.w, o.bias);
  }
  // Products of an operation's result, which a backend may make where it reads it. The view that would hold the result
  // is scratch here: what it holds afterwards is not specified.
  /// y = rms_norm(x) W^T + bias of every output: the bits of rms_norm and linears. Scratch: normed [T, D], rstd [T, 1].
  virtual void norm_linears(std::span<const LinearOutput> outputs, View normed, View rstd, View x, View weight,
                            float eps) {
    rms_norm(normed, rstd, x, weight, eps);
    linears(outputs, normed);
  }
  /// y += (silu(gate) * up) W^T + bias: the bits of swiglu and linear. Scratch: product [T, F].
  virtual void swiglu_linear(const LinearOutput& output, View product, View gate, View up) {
    swiglu(product, gate, up);
    linear(output.y, true, product, output.w, output.bias);
  }
  /// dx (+)= scale * (dy W).
  virtual void linear_backward_input(View dx, bool accumulate, View dy, const Weight& w, float scale = 1) = 0;
  /// dw += scale * (dy^T x), fp32 [out, in]. `dtype` is the weight's: with bf16 both operands are rounded to bf16.
  virtual void linear_backward_weight(View dw, View dy, View x, DType dtype, float scale = 1) = 0;
  /// dbias[1, n] += sum over rows of dy.
  virtual void bias_backward(View dbias, View dy) = 0;

  /// Rotates pairs (i, i + d/2) of every head of x [T, heads * d] by angle position * inv_freq[i], in place, and
  /// multiplies by `factor` (yarn's attention factor, else 1). inverse: the transpose, for the backward pass.
  /// angle = fp32(position) * fp32(inv_freq), cosine and sine of that correctly rounded to fp32.
  virtual void rope(View x, int head_dim, std::span<const int32_t> positions, std::span<const float> inv_freq,
                    float factor, bool inverse) = 0;

  /// y = silu(gate) * up, all [T, F].
  virtual void swiglu(View y, View gate, View up) = 0;
  /// dgate, dup from dy; dgate may be gate's own memory and dup up's.
  virtual void swiglu_backward(View dgate, View dup, View dy, View gate, View up) = 0;

  virtual void add(View y, View x) = 0;               // y += x
  virtual void scale(View y, float factor) = 0;       // y *= factor

  // --- attention over the forest ------------------------------------------------------------------------------------
  virtual std::unique_ptr<KvPool> create_kv_pool(int layers, int kv_heads, int head_dim, int pages, DType dtype) = 0;
  virtual size_t kv_page_bytes(int kv_heads, int head_dim, DType dtype) const = 0;  // one page, one layer
  /// Writes k, v [T, Hk * d] of the batch's queries into their pages of `layer`.
  virtual void write_kv(KvPool& pool, int layer, const Forest& forest, View k, View v) = 0;
  /// out [T, H * d] = softmax(scale * q K^T) V over each query's path. lse [T, H] gets max + log(sum), may be empty.
  /// Reads the keys shared by several queries once.
  virtual void attention(View out, View lse, View q, const KvPool& pool, int layer, const Forest& forest,
                         float scale) = 0;
  /// Gradients dq [T, H * d], dk, dv [T, Hk * d] (all overwritten). Here every key of the forest is a row of the batch:
  /// key_count == query_count in every segment.
  virtual void attention_backward(View dq, View dk, View dv, View dout, View out, View lse, View q, const KvPool& pool,
                                  int layer, const Forest& forest, float scale) = 0;

  // --- head ---------------------------------------------------------------------------------------------------------
  /// Loss of `hidden` rows [R, D] against the head, chunked so that at most `head_scratch_bytes` of logits exist at once.
  /// dhidden [R, D] is overwritten and dw += (both empty: forward only). dw fp32 [V, D].
  virtual void head_loss(LossResults& results, View dhidden, View dw, View hidden, const Weight& head,
                         const LossRows& rows) = 0;
  /// One token a row from hidden [R, D]. The log-probabilities are the very ones head_loss reports.
  virtual void head_sample(std::span<SampleResult> results, View hidden, const Weight& head,
                           std::span<const SampleParams> params) = 0;
  virtual size_t head_scratch_bytes(int64_t vocabulary, int64_t rows) const = 0;

  // --- optimizer ----------------------------------------------------------------------------------------------------
  virtual double sum_of_squares(View x) = 0;  // fixed order, double accumulation
  /// Decoupled weight decay (Loshchilov & Hutter 2019): p -= lr * (wd * p + mhat / (sqrt(vhat) + eps)); all fp32.
  virtual void adamw(View parameter, View gradient, View moment1, View moment2, const AdamW& options) = 0;
  /// The same on a bf16 weight that is not trainable (has no master) and with moments of 8 bits, all rounded
  /// stochastically (compact.h); gradient fp32, finite. `stream` stands for seed and tensor: random numbers are a function
  /// of (stream, step, element). Same bits on every backend.
  virtual void adamw_compact(Weight& w, View gradient, const CompactMoments& moments, const AdamW& options,
                             uint64_t stream) = 0;
  /// Whether any element is NaN or infinite.
  virtual bool has_nonfinite(View x) = 0;

  /// Scratch memory the layer operations above may hold at most for batches of `rows` rows (memory plan).
  virtual size_t scratch_bytes(int64_t rows, int64_t widest) const = 0;
  /// Tables that rope() keeps from call to call, once it has seen positions 0 .. positions - 1 (memory plan).
  virtual size_t rope_bytes(int64_t positions, int head_dim) const = 0;
};

std::unique_ptr<Backend> make_reference_backend();

enum class Isa : uint8_t { automatic, portable, avx2, avx512, avx512vnni, avx512bf16, amx };
/// `threads` >= 1, the caller's included. Throws DEVICE_NOT_FOUND for an instruction set this processor lacks.
std::unique_ptr<Backend> make_cpu_backend(int threads, Isa isa = Isa::automatic);

}  // namespace act
