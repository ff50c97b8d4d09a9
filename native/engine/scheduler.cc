#include "scheduler_impl.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>
#include <utility>

namespace act {

namespace {

/// A backend's step, ended whatever happens.
class Step {
 public:
  explicit Step(Backend* backend) : backend_(backend) {
    if (backend_) backend_->begin_step();
  }
  ~Step() {
    if (backend_) backend_->end_step();
  }
  Step(const Step&) = delete;
  Step& operator=(const Step&) = delete;

 private:
  Backend* backend_;
};

}  // namespace

Scheduler::Scheduler(Backend& backend, Model& model, const Limits& limits, const TokenBytes* token_bytes)
    : backend_(backend),
      model_(model),
      limits_(limits),
      token_bytes_(token_bytes),
      check_every_step_(std::getenv("ACT_CHECK_CACHE") != nullptr),
      cache_(limits.pages, 2),
      pool_(backend.create_kv_pool(model.config().layers, model.config().kv_heads, model.config().head_dim,
                                   limits.pages + padding_pages(backend),
                                   backend.cache_dtype(model.head().dtype))),
      hidden_(backend, decode_rows(limits.max_sequences, limits.draft_tokens), model.config().hidden_size,
              backend.activation_dtype(model.head().dtype)),
      drawn_(backend, hidden_.view().rows, model.config().hidden_size, backend.activation_dtype(model.head().dtype)) {
  if (limits.draft_tokens > 0) drafts_.emplace();
}

Scheduler::~Scheduler() = default;

int32_t Scheduler::new_token_limit(const GenerateRequest& request) const {
  return std::min(request.max_new_tokens, limits_.context - static_cast<int32_t>(request.prompt.size()));
}

/// Pages of a completion's own tokens at worst. The last token sampled never gets keys.
int32_t Scheduler::tail_pages(const GenerateRequest& request) const {
  return pages_for(static_cast<int32_t>(request.prompt.size()), new_token_limit(request) - 1);
}

void Scheduler::add(GenerateRequest&& request) {
  const int32_t prompt_pages = pages_for(0, static_cast<int32_t>(request.prompt.size()));
  const int32_t needed = prompt_pages + tail_pages(request);
  if (needed > cache_.pages()) {
    throw Error("CACHE_TOO_SMALL",
                "A prompt of " + std::to_string(request.prompt.size()) + " tokens with up to " +
                    std::to_string(new_token_limit(request)) + " new ones needs a key-value cache of " +
                    std::to_string(int64_t{needed} * kPageKeys) + " tokens, but `cacheTokens` is " +
                    std::to_string(int64_t{cache_.pages()} * kPageKeys) + ".");
  }
  if (!request.rule.stop_strings.empty() && token_bytes_ == nullptr) {
    throw Error("BAD_ARGUMENT", "Stop strings need the engine to know the bytes of every token (`tokenBytes`).");
  }
  auto entry = std::make_unique<Request>();
  entry->what = std::move(request);
  waiting_.push_back(entry.get());
  const uint64_t id = entry->what.id;
  requests_.emplace(id, std::move(entry));
}

bool Scheduler::cancel(uint64_t id) {
  const auto found = requests_.find(id);
  if (found == requests_.end()) return false;
  Request& request = *found->second;
  std::erase(waiting_, &request);
  // finish() closes the request with its last completion, so that completions never started come first.
  const int32_t never_started = request.what.count - request.started;
  if (request.prompt != nullptr && never_started > 0) {
    cache_.unpin(request.prompt);
    request.prompt = nullptr;
  }
  const int32_t first = request.started;
  request.started = request.what.count;
  std::vector<Sequence*> running;
  for (const auto& sequence : sequences_) {
    if (sequence->request == &request) running.push_back(sequence.get());
  }
  request.finished += never_started;
  for (int32_t i = 0; i < never_started; ++i) {
    Completion nothing;
    nothing.weight_version = weight_version_;
    request.what.on_completion(first + i, std::move(nothing));
  }
  if (running.empty()) close(request, nullptr);
  for (Sequence* sequence : running) finish(*sequence, FinishReason::aborted);
  return true;
}

void Scheduler::cancel_all() {
  while (!requests_.empty()) cancel(requests_.begin()->first);
}

void Scheduler::weights_changed(int64_t version) {
  cache_.clear();
  weight_version_ = version;
}

/// Verifies the cache's accounting against its trees.
void Scheduler::check() const {
  std::vector<CacheNode*> tails;
  for (const auto& sequence : sequences_) {
    if (sequence->tail) tails.push_back(sequence->tail.get());
  }
  cache_.check(tails);
}

/// Starts completions in order of arrival while slots and pages last.
void Scheduler::admit() {
  while (!waiting_.empty() && active_sequences() < limits_.max_sequences) {
    Request& request = *waiting_.front();
    if (!start(request)) {
      // Nothing runs and still the pages do not suffice: the prompt's cached part lies in more pages than a fresh one
      // would take. Alone and without cache it fits (checked in `add`).
      if (!sequences_.empty()) return;
      cache_.clear();
      if (!start(request)) throw Error("INTERNAL", "A request that fits the empty key-value cache was not admitted.");
    }
    if (request.started == request.what.count) {
      waiting_.pop_front();
      cache_.unpin(request.prompt);  // its sequences hold it
      request.prompt = nullptr;
    }
  }
}

bool Scheduler::start(Request& request) {
  const std::span<const int32_t> prompt = request.what.prompt;
  const int32_t pages = tail_pages(request.what);
  if (request.prompt == nullptr) {
    int reused = 0;
    request.prompt = cache_.open(request.what.adapters ? 0 : 1, prompt, pages, &reused);
    if (request.prompt == nullptr) return false;
    // The last token's hidden state is always computed.
    counters_.reused_tokens += std::min<int64_t>(reused, static_cast<int64_t>(prompt.size()) - 1);
    if (drafts_) {
      for (auto at = static_cast<size_t>(reused); at < prompt.size(); ++at) drafts_->learn(prompt.first(at), prompt[at]);
    }
  } else if (!cache_.reserve(pages)) {
    return false;
  }
  auto sequence = std::make_unique<Sequence>(request, request.started++, token_bytes_);
  sequence->reserved = pages;
  if (drafts_) {
    const auto recent = prompt.last(std::min(prompt.size(), DraftTable::kLongest));
    sequence->recent.assign(recent.begin(), recent.end());
  }
  cache_.pin(sequence->prompt);
  sequences_.push_back(std::move(sequence));
  return true;
}

void Scheduler::step() {
  try {
    admit();
    run_batch(true);
    run_batch(false);
    if (check_every_step_) check();
  } catch (const Error& error) {
    // Only a stopping engine interrupts a step; it then asks for what has been sampled so far.
    if (error.code == "ABORTED") return cancel_all();
    fail_all(error);
    if (error.code == "DEVICE_LOST") throw;
  } catch (const std::bad_alloc&) {
    fail_all(Error("OUT_OF_MEMORY", "Not enough memory for a step of generation."));
  }
}

void Scheduler::run_batch(bool adapters) {
  std::vector<Sequence*> decoding, known, reading;
  for (const auto& sequence : sequences_) {
    if (sequence->request->what.adapters != adapters) continue;
    (sequence->tail ? decoding : sequence->prompt->complete() ? known : reading).push_back(sequence.get());
  }
  // A node takes part once: with rows, or with keys only as an ancestor of others. Prompts whose last row is wanted
  // therefore come before everything that hangs below them.
  std::stable_sort(known.begin(), known.end(), [](const Sequence* a, const Sequence* b) {
    return a->prompt->position < b->prompt->position;
  });
  Batch batch;
  batch.room = limits_.max_batch_tokens;
  bool drafted = false;
  for (Sequence* sequence : decoding) {
    if (drafts_) draft(*sequence);
    drafted = drafted || sequence->drafted > 0;
    batch.room -= 1 + sequence->drafted;
  }
  for (Sequence* sequence : known) plan_prompt(batch, *sequence);
  for (Sequence* sequence : reading) plan_prompt(batch, *sequence);
  for (Sequence* sequence : decoding) plan_decode(batch, *sequence);
  if (batch.forest.tokens.empty()) return;
  // Only decoding repeats itself; a prompt has its own shape, and enough work to hide how it is queued. Guesses change
  // the shape from step to step.
  const bool repeats = known.empty() && reading.empty() && !drafted;
  if (repeats) batch.pad(backend_.step_granularity(), limits_.max_sequences, limits_.pages);
  const Step step(repeats ? &backend_ : nullptr);

  const View hidden = hidden_.view().rows_from(0, static_cast<int64_t>(batch.rows.size()));
  const bool before = std::exchange(model_.adapters_enabled, adapters);
  try {
    model_.forward(batch.forest, *pool_, batch.rows, hidden, nullptr);
  } catch (...) {
    model_.adapters_enabled = before;
    throw;
  }
  model_.adapters_enabled = before;
  for (const auto& [node, count] : batch.computed) cache_.mark_computed(*node, count);
  sample(batch);
}

/// Appends guesses to a tail: as many as could be sampled before the completion's last token, and none under choices,
/// whose masks depend on the tokens before.
void Scheduler::draft(Sequence& sequence) {
  const GenerateRequest& request = sequence.request->what;
  if (request.rule.choices) return;
  const int32_t last = new_token_limit(request) - static_cast<int32_t>(sequence.result.tokens.size()) - 1;
  std::vector<int32_t> tokens = sequence.recent;
  drafts_->extend(tokens, std::min(limits_.draft_tokens, last));
  for (size_t i = sequence.recent.size(); i < tokens.size(); ++i) {
    cache_.append(*sequence.tail, tokens[i], sequence.reserved);
    ++sequence.drafted;
  }
  counters_.drafted_tokens += sequence.drafted;
}

/// The rows of a running sequence's newest token and of the guesses behind it.
void Scheduler::plan_decode(Batch& batch, Sequence& sequence) {
  CacheNode& tail = *sequence.tail;
  const int32_t rows = 1 + sequence.drafted;
  batch.add(tail, tail.size(), rows);
  batch.computed.emplace_back(&tail, rows);
  batch.want_rows(sequence, rows);
}

/// As much of a prompt as there is room for; with its last token, the first draw.
void Scheduler::plan_prompt(Batch& batch, Sequence& sequence) {
  std::vector<CacheNode*> path;
  for (CacheNode* node = sequence.prompt; node->parent != nullptr; node = node->parent) path.push_back(node);
  for (auto at = path.rbegin(); at != path.rend(); ++at) {
    CacheNode& node = **at;
    const bool last = &node == sequence.prompt;
    if (const auto planned = batch.segments.find(&node); planned != batch.segments.end()) {
      // Another sequence of this batch reads the same run; below it nothing can be read before it is whole.
      const Segment& segment = batch.forest.segments[planned->second];
      if (segment.key_count < node.size()) return;
      if (!last || batch.row_of.contains(&node)) continue;
      if (segment.query_count == 0) return;
      batch.row_of.emplace(&node, static_cast<int32_t>(batch.rows.size()));
      batch.rows.push_back(segment.query_row + segment.query_count - 1);
      continue;
    }
    if (node.complete() && !last) continue;
    if (batch.room == 0) return;
    // A prompt known to its end is read again from its last token, whose hidden state the first draw needs; the keys
    // written are the ones that were there, bit for bit.
    const int32_t fresh = std::min(node.size() - node.computed, batch.room);
    const int32_t keys = node.computed + fresh;
    const int32_t queries = std::max(fresh, 1);
    batch.add(node, keys, queries);
    if (fresh > 0) batch.computed.emplace_back(&node, fresh);
    counters_.prefill_tokens += queries;
    if (keys < node.size()) return;
    if (last) batch.want_last_row(node);
  }
  batch.draw(sequence, *sequence.prompt);
}

void Scheduler::sample(Batch& batch) {
  if (batch.draws.empty()) return;
  const int64_t count = static_cast<int64_t>(batch.draws.size());
  View drawn = hidden_.view().rows_from(0, static_cast<int64_t>(batch.rows.size()));
  // Several completions may draw from one row. When decoding, each has its own, and rows that nothing reads come last.
  const bool ascending = std::ranges::adjacent_find(batch.draw_row, std::greater_equal<>()) == batch.draw_row.end();
  const bool in_order = ascending && batch.draw_row.back() == count - 1;
  if (!in_order) {
    const View hidden = std::exchange(drawn, drawn_.view().rows_from(0, count));
    backend_.gather_rows(drawn, hidden, batch.draw_row);
  }

  std::vector<SampleParams> params;
  for (int64_t i = 0, first = 0; i < count; ++i) {
    const Sequence& sequence = *batch.draws[i];
    if (batch.draws[first] != &sequence) first = i;
    params.push_back(sequence.sampler.params(sequence.position() + static_cast<int32_t>(i - first)));
  }
  std::vector<SampleResult> results(static_cast<size_t>(drawn.rows));
  params.resize(results.size());
  backend_.head_sample(results, drawn, model_.head(), params);

  // What follows a guess that was not drawn counts for nothing, and neither would a failure there.
  std::vector<std::pair<Sequence*, std::span<const SampleResult>>> drawn_tokens;
  for (int64_t first = 0, next = 0; first < count; first = next) {
    Sequence* sequence = batch.draws[first];
    while (next < count && batch.draws[next] == sequence) ++next;
    size_t good = 0;
    const auto guesses = sequence->guesses();
    while (good < guesses.size() && results[first + good].token == guesses[good]) ++good;
    drawn_tokens.emplace_back(sequence, std::span(results).subspan(first, good + 1));
  }

  // A request fails as a whole, which frees its other sequences: first those that fail, then those that go on.
  std::map<Request*, int32_t> failed;
  for (const auto& [sequence, tokens] : drawn_tokens) {
    const auto bad = std::ranges::find_if(
        tokens, [](const SampleResult& r) { return r.token < 0 || !std::isfinite(r.logprob); });
    const auto at = static_cast<int32_t>(bad - tokens.begin());
    if (bad != tokens.end()) failed.emplace(sequence->request, sequence->position() + at);
  }
  for (const auto& [sequence, tokens] : drawn_tokens) {
    if (!failed.contains(sequence->request)) accept(*sequence, tokens);
  }
  for (const auto& [request, position] : failed) {
    const Error error("NUMERICS", "The logits at position " + std::to_string(position) +
                                      " hold a NaN or an infinity. Check the weights, or lower the learning rate if they "
                                      "were trained.");
    close(*request, &error);
  }
  // A value that is not finite may have reached keys of earlier tokens, computed in the same block.
  if (!failed.empty()) cache_.clear();
}

/// Takes what a sequence drew: the guesses that came true, whose keys it has, and the token after them.
void Scheduler::accept(Sequence& sequence, std::span<const SampleResult> drawn) {
  const bool decoding = sequence.tail != nullptr;
  const int32_t before = decoding ? sequence.tail->size() - sequence.drafted : 0;
  sequence.drafted = 0;
  std::optional<FinishReason> finished;
  size_t taken = 0;
  while (taken < drawn.size() && !finished) finished = take(sequence, drawn[taken++]);
  if (decoding) {
    // Keys of the newest token, if there will be any, are the next step's.
    cache_.retract(*sequence.tail, before + static_cast<int32_t>(taken) - 1, sequence.reserved);
    counters_.decoded_tokens += static_cast<int64_t>(taken);
    counters_.accepted_drafts += static_cast<int64_t>(taken) - 1;
  }
  if (finished) return finish(sequence, *finished);
  if (!decoding) sequence.tail = cache_.make_tail(sequence.prompt);
  cache_.append(*sequence.tail, sequence.result.tokens.back(), sequence.reserved);
}

/// Adds one token to a completion; why it ends with it, if it does.
std::optional<FinishReason> Scheduler::take(Sequence& sequence, const SampleResult& drawn) {
  Completion& result = sequence.result;
  result.tokens.push_back(drawn.token);
  result.logprobs.push_back(drawn.logprob);
  result.sampling_logprobs.push_back(drawn.sampling_logprob);
  result.kept_mass.push_back(drawn.kept_mass);
  result.entropy.push_back(drawn.entropy);
  if (drafts_) {
    drafts_->learn(sequence.recent, drawn.token);
    if (sequence.recent.size() == DraftTable::kLongest) sequence.recent.erase(sequence.recent.begin());
    sequence.recent.push_back(drawn.token);
  }
  if (sequence.sampler.accept(drawn.token)) return FinishReason::stop;
  const auto count = static_cast<int32_t>(result.tokens.size());
  if (count == new_token_limit(sequence.request->what)) return FinishReason::length;
  return std::nullopt;
}

/// Frees a sequence, keeps its keys for later turns, reports its completion.
void Scheduler::finish(Sequence& sequence, FinishReason reason) {
  Request& request = *sequence.request;
  cache_.unreserve(sequence.reserved);
  if (sequence.tail) {
    if (reason == FinishReason::aborted) {
      cache_.discard(std::move(sequence.tail));
    } else {
      cache_.adopt(std::move(sequence.tail));
    }
  }
  cache_.unpin(sequence.prompt);
  const int32_t index = sequence.index;
  Completion result = std::move(sequence.result);
  result.finish_reason = reason;
  result.weight_version = weight_version_;
  std::erase_if(sequences_, [&](const auto& entry) { return entry.get() == &sequence; });
  ++request.finished;
  request.what.on_completion(index, std::move(result));
  if (request.finished == request.what.count) close(request, nullptr);
}

/// Ends a request. With an error its running sequences are freed without a completion.
void Scheduler::close(Request& request, const Error* error) {
  std::erase_if(sequences_, [&](const auto& sequence) {
    if (sequence->request != &request) return false;
    cache_.unreserve(sequence->reserved);
    if (sequence->tail) cache_.discard(std::move(sequence->tail));
    cache_.unpin(sequence->prompt);
    return true;
  });
  std::erase(waiting_, &request);
  if (request.prompt != nullptr) cache_.unpin(request.prompt);
  const auto node = requests_.extract(request.what.id);
  request.what.on_done(error);
}

void Scheduler::fail_all(const Error& error) {
  while (!requests_.empty()) close(*requests_.begin()->second, &error);
  cache_.clear();
}

}  // namespace act
