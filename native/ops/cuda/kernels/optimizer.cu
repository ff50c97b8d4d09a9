// AdamW, and what is asked of gradients before it.
#include <algorithm>

#include "launch.cuh"

namespace act::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) square_sums_kernel(double* partial, const float* x, int64_t count) {
  double sum = 0;
  const int64_t step = static_cast<int64_t>(kSumBlocks) * kThreads;
  for (int64_t i = global_thread(); i < count; i += step) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  sum = block_sum<kThreads / 32>(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kSumBlocks) add_sums_kernel(double* partial, int blocks) {
  const int i = static_cast<int>(threadIdx.x);
  const double sum = block_sum<kSumBlocks / 32>(i < blocks ? partial[i] : 0.0);
  if (threadIdx.x == 0) partial[kSumBlocks] = sum;
}

__global__ void find_nonfinite_kernel(int32_t* flag, const float* x, int64_t count) {
  const int64_t i = global_thread();
  // Exponent bits all ones. Every writer writes the same value.
  if (i < count && (__float_as_uint(x[i]) & 0x7f800000u) == 0x7f800000u) *flag = 1;
}

// m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;  p -= lr (wd p + (m / c1) / (sqrt(v / c2) + eps))
__global__ void adamw_kernel(float* p, const float* gradient, float* m, float* v, int64_t count, AdamW o, float c1, float c2) {
  const int64_t i = global_thread();
  if (i >= count) return;
  const float g = gradient[i] * o.grad_scale;
  const float m1 = o.beta1 * m[i] + (1.0f - o.beta1) * g;
  const float m2 = o.beta2 * v[i] + (1.0f - o.beta2) * g * g;
  m[i] = m1;
  v[i] = m2;
  p[i] -= o.learning_rate * (o.weight_decay * p[i] + (m1 / c1) / (sqrtf(m2 / c2) + o.epsilon));
}

// One thread a value, one thread block a block of codes: the block's largest magnitude is needed before any code.
__global__ void __launch_bounds__(compact::kBlock)
    adamw_compact_kernel(CompactState s, int64_t count, compact::Scalars o, int64_t step, uint64_t stream) {
  const int64_t i = global_thread();
  const bool inside = i < count;
  compact::Element e{0, 0, 0};
  if (inside) {
    e = {to_float(bf16{s.weight[i]}), compact::moment1_of(s.codes1[i], s.scales1[blockIdx.x]),
         compact::root2_of(s.codes2[i], s.scales2[blockIdx.x])};
    e = compact::step(e, s.gradient[i], o);
  }
  constexpr int kBlockWarps = static_cast<int>(compact::kBlock / 32);
  // The barriers in here also let every thread read the old scales before the new ones are written.
  const float largest1 = block_max<kBlockWarps>(fabsf(e.moment1)), largest2 = block_max<kBlockWarps>(e.root2);
  if (threadIdx.x == 0) {
    s.scales1[blockIdx.x] = largest1 >= compact::kLeast1 ? largest1 : 0.0f;
    s.scales2[blockIdx.x] = largest2 >= compact::kLeast2 ? largest2 : 0.0f;
  }
  if (!inside) return;
  const compact::Randoms random = compact::randoms_of(stream, step, i);
  s.codes1[i] = compact::code1_of(e.moment1, largest1, compact::threshold_of(random.moment1));
  s.codes2[i] = compact::code2_of(e.root2, largest2, compact::threshold_of(random.moment2));
  s.weight[i] = compact::round_stochastically(e.weight, random.weight);
}

}  // namespace

void launch_sum_of_squares(Stream s, double* partial, View x) {
  const float* const from = x.as<float>();
  const int64_t count = x.size();
  // As many blocks as have something to add: most tensors of a small model need one.
  const int blocks = static_cast<int>(std::min<int64_t>(kSumBlocks, blocks_for(count, kThreads)));
  GPU_LAUNCH(square_sums_kernel, static_cast<unsigned>(blocks), kThreads, 0, s, partial, from, count);
  GPU_LAUNCH(add_sums_kernel, 1, kSumBlocks, 0, s, partial, blocks);
}

void launch_find_nonfinite(Stream s, int32_t* flag, View x) {
  const float* const from = x.as<float>();
  const int64_t count = x.size();
  GPU_LAUNCH(find_nonfinite_kernel, blocks_for(count, kThreads), kThreads, 0, s, flag, from, count);
}

void launch_adamw(Stream s, float* parameter, const float* gradient, float* moment1, float* moment2, int64_t count,
                  const AdamW& options, float correction1, float correction2) {
  const AdamW o = options;
  GPU_LAUNCH(adamw_kernel, blocks_for(count, kThreads), kThreads, 0, s, parameter, gradient, moment1, moment2, count, o, correction1, correction2);
}

void launch_adamw_compact(Stream s, const CompactState& state, int64_t count, const compact::Scalars& scalars,
                          int64_t step, uint64_t stream) {
  const CompactState on = state;
  const compact::Scalars o = scalars;
  constexpr int kBlock = static_cast<int>(compact::kBlock);
  GPU_LAUNCH(adamw_compact_kernel, blocks_for(count, kBlock), kBlock, 0, s, on, count, o, step, stream);
}

}  // namespace act::cuda
