// The threads of one CPU backend. The caller takes part; helpers spin briefly for the next job and then sleep. A job
// never waits for a helper that has not started on it, so an oversubscribed machine costs speed but no stalls.
//
// Every thread begins with the same share of the tasks, whatever the job: where one operation's tasks are the same rows
// as the next one's, a thread finds what it wrote itself. That matters most where cores have no cache in common.
#pragma once
#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
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

  int threads() const { return threads_; }

  /// Calls task(index, thread) for every index < count; thread < threads(). Thread t runs those from count * t / threads()
  /// on, up to the next thread's, in ascending order, and then what others have not begun. Returns when all are done; the
  /// first exception of a task is thrown here.
  template <class Task>
  void run(int64_t count, Task&& task) {
    if (count <= 0) return;
    if (threads_ == 1 || count == 1) {
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

  static constexpr size_t kLine = 64;
  struct alignas(kLine) Share {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };

  const int threads_;
  std::atomic<bool> stop_{false};
  static constexpr uint32_t kClosed = 1u << 31;
  alignas(kLine) std::atomic<uint32_t> epoch_{0};  // one up for every job; what helpers sleep on
  std::atomic<uint32_t> gate_{kClosed};            // helpers inside the job, and whether more may enter
  // The job, on the line that a helper reads to enter it; written only while the gate is closed and nobody is inside.
  Call call_ = nullptr;
  void* context_ = nullptr;
  std::unique_ptr<Share[]> shares_;  // of every thread: what is left of it
  std::mutex failure_lock_;
  std::exception_ptr failure_;
  std::vector<std::thread> helpers_;
};

}  // namespace act::cpu
