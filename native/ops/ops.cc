#include "ops.h"

#include <utility>

namespace act {

namespace {

void free_buffer(Backend* backend, void* memory, size_t bytes, Place place) noexcept {
  if (!memory) return;
  place == Place::host ? backend->release_host(memory, bytes) : backend->release(memory, bytes);
}

}  // namespace

void* Backend::allocate_host(size_t) {
  throw Error("BAD_ARGUMENT", "Device `" + name() + "` computes in host memory: there is nothing to move there.");
}

Buffer::Buffer(Backend& backend, int64_t rows, int64_t cols, DType dtype, Place place)
    : backend_(&backend), place_(place) {
  view_ = {nullptr, rows, cols, dtype};
  if (view_.size() == 0) return;
  view_.data = place == Place::host ? backend.allocate_host(bytes()) : backend.allocate(bytes());
}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  if (this == &other) return *this;
  free_buffer(backend_, view_.data, bytes(), place_);
  backend_ = std::exchange(other.backend_, nullptr);
  place_ = other.place_;
  view_ = std::exchange(other.view_, View{});
  return *this;
}

Buffer::~Buffer() { free_buffer(backend_, view_.data, bytes(), place_); }

}  // namespace act
