#include "thread_pool.h"

#include <chrono>
#include <string>
#include <system_error>
#include <utility>

#include "../ops.h"

namespace act::cpu {
namespace {

// Longer than the gaps between the operations of a layer, shorter than a scheduler's time slice.
constexpr auto kSpin = std::chrono::microseconds(40);

inline void pause_cpu() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Spins until done() or the time is up; returns done().
template <class Done>
bool spin_until(Done done) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 32; i++) {
      if (done()) return true;
      pause_cpu();
    }
  } while (std::chrono::steady_clock::now() < end);
  return done();
}

}  // namespace

ThreadPool::ThreadPool(int threads)
    : threads_(threads), shares_(std::make_unique<Share[]>(static_cast<size_t>(threads))) {
  helpers_.reserve(static_cast<size_t>(threads) - 1);
  try {
    for (int i = 1; i < threads; i++) helpers_.emplace_back([this, i] { helper(i); });
  } catch (const std::system_error& e) {
    const size_t started = helpers_.size();
    stop();
    throw Error("THREADS", "The system gave " + std::to_string(started) + " of the " + std::to_string(threads - 1) +
                                     " threads asked for beside the engine's own (" + e.what() + ").");
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
  stop_.store(true);
  epoch_.fetch_add(1);
  epoch_.notify_all();
  for (std::thread& t : helpers_) t.join();
}

void ThreadPool::run_job(int64_t count, Call call, void* context) {
  call_ = call;
  context_ = context;
  for (int t = 0; t < threads_; t++) {
    Share& share = shares_[static_cast<size_t>(t)];
    share.next.store(count * t / threads_, std::memory_order_relaxed);
    share.end = count * (t + 1) / threads_;
  }
  gate_.store(0, std::memory_order_release);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  work(0);
  // From here on nobody enters; wait for those inside.
  uint32_t inside = gate_.fetch_or(kClosed, std::memory_order_acq_rel) | kClosed;
  while (inside != kClosed) {
    if (spin_until([&] { return (inside = gate_.load(std::memory_order_acquire)) == kClosed; })) break;
    gate_.wait(inside, std::memory_order_acquire);
    inside = gate_.load(std::memory_order_acquire);
  }
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
}

void ThreadPool::work(int thread) noexcept {
  for (int i = 0; i < threads_; i++) {
    Share& share = shares_[static_cast<size_t>((thread + i) % threads_)];
    while (share.next.load(std::memory_order_relaxed) < share.end) {
      const int64_t index = share.next.fetch_add(1, std::memory_order_relaxed);
      if (index >= share.end) break;
      try {
        call_(context_, index, thread);
      } catch (...) {
        // Nobody starts another task.
        for (size_t t = 0; t < static_cast<size_t>(threads_); t++) shares_[t].next = shares_[t].end;
        const std::lock_guard lock(failure_lock_);
        if (!failure_) failure_ = std::current_exception();
      }
    }
  }
}

void ThreadPool::helper(int thread) noexcept {
  uint32_t seen = 0;
  for (;;) {
    if (!spin_until([&] { return epoch_.load(std::memory_order_acquire) != seen; })) {
      epoch_.wait(seen, std::memory_order_acquire);
    }
    seen = epoch_.load(std::memory_order_acquire);
    if (stop_.load()) return;
    uint32_t inside = gate_.load(std::memory_order_acquire);
    while (!(inside & kClosed) && !gate_.compare_exchange_weak(inside, inside + 1, std::memory_order_acq_rel)) {}
    if (inside & kClosed) continue;
    work(thread);
    if (gate_.fetch_sub(1, std::memory_order_acq_rel) - 1 == kClosed) gate_.notify_one();
  }
}

}  // namespace act::cpu
