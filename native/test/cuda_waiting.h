// An engine whose calls wait, for tests and timings of the whole engine on a device.
#pragma once
#include <future>

#include "../engine/engine.h"

namespace act::test {

class WaitingEngine {
 public:
  /// Throws what the engine's start failed with.
  explicit WaitingEngine(const EngineOptions& options) {
    std::promise<void> started;
    engine_ = std::make_unique<Engine>(options, [&](const Engine::Started* report, const Error* error) {
      if (error) return started.set_exception(std::make_exception_ptr(*error));
      plan_ = report->plan;
      started.set_value();
    });
    started.get_future().get();
  }
  Engine& engine() { return *engine_; }
  const MemoryPlan& plan() const { return plan_; }
  size_t peak() const { return engine_->stats().bytes_peak; }

  void run(Engine::Job::Kind kind, std::function<void(Engine::Core&)> what) {
    std::promise<void> done;
    engine_->submit({kind, std::move(what), [&](const Error* error) {
                       error ? done.set_exception(std::make_exception_ptr(*error)) : done.set_value();
                     }});
    done.get_future().get();
  }
  /// All requests at once, so that batches are the same in every run; their completions one request after the other.
  std::vector<Completion> generate(std::vector<GenerateRequest> requests) {
    size_t total = 0;
    for (const GenerateRequest& request : requests) total += static_cast<size_t>(request.count);
    std::vector<Completion> all(total);
    std::vector<std::promise<void>> done(requests.size());
    std::promise<void> queued;  // no request passes by an exclusive job
    const auto wait = [all_queued = queued.get_future().share()](Engine::Core&) { all_queued.wait(); };
    engine_->submit({Engine::Job::Kind::exclusive, wait, [](const Error*) {}});
    size_t first = 0;
    for (size_t i = 0; i < requests.size(); i++) {
      GenerateRequest& request = requests[i];
      const auto count = static_cast<size_t>(request.count);
      request.on_completion = [&all, first](int32_t at, Completion&& c) { all[first + static_cast<size_t>(at)] = std::move(c); };
      request.on_done = [&done, i](const Error* error) {
        error ? done[i].set_exception(std::make_exception_ptr(*error)) : done[i].set_value();
      };
      engine_->generate(std::move(request));
      first += count;
    }
    queued.set_value();
    for (auto& one : done) one.get_future().get();
    return all;
  }

 private:
  MemoryPlan plan_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace act::test
