// One row of logits: its log-probabilities, and drawing a token from it.
#pragma once
#include "../ops.h"
#include "kernels/kernels.h"

namespace act::cpu {

struct LogSoftmax {
  SoftmaxStats stats;
  float log_sum;  // of exp(z - max)
  float entropy;
  float log_probability(float logit, float factor) const { return (logit * factor - stats.max) - log_sum; }
};
/// Of softmax(factor * logits).
LogSoftmax log_softmax_stats(const Kernels& kernels, const float* logits, float factor, int64_t vocabulary);

/// Tokens per partial sum of the inverse CDF.
constexpr int64_t kSumBlock = 256;
/// Scratch of sample_row: one mass a token, and the partial sums.
inline int64_t sample_scratch_floats(int64_t vocabulary) {
  return (vocabulary + vocabulary / kSumBlock + 1 + 15) / 16 * 16;
}

/// Draws a token as SampleParams and SampleResult (ops.h) describe. Throws BAD_ARGUMENT on parameters out of range or
/// allowed ids outside the vocabulary.
SampleResult sample_row(const Kernels& kernels, const float* logits, int64_t vocabulary, const SampleParams& params,
                        float* scratch);

}  // namespace act::cpu
