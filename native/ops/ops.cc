#include "ops.h"

#include <utility>

namespace act {

Buffer::Buffer(Backend& backend, int64_t rows, int64_t cols, DType dtype) : backend_(&backend) {
  view_ = {nullptr, rows, cols, dtype};
  if (view_.size() > 0) view_.data = backend.allocate(bytes());
}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  if (this == &other) return *this;
  if (view_.data) backend_->release(view_.data, bytes());
  backend_ = std::exchange(other.backend_, nullptr);
  view_ = std::exchange(other.view_, View{});
  return *this;
}

Buffer::~Buffer() {
  if (view_.data) backend_->release(view_.data, bytes());
}

}  // namespace act
