// Continuous batching: requests join and leave between steps, and every step is one forward pass that mixes the newest
// token of each running sequence, with guesses of those that follow it (drafts.h), and chunks of the prompts that are
// still being read.
//
// Admission is first come, first served, one completion at a time: it starts when a slot is free and the worst case of
// its pages is reserved, and so never fails for lack of memory once it runs. What a completion samples depends on the
// weights, its prompt, its rule and its index alone, never on its neighbors.
#pragma once
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "drafts.h"
#include "kv_cache.h"
#include "model.h"
#include "sampler.h"

namespace act {

enum class FinishReason : uint8_t { stop, length, aborted };

struct Completion {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs, sampling_logprobs, kept_mass, entropy;
  FinishReason finish_reason = FinishReason::aborted;
  int64_t weight_version = 0;
};

struct GenerateRequest {
  uint64_t id = 0;
  std::vector<int32_t> prompt;  // not empty, in the vocabulary, shorter than the context
  int32_t count = 1, max_new_tokens = 1;
  bool adapters = true;
  SamplingRule rule;
  /// Called once a completion, in the order they finish.
  std::function<void(int32_t index, Completion&& completion)> on_completion;
  /// Called once, last; `error` is null unless the request failed.
  std::function<void(const Error* error)> on_done;
};

class Scheduler {
 public:
  struct Limits {
    int32_t max_sequences, draft_tokens, max_batch_tokens, pages, context;  // max_batch_tokens >= decode_rows
  };
  struct Counters {
    int64_t prefill_tokens = 0, reused_tokens = 0;
    int64_t decoded_tokens = 0;  // after a completion's first; of these, accepted_drafts were guessed
    int64_t drafted_tokens = 0, accepted_drafts = 0;
  };

  /// Allocates the key-value pool. token_bytes may be null; it and the model outlive the scheduler.
  Scheduler(Backend& backend, Model& model, const Limits& limits, const TokenBytes* token_bytes);
  ~Scheduler();

  /// Throws Error CACHE_TOO_SMALL when the request could not run even alone, BAD_ARGUMENT.
  void add(GenerateRequest&& request);
  /// Completions that have not finished come back as aborted. False: no such request.
  bool cancel(uint64_t id);
  void cancel_all();
  /// Ends every request with an error.
  void fail_all(const Error& error);
  /// One forward pass and one draw for every sequence whose prompt is read. A failure of the model ends every request
  /// with it; DEVICE_LOST is thrown too.
  void step();
  bool idle() const { return requests_.empty(); }
  /// Drops every key: the weights have changed. The scheduler must be idle.
  void weights_changed(int64_t version);

  int32_t active_sequences() const { return static_cast<int32_t>(sequences_.size()); }
  int64_t cached_tokens() const { return cache_.cached_tokens(); }
  const Counters& counters() const { return counters_; }
 private:
  struct Request;
  struct Sequence;
  struct Batch;

  int32_t new_token_limit(const GenerateRequest& request) const;
  int32_t tail_pages(const GenerateRequest& request) const;
  void check() const;
  void admit();
  bool start(Request& request);
  void draft(Sequence& sequence);
  void run_batch(bool adapters);
  void plan_decode(Batch& batch, Sequence& sequence);
  void plan_prompt(Batch& batch, Sequence& sequence);
  void sample(Batch& batch);
  void accept(Sequence& sequence, std::span<const SampleResult> drawn);
  std::optional<FinishReason> take(Sequence& sequence, const SampleResult& drawn);
  void finish(Sequence& sequence, FinishReason reason);
  void close(Request& request, const Error* error);

  Backend& backend_;
  Model& model_;
  const Limits limits_;
  const TokenBytes* token_bytes_;
  const bool check_every_step_;  // environment variable ACT_CHECK_CACHE: for tests
  KvCache cache_;
  std::unique_ptr<KvPool> pool_;
  Buffer hidden_, drawn_;  // [decode_rows, D]: final hidden states of distinct rows, and of every draw
  std::optional<DraftTable> drafts_;  // where draft_tokens > 0
  std::map<uint64_t, std::unique_ptr<Request>> requests_;
  std::deque<Request*> waiting_;  // with completions not yet started, in order of arrival
  std::deque<std::unique_ptr<Sequence>> sequences_;  // running, in order of their start
  Counters counters_;
  int64_t weight_version_ = 0;
};

}  // namespace act
