// Host side of the kernels: one launcher each. Views are device memory; T means f32 or bf16, the same for all activations
// of a call. Nothing here waits. Arguments have been checked by the backend.
#pragma once
#include "../../compact.h"
#include "../../ops.h"
#include "../launch_queue.h"

namespace act::cuda {

using Stream = LaunchQueue*;

// --- layers.cu ----------------------------------------------------------------------------------------------------------
void launch_rms_norm(Stream s, View y, View rstd, View x, const float* weight, float eps);
void launch_rms_norm_backward(Stream s, View dx, bool accumulate, View dy, View x, const float* rstd, const float* weight);
/// cosines and sines of positions[t] * inv_freq[i]: table [T][half][2].
void launch_rope_table(Stream s, float* table, const int32_t* positions, const float* inv_freq, int64_t rows, int half);
void launch_rope(Stream s, View x, int head_dim, const float* table, float factor, bool inverse);
void launch_swiglu(Stream s, View y, View gate, View up);
void launch_swiglu_backward(Stream s, View dgate, View dup, View dy, View gate, View up);
void launch_add(Stream s, View y, View x);
void launch_scale(Stream s, View y, float factor);

// --- rows.cu ------------------------------------------------------------------------------------------------------------
void launch_fill(Stream s, View x, float value);
/// dst = src * factor, rounded to dst's type.
void launch_convert(Stream s, View dst, View src, float factor);
void launch_gather_rows(Stream s, View dst, View src, const int32_t* index);
/// For every group g: dst row rows[g] += the src rows order[starts[g] .. starts[g + 1]), in that order.
void launch_add_grouped_rows(Stream s, View dst, View src, const int32_t* rows, const int32_t* starts,
                             const int32_t* order, int64_t groups);
/// Pieces of rows that column sums are added over one by one, then in order.
int64_t column_sum_pieces(int64_t rows);
/// out[c] += sum over rows of a[t, c] (times b[t, c] * factor[t] where b has data); partial: [pieces, cols] scratch.
void launch_column_sums(Stream s, float* out, float* partial, View a, View b, const float* factor);

// --- optimizer.cu -------------------------------------------------------------------------------------------------------
constexpr int kSumBlocks = 256;
/// partial: kSumBlocks + 1 doubles; the total is partial[kSumBlocks].
void launch_sum_of_squares(Stream s, double* partial, View x);
/// flag must be 0 before; 1 after if any element is NaN or infinite.
void launch_find_nonfinite(Stream s, int32_t* flag, View x);
void launch_adamw(Stream s, float* parameter, const float* gradient, float* moment1, float* moment2, int64_t count,
                  const AdamW& options, float correction1, float correction2);

/// CompactMoments of ops.h on one weight of `count` values.
struct CompactState {
  uint16_t* weight;
  const float* gradient;
  uint8_t *codes1, *codes2;
  float *scales1, *scales2;
};
void launch_adamw_compact(Stream s, const CompactState& state, int64_t count, const compact::Scalars& scalars,
                          int64_t step, uint64_t stream);

// --- gemm_f32.cu, gemm_bf16.cu ------------------------------------------------------------------------------------------
/// C[m, n] (+)= sum over k of A(m, k) B(k, n) + bias[n]; an operand that is not `transposed` is row-major as named,
/// a transposed one is stored [k][m] or [n][k]. Every element's additions are in the order of ops.h, whatever the tile.
struct Gemm {
  View c;              // f32 or bf16
  bool accumulate = false;
  const float* bias = nullptr;
  const void *a = nullptr, *b = nullptr;  // both f32 or both bf16
  bool a_transposed = false, b_transposed = false;
  int64_t inner = 0;   // k
};
void launch_gemm_f32(Stream s, const Gemm& g);
void launch_gemm_bf16(Stream s, const Gemm& g);

// --- attention*.cu ------------------------------------------------------------------------------------------------------
/// Sixteen key positions from `base` on, as the queries first .. last of a tile see them: slot = page * 16 + lane, -1 none.
/// A query sees position p if p < its key count.
struct KeyBlock {
  int32_t base, first, last, reserved;
  int32_t slot[kPageKeys];
};
/// Queries and the blocks of one partition of their keys, which begins at position first_key. queries 0: nothing to do.
struct QueryTile {
  int32_t first_query, queries, first_block, blocks, partition, first_key;
};
struct TreeQuery {
  int32_t row;   // of the batch
  int32_t keys;  // it sees, itself included
  int32_t first_partial;  // of its partial results, one a partition; -1: it has one partition, whose result is its own
};
/// Keys of one segment, and the queries (in tree order) that may see them.
struct KeyTile {
  int32_t first_key, keys, first_query, end_query;
};
struct TreeKey {
  int32_t row, position, slot;
};
/// Rows (query times head of a group) a tile can have.
constexpr int kTileRows = 64;
/// Keys a key tile can have.
constexpr int kTileKeys = 64;

/// Pool memory of one layer: page p, head h: keys [16][d], then values [16][d], at (p * kv_heads + h) * 2 * 16 * d.
struct KvLayer {
  void* memory;
  DType dtype;
  int kv_heads, head_dim;
};
/// Results over one partition each, not yet divided by the sum of their weights.
struct Partials {
  float* values;   // [partials][H][d] sums of weighted values
  float* numbers;  // [partials][H][2] maximum of the scores, sum of the weights
  static constexpr size_t bytes(int heads, int head_dim) {  // of one
    return static_cast<size_t>(heads) * static_cast<size_t>(head_dim + 2) * sizeof(float);
  }
};
/// A piece of a forest's plan.
struct AttentionShape {
  KvLayer kv;
  int heads;
  float scale;
  const TreeQuery* queries;  // of the whole plan
  const KeyBlock* blocks;    // of the piece
  const QueryTile* tiles;
  int tile_count;
  Partials partials;
  const int32_t* combined;   // queries of more than one partition; -1: nothing to do
  int combined_count, partition;
};
constexpr int kMaxHeadDim = 256;
/// Thread blocks of attention a multiprocessor holds at least.
constexpr int kAttentionBlocks = 4;

void launch_write_kv(Stream s, const KvLayer& kv, View k, View v, const int32_t* slots);
/// delta[t, h] = dout . out
void launch_attention_delta(Stream s, float* delta, View dout, View out, int head_dim);

/// Whether the versions on tensor cores (attention_mma*.cu) serve this shape; the plain ones serve every shape.
bool tensor_cores_serve(const KvLayer& kv, int heads);
void launch_attention_mma(Stream s, const AttentionShape& shape, View out, View lse, View q);
void launch_attention_plain(Stream s, const AttentionShape& shape, View out, View lse, View q);
/// After either: puts the partial results of `combined` queries together.
void launch_attention_combine(Stream s, const AttentionShape& shape, View out, View lse);
void launch_attention_backward_queries_mma(Stream s, const AttentionShape& shape, View dq, View dout, View q,
                                           const float* lse, const float* delta);
void launch_attention_backward_queries_plain(Stream s, const AttentionShape& shape, View dq, View dout, View q,
                                             const float* lse, const float* delta);
void launch_attention_backward_keys_mma(Stream s, const AttentionShape& shape, const KeyTile* tiles, int tile_count,
                                        const TreeKey* keys, View dk, View dv, View dout, View q, const float* lse,
                                        const float* delta);
void launch_attention_backward_keys_plain(Stream s, const AttentionShape& shape, const KeyTile* tiles, int tile_count,
                                          const TreeKey* keys, View dk, View dv, View dout, View q, const float* lse,
                                          const float* delta);

// --- head.cu, sampling.cu -----------------------------------------------------------------------------------------------
struct RowStats {
  float max, log_sum, entropy;  // of z = logits * factor; log_sum without max
};
/// One loss row on the device (LossRows of ops.h, absent streams as the numbers that stand for absence).
struct LossInput {
  int32_t target;
  float ce_weight, advantage, old_logprob, clip_low, clip_high, policy_weight, ref_logprob, kl_weight, entropy_weight;
  uint8_t has_old, has_ref;
};
struct LossOutput {
  double ce, policy, kl_term, entropy_term;
  float logprob, entropy, ratio, kl, gradient;
  int32_t clipped;
};
void launch_row_stats(Stream s, RowStats* stats, View logits, float factor);
void launch_loss_rows(Stream s, LossOutput* out, const LossInput* in, const RowStats* stats, View logits, float factor,
                      KlEstimator kl);
/// dlogits (f32 or bf16; may be logits itself) from the rows' gradients.
void launch_logit_gradient(Stream s, View dlogits, View logits, const RowStats* stats, const LossInput* in,
                           const LossOutput* out, float factor);

struct SampleInput {
  double uniform;
  float temperature, top_p, min_p;
  int32_t top_k;
  int32_t allowed_first, allowed_count;  // into the list of allowed ids; count 0: all
};
struct SampleOutput {
  int32_t token;  // -1: the logits hold a NaN or an infinity
  float logprob, sampling_logprob, kept_mass, entropy;
};
void launch_sample(Stream s, SampleOutput* out, View logits, const RowStats* stats, const SampleInput* in,
                   const int32_t* allowed);

}  // namespace act::cuda
