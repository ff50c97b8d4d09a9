#include "emulator.h"

#include <cstdlib>
#include <memory>

#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
#define ACT_OWN_SWITCH 1
#else
#include <ucontext.h>
#endif

namespace act::emulator {
namespace {

enum class State : uint8_t { ready, at_warp, at_block, done };

struct Fiber {
  Place place{};
  int index = 0, warp = 0;
  State state = State::done;
  const char* waits_at = "start";
  char* stack = nullptr;
#ifdef ACT_OWN_SWITCH
  void* stack_pointer = nullptr;
#else
  ucontext_t context{};
#endif
  std::vector<AsyncCopy> open;
  std::vector<std::vector<AsyncCopy>> groups;
};

struct Warp {
  unsigned arrived = 0, live = 0;
  int parity = 0;
  const char* operation = nullptr;
  size_t size = 0;
  alignas(64) char slots[2][32][kSlotBytes];
};

struct Machine {
  Fiber* current = nullptr;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<std::unique_ptr<char[]>> stacks;
  std::vector<char*> free_stacks;
  int live = 0, at_block = 0;
  const std::function<void()>* body = nullptr;
  std::vector<char> shared_memory;
  char* shared = nullptr;
  const char* kernel = "";
  std::string failure;
  uint64_t random = 0;
#ifdef ACT_OWN_SWITCH
  void* main_stack_pointer = nullptr;
#else
  ucontext_t main{};
#endif
};

thread_local Machine* machine = nullptr;

#ifdef ACT_OWN_SWITCH
// A system call a switch (swapcontext) makes the tests 19 times slower.
extern "C" void act_emulator_switch(void** save, void* to);
asm(R"(
.text
.local act_emulator_switch
.type act_emulator_switch,@function
act_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size act_emulator_switch,.-act_emulator_switch
)");
#endif

void to_main(Fiber& fiber) {
#ifdef ACT_OWN_SWITCH
  act_emulator_switch(&fiber.stack_pointer, machine->main_stack_pointer);
#else
  swapcontext(&fiber.context, &machine->main);
#endif
}

void wait(State state, const char* at) {
  Fiber& fiber = *machine->current;
  fiber.state = state;
  fiber.waits_at = at;
  to_main(fiber);
}

void entry() {
  (*machine->body)();
  Fiber& fiber = *machine->current;
  if (!fiber.open.empty()) fail("a thread ended with uncommitted cp.async copies");
  fiber.state = State::done;
  to_main(fiber);
  std::abort();  // a finished fiber is never resumed
}

void resume(Fiber& fiber) {
  Machine& m = *machine;
  m.current = &fiber;
  fiber.state = State::ready;
  if (!fiber.stack) {
    if (m.free_stacks.empty()) {
      m.stacks.push_back(std::make_unique_for_overwrite<char[]>(kStackBytes));
      m.free_stacks.push_back(m.stacks.back().get());
    }
    fiber.stack = m.free_stacks.back();
    m.free_stacks.pop_back();
#ifdef ACT_OWN_SWITCH
    auto top = reinterpret_cast<uintptr_t>(fiber.stack + kStackBytes) / 64 * 64 - 64;
    void** at = reinterpret_cast<void**>(top);
    *--at = nullptr;
    *--at = reinterpret_cast<void*>(&entry);
    for (int i = 0; i < 6; i++) *--at = nullptr;
    fiber.stack_pointer = at;
#else
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, reinterpret_cast<void (*)()>(&entry), 0);
#endif
  }
#ifdef ACT_OWN_SWITCH
  act_emulator_switch(&m.main_stack_pointer, fiber.stack_pointer);
#else
  swapcontext(&m.main, &fiber.context);
#endif
  m.current = nullptr;
  if (fiber.state == State::done) {
    m.free_stacks.push_back(fiber.stack);
    fiber.stack = nullptr;
    m.live--;
    m.warps[static_cast<size_t>(fiber.warp)].live &= ~(1u << fiber.place.lane);
  }
}

std::string explain(const std::string& why) {
  const Machine& m = *machine;
  std::string text = std::string(m.kernel) + ": " + why;
  if (m.current) text += " (thread " + std::to_string(m.current->index) + ")";
  int shown = 0;
  for (const Fiber& f : m.fibers) {
    if (f.state == State::done || f.state == State::ready || shown++ >= 4) continue;
    text += "; thread " + std::to_string(f.index) + " waits at " + f.waits_at;
  }
  return text;
}

void release_block() {
  machine->at_block = 0;
  for (Fiber& f : machine->fibers) {
    if (f.state == State::at_block) f.state = State::ready;
  }
}

template <class Order>
void shuffle(Order& order) {
  uint64_t& random = machine->random;
  for (size_t i = order.size(); i > 1; i--) {
    random = random * 6364136223846793005ull + 1442695040888963407ull;
    std::swap(order[i - 1], order[(random >> 33) % i]);
  }
}

void run_block(const std::vector<size_t>& ascending) {
  Machine& m = *machine;
  std::vector<size_t> order = ascending;
  std::vector<int> lanes(32);
  for (int i = 0; i < 32; i++) lanes[static_cast<size_t>(i)] = i;
  while (m.live > 0) {
    bool moved = false;
    if (schedule().seed) shuffle(order);
    for (const size_t w : order) {
      for (bool again = true; again;) {  // until the warp's lanes stop at a block barrier or end
        again = false;
        if (schedule().seed) shuffle(lanes);
        for (const int lane : lanes) {
          const size_t i = w * 32 + static_cast<size_t>(lane);
          if (i >= m.fibers.size() || m.fibers[i].state != State::ready) continue;
          resume(m.fibers[i]);
          if (!m.failure.empty()) throw std::runtime_error(m.failure);
          moved = again = true;
        }
      }
    }
    if (moved || m.live == 0) continue;
    if (m.at_block == m.live) {  // the others have ended
      release_block();
      continue;
    }
    throw std::runtime_error(explain("deadlock: no thread can run"));
  }
}

}  // namespace

Schedule& schedule() {
  static Schedule one;
  return one;
}

const Place& place() { return machine->current->place; }
void* dynamic_shared() { return machine->shared; }

void fail(const std::string& why) {
  machine->failure = explain(why);
  to_main(*machine->current);
  std::abort();
}

void block_barrier() {
  Machine& m = *machine;
  if (++m.at_block == m.live) {
    release_block();
  } else {
    wait(State::at_block, "__syncthreads");
  }
}

const char* warp_meet(const char* operation, const void* value, size_t size, unsigned mask) {
  Machine& m = *machine;
  Fiber& fiber = *m.current;
  Warp& warp = m.warps[static_cast<size_t>(fiber.warp)];
  const int lane = fiber.place.lane;
  if (!(mask >> lane & 1)) fail(std::string("a lane outside the mask called ") + operation);
  if (warp.arrived == 0) {
    warp.operation = operation;
    warp.size = size;
  } else if (std::strcmp(warp.operation, operation) != 0 || warp.size != size) {
    fail(std::string("lanes of one warp wait at ") + warp.operation + " and " + operation);
  }
  const int parity = warp.parity;
  std::memcpy(warp.slots[parity][lane], value, size);
  warp.arrived |= 1u << lane;
  if ((warp.arrived & mask) == (warp.live & mask)) {
    warp.arrived = 0;
    warp.parity ^= 1;
    for (int l = 0; l < 32; l++) {
      if (!((warp.live & mask) >> l & 1)) continue;
      Fiber& other = m.fibers[static_cast<size_t>(fiber.warp * 32 + l)];
      if (other.state == State::at_warp) other.state = State::ready;
    }
  } else {
    wait(State::at_warp, operation);
  }
  return warp.slots[parity][0];
}

namespace {
void land(const AsyncCopy& copy) {
  std::memcpy(copy.to, copy.from, static_cast<size_t>(copy.bytes));
  std::memset(static_cast<char*>(copy.to) + copy.bytes, 0, static_cast<size_t>(copy.total - copy.bytes));
}
}  // namespace

void async_copy(void* to, const void* from, int bytes, int total) {
  if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) & 15) {
    fail("cp.async address is not 16-byte aligned");
  }
  const AsyncCopy copy{to, from, bytes, total};
  if (schedule().async_early) return land(copy);
  machine->current->open.push_back(copy);
}

void async_commit() {
  Fiber& fiber = *machine->current;
  fiber.groups.push_back(std::move(fiber.open));
  fiber.open.clear();
}

void async_wait(int groups_left) {
  auto& groups = machine->current->groups;
  const size_t left = static_cast<size_t>(groups_left), landing = groups.size() > left ? groups.size() - left : 0;
  for (size_t i = 0; i < landing; i++) {
    for (const AsyncCopy& copy : groups[i]) land(copy);
  }
  groups.erase(groups.begin(), groups.begin() + static_cast<long>(landing));
}

void launch(Dim3 grid, Dim3 block, size_t shared_bytes, const char* kernel, const std::function<void()>& body) {
  const int64_t threads = int64_t{block.x} * block.y * block.z;
  const int64_t blocks = int64_t{grid.x} * grid.y * grid.z;
  auto refuse = [&](const char* why) { throw std::runtime_error(std::string(kernel) + ": " + why); };
  if (threads < 1 || threads > 1024) refuse("a block has 1 to 1024 threads");
  if (blocks < 1 || grid.x > 2147483647u || grid.y > 65535 || grid.z > 65535) refuse("the grid is empty or too large");
  if (shared_bytes > kMaxSharedBytes) refuse("more dynamic shared memory than a block can have");

  // Kept between launches for its stacks: pages fresh from the system cost more than the small kernels of the tests.
  thread_local std::unique_ptr<Machine> kept;
  std::unique_ptr<Machine> owned = kept ? std::move(kept) : std::make_unique<Machine>();
  Machine& m = *owned;
  machine = &m;
  struct Leave {
    ~Leave() { machine = nullptr; }
  } leave;
  m.body = &body;
  m.kernel = kernel;
  m.random = schedule().seed;
  m.shared_memory.resize(shared_bytes + 128);
  m.shared = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(m.shared_memory.data()) + 127) / 128 * 128);
  m.fibers.resize(static_cast<size_t>(threads));
  m.warps.resize(static_cast<size_t>((threads + 31) / 32));
  std::vector<size_t> order(m.warps.size());
  for (size_t i = 0; i < order.size(); i++) order[i] = i;

  for (int64_t b = 0; b < blocks; b++) {
    std::memset(m.shared, 0xff, shared_bytes);  // NaN: nothing may be read before it is written
    for (Warp& warp : m.warps) warp.arrived = warp.live = 0, warp.parity = 0;
    for (int i = 0; i < threads; i++) {
      Fiber& f = m.fibers[static_cast<size_t>(i)];
      const auto t = static_cast<unsigned>(i);
      f.index = i;
      f.warp = i / 32;
      f.state = State::ready;
      f.waits_at = "start";
      f.groups.clear();
      f.place.lane = i % 32;
      f.place.thread = {t % block.x, t / block.x % block.y, t / (block.x * block.y)};
      f.place.block = {static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                       static_cast<unsigned>(b / (int64_t{grid.x} * grid.y))};
      f.place.block_size = block;
      f.place.grid_size = grid;
      m.warps[static_cast<size_t>(f.warp)].live |= 1u << f.place.lane;
    }
    m.live = static_cast<int>(threads);
    m.at_block = 0;
    run_block(order);
  }
  kept = std::move(owned);  // after a failure it is not kept: fibers stand in the middle of the kernel
}

}  // namespace act::emulator
