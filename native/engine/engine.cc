#include "engine.h"

#include <algorithm>
#include <utility>

#include "../ops/cuda/loader.h"

namespace act {
namespace {

Error aborted(const char* why) { return Error("ABORTED", why); }
constexpr const char* kStopped = "The engine was disposed of.";
constexpr const char* kCancelled = "The call was cancelled.";

/// Every exception as an Error: nothing else leaves the engine's thread.
Error as_error(const std::exception_ptr& exception) {
  try {
    std::rethrow_exception(exception);
  } catch (const Error& error) {
    return error;
  } catch (const std::bad_alloc&) {
    return Error("OUT_OF_MEMORY", "Not enough memory.");
  } catch (const std::exception& error) {
    return Error("INTERNAL", std::string("The engine failed in an unforeseen way: ") + error.what());
  } catch (...) {
    return Error("INTERNAL", "The engine failed in an unforeseen way.");
  }
}

Isa isa_of(const std::string& name) {
  if (name == "auto") return Isa::automatic;
  if (name == "portable") return Isa::portable;
  if (name == "avx2") return Isa::avx2;
  if (name == "avx512") return Isa::avx512;
  if (name == "avx512vnni") return Isa::avx512vnni;
  if (name == "avx512bf16") return Isa::avx512bf16;
  if (name == "amx") return Isa::amx;
  throw Error("BAD_ARGUMENT",
              "Expected auto, portable, avx2, avx512, avx512vnni, avx512bf16 or amx for `instructionSet`, got \"" + name +
                  "\".");
}

}  // namespace

std::unique_ptr<Backend> make_backend(const EngineOptions& options) {
  if (options.device == "reference") return make_reference_backend();
  if (options.device == "cpu") return make_cpu_backend(options.threads, isa_of(options.instruction_set));
  if (options.device == "cuda" || options.device == "emulated") {
    const CudaFlavor flavor = options.device == "cuda" ? CudaFlavor::gpu : CudaFlavor::emulated;
    return make_cuda_backend(flavor, options.sizes.dtype == DType::f32 ? DType::f32 : DType::bf16,
                             options.batch_invariant);
  }
  throw Error("BAD_ARGUMENT", "Expected cpu, cuda or reference for `device`, got \"" + options.device + "\".");
}

Engine::Engine(EngineOptions options, std::function<void(const Started*, const Error*)> started)
    : options_(std::move(options)), thread_([this, started = std::move(started)] { run(started); }) {}

Engine::~Engine() {
  stop(nullptr);
  thread_.join();
}

uint64_t Engine::generate(GenerateRequest request) {
  const std::lock_guard lock(mutex_);
  request.id = next_id_++;
  const uint64_t id = request.id;
  inbox_.push_back({id, std::move(request)});
  wake_.notify_one();
  return id;
}

uint64_t Engine::submit(Job job) {
  const std::lock_guard lock(mutex_);
  const uint64_t id = next_id_++;
  inbox_.push_back({id, std::move(job)});
  wake_.notify_one();
  return id;
}

void Engine::cancel(uint64_t id) {
  const std::lock_guard lock(mutex_);
  cancels_.insert(id);
  wake_.notify_one();
}

void Engine::stop(std::function<void()> ended) {
  const std::lock_guard lock(mutex_);
  if (stopping_) return;
  stopping_ = true;
  ended_ = std::move(ended);
  wake_.notify_one();
}

Engine::Stats Engine::stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

void Engine::set_optimizer_step(int64_t step) {
  submit({Job::Kind::shared, [step](Core& core) { core.trainer.optimizer_step = step; }, [](const Error*) {}});
  const std::lock_guard lock(mutex_);
  stats_.optimizer_step = step;
}

void Engine::weights_changed(bool new_version) {
  if (new_version) ++weight_version_;
  scheduler_->weights_changed(weight_version_);
}

void Engine::run(std::function<void(const Started*, const Error*)> started) {
  try {
    backend_ = make_backend(options_);
    const EngineSizes& sizes = options_.sizes;
    plan_ = plan_memory(*backend_, sizes);
    Started report{plan_, backend_->describe(), {}};
    model_ = std::make_unique<Model>(*backend_, sizes.model, model_options(sizes));
    for (const auto& [name, parameter] : model_->parameters()) {
      report.tensors.push_back({name, parameter.shape, parameter.trainable});
    }
    trainer_ = std::make_unique<Trainer>(*model_);
    const Scheduler::Limits limits{static_cast<int32_t>(sizes.max_sequences), static_cast<int32_t>(sizes.draft_tokens),
                                   static_cast<int32_t>(model_->options().max_rows), cache_pages(sizes),
                                   sizes.model.max_positions};
    scheduler_ = std::make_unique<Scheduler>(*backend_, *model_, limits,
                                             options_.token_bytes ? &*options_.token_bytes : nullptr);
    publish();
    started(&report, nullptr);
    started = nullptr;
    work();
  } catch (...) {
    const Error error = as_error(std::current_exception());
    if (started) started(nullptr, &error);
    refuse_everything(error);
  }
  shut_down();
}

/// After a failure that leaves nothing to work with.
void Engine::refuse_everything(const Error& error) {
  if (scheduler_) scheduler_->fail_all(error);
  for (;;) {
    std::deque<Command> refused;
    refused.swap(pending_);
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return stopping_ || !inbox_.empty() || !refused.empty(); });
      if (stopping_ && refused.empty()) return;
      for (Command& command : inbox_) refused.push_back(std::move(command));
      inbox_.clear();
    }
    for (Command& command : refused) {
      if (const Job* job = std::get_if<Job>(&command.what)) {
        job->done(&error);
      } else {
        std::get<GenerateRequest>(command.what).on_done(&error);
      }
    }
  }
}

/// Until the engine is stopped: commands in order, and a step of generation in every round.
void Engine::work() {
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] {
        return stopping_ || !inbox_.empty() || !cancels_.empty() || !pending_.empty() || !scheduler_->idle();
      });
    }
    if (!take_commands()) return;
    admit_requests();
    run_front_job();
    if (!scheduler_->idle()) {
      model_->between_layers = [this] { check_interrupt(); };
      scheduler_->step();
      model_->between_layers = nullptr;
    }
    publish();
  }
}

/// Moves what came in to the thread's own queue and carries out cancellations. False when the engine is stopping.
bool Engine::take_commands() {
  std::set<uint64_t> cancels;
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return false;
    for (Command& command : inbox_) pending_.push_back(std::move(command));
    inbox_.clear();
    cancels.swap(cancels_);
  }
  for (const uint64_t id : cancels) {
    if (id == current_job_) {
      current_cancelled_ = true;
      continue;
    }
    if (scheduler_->cancel(id)) continue;
    const auto found = std::find_if(pending_.begin(), pending_.end(), [id](const Command& c) { return c.id == id; });
    if (found == pending_.end()) continue;
    Command command = std::move(*found);
    pending_.erase(found);
    abort(command, kCancelled);
  }
  return true;
}

/// Hands generation requests to the scheduler. They may pass by jobs that leave the weights alone, and no others.
void Engine::admit_requests() {
  for (auto at = pending_.begin(); at != pending_.end();) {
    if (const Job* job = std::get_if<Job>(&at->what)) {
      if (job->kind == Job::Kind::exclusive) return;
      ++at;
      continue;
    }
    GenerateRequest request = std::move(std::get<GenerateRequest>(at->what));
    at = pending_.erase(at);
    // Whoever asks for statistics after the answer finds them up to date.
    request.on_done = [this, answer = std::move(request.on_done)](const Error* error) {
      publish();
      const std::optional<Error> over = over_plan();
      answer(error == nullptr && over ? &*over : error);
    };
    const auto on_done = request.on_done;
    try {
      scheduler_->add(std::move(request));
    } catch (...) {
      const Error error = as_error(std::current_exception());
      on_done(&error);
    }
  }
}

void Engine::run_front_job() {
  if (pending_.empty() || current_job_ != 0) return;
  Command command = std::move(pending_.front());
  pending_.pop_front();
  Job& job = std::get<Job>(command.what);
  current_job_ = command.id;
  current_cancelled_ = false;
  std::optional<Error> error;
  try {
    if (job.kind == Job::Kind::exclusive && !scheduler_->idle()) {
      throw Error("BUSY", "The weights cannot change while sequences are being sampled. Await or cancel them first.");
    }
    Core core{*backend_, *model_, *trainer_};
    trainer_->between_batches = [this] { interleave(); };
    job.run(core);
    check_peak(*backend_, plan_);
  } catch (...) {
    error.emplace(as_error(std::current_exception()));
  }
  current_job_ = 0;
  publish();
  job.done(error ? &*error : nullptr);
  if (error && error->code == "DEVICE_LOST") throw *error;  // nothing is left to work with
}

/// Between two micro-batches of a job: what came in meanwhile, and a step of generation.
void Engine::interleave() {
  if (!take_commands()) return;  // the job is about to notice
  admit_requests();
  if (!scheduler_->idle()) {
    auto job_check = std::exchange(model_->between_layers, [this] { check_interrupt(); });
    scheduler_->step();  // throws only where the job cannot go on either
    model_->between_layers = std::move(job_check);
  }
  publish();
}

/// What `check_peak` throws, if anything: every answer vouches for the plan.
std::optional<Error> Engine::over_plan() const {
  try {
    check_peak(*backend_, plan_);
    return std::nullopt;
  } catch (const Error& error) {
    return error;
  }
}

/// Throws when the engine is stopping.
void Engine::check_interrupt() {
  const std::lock_guard lock(mutex_);
  if (stopping_) throw aborted(kStopped);
}

bool Engine::job_cancelled() {
  const std::lock_guard lock(mutex_);
  return stopping_ || current_cancelled_ || cancels_.contains(current_job_);
}

void Engine::abort(Command& command, const char* why) {
  if (Job* job = std::get_if<Job>(&command.what)) {
    const Error error = aborted(why);
    job->done(&error);
    return;
  }
  GenerateRequest& request = std::get<GenerateRequest>(command.what);
  for (int32_t i = 0; i < request.count; ++i) {
    Completion nothing;
    nothing.weight_version = weight_version_;
    request.on_completion(i, std::move(nothing));
  }
  request.on_done(nullptr);
}

void Engine::publish() {
  const std::lock_guard lock(mutex_);
  stats_.bytes_allocated = backend_->allocated;
  stats_.bytes_peak = backend_->peak;
  stats_.active_sequences = scheduler_->active_sequences();
  stats_.cached_tokens = scheduler_->cached_tokens();
  stats_.weight_version = weight_version_;
  stats_.optimizer_step = trainer_->optimizer_step;
  stats_.counters = scheduler_->counters();
}

/// Answers whatever is left, frees everything, says so.
void Engine::shut_down() {
  if (scheduler_) scheduler_->cancel_all();
  {
    const std::lock_guard lock(mutex_);
    for (Command& command : inbox_) pending_.push_back(std::move(command));
    inbox_.clear();
  }
  for (Command& command : pending_) abort(command, kStopped);
  pending_.clear();
  trainer_.reset();
  scheduler_.reset();
  model_.reset();
  backend_.reset();
  if (ended_) ended_();
}

}  // namespace act
