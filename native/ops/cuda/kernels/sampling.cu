// One token a row, one block a row, without sorting the vocabulary.
//
// Probability masses are integers, exp((z - max) / temperature) * 2^40 rounded: integer sums do not depend on their order,
// so truncation and the draw are exact and the same on every run. The threshold of top-k and of top-p is found by radix
// selection over the logits' bits, 8 at a time; among equal logits the lower ids come first.
#include "launch.cuh"

namespace act::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kBins = 256;
using Count = unsigned long long;

/// Ascending with the float, for any but NaN. The two zeros are one value.
__device__ __forceinline__ uint32_t order_of(float x) {
  const uint32_t u = __float_as_uint(x == 0.0f ? 0.0f : x);
  return u & 0x80000000u ? ~u : u | 0x80000000u;
}

struct Candidates {
  const float* logits;
  const int32_t* ids;  // null: all
  int64_t count;
  __device__ int32_t id(int64_t i) const { return ids ? ids[i] : static_cast<int32_t>(i); }
};

/// A candidate is kept if its order is above `order`, or equal and it is among the first `ties` equal ones.
struct Threshold {
  uint32_t order;
  Count ties;
};

struct Masses {
  float max, inverse_temperature;
  __device__ Count of(float logit) const {
    return static_cast<Count>(llrint(static_cast<double>(expf((logit - max) * inverse_temperature)) * 1099511627776.0));
  }
};

/// Sum over the block of at most 2^62.
__device__ __forceinline__ Count block_total(Count x) { return block_sum<kWarps>(x); }

/// Calls visit(id, order, logit, tie_rank) for all candidates in ascending order; tie_rank counts equals of
/// `threshold.order` before it. Every thread takes part in every round, because ranks need the whole block.
template <class Visit>
__device__ void for_each_ranked(const Candidates& c, const Threshold& threshold, Visit visit) {
  __shared__ Count warp_ties[kWarps];
  Count before = 0;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  for (int64_t first = 0; first < c.count; first += kThreads) {
    const int64_t i = first + threadIdx.x;
    const bool inside = i < c.count;
    const int32_t id = inside ? c.id(i) : 0;
    const float logit = inside ? c.logits[id] : 0.0f;
    const uint32_t order = order_of(logit);
    const bool tie = inside && order == threshold.order;
    const unsigned votes = __ballot_sync(kFullWarp, tie);
    if (lane == 0) warp_ties[warp] = static_cast<Count>(__popc(votes));
    __syncthreads();
    Count rank = before + static_cast<Count>(__popc(votes & ((1u << lane) - 1u)));
    Count all = 0;
    for (int w = 0; w < kWarps; w++) {
      if (w < warp) rank += warp_ties[w];
      all += warp_ties[w];
    }
    visit(inside && (order > threshold.order || (tie && rank < threshold.ties)), i, id, logit);
    before += all;
    __syncthreads();
  }
}

/// The highest threshold such that what lies above it, weighed by `weigh(logit)`, reaches `wanted`; only candidates
/// `within` an earlier threshold count (its ties are cut there, and here by the rank again: the lower of both).
template <class Weigh>
__device__ Threshold select(const Candidates& c, const Threshold& within, Count wanted, Weigh weigh) {
  __shared__ Count bins[kBins], counts[kBins];
  __shared__ uint32_t shared_prefix;
  __shared__ Count shared_wanted, shared_ties, shared_bin_count;
  uint32_t prefix = 0, mask = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int b = static_cast<int>(threadIdx.x); b < kBins; b += kThreads) bins[b] = 0, counts[b] = 0;
    __syncthreads();
    for_each_ranked(c, within, [&](bool kept, int64_t, int32_t, float logit) {
      const uint32_t order = order_of(logit);
      if (!kept || (order & mask) != prefix) return;
      atomicAdd(&bins[order >> shift & 255u], weigh(logit));
      atomicAdd(&counts[order >> shift & 255u], static_cast<Count>(1));
    });
    if (threadIdx.x == 0) {
      // From the top bin down to the one in which the wanted weight is reached; the last that is not empty otherwise.
      int bin = kBins - 1, last = -1;
      Count left = wanted;
      for (; bin >= 0; bin--) {
        if (counts[bin] == 0) continue;
        last = bin;
        if (bins[bin] >= left) break;
        left -= bins[bin];
      }
      if (bin < 0) {  // less than wanted in all: keep everything down to the last
        bin = last;
        left = bins[last];
      }
      shared_prefix = prefix | static_cast<uint32_t>(bin) << shift;
      shared_wanted = left;
      shared_bin_count = counts[bin];
      // In the last pass all of a bin are equal: as many of them as it takes, one at least.
      const Count each = counts[bin] ? bins[bin] / counts[bin] : 0;
      Count ties = each ? (left + each - 1) / each : 1;
      if (ties < 1) ties = 1;
      shared_ties = ties < shared_bin_count ? ties : shared_bin_count;
    }
    __syncthreads();
    prefix = shared_prefix;
    wanted = shared_wanted;
    mask |= 255u << shift;
  }
  const Threshold found{prefix, shared_ties};
  __syncthreads();
  return found;
}

__global__ void __launch_bounds__(kThreads)
    sample_kernel(SampleOutput* out, const float* logits, const RowStats* all_stats, const SampleInput* inputs,
                  const int32_t* allowed, int64_t cols) {
  __shared__ int32_t shared_token;
  __shared__ Count warp_sums[kWarps];
  const SampleInput in = inputs[blockIdx.x];
  const RowStats stats = all_stats[blockIdx.x];
  const float* const row = logits + static_cast<int64_t>(blockIdx.x) * cols;
  SampleOutput o{-1, 0, 0, 1, stats.entropy};
  const bool finite = stats.max - stats.max == 0.0f && stats.log_sum - stats.log_sum == 0.0f;
  if (!finite) {  // the same for the whole block
    if (threadIdx.x == 0) out[blockIdx.x] = o;
    return;
  }
  const bool restricted = in.allowed_count > 0;
  const Candidates c{row, restricted ? allowed + in.allowed_first : nullptr, restricted ? in.allowed_count : cols};

  float max = -INFINITY;
  for (int64_t i = threadIdx.x; i < c.count; i += kThreads) max = fmaxf(max, row[c.id(i)]);
  max = block_max<kWarps>(max);

  const Threshold everything{0, ~Count{0}};
  Threshold kept = everything;
  const float inverse_temperature = in.temperature > 0.0f ? 1.0f / in.temperature : 0.0f;
  const Masses masses{max, inverse_temperature};
  const auto mass_of = [&](float logit) { return masses.of(logit); };
  const auto total_of = [&](const Threshold& threshold) {
    Count sum = 0;
    for_each_ranked(c, threshold, [&](bool in_it, int64_t, int32_t, float logit) {
      if (in_it) sum += masses.of(logit);
    });
    return block_total(sum);
  };

  Count all = 1, left = 1, wanted = 0, least = 0;
  if (in.temperature > 0.0f) {
    left = all = total_of(everything);
    if (in.top_k > 0 && in.top_k < c.count) {
      kept = select(c, everything, static_cast<Count>(in.top_k), [](float) { return Count{1}; });
      left = total_of(kept);
    }
    if (in.top_p < 1.0f) {
      const auto reach = static_cast<Count>(ceil(static_cast<double>(in.top_p) * static_cast<double>(left)));
      kept = select(c, kept, reach, mass_of);
      left = total_of(kept);
    }
    if (in.min_p > 0.0f) {
      least = static_cast<Count>(ceil(static_cast<double>(in.min_p) * 1099511627776.0));
      Count sum = 0;
      for_each_ranked(c, kept, [&](bool in_it, int64_t, int32_t, float logit) {
        const Count mass = masses.of(logit);
        if (in_it && mass >= least) sum += mass;
      });
      left = block_total(sum);
    }
    wanted = static_cast<Count>(in.uniform * static_cast<double>(left));
    if (wanted >= left) wanted = left - 1;
  } else {
    kept = {order_of(max), 1};  // greedy: the first of the largest
  }

  // Inverse CDF: the candidate in whose interval [sum before, sum after) `wanted` lies.
  if (threadIdx.x == 0) shared_token = -1;
  Count before = 0;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const bool greedy = in.temperature == 0.0f;
  for_each_ranked(c, kept, [&](bool in_it, int64_t, int32_t id, float logit) {
    Count mass = !in_it ? 0 : greedy ? 1 : masses.of(logit);
    if (mass < least) mass = 0;
    Count upto = mass;
    for (int distance = 1; distance < 32; distance *= 2) {
      const Count other = __shfl_up_sync(kFullWarp, upto, distance);
      if (lane >= distance) upto += other;
    }
    if (lane == 31) warp_sums[warp] = upto;
    __syncthreads();
    Count offset = before, round = 0;
    for (int w = 0; w < kWarps; w++) {
      if (w < warp) offset += warp_sums[w];
      round += warp_sums[w];
    }
    if (mass > 0 && offset + upto - mass <= wanted && wanted < offset + upto) shared_token = id;
    before += round;
  });
  __syncthreads();
  if (threadIdx.x != 0) return;
  o.token = shared_token;
  const float logit = row[o.token];
  o.logprob = logit - stats.max - stats.log_sum;
  if (!greedy) {
    const double scaled = (static_cast<double>(logit) - static_cast<double>(max)) * static_cast<double>(inverse_temperature);
    o.sampling_logprob = static_cast<float>(scaled - log(static_cast<double>(left) / 1099511627776.0));
    o.kept_mass = static_cast<float>(static_cast<double>(left) / static_cast<double>(all));
  }
  out[blockIdx.x] = o;
}

}  // namespace

void launch_sample(Stream s, SampleOutput* out, View logits, const RowStats* stats, const SampleInput* in,
                   const int32_t* allowed) {
  const float* const from = logits.as<float>();
  const int64_t cols = logits.cols;
  GPU_LAUNCH(sample_kernel, blocks_for(logits.rows, 1), kThreads, 0, s, out, from, stats, in, allowed, cols);
}

}  // namespace act::cuda
