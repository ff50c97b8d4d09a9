#include "cuda_checks.h"

#include <unistd.h>

#include <cmath>
#include <cstdlib>

#include "../ops/cuda/loader.h"
#include "../ops/floats.h"

namespace act::test {
namespace {

}  // namespace

Buffer on_device(Backend& b, const Tensor& t, DType dtype) {
  Buffer buffer(b, t.rows, t.cols, dtype);
  std::vector<uint16_t> bits(t.values.size());
  for (size_t i = 0; i < bits.size(); i++) bits[i] = float_to_bf16(t.values[i]);
  b.upload(buffer.view(), dtype == DType::bf16 ? static_cast<const void*>(bits.data()) : t.values.data());
  return buffer;
}

Tensor read_back(Backend& b, View from) {
  Tensor t = zeros("", from.rows, from.cols);
  if (from.dtype == DType::f32) {
    b.download(t.values.data(), from);
    return t;
  }
  std::vector<uint16_t> bits(t.values.size());
  b.download(bits.data(), from);
  for (size_t i = 0; i < bits.size(); i++) t.values[i] = bf16_to_float(bits[i]);
  return t;
}

namespace {

Tensor row_of(const Tensor& t, int64_t row) {
  Tensor one = zeros("", 1, t.cols);
  std::copy_n(t.values.begin() + row * t.cols, t.cols, one.values.begin());
  return one;
}

/// A row of a product has the same bits in every batch, whatever tile its size asks for.
void product_rows_do_not_depend_on_the_batch(Backend& b, DType dtype) {
  Rng rng(3);
  const Tensor x = random(rng, "x", 150, 72), w = random(rng, "w", 136, 72);
  const auto weight = make_weight(b, w, dtype, false);
  const auto product = [&](const Tensor& rows) {
    const Buffer from = on_device(b, rows, dtype), to(b, rows.rows, 136, DType::f32);
    b.linear(to.view(), false, from.view(), *weight, {});
    return read_back(b, to.view());
  };
  const Tensor all = product(x);
  for (const int64_t row : {0, 63, 149}) expect_same_bits(product(row_of(x, row)), row_of(all, row), "row " + std::to_string(row));
}

/// A query's bits in a forest, in its own flat sequence, and decoded alone after the rest was cached.
void attention_does_not_depend_on_the_forest(const Device& device, DType dtype) {
  const auto b = device.open(dtype);
  constexpr int kHeads = 4, kKvHeads = 2, kDim = 32, kPrompt = 21, kChild = 23, kChildren = 3;
  Rng rng(5);
  ForestShape tree;
  const int32_t root = tree.add(-1, kPrompt, kPrompt);
  for (int i = 0; i < kChildren; i++) tree.add(root, kChild, kChild, 5);
  const int64_t rows = tree.rows;
  const Tensor q = random(rng, "q", rows, kHeads * kDim), k = random(rng, "k", rows, kKvHeads * kDim),
               v = random(rng, "v", rows, kKvHeads * kDim);
  const auto attend = [&](const ForestShape& shape, KvPool& pool, const std::vector<int64_t>& which) {
    const auto pick = [&](const Tensor& t) {
      Tensor some = zeros("", static_cast<int64_t>(which.size()), t.cols);
      for (size_t i = 0; i < which.size(); i++) std::copy_n(t.values.begin() + which[i] * t.cols, t.cols, some.values.begin() + static_cast<int64_t>(i) * t.cols);
      return some;
    };
    const Buffer queries = on_device(*b, pick(q), dtype), keys = on_device(*b, pick(k), dtype), values = on_device(*b, pick(v), dtype);
    const Buffer out(*b, shape.rows, kHeads * kDim, dtype);
    b->write_kv(pool, 0, shape.forest(), keys.view(), values.view());
    b->attention(out.view(), {}, queries.view(), pool, 0, shape.forest(), 0.2f);
    return read_back(*b, out.view());
  };
  std::vector<int64_t> all(static_cast<size_t>(rows));
  for (size_t i = 0; i < all.size(); i++) all[i] = static_cast<int64_t>(i);
  const auto tree_pool = b->create_kv_pool(1, kKvHeads, kDim, static_cast<int>(tree.pages.size()), dtype);
  const Tensor forest = attend(tree, *tree_pool, all);

  for (int child = 0; child < kChildren; child++) {
    std::vector<int64_t> flat_rows;
    for (int64_t i = 0; i < kPrompt; i++) flat_rows.push_back(i);
    for (int64_t i = 0; i < kChild; i++) flat_rows.push_back(kPrompt + child * kChild + i);
    ForestShape flat;
    flat.add(-1, kPrompt + kChild, kPrompt + kChild);
    const auto pool = b->create_kv_pool(1, kKvHeads, kDim, static_cast<int>(flat.pages.size()), dtype);
    const Tensor alone = attend(flat, *pool, flat_rows);
    for (int64_t i = kPrompt; i < kPrompt + kChild; i++) {
      expect_same_bits(row_of(alone, i), row_of(forest, flat_rows[static_cast<size_t>(i)]), "flat sequence");
    }
    ForestShape step = flat;  // the last token again, the others cached
    step.segments[0].query_count = 1;
    step.rows = 1;
    expect_same_bits(attend(step, *pool, {flat_rows.back()}), row_of(forest, flat_rows.back()), "decoding step");
  }
}

void samples_match_reference(Backend& b) {
  constexpr int kRows = 40;
  constexpr int64_t kVocabulary = 1001;
  Rng rng(17);
  const Tensor hidden = random(rng, "hidden", kRows, 24), w = random(rng, "w", kVocabulary, 24, 0.6);
  std::vector<int32_t> some;
  for (int32_t i = 3; i < kVocabulary; i += 7) some.push_back(i);
  std::vector<SampleParams> params(kRows);
  for (int i = 0; i < kRows; i++) {
    SampleParams& p = params[static_cast<size_t>(i)];
    p.uniform = rng.uniform();
    p.temperature = i % 5 == 4 ? 0.0f : 0.5f + 0.25f * static_cast<float>(i % 4);
    p.top_k = i % 3 == 1 ? 1 + i : 0;
    p.top_p = i % 4 >= 2 ? 0.3f + 0.01f * static_cast<float>(i) : 1;
    p.min_p = i % 6 == 5 ? 0.05f : 0;
    if (i % 7 == 3) p.allowed = some;
  }
  const auto sample = [&](Backend& backend) {
    const auto head = make_weight(backend, w, DType::f32, false);
    const OnDevice h(backend, hidden);
    std::vector<SampleResult> results(kRows);
    backend.head_sample(results, h, *head, params);
    return results;
  };
  auto reference = make_reference_backend();
  const auto want = sample(*reference), got = sample(b);
  // Logits are off by at most (2 D + 4) u |h| |w|; |h| and |w| are below 10 here. Sums add V / 256 + 16 roundings.
  const double bound = ((2 * 24 + 4) * 100 + 1001.0 / 256 + 16) * kRoundoff * 4;
  for (size_t i = 0; i < want.size(); i++) {
    const std::string row = "row " + std::to_string(i) + " ";
    expect(got[i].token == want[i].token, row + "token " + std::to_string(got[i].token) + ", reference " + std::to_string(want[i].token));
    expect(std::fabs(got[i].logprob - want[i].logprob) <= bound, row + "logprob");
    expect(std::fabs(got[i].sampling_logprob - want[i].sampling_logprob) <= bound, row + "sampling_logprob");
    expect(!params[i].from_policy(kVocabulary) || got[i].sampling_logprob == got[i].logprob, row + "is not the policy's");
    expect(std::fabs(got[i].kept_mass - want[i].kept_mass) <= bound, row + "kept_mass");
    expect(std::fabs(got[i].entropy - want[i].entropy) <= bound * 8, row + "entropy");
  }
}

/// Equal logits: the order of ties is by id in every kind of truncation.
void ties_go_to_the_lower_id(Backend& b) {
  Tensor w = zeros("w", 300, 1), hidden = zeros("h", 1, 1);
  hidden.values[0] = 1;
  for (const size_t i : {size_t{40}, size_t{41}, size_t{280}}) w.values[i] = 3;
  const auto head = make_weight(b, w, DType::f32, false);
  const OnDevice h(b, hidden);
  const auto draw = [&](SampleParams p) {
    SampleResult result;
    b.head_sample({&result, 1}, h, *head, {&p, 1});
    return result.token;
  };
  expect(draw({.temperature = 0, .allowed = {}}) == 40, "greedy");
  expect(draw({.top_k = 2, .uniform = 0.999, .allowed = {}}) == 41, "top_k keeps the two lower ids");
  expect(draw({.min_p = 0.5f, .uniform = 0.999, .allowed = {}}) == 280, "min_p keeps all three");
  expect(draw({.top_p = 1e-6f, .uniform = 0.999, .allowed = {}}) == 40, "top_p keeps one at least");
}

void bad_logits_draw_no_token(Backend& b) {
  Tensor w = zeros("w", 5, 1), hidden = zeros("h", 2, 1);
  hidden.values = {2, 1};
  for (const float bad : {3e38f, NAN}) {
    w.values[3] = bad;
    const auto head = make_weight(b, w, DType::f32, false);
    const OnDevice h(b, hidden);
    std::vector<SampleResult> results(2);
    const std::vector<SampleParams> params(2);
    b.head_sample(results, h, *head, params);
    expect(results[0].token == -1, "a token was drawn from logits that are not finite");
    expect(results[1].token == (std::isnan(bad) ? -1 : 3), "a row beside one that overflows");
  }
}

void ratio_is_one(Backend& b, DType dtype) {
  Rng rng(8);
  const Tensor hidden = random(rng, "hidden", 9, 24), w = random(rng, "w", 203, 24, 0.6);
  const auto head = make_weight(b, w, dtype, false);
  const Buffer h = on_device(b, hidden, dtype);
  std::vector<SampleParams> params(9);
  for (SampleParams& p : params) p.uniform = rng.uniform();
  std::vector<SampleResult> drawn(9);
  b.head_sample(drawn, h.view(), *head, params);
  for (int64_t i = 0; i < 9; i++) {
    const SampleResult& s = drawn[static_cast<size_t>(i)];
    LossRows rows;
    rows.count = 1, rows.target = &s.token, rows.old_logprob = &s.logprob;
    float logprob = 0, ratio = 0;
    LossResults results;
    results.logprob = &logprob, results.ratio = &ratio;
    b.head_loss(results, {}, {}, h.view().rows_from(i, 1), *head, rows);
    expect(logprob == s.logprob && ratio == 1, "row " + std::to_string(i) + ": scored and sampled log-prob differ");
  }
}

/// Where optimizer state lies changes no bit; memory in both places is counted, and too little of it an error.
void optimizer_state_in_host_memory(Backend& b) {
  Rng rng(23);
  const Tensor w = random(rng, "w", 7, 111, 0.1), g = random(rng, "g", 7, 111);
  const Tensors there = compact_steps(b, w, g, Place::host), here = compact_steps(b, w, g, Place::device);
  for (size_t t = 0; t < here.size(); t++) expect_same_bits(there[t], here[t], "compact " + here[t].name);
  const auto full = [&](Place place) {
    const auto weight = b.create_weight(7, 111, DType::bf16, true, place);
    expect(b.host_allocated == (place == Place::host ? size_t{7 * 111 * 4} : 0), "a master is not where it should be");
    b.load_weight(*weight, w.values.data(), DType::f32);
    const Buffer m(b, 7, 111, DType::f32, place), v(b, 7, 111, DType::f32, place);
    const OnDevice gradient(b, g);
    for (int step = 1; step <= 3; step++) {
      b.adamw(b.master(*weight), gradient, m.view(), v.view(), {1e-2f, 0.9f, 0.95f, 1e-8f, 0.1f, step, 0.75f});
      b.refresh(*weight);
    }
    Tensors all{read_back(b, b.master(*weight)), read_back(b, m.view()), read_back(b, v.view()), zeros("w", 7, 111)};
    std::vector<uint16_t> bits(7 * 111);
    b.read_weight(*weight, bits.data());
    for (size_t i = 0; i < bits.size(); i++) all[3].values[i] = bf16_to_float(bits[i]);
    return all;
  };
  const Tensors there_full = full(Place::host), here_full = full(Place::device);
  for (size_t t = 0; t < here_full.size(); t++) expect_same_bits(there_full[t], here_full[t], "full " + std::to_string(t));
  expect(b.host_allocated == 0 && b.allocated == 0, "memory is still counted");
  try {
    const Buffer impossible(b, int64_t{1} << 40, int64_t{1} << 20, DType::u8, Place::host);
    throw Failure{"2^60 bytes of host memory were handed out"};
  } catch (const Error& e) {
    expect(e.code == "OUT_OF_MEMORY" && b.host_allocated == 0, e.code + ": " + e.what());
  }
}

}  // namespace

bool by_cublaslt(const Backend& backend) { return backend.describe().find("products by cuBLASLt") != std::string::npos; }

std::string own_folder() {
  char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path);
  const std::string text(path, length > 0 ? static_cast<size_t>(length) : 0);
  return text.substr(0, text.rfind('/') + 1);
}

std::unique_ptr<Backend> Device::open(DType activations) const {
  const auto set = [](const char* variable, const std::string& value) {
    value.empty() ? unsetenv(variable) : setenv(variable, value.c_str(), 1);
  };
  set("ACT_CUDA_PARTITION", partition);
  set("ACT_CUDA_PLACES", places);
  set("ACT_CUDA_GRAPHS", graphs ? "" : "0");
  if (name == "cuda") return make_cuda_backend(CudaFlavor::gpu, activations, batch_invariant);
  setenv("ACT_EMULATED_ASYNC", async_early ? "early" : "late", 1);
  setenv("ACT_EMULATED_SEED", std::to_string(seed).c_str(), 1);
  set("ACT_EMULATED_BYTES", bytes);
  set("ACT_EMULATED_CUBLASLT", cublaslt.empty() ? "" : own_folder() + cublaslt);
  set("ACT_EMULATED_CUBLASLT_FAULT", cublaslt_fault);
  setenv("ACT_CUDA_EMULATED_LIBRARY", (own_folder() + (library.empty() ? "act_cuda_emulated.so" : library)).c_str(), 1);
  return make_cuda_backend(CudaFlavor::emulated, activations, batch_invariant);
}

std::vector<Device> emulated_devices() {
  return {{"early 1", true, 1}, {"late 0", false, 0}, {"early 0", true, 0}, {"late 7", false, 7}};
}

void cuda_checks(std::vector<Check>& checks, const Device& device) {
  const auto add = [&](const std::string& name, std::function<void()> run) { checks.push_back({name + " " + device.name, std::move(run)}); };
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const std::string type = dtype == DType::f32 ? "fp32" : "bf16";
    add("product rows do not depend on the batch " + type, [=] { product_rows_do_not_depend_on_the_batch(*device.open(dtype), dtype); });
    add("attention does not depend on the forest " + type, [=] { attention_does_not_depend_on_the_forest(device, dtype); });
    Device cut = device;
    cut.partition = "16";
    add("attention does not depend on the forest, partitions of 16 " + type, [=] { attention_does_not_depend_on_the_forest(cut, dtype); });
    add("ratio is one " + type, [=] { ratio_is_one(*device.open(dtype), dtype); });
  }
  add("what weighs nothing is left out of the loss", [=] { leaves_out_what_weighs_nothing(*device.open(DType::f32)); });
  add("samples match the reference", [=] { samples_match_reference(*device.open(DType::f32)); });
  add("ties go to the lower id", [=] { ties_go_to_the_lower_id(*device.open(DType::f32)); });
  add("optimizer state in host memory has the same bits", [=] { optimizer_state_in_host_memory(*device.open(DType::bf16)); });
  add("bad logits draw no token", [=] { bad_logits_draw_no_token(*device.open(DType::f32)); });
}

void memory_limit_checks(std::vector<Check>& checks) {
  checks.push_back({"out of memory leaves the backend usable", [] {
                      Device small = emulated_devices().front();
                      small.bytes = "100000";
                      const auto b = small.open(DType::f32);
                      const Buffer first(*b, 100, 100, DType::f32);
                      try {
                        const Buffer second(*b, 1000, 100, DType::f32);
                        throw Failure{"400000 bytes of 100000 were handed out"};
                      } catch (const Error& e) {
                        expect(e.code == "OUT_OF_MEMORY", "code " + e.code);
                      }
                      expect(b->allocated == 40000, "allocated is " + std::to_string(b->allocated));
                      b->fill(first.view(), 2);
                      expect(b->sum_of_squares(first.view()) == 40000, "the sum after running out of memory");
                    }});
  checks.push_back({"a plan larger than the device is refused", device_memory_is_planned});
  checks.push_back({"full fine-tuning of 4B and 8B fits one card", large_models_fit});
  checks.push_back({"a kernel that gets host memory is noticed", [] {
                      const auto b = emulated_devices().front().open(DType::f32);
                      float host[4] = {};
                      try {
                        b->fill({host, 1, 4, DType::f32}, 2);
                      } catch (const std::exception& e) {
                        expect(std::string(e.what()).find("device memory") != std::string::npos, e.what());
                        return;
                      }
                      throw Failure{"a kernel wrote to host memory"};
                    }});
  checks.push_back({"a missing shared object is a clear error", [] {
                      Device none = emulated_devices().front();
                      none.library = "no_such_library.so";
                      try {
                        none.open(DType::f32);
                      } catch (const Error& e) {
                        expect(e.code == "DEVICE_UNAVAILABLE", "code " + e.code);
                        return;
                      }
                      throw Failure{"a shared object that does not exist was opened"};
                    }});
}

}  // namespace act::test
