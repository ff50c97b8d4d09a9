// Puts a query's partitions together: with max_p, sum_p and weighted values v_p of partition p, and m = max over max_p,
//   out = sum over p of exp(max_p - m) v_p / sum over p of exp(max_p - m) sum_p
// added in ascending p by one thread: the same bits whoever computed the parts.
#include "launch.cuh"

namespace act::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32, kSlices = kMaxHeadDim / 32;

/// A warp a query and head.
template <class T>
__global__ void __launch_bounds__(kThreads)
    combine_kernel(T* out, float* lse, Partials partials, const TreeQuery* queries, const int32_t* combined, int count,
                   int heads, int d, int partition) {
  const int64_t work = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (work >= static_cast<int64_t>(count) * heads || combined[work / heads] < 0) return;
  const TreeQuery query = queries[combined[work / heads]];
  const int head = static_cast<int>(work % heads), lane = static_cast<int>(threadIdx.x % 32);
  const int parts = (query.keys + partition - 1) / partition;
  const auto index = [&](int p) { return static_cast<int64_t>(query.first_partial + p) * heads + head; };
  float max = -INFINITY, sum = 0, acc[kSlices] = {};
  for (int p = 0; p < parts; p++) max = fmaxf(max, partials.numbers[index(p) * 2]);
  for (int p = 0; p < parts; p++) {
    const float weight = expf(partials.numbers[index(p) * 2] - max);
    sum = fmaf(weight, partials.numbers[index(p) * 2 + 1], sum);
    const float* const values = partials.values + index(p) * d;
    GPU_UNROLL
    for (int i = 0; i < kSlices; i++) {
      if (i * 32 + lane < d) acc[i] = fmaf(weight, values[i * 32 + lane], acc[i]);
    }
  }
  const int64_t place = static_cast<int64_t>(query.row) * heads + head;
  GPU_UNROLL
  for (int i = 0; i < kSlices; i++) {
    if (i * 32 + lane < d) out[place * d + i * 32 + lane] = from_float<T>(acc[i] / sum);
  }
  if (lse && lane == 0) lse[place] = max + logf(sum);
}

}  // namespace

void launch_attention_combine(Stream s, const AttentionShape& a, View out, View lse) {
  with_type(a.kv.dtype, [&](auto t) {
    using T = decltype(t);
    const int64_t work = int64_t{a.combined_count} * a.heads;
    GPU_LAUNCH((combine_kernel<T>), blocks_for(work, kWarps), kThreads, 0, s, out.as<T>(), lse.as<float>(), a.partials,
               a.queries, a.combined, a.combined_count, a.heads, a.kv.head_dim, a.partition);
  });
}

}  // namespace act::cuda
