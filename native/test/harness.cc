#include "harness.h"

#include <cmath>
#include <cstring>

namespace act::test {

uint64_t Rng::bits() {  // splitmix64
  uint64_t z = state_ += 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}
double Rng::uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
float Rng::normal() {
  const double u = 1 - uniform(), angle = 6.283185307179586 * uniform();
  return static_cast<float>(std::sqrt(-2 * std::log(u)) * std::cos(angle));
}

Tensor zeros(std::string name, int64_t rows, int64_t cols) {
  return {std::move(name), rows, cols, std::vector<float>(static_cast<size_t>(rows * cols))};
}

Tensor random(Rng& rng, std::string name, int64_t rows, int64_t cols, double scale) {
  Tensor t = zeros(std::move(name), rows, cols);
  for (float& x : t.values) x = static_cast<float>(rng.normal() * scale);
  return t;
}

Tensor absolute(Tensor t) {
  for (float& x : t.values) x = std::fabs(x);
  return t;
}

OnDevice::OnDevice(Backend& backend, const Tensor& t)
    : backend_(backend), buffer_(backend, t.rows, t.cols, DType::f32) {
  backend.upload(buffer_.view(), t.values.data());
}

Tensor OnDevice::read(std::string name) const {
  Tensor t = zeros(std::move(name), view().rows, view().cols);
  backend_.download(t.values.data(), view());
  return t;
}

std::unique_ptr<Weight> make_weight(Backend& backend, const Tensor& t, DType dtype, bool trainable) {
  auto w = backend.create_weight(t.rows, t.cols, dtype, trainable);
  backend.load_weight(*w, t.values.data(), DType::f32);
  return w;
}

void expect(bool holds, const std::string& what) {
  if (!holds) throw Failure{what};
}

void expect_same_bits(const Tensor& a, const Tensor& b, const std::string& what) {
  expect(a.values.size() == b.values.size(), what + ": sizes differ");
  for (size_t i = 0; i < a.values.size(); i++) {
    if (std::memcmp(&a.values[i], &b.values[i], 4) != 0) {
      throw Failure{what + ": element " + std::to_string(i) + " is " + std::to_string(a.values[i]) + " and " +
                    std::to_string(b.values[i])};
    }
  }
}

std::vector<Isa> available_isas() {
  std::vector<Isa> isas;
  for (const Isa isa : {Isa::portable, Isa::avx2, Isa::avx512, Isa::avx512vnni, Isa::avx512bf16, Isa::amx}) {
    try {
      make_cpu_backend(1, isa);
      isas.push_back(isa);
    } catch (const Error&) {
      // this processor lacks it
    }
  }
  return isas;
}

std::string isa_name(Isa isa) {
  const char* names[] = {"automatic", "portable", "avx2", "avx512", "avx512vnni", "avx512bf16", "amx"};
  return names[static_cast<int>(isa)];
}

int32_t ForestShape::add(int32_t parent, int32_t keys, int32_t queries, int32_t first_lane) {
  Segment s{};
  s.parent = parent;
  s.position =
      parent < 0 ? 0 : segments[static_cast<size_t>(parent)].position + segments[static_cast<size_t>(parent)].key_count;
  s.key_count = keys;
  s.first_page = static_cast<int32_t>(pages.size());
  s.first_lane = first_lane;
  s.query_row = static_cast<int32_t>(rows);
  s.query_count = queries;
  for (int32_t i = 0; i < (first_lane + keys + kPageKeys - 1) / kPageKeys; i++) {
    pages.push_back(static_cast<int32_t>(pages.size()));
  }
  rows += queries;
  segments.push_back(s);
  return static_cast<int32_t>(segments.size()) - 1;
}

Cases all_cases() {
  Cases cases;
  product_cases(cases);
  layer_cases(cases);
  attention_cases(cases);
  head_cases(cases);
  optimizer_cases(cases);
  return cases;
}

}  // namespace act::test
