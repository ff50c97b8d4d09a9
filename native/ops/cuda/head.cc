// Language-model head: logits exist for one chunk of rows at a time; losses, gradients and samples are made on the device.
#include <algorithm>

#include "../host.h"
#include "cuda_backend.h"

namespace act::cuda {
namespace {

/// Logits of one chunk: at most this many bytes, one row at least.
constexpr int64_t kLogitBytes = int64_t{256} << 20;

/// Ids of restricted rows on the device at once; a single row may exceed it.
constexpr int64_t kAllowedIds = int64_t{1} << 20;

int64_t rows_per_chunk(int64_t vocabulary, int64_t rows) {
  return std::min(rows, std::max<int64_t>(1, kLogitBytes / (4 * std::max<int64_t>(1, vocabulary))));
}

float at(const float* stream, int64_t i) { return stream ? stream[i] : 0; }

LossInput input_of(const LossRows& rows, int64_t i) {
  LossInput in{};
  in.target = rows.target[i];
  in.ce_weight = at(rows.ce_weight, i);
  in.advantage = at(rows.advantage, i);
  in.old_logprob = at(rows.old_logprob, i);
  in.clip_low = at(rows.clip_low, i);
  in.clip_high = at(rows.clip_high, i);
  in.policy_weight = at(rows.policy_weight, i);
  in.ref_logprob = at(rows.ref_logprob, i);
  in.kl_weight = at(rows.kl_weight, i);
  in.entropy_weight = at(rows.entropy_weight, i);
  in.has_old = rows.old_logprob != nullptr;
  in.has_ref = rows.ref_logprob != nullptr;
  return in;
}

/// Small per-row results of one chunk, one behind the other.
template <class Out>
struct RowMemory {
  RowStats* stats;
  Out* out;  // first: its members are the widest, so all stay aligned
  static size_t bytes(int64_t rows) { return static_cast<size_t>(rows) * (sizeof(RowStats) + sizeof(Out)); }
  RowMemory(void* memory, int64_t rows)
      : stats(reinterpret_cast<RowStats*>(static_cast<Out*>(memory) + rows)), out(static_cast<Out*>(memory)) {}
};
using LossMemory = RowMemory<LossOutput>;
using SampleMemory = RowMemory<SampleOutput>;

}  // namespace

size_t CudaBackend::head_scratch_bytes(int64_t vocabulary, int64_t rows) const {
  // Logits, their gradient in bf16, what goes in and comes out by row, and lists of allowed ids.
  const int64_t chunk = rows_per_chunk(vocabulary, rows);
  return static_cast<size_t>(chunk * vocabulary) * (4 + 2) + std::max(LossMemory::bytes(chunk), SampleMemory::bytes(chunk)) +
         static_cast<size_t>(chunk) * (sizeof(LossInput) + sizeof(SampleInput)) + 8 +
         static_cast<size_t>(std::max(kAllowedIds, vocabulary)) * 4;
}

void CudaBackend::head_loss(LossResults& results, View dhidden, View dw, View hidden, const Weight& head, const LossRows& rows) {
  require(hidden.rows == rows.count && hidden.cols == head.cols, "head_loss: hidden must be [rows.count, head.cols]");
  if (dhidden.data) require(dhidden.rows == rows.count && dhidden.cols == head.cols, "head_loss: dhidden must have hidden's shape");
  if (dw.data) require_shape(dw, head.rows, head.cols, "head_loss: dw must have the head's shape");
  const int64_t vocabulary = head.rows, chunk = rows_per_chunk(vocabulary, rows.count);
  for (int64_t i = 0; i < rows.count; i++) {
    require(rows.target[i] >= 0 && rows.target[i] < vocabulary, "head_loss: target outside the vocabulary");
  }
  results.ce = results.policy = results.kl_term = results.entropy_term = 0;
  if (rows.count == 0) return;
  auto* const memory = head_logits_.get_as<float>(*this, chunk * vocabulary);
  const LossMemory row(head_rows_.get(*this, LossMemory::bytes(chunk)), chunk);
  const float factor = rows.inverse_temperature;
  std::vector<LossInput> in;
  std::vector<LossOutput> out;
  for (int64_t first = 0; first < rows.count; first += chunk) {
    const int64_t count = std::min(chunk, rows.count - first);
    const View logits{memory, count, vocabulary, DType::f32}, part = hidden.rows_from(first, count);
    linear(logits, false, part, head, {}, 1);
    in.clear();
    for (int64_t i = first; i < first + count; i++) in.push_back(input_of(rows, i));
    const LossInput* const inputs = losses_.get_as<LossInput>(*this, in);
    launch_row_stats(queue(), row.stats, logits, factor);
    launch_loss_rows(queue(), row.out, inputs, row.stats, logits, factor, rows.kl);
    if (dhidden.data || dw.data) {
      // In the type that the products below multiply with: no second pass over the chunk.
      View gradient = logits;
      if (head.dtype == DType::bf16) {
        gradient = {left_operand_.get(*this, static_cast<size_t>(count * vocabulary) * 2), count, vocabulary, DType::bf16};
      }
      launch_logit_gradient(queue(), gradient, logits, row.stats, inputs, row.out, factor);
      if (dhidden.data) linear_backward_input(dhidden.rows_from(first, count), false, gradient, head, 1);
      if (dw.data) linear_backward_weight(dw, gradient, part, head.dtype, 1);
    }
    out.resize(in.size());
    download_now(out.data(), row.out, out.size() * sizeof(LossOutput));
    for (int64_t i = first; i < first + count; i++) {
      const LossOutput& o = out[static_cast<size_t>(i - first)];
      if (results.logprob) results.logprob[i] = o.logprob;
      if (results.entropy) results.entropy[i] = o.entropy;
      if (results.ratio) results.ratio[i] = o.ratio;
      if (results.kl) results.kl[i] = o.kl;
      if (results.clipped) results.clipped[i] = o.clipped != 0;
      results.ce += o.ce;
      results.policy += o.policy;
      results.kl_term += o.kl_term;
      results.entropy_term += o.entropy_term;
    }
  }
}

void CudaBackend::head_sample(std::span<SampleResult> results, View hidden, const Weight& head,
                              std::span<const SampleParams> params) {
  const auto rows = static_cast<int64_t>(results.size());
  require(hidden.rows == rows && hidden.cols == head.cols, "head_sample: hidden must be [results, head.cols]");
  require(params.size() == results.size(), "head_sample: expected one set of parameters a row");
  const int64_t vocabulary = head.rows, chunk = rows_per_chunk(vocabulary, rows);
  for (const SampleParams& p : params) {
    require(p.temperature >= 0 && p.top_p > 0 && p.top_p <= 1 && p.min_p >= 0 && p.min_p <= 1 && p.top_k >= 0 &&
                p.uniform >= 0 && p.uniform < 1,
            "head_sample: expected temperature >= 0, 0 < top_p <= 1, 0 <= min_p <= 1, top_k >= 0, 0 <= uniform < 1");
    require(static_cast<int64_t>(p.allowed.size()) <= vocabulary, "head_sample: expected ascending allowed ids");
    check_rows(p.allowed, vocabulary, "head_sample: allowed id outside the vocabulary");
  }
  if (rows == 0) return;
  auto* const memory = head_logits_.get_as<float>(*this, chunk * vocabulary);
  const SampleMemory row(head_rows_.get(*this, SampleMemory::bytes(chunk)), chunk);
  std::vector<SampleInput> in;
  std::vector<SampleOutput> out;
  std::vector<int32_t> allowed;
  int64_t count = 0;
  for (int64_t first = 0; first < rows; first += count) {
    in.clear();
    allowed.clear();
    for (count = 0; count < std::min(chunk, rows - first); count++) {
      const SampleParams& p = params[static_cast<size_t>(first + count)];
      if (count > 0 && static_cast<int64_t>(allowed.size() + p.allowed.size()) > kAllowedIds) break;
      in.push_back({p.uniform, p.temperature, p.top_p, p.min_p, p.top_k, static_cast<int32_t>(allowed.size()),
                    static_cast<int32_t>(p.allowed.size())});
      allowed.insert(allowed.end(), p.allowed.begin(), p.allowed.end());
    }
    const View logits{memory, count, vocabulary, DType::f32};
    linear(logits, false, hidden.rows_from(first, count), head, {}, 1);
    const SampleInput* const inputs = draws_.get_as<SampleInput>(*this, in);
    const int32_t* const ids = allowed.empty() ? nullptr : allowed_.get_as<int32_t>(*this, allowed);
    launch_row_stats(queue(), row.stats, logits, 1);
    launch_sample(queue(), row.out, logits, row.stats, inputs, ids);
    out.resize(in.size());
    download_now(out.data(), row.out, out.size() * sizeof(SampleOutput));
    for (int64_t i = first; i < first + count; i++) {
      const SampleOutput& o = out[static_cast<size_t>(i - first)];
      SampleResult& result = results[static_cast<size_t>(i)];
      result.token = o.token;
      result.logprob = o.logprob;
      const bool from_policy = params[static_cast<size_t>(i)].from_policy(vocabulary);
      result.sampling_logprob = from_policy ? o.logprob : o.sampling_logprob;
      result.kept_mass = o.kept_mass;
      result.entropy = o.entropy;
    }
  }
}

}  // namespace act::cuda
