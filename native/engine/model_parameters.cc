// Values of parameters: loading, reading, writing and seeded initial ones.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "../ops/compact.h"
#include "../ops/floats.h"
#include "model_impl.h"
#include "seeded.h"

namespace act {
namespace {

float value_at(const void* from, DType dtype, int64_t i) {
  // Tensors in a file start at any byte: nothing may be assumed about alignment.
  const char* at = static_cast<const char*>(from) + static_cast<size_t>(i) * size_of(dtype);
  if (dtype == DType::f32) {
    float value;
    std::memcpy(&value, at, sizeof value);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, at, sizeof bits);
  return dtype == DType::bf16 ? bf16_to_float(bits) : f16_to_float(bits);
}

void check_finite(const std::string& name, const void* from, DType dtype, int64_t count) {
  for (int64_t i = 0; i < count; i++) {
    const float value = value_at(from, dtype, i);
    if (!std::isfinite(value))
      throw Error("NUMERICS", "Value " + std::to_string(i) + " of tensor `" + name + "` is " +
                                  (std::isnan(value) ? "NaN" : "infinite") +
                                  ". The file is damaged or its training diverged.");
  }
}

/// Moments of the compact optimizer as fp32 values: what is read can be written again, code for code.
std::vector<float> decoded(Backend& b, const Parameter& p, TensorKind kind) {
  const bool first = kind == TensorKind::moment1;
  const Buffer &held = first ? p.moment1 : p.moment2, &held_scales = first ? p.scales1 : p.scales2;
  std::vector<uint8_t> codes(static_cast<size_t>(p.size()));
  std::vector<float> scales(static_cast<size_t>(compact::blocks(p.size()))), values(codes.size());
  b.download(codes.data(), held.view());
  b.download(scales.data(), held_scales.view());
  for (size_t i = 0; i < codes.size(); i++) {
    const float scale = scales[i / compact::kBlock];
    const float root = first ? 0 : compact::root2_of(codes[i], scale);
    values[i] = first ? compact::moment1_of(codes[i], scale) : root * root;
  }
  return values;
}

void encode(Backend& b, const Parameter& p, TensorKind kind, const float* from) {
  const bool first = kind == TensorKind::moment1;
  std::vector<float> values(from, from + p.size()), scales(static_cast<size_t>(compact::blocks(p.size())), 0.0f);
  std::vector<uint8_t> codes(values.size());
  for (size_t i = 0; i < values.size(); i++) {
    if (!first) values[i] = std::sqrt(std::max(0.0f, values[i]));
    float& scale = scales[i / compact::kBlock];
    scale = std::max(scale, std::fabs(values[i]));
  }
  for (float& scale : scales) {
    if (scale < (first ? compact::kLeast1 : compact::kLeast2)) scale = 0;
  }
  for (size_t i = 0; i < values.size(); i++) {
    const float scale = scales[i / compact::kBlock];
    codes[i] = first ? compact::code1_of(values[i], scale, 0.5f) : compact::code2_of(values[i], scale, 0.5f);
  }
  b.upload((first ? p.moment1 : p.moment2).view(), codes.data());
  b.upload((first ? p.scales1 : p.scales2).view(), scales.data());
}

bool is_moment(TensorKind kind) { return kind == TensorKind::moment1 || kind == TensorKind::moment2; }

const Buffer& buffer_of(const Parameter& p, TensorKind kind) {
  const Buffer& buffer = kind == TensorKind::gradient  ? p.gradient
                         : kind == TensorKind::moment1 ? p.moment1
                                                       : p.moment2;
  if (!buffer)
    throw Error("BAD_ARGUMENT", "Tensor `" + p.name + "` is frozen: it has no gradient and no optimizer state.");
  return buffer;
}

}  // namespace

void Model::Impl::mark_loaded(Parameter& p) {
  if (!p.loaded) missing--;
  p.loaded = true;
}

void Model::Impl::set_values(Parameter& p, const float* values) {
  if (p.matrix) {
    backend.load_weight(*p.matrix, values, DType::f32);
  } else {
    if (p.vector_master) backend.upload(p.vector_master.view(), values);
    std::vector<float> seen(values, values + p.size());
    if (options.dtype == DType::bf16)
      for (float& x : seen) x = round_to_bf16(x);
    backend.upload(p.vector.view(), seen.data());
  }
  mark_loaded(p);
}

void Model::load(const std::string& name, const void* from, DType dtype) {
  Parameter& p = parameter(name);
  check_finite(name, from, dtype, p.size());
  if (p.matrix) {
    std::vector<uint64_t> aligned;  // the backend reads whole elements
    if (reinterpret_cast<uintptr_t>(from) % size_of(dtype) != 0) {
      const size_t bytes = static_cast<size_t>(p.size()) * size_of(dtype);
      aligned.resize((bytes + sizeof(uint64_t) - 1) / sizeof(uint64_t));
      std::memcpy(aligned.data(), from, bytes);
      from = aligned.data();
    }
    impl_->backend.load_weight(*p.matrix, from, dtype);
    impl_->mark_loaded(p);
    return;
  }
  std::vector<float> values(static_cast<size_t>(p.size()));
  for (int64_t i = 0; i < p.size(); i++) values[static_cast<size_t>(i)] = value_at(from, dtype, i);
  impl_->set_values(p, values.data());
}

void Model::write(const std::string& name, TensorKind kind, const float* from) {
  Parameter& p = parameter(name);
  check_finite(name, from, DType::f32, p.size());
  if (kind == TensorKind::weight || kind == TensorKind::master)
    impl_->set_values(p, from);
  else if (p.compact() && is_moment(kind))
    encode(impl_->backend, p, kind, from);
  else
    impl_->backend.upload(buffer_of(p, kind).view(), from);
  if (kind == TensorKind::gradient && p.embedding_gradient) impl_->backend.fill(p.embedding_gradient.view(), 0);
}

std::vector<std::byte> Model::read(const std::string& name, TensorKind kind) {
  Parameter& p = parameter(name);
  Backend& b = impl_->backend;
  const size_t count = static_cast<size_t>(p.size());
  const bool narrow = kind == TensorKind::weight && impl_->options.dtype == DType::bf16;
  std::vector<std::byte> bytes(count * (narrow ? 2 : 4));
  if (kind == TensorKind::weight && p.matrix) {
    b.read_weight(*p.matrix, bytes.data());
  } else if (kind == TensorKind::weight) {
    std::vector<float> values(count);
    b.download(values.data(), p.vector.view());
    for (size_t i = 0; narrow && i < count; i++) {
      const uint16_t bits = float_to_bf16(values[i]);  // exact: vector holds rounded values
      std::memcpy(bytes.data() + 2 * i, &bits, 2);
    }
    if (!narrow) std::memcpy(bytes.data(), values.data(), bytes.size());
  } else if (p.compact() && is_moment(kind)) {
    const std::vector<float> values = decoded(b, p, kind);
    std::memcpy(bytes.data(), values.data(), bytes.size());
  } else if (p.compact() && kind == TensorKind::master) {  // the weight itself
    std::vector<uint16_t> weight(count);
    b.read_weight(*p.matrix, weight.data());
    std::vector<float> values(count);
    std::ranges::transform(weight, values.begin(), bf16_to_float);
    std::memcpy(bytes.data(), values.data(), bytes.size());
  } else {
    b.download(bytes.data(), kind == TensorKind::master ? master(p) : buffer_of(p, kind).view());
    if (kind == TensorKind::gradient && p.embedding_gradient) {
      // As complete_gradients, but without a trace: reading must not change what later micro-batches add up to.
      std::vector<float> part(count);
      b.download(part.data(), p.embedding_gradient.view());
      float* sum = reinterpret_cast<float*>(bytes.data());
      for (size_t i = 0; i < count; i++) sum[i] += part[i];
    }
  }
  return bytes;
}

void Model::zero_gradients() {
  for (auto& [name, p] : impl_->parameters) {
    if (p.gradient) impl_->backend.fill(p.gradient.view(), 0);
    if (p.embedding_gradient) impl_->backend.fill(p.embedding_gradient.view(), 0);
  }
}

void Model::complete_gradients() {
  for (auto& [name, p] : impl_->parameters) {
    if (!p.embedding_gradient) continue;
    impl_->backend.add(p.gradient.view(), p.embedding_gradient.view());
    impl_->backend.fill(p.embedding_gradient.view(), 0);
  }
}

View Model::master(Parameter& p) {
  if (!p.trainable) throw Error("BAD_ARGUMENT", "Tensor `" + p.name + "` is frozen: it has no fp32 master.");
  if (p.matrix) return impl_->backend.master(*p.matrix);
  return p.vector_master ? p.vector_master.view() : p.vector.view();
}

void Model::refresh(Parameter& p) {
  if (p.matrix) {
    impl_->backend.refresh(*p.matrix);
  } else if (p.vector_master) {
    std::vector<float> values(static_cast<size_t>(p.size()));
    impl_->backend.download(values.data(), p.vector_master.view());
    for (float& x : values) x = round_to_bf16(x);
    impl_->backend.upload(p.vector.view(), values.data());
  }
}

void Model::initialize(uint64_t seed, double std) {
  for (auto& [name, p] : impl_->parameters) {
    if (name.starts_with("base_model.")) continue;  // adapters have their own seed
    const bool norm = !p.matrix && name.ends_with("norm.weight");
    std::vector<float> values(static_cast<size_t>(p.size()), norm ? 1.0f : 0.0f);
    if (p.matrix) seeded_normal(values, seed, name, std);
    impl_->set_values(p, values.data());
  }
}

void Model::Impl::initialize_adapter(Parameter& p) {
  std::vector<float> values(static_cast<size_t>(p.size()), 0.0f);
  // PEFT's choice, Kaiming uniform with a = sqrt(5): U(-1/sqrt(in), 1/sqrt(in)). B zero: the adapter starts as nothing.
  if (p.name.ends_with("lora_A.weight"))
    seeded_uniform(values, options.lora.seed, p.name, 1.0 / std::sqrt(static_cast<double>(p.cols())));
  set_values(p, values.data());
}

}  // namespace act
