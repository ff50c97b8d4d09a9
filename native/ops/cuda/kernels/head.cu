// Loss rows: statistics of each row of logits, the loss and its slope, and the gradient of the logits.
#include "launch.cuh"

namespace act::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

__global__ void __launch_bounds__(kThreads) row_stats_kernel(RowStats* stats, const float* logits, int64_t cols, float factor) {
  const float* const row = logits + static_cast<int64_t>(blockIdx.x) * cols;
  float max = -INFINITY;
  for (int64_t c = threadIdx.x; c < cols; c += kThreads) max = fmaxf(max, row[c] * factor);
  max = block_max<kWarps>(max);
  float sum = 0, weighted = 0;  // of exp(z - max), and of that times z - max
  for (int64_t c = threadIdx.x; c < cols; c += kThreads) {
    const float z = row[c] * factor - max, e = expf(z);
    sum += e;
    weighted += e > 0.0f ? e * z : 0.0f * e;  // 0 * log 0 = 0, and a NaN stays one
  }
  sum = block_sum<kWarps>(sum);
  weighted = block_sum<kWarps>(weighted);
  if (threadIdx.x == 0) {
    const float log_sum = static_cast<float>(log(static_cast<double>(sum)));
    stats[blockIdx.x] = {max, log_sum, log_sum - weighted / sum};
  }
}

__device__ __forceinline__ double clamped(double x, double low, double high) { return x < low ? low : high < x ? high : x; }

// What has the weight 0 is left out: it may be infinite.
__device__ __forceinline__ double weighted(double weight, double x) { return weight == 0.0 ? 0.0 : weight * x; }

// Formulas: LossRows in ops.h. In double precision: a row is one thread's work and there are few rows.
__global__ void loss_rows_kernel(LossOutput* out, const LossInput* in, const RowStats* stats, const float* logits,
                                 int64_t rows, int64_t cols, float factor, KlEstimator kl) {
  const int64_t i = global_thread();
  if (i >= rows) return;
  const LossInput r = in[i];
  const RowStats s = stats[i];
  LossOutput o{};
  o.logprob = logits[i * cols + r.target] * factor - s.max - s.log_sum;
  o.entropy = s.entropy;
  const double logp = o.logprob;
  o.ce = -static_cast<double>(r.ce_weight) * logp;
  double gradient = -static_cast<double>(r.ce_weight);

  const double ratio = r.has_old ? exp(logp - static_cast<double>(r.old_logprob)) : 1.0;
  const double free = weighted(r.advantage, ratio);
  const double bounded =
      clamped(ratio, 1.0 - static_cast<double>(r.clip_low), 1.0 + static_cast<double>(r.clip_high)) * r.advantage;
  const bool cut = bounded < free;
  o.policy = -weighted(r.policy_weight, cut ? bounded : free);
  if (!cut) gradient -= weighted(r.policy_weight, free);
  o.clipped = cut && r.policy_weight != 0.0f;

  const double difference = r.has_ref ? logp - static_cast<double>(r.ref_logprob) : 0.0;
  double value = difference, slope = 1.0;  // k1
  if (kl == KlEstimator::k2) {
    value = difference * difference / 2.0;
    slope = difference;
  } else if (kl == KlEstimator::k3) {
    value = expm1(-difference) + difference;
    slope = -expm1(-difference);
  }
  o.kl_term = weighted(r.kl_weight, value);
  gradient += weighted(r.kl_weight, slope);
  o.entropy_term = -static_cast<double>(r.entropy_weight) * s.entropy;
  o.ratio = static_cast<float>(ratio);
  o.kl = static_cast<float>(value);
  o.gradient = static_cast<float>(gradient);
  out[i] = o;
}

// d(logp_t)/d(z_j) = [j = t] - p_j and d(H)/d(z_j) = -p_j (log p_j + H), z = factor * logits.
template <class T>
__global__ void __launch_bounds__(kThreads)
    logit_gradient_kernel(T* dlogits, const float* logits, const RowStats* stats, const LossInput* in,
                          const LossOutput* out, int64_t cols, float factor) {
  const int64_t row = blockIdx.x;
  const RowStats s = stats[row];
  const float gradient = out[row].gradient, entropy_weight = in[row].entropy_weight;
  const int32_t target = in[row].target;
  for (int64_t c = threadIdx.x; c < cols; c += kThreads) {
    const float logp = logits[row * cols + c] * factor - s.max - s.log_sum, p = expf(logp);
    float d = gradient * ((c == target ? 1.0f : 0.0f) - p);
    if (entropy_weight != 0.0f && p > 0.0f) d += entropy_weight * p * (logp + s.entropy);
    dlogits[row * cols + c] = from_float<T>(d * factor);
  }
}

}  // namespace

void launch_row_stats(Stream s, RowStats* stats, View logits, float factor) {
  const float* const from = logits.as<float>();
  const int64_t cols = logits.cols;
  GPU_LAUNCH(row_stats_kernel, blocks_for(logits.rows, 1), kThreads, 0, s, stats, from, cols, factor);
}

void launch_loss_rows(Stream s, LossOutput* out, const LossInput* in, const RowStats* stats, View logits, float factor,
                      KlEstimator kl) {
  const float* const from = logits.as<float>();
  const int64_t rows = logits.rows, cols = logits.cols;
  GPU_LAUNCH(loss_rows_kernel, blocks_for(rows, 128), 128, 0, s, out, in, stats, from, rows, cols, factor, kl);
}

void launch_logit_gradient(Stream s, View dlogits, View logits, const RowStats* stats, const LossInput* in,
                           const LossOutput* out, float factor) {
  const float* const from = logits.as<float>();
  const int64_t cols = logits.cols;
  with_type(dlogits.dtype, [&](auto t) {
    using T = decltype(t);
    T* const to = dlogits.as<T>();
    GPU_LAUNCH((logit_gradient_kernel<T>), blocks_for(logits.rows, 1), kThreads, 0, s, to, from, stats, in, out, cols, factor);
  });
}

}  // namespace act::cuda
