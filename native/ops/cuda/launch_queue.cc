#include "launch_queue.h"

#include <algorithm>
#include <utility>

#include "device.h"

namespace act::cuda {
namespace {

/// Recordings kept: the sizes of a step that come up again, each with a few shapes of its attention.
constexpr size_t kMaxRecordings = 128;

}  // namespace

LaunchQueue::LaunchQueue(Device& device, size_t graph_limit) : device_(device), graph_limit_(graph_limit) {}

LaunchQueue::~LaunchQueue() = default;

void LaunchQueue::submit(const Launch& launch) {
  if (state_ == State::comparing) {
    const std::vector<Launch>& known = followed_->launches;
    const bool agrees = agreed_ < known.size() && known[agreed_] == launch;
    if (const Place other = agrees ? followed_ : find(&launch); other != recordings_.end()) {
      followed_ = other;
      agreed_++;
      return;
    }
    leave();
    current_.assign(known.begin(), known.begin() + static_cast<std::ptrdiff_t>(agreed_));
    state_ = State::recording;
  }
  if (state_ == State::recording) current_.push_back(launch);
  device_.start(launch);
}

/// A recording that begins as this step has and goes on with `next` (null: ends there); end() if there is none.
LaunchQueue::Place LaunchQueue::find(const Launch* next) {
  const std::vector<Launch>& known = followed_->launches;
  const auto end_of_known = known.begin() + static_cast<std::ptrdiff_t>(agreed_);
  return std::find_if(recordings_.begin(), recordings_.end(), [&](const Recording& r) {
    const bool ends = agreed_ == r.launches.size(), longer = agreed_ < r.launches.size();
    if (next ? !longer || !(r.launches[agreed_] == *next) : !ends) return false;
    return std::equal(known.begin(), end_of_known, r.launches.begin());
  });
}

void LaunchQueue::begin() {
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  if (!records()) return;
  steps_++;
  current_.clear();
  agreed_ = 0;
  followed_ = recordings_.begin();
  state_ = recordings_.empty() ? State::recording : State::comparing;
}

void LaunchQueue::finish() {
  if (state_ == State::recording) {
    state_ = State::direct;
    keep(std::move(current_));
  } else if (state_ == State::comparing) {
    if (const Place whole = find(nullptr); whole != recordings_.end()) {
      state_ = State::direct;
      return repeat(whole);
    }
    const std::vector<Launch>& known = followed_->launches;
    std::vector<Launch> beginning(known.begin(), known.begin() + static_cast<std::ptrdiff_t>(agreed_));
    leave();
    keep(std::move(beginning));
  }
}

void LaunchQueue::leave() {
  if (std::exchange(state_, State::direct) == State::comparing) start_held_back();
}

void LaunchQueue::end() noexcept {
  try {
    leave();
  } catch (...) {
    failure_ = std::current_exception();
  }
}

void LaunchQueue::start_held_back() {
  for (size_t i = 0; i < agreed_; i++) device_.start(followed_->launches[i]);
}

void LaunchQueue::keep(std::vector<Launch> launches) {
  if (launches.empty()) return;
  recordings_.push_front({std::move(launches), nullptr});
  recorded++;
  if (recordings_.size() > kMaxRecordings) forget(std::prev(recordings_.end()));
}

void LaunchQueue::repeat(Place recording) {
  recordings_.splice(recordings_.begin(), recordings_, recording);
  if (!recording->graph) {  // now: a step that never comes again needs none
    std::unique_ptr<Graph> graph;
    try {
      graph = device_.make_graph(recording->launches);
    } catch (...) {
      for (const Launch& launch : recording->launches) device_.start(launch);  // as end() would
      throw;
    }
    while (graph_bytes_ + graph->bytes() > graph_limit_ && recordings_.size() > 1) forget(std::prev(recordings_.end()));
    if (graph->bytes() > graph_limit_) {
      refused_bytes_ = graph->bytes();
      graph_limit_ = 0;
      for (const Launch& launch : recording->launches) device_.start(launch);
      return forget(recording);
    }
    graph_bytes_ += graph->bytes();
    recording->graph = std::move(graph);
  }
  recording->graph->launch();
  replayed++;
}

void LaunchQueue::forget(Place recording) {
  if (recording->graph) graph_bytes_ -= recording->graph->bytes();
  recordings_.erase(recording);
}

}  // namespace act::cuda
