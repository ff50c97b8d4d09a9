// What an engine of given sizes will allocate, by purpose, computed before it allocates anything, and enforced.
#pragma once
#include <optional>
#include <string>

#include "model.h"

namespace act {

/// Everything that decides an engine's memory (NativeEngineOptions in src/engine/native.ts).
struct EngineSizes {
  ModelConfig model;
  DType dtype = DType::f32;
  bool training = false, recompute = false;
  LoraConfig lora;
  int64_t max_sequences = 1;     // sequences decoded side by side
  int64_t draft_tokens = 0;      // guesses that each of them may check in a step
  int64_t cache_tokens = 0;      // tokens the sampler's key-value cache holds
  int64_t max_batch_tokens = 0;  // forest tokens of one forward pass
  bool compact_optimizer = false, offload_optimizer = false;  // Model::Options
  std::optional<size_t> memory_limit;  // bytes; 0: none; absent: what the device has
  size_t host_memory = 0;              // bytes the machine has for what lies in host memory; 0: not known
};

/// Bytes by purpose (NativeMemoryPlan). `cache` holds the sampler's and the trainer's keys and values, `activations`
/// working buffers and tape, `head` hidden rows and logits, `scratch` what operations take for themselves.
struct MemoryPlan {
  size_t weights = 0, gradients = 0, optimizer = 0, cache = 0, activations = 0, head = 0, scratch = 0;
  size_t host = 0;  // optimizer state in pinned host memory, not part of the total
  size_t total() const { return weights + gradients + optimizer + cache + activations + head + scratch; }
};

/// The model's options for these sizes; max_rows is even, as the trainer's padding wants it, and holds a decode step.
Model::Options model_options(const EngineSizes& sizes);
/// Pages of the sampler's cache.
int cache_pages(const EngineSizes& sizes);

/// Exact. Throws Error BAD_ARGUMENT (sizes that make no model) and MEMORY_PLAN (total over memory_limit, or host over
/// host_memory; the message names the purposes that weigh most and the settings that lower them).
MemoryPlan plan_memory(const Backend& backend, const EngineSizes& sizes);

/// Throws MEMORY_PLAN when the backend has ever held more than planned: a defect of the plan, never of the caller.
void check_peak(const Backend& backend, const MemoryPlan& plan);

}  // namespace act
