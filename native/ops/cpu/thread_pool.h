// The threads of one CPU backend. The caller takes part; helpers spin briefly for the next job and then sleep. A job
// never waits for a helper that has not started on it, so an oversubscribed machine costs speed but no stalls.
#pragma once
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace act::cpu {

class ThreadPool {
 public:
  /// `threads` >= 1, the caller included. Throws THREADS when the system gives fewer.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(helpers_.size()) + 1; }

  /// Calls task(index, thread) for every index < count, in no particular order; thread < threads(). Returns when all
  /// are done; the first exception of a task is thrown here.
  template <class Task>
  void run(int64_t count, Task&& task) {
    if (count <= 0) return;
    if (helpers_.empty() || count == 1) {
      for (int64_t i = 0; i < count; i++) task(i, 0);
      return;
    }
    run_job(
        count, [](void* context, int64_t index, int thread) { (*static_cast<Task*>(context))(index, thread); },
        const_cast<void*>(static_cast<const void*>(&task)));
  }

 private:
  using Call = void (*)(void* context, int64_t index, int thread);
  void run_job(int64_t count, Call call, void* context);
  void work(int thread) noexcept;
  void helper(int thread) noexcept;
  void stop();

  std::vector<std::thread> helpers_;
  std::atomic<bool> stop_{false};
  std::atomic<uint32_t> epoch_{0};       // one up for every job; what helpers sleep on
  std::atomic<uint32_t> gate_{kClosed};  // helpers inside the job, and whether more may enter
  static constexpr uint32_t kClosed = 1u << 31;

  // The job; written only while the gate is closed and nobody is inside.
  int64_t count_ = 0;
  Call call_ = nullptr;
  void* context_ = nullptr;
  alignas(64) std::atomic<int64_t> next_{0};
  std::mutex failure_lock_;
  std::exception_ptr failure_;
};

}  // namespace act::cpu
