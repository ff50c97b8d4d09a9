// The engine: one model, one key-value cache, one thread that does all the work of both.
//
// Callers on any thread hand in commands; each is answered once, from the engine's thread, by its callbacks, which must
// not throw and not call back into the engine's destructor. Commands take effect in the order in which they came, with
// one liberty: generation goes on side by side with scores and accumulations, a step between two micro-batches.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <variant>

#include "memory_plan.h"
#include "model.h"
#include "sampler.h"
#include "scheduler.h"
#include "trainer.h"

namespace act {

struct EngineOptions {
  EngineSizes sizes;
  std::string device = "cpu";            // cpu, cuda, reference; emulated (a GPU in host memory, for tests)
  std::string instruction_set = "auto";  // auto, portable, avx2, avx512, avx512vnni, avx512bf16, amx
  int threads = 1;
  bool batch_invariant = false;          // on cuda and emulated; the others always are
  std::optional<TokenBytes> token_bytes;
};

/// Throws Error BAD_ARGUMENT for an unknown device or instruction set.
std::unique_ptr<Backend> make_backend(const EngineOptions& options);

class Engine {
 public:
  /// What a job may touch. All of it belongs to the engine's thread.
  struct Core {
    Backend& backend;
    Model& model;
    Trainer& trainer;
  };
  struct Job {
    /// Changes weights: refused with BUSY while sequences are running.
    enum class Kind : uint8_t { shared, exclusive } kind = Kind::shared;
    std::function<void(Core&)> run;
    /// Called once; null: `run` has succeeded. Errors: what `run` threw, BUSY, ABORTED.
    std::function<void(const Error* error)> done;
  };
  struct Stats {
    size_t bytes_allocated = 0, bytes_peak = 0;
    int32_t active_sequences = 0;
    int64_t cached_tokens = 0, weight_version = 0, optimizer_step = 0;
    Scheduler::Counters counters;
  };
  struct TensorInfo {
    std::string name;
    std::vector<int64_t> shape;
    bool trainable = false;
    int64_t size() const { return shape.size() == 2 ? shape[0] * shape[1] : shape[0]; }
  };
  struct Started {
    MemoryPlan plan;
    std::string device;
    std::vector<TensorInfo> tensors;
  };

  /// Returns at once; the thread allocates and then calls `started`, with an error if that failed (the engine then
  /// answers nothing but stop).
  Engine(EngineOptions options, std::function<void(const Started* started, const Error* error)> started);
  /// Stops, and waits for the operation in progress.
  ~Engine();

  /// Returns the request's id. Its callbacks are called also when it is refused.
  uint64_t generate(GenerateRequest request);
  uint64_t submit(Job job);
  /// Ends a request (its completions come back as aborted) or a job (ABORTED). Unknown ids are those just answered.
  void cancel(uint64_t id);
  /// Answers everything as aborted, frees everything, calls `ended`. Only the first call counts.
  void stop(std::function<void()> ended);
  Stats stats() const;
  /// In order with the commands; `stats` shows it at once.
  void set_optimizer_step(int64_t step);

  // --- for jobs, on the engine's thread ---
  /// Drops cached keys. `new_version`: counts as a new version of the weights.
  void weights_changed(bool new_version);
  /// Whether the running job should give up.
  bool job_cancelled();

 private:
  struct Command {
    uint64_t id;
    std::variant<GenerateRequest, Job> what;
  };

  void run(std::function<void(const Started*, const Error*)> started);
  void refuse_everything(const Error& error);
  void work();
  bool take_commands();
  void admit_requests();
  void run_front_job();
  void interleave();
  std::optional<Error> over_plan() const;
  void check_interrupt();
  void abort(Command& command, const char* why);
  void publish();
  void shut_down();

  const EngineOptions options_;
  // Shared between threads, under mutex_.
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Command> inbox_;
  std::set<uint64_t> cancels_;
  bool stopping_ = false;
  std::function<void()> ended_;
  Stats stats_;
  uint64_t next_id_ = 1;
  // The engine's thread only. Destroyed there too, in reverse order.
  MemoryPlan plan_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<Trainer> trainer_;
  std::deque<Command> pending_;           // taken over from the inbox, not yet begun
  uint64_t current_job_ = 0;  // 0: none
  bool current_cancelled_ = false;
  int64_t weight_version_ = 0;
  std::thread thread_;  // last: everything above exists when it starts
};

}  // namespace act
