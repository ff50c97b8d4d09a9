#include "memory_plan.h"

#include <algorithm>
#include <cstdio>
#include <vector>

#include "drafts.h"
#include "forest.h"
#include "kv_cache.h"
#include "trainer.h"

namespace act {
namespace {

std::string megabytes(size_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f MB", static_cast<double>(bytes) / 1e6);
  return text;
}

/// "needs 900.0 MB (weights 300.0 MB, ...)", largest purpose first, with what lowers each.
std::string explain(const Backend& backend, const MemoryPlan& plan, const EngineSizes& sizes) {
  struct Purpose {
    const char* name;
    size_t bytes;
    const char* advice;
  };
  const bool full = sizes.training && sizes.lora.rank == 0;
  std::string optimizer = full ? "train adapters (lora)" : "lower the LoRA rank";
  if (sizes.dtype == DType::bf16 && !sizes.compact_optimizer) optimizer += " or choose optimizerState compact";
  if (backend.reaches_host_memory() && !sizes.offload_optimizer) optimizer += " or switch offloadOptimizer on";
  const char* rows = sizes.draft_tokens > 0 ? "lower maxBatchTokens, maxSequences or draftTokens"
                                            : "lower maxBatchTokens or maxSequences";
  std::vector<Purpose> purposes = {
      {"weights", plan.weights,
       sizes.dtype == DType::f32          ? "choose dtype bf16"
       : full && !sizes.compact_optimizer ? "choose optimizerState compact or a smaller model"
                                          : "choose a smaller model"},
      {"gradients", plan.gradients, full ? "train adapters (lora)" : "lower the LoRA rank"},
      {"optimizer", plan.optimizer, optimizer.c_str()},
      {"cache", plan.cache,
       sizes.training && !sizes.recompute ? "lower cacheTokens or switch recompute on" : "lower cacheTokens"},
      {"activations", plan.activations,
       sizes.training && !sizes.recompute ? "switch recompute on or lower maxBatchTokens" : "lower maxBatchTokens"},
      {"head", plan.head, rows},
      {"scratch", plan.scratch, rows}};
  std::ranges::stable_sort(purposes, std::greater{}, &Purpose::bytes);
  std::string parts, advice;
  for (const Purpose& p : purposes)
    if (p.bytes > 0) parts += (parts.empty() ? "" : ", ") + std::string(p.name) + " " + megabytes(p.bytes);
  for (size_t i = 0; i < 3; i++) {
    const std::string line = std::string(purposes[i].name) + ": " + purposes[i].advice;
    if (purposes[i].bytes > 0) advice += (advice.empty() ? "" : "; ") + line;
  }
  return "needs " + megabytes(plan.total()) + " (" + parts + "). To lower it - " + advice + ".";
}

void check_limits(const Backend& backend, const EngineSizes& sizes, const MemoryPlan& plan) {
  const size_t device = backend.device_bytes();
  const size_t limit = sizes.memory_limit ? *sizes.memory_limit : device > 0 ? device : sizes.host_memory;
  const std::string bound = sizes.memory_limit ? " The limit is " + megabytes(limit) + "."
                            : device > 0       ? " The device has " + megabytes(limit) + " free."
                                               : " The machine has " + megabytes(limit) + ".";
  if (limit > 0 && plan.total() > limit)
    throw Error("MEMORY_PLAN", "The engine " + explain(backend, plan, sizes) + bound);
  if (sizes.host_memory > 0 && plan.host > sizes.host_memory)
    throw Error("MEMORY_PLAN", "The engine keeps " + megabytes(plan.host) + " of optimizer state in host memory, and the " +
                                   "machine has " + megabytes(sizes.host_memory) +
                                   ". Choose optimizerState compact, train adapters (lora), or leave offloadOptimizer off.");
}

}  // namespace

Model::Options model_options(const EngineSizes& sizes) {
  const int64_t rows = std::max(sizes.max_batch_tokens, decode_rows(sizes.max_sequences, sizes.draft_tokens));
  return {sizes.dtype, sizes.training,         sizes.recompute,        rows + rows % 2,
          sizes.lora,  sizes.compact_optimizer, sizes.offload_optimizer};
}

int cache_pages(const EngineSizes& sizes) { return pages_for(sizes.cache_tokens); }

MemoryPlan plan_memory(const Backend& backend, const EngineSizes& sizes) {
  if (sizes.max_sequences < 1 || sizes.max_batch_tokens < 2 || sizes.cache_tokens < 0)
    throw Error("BAD_ARGUMENT", "Expected maxSequences >= 1, maxBatchTokens >= 2 and cacheTokens >= 0, got " +
                                    std::to_string(sizes.max_sequences) + ", " + std::to_string(sizes.max_batch_tokens) +
                                    " and " + std::to_string(sizes.cache_tokens) + ".");
  // Far above what any machine holds: the plan's own products stay far below 2^63.
  constexpr int64_t kMostRows = int64_t{1} << 24;
  if (sizes.max_batch_tokens > kMostRows || decode_rows(sizes.max_sequences, sizes.draft_tokens) > kMostRows)
    throw Error("BAD_ARGUMENT", "Expected at most " + std::to_string(kMostRows) +
                                    " rows of one forward pass, got maxBatchTokens " +
                                    std::to_string(sizes.max_batch_tokens) + " and maxSequences " +
                                    std::to_string(sizes.max_sequences) + " times 1 + draftTokens " +
                                    std::to_string(sizes.draft_tokens) + ".");
  if (sizes.offload_optimizer && !backend.reaches_host_memory())
    throw Error("BAD_ARGUMENT", "Device `" + backend.name() +
                                    "` computes in host memory: leave offloadOptimizer off, it is for a GPU.");
  const ModelConfig& c = sizes.model;
  const Model::Options options = model_options(sizes);
  const Model::Bytes model = Model::planned_bytes(backend, c, options);
  const Trainer::Bytes trainer = Trainer::planned_bytes(backend, c, options);
  const size_t activation = size_of(backend.activation_dtype(sizes.dtype));

  MemoryPlan plan;
  plan.weights = model.weights;
  plan.gradients = model.gradients;
  plan.optimizer = model.optimizer;
  plan.host = model.host;
  plan.cache = trainer.pool + static_cast<size_t>(c.layers) *
                                  static_cast<size_t>(cache_pages(sizes) + padding_pages(backend)) *
                                  backend.kv_page_bytes(c.kv_heads, c.head_dim, backend.cache_dtype(sizes.dtype));
  plan.activations = model.workspace + trainer.tape;
  // Final hidden states of distinct rows, and of every draw.
  const size_t sampler_hidden =
      2 * static_cast<size_t>(decode_rows(sizes.max_sequences, sizes.draft_tokens)) *
      static_cast<size_t>(c.hidden_size) * activation;
  plan.head = trainer.hidden + sampler_hidden + backend.head_scratch_bytes(c.vocab_size, options.max_rows);
  const int64_t widest =
      std::max({int64_t{c.hidden_size}, int64_t{c.intermediate_size}, int64_t{c.heads} * c.head_dim});
  // No sequence is longer than the context, nor than the cache or a batch.
  const int64_t positions =
      std::min<int64_t>(c.max_positions, std::max<int64_t>(int64_t{cache_pages(sizes)} * kPageKeys, options.max_rows));
  plan.scratch = backend.scratch_bytes(options.max_rows, widest) + backend.rope_bytes(positions, c.head_dim);
  check_limits(backend, sizes, plan);
  return plan;
}

void check_peak(const Backend& backend, const MemoryPlan& plan) {
  if (backend.peak <= plan.total() && backend.host_allocated <= plan.host) return;
  throw Error("MEMORY_PLAN", "The engine held " + std::to_string(backend.peak) + " bytes (and " +
                                 std::to_string(backend.host_allocated) + " in host memory) where " +
                                 std::to_string(plan.total()) + " (and " + std::to_string(plan.host) + ")" +
                                 " were planned. This is a defect of the memory plan: report it.");
}

}  // namespace act
