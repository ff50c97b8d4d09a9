// Kernels on their way to the stream: one by one, or - in a step that has been seen before - all at once.
//
// A decoding step launches hundreds of small kernels, and the next step launches the same kernels with the same
// arguments: what changes lies in device memory. Between `begin` and `finish` the queue compares every launch with those
// of an earlier step instead of queueing it. If all of them agree, byte for byte, one graph is queued in their place. At
// the first difference - a buffer has moved, a grid has grown - those held back are queued one by one and the step goes
// on as any other, remembered for the next. So nothing has to know when a recorded step is still good: it is used only
// where it would do exactly what was asked for.
//
// Whatever is not a launch has to come before or after those held back: new inputs come before (Mirror in
// cuda_backend.h), for everything else `leave` ends the comparison first.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <list>
#include <memory>
#include <type_traits>
#include <vector>

namespace act::cuda {

class Device;

/// A kernel, its grid and its arguments.
struct Launch {
  static constexpr size_t kArgumentBytes = 192;

  const char* name = nullptr;
  void (*kernel)() = nullptr;
  /// Starts it; `stream` is Device::stream().
  void (*start)(const Launch& launch, void* stream) = nullptr;
  std::array<unsigned, 3> grid{}, block{};
  size_t shared_bytes = 0, argument_bytes = 0;
  uint32_t pointers = 0;  // bit i: bytes 8 i .. 8 i + 7 of the arguments are a pointer
  alignas(16) unsigned char arguments[kArgumentBytes] = {};

  /// Where an argument goes whose predecessors end at `end`.
  template <class T>
  static constexpr size_t place(size_t end) {
    return (end + alignof(T) - 1) / alignof(T) * alignof(T);
  }
  template <class T>
  void add_argument(T value) {
    static_assert(std::is_trivially_copyable_v<T>, "a kernel's arguments are bytes");
    const size_t at = place<T>(argument_bytes);
    if constexpr (std::is_pointer_v<T>) pointers |= 1u << (at / 8);
    std::memcpy(arguments + at, &value, sizeof value);
    argument_bytes = at + sizeof value;
  }
  bool operator==(const Launch& other) const {
    return kernel == other.kernel && grid == other.grid && block == other.block && shared_bytes == other.shared_bytes &&
           argument_bytes == other.argument_bytes && std::memcmp(arguments, other.arguments, argument_bytes) == 0;
  }
};

/// Launches that the device does as one.
class Graph {
 public:
  virtual ~Graph() = default;
  virtual void launch() = 0;
  virtual size_t bytes() const = 0;  // of device memory
};

class LaunchQueue {
 public:
  /// graph_limit: device memory that graphs may take together; 0: steps are not recorded.
  LaunchQueue(Device& device, size_t graph_limit);
  ~LaunchQueue();

  void submit(const Launch& launch);
  /// A step begins. Steps do not nest.
  void begin();
  /// Everything submitted in this step must run now, because it is about to be waited for. The rest is not recorded.
  void finish();
  /// Something other than a launch must come after what was submitted: this step is not recorded.
  void leave();
  /// The step is over, also after an error: then what was held back runs all the same, because tables that its launches
  /// make are relied on later. What fails here is thrown by the next `begin`.
  void end() noexcept;
  /// A number of its own for the step in progress while it is recorded or compared, else 0.
  int64_t step() const { return state_ == State::direct ? 0 : steps_; }

  bool records() const { return graph_limit_ > 0; }
  size_t graph_limit() const { return graph_limit_; }
  size_t graph_bytes() const { return graph_bytes_; }
  /// Bytes of a graph that was alone over the limit, so that no more are made; 0: none was.
  size_t refused_bytes() const { return refused_bytes_; }
  int64_t recorded = 0, replayed = 0;  // steps

 private:
  struct Recording {
    std::vector<Launch> launches;
    std::unique_ptr<Graph> graph;  // from its first repetition on
  };
  using Place = std::list<Recording>::iterator;
  enum class State : uint8_t { direct, recording, comparing };

  Place find(const Launch* next);
  void start_held_back();
  void keep(std::vector<Launch> launches);
  void repeat(Place recording);
  void forget(Place recording);

  Device& device_;
  size_t graph_limit_, graph_bytes_ = 0, refused_bytes_ = 0;
  State state_ = State::direct;
  int64_t steps_ = 0;
  std::list<Recording> recordings_;  // most recently used first
  Place followed_;                   // comparing: a recording that agrees so far
  size_t agreed_ = 0;                // and how many of its launches are held back
  std::vector<Launch> current_;      // recording: launches of this step so far
  std::exception_ptr failure_;
};

}  // namespace act::cuda
