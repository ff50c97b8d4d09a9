// Products by cuBLASLt without a GPU: by the emulated one (ops/cuda/emulator/cublaslt.cc), which is as strict as NVIDIA's
// documentation. Also how the real one is found, and, where it is, what it says to our descriptors.
#include "../ops/cuda/cublaslt.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "../ops/floats.h"
#include "cuda_checks.h"

namespace act::test {
namespace {

using cuda::CublasLt;
using cuda::Gemm;

/// What the emulated library has counted in this process.
struct Counts {
  int64_t alive, suggestions, products;
};
Counts counts() {
  void* const library = dlopen((own_folder() + "act_emulated_cublaslt.so").c_str(), RTLD_NOW);
  expect(library != nullptr, "act_emulated_cublaslt.so is not beside the tests");
  auto* const count = reinterpret_cast<void (*)(int64_t*)>(dlsym(library, "act_emulated_cublaslt_counts"));
  int64_t values[3];
  count(values);
  return {values[0], values[1], values[2]};
}

/// The emulated library behind CublasLt itself, with host memory.
std::unique_ptr<CublasLt> emulated(const std::string& fault = "") {
  fault.empty() ? unsetenv("ACT_EMULATED_CUBLASLT_FAULT") : setenv("ACT_EMULATED_CUBLASLT_FAULT", fault.c_str(), 1);
  std::string why;
  auto made = CublasLt::open({"", {own_folder() + "act_emulated_cublaslt.so"}}, why);
  expect(made != nullptr, why);
  return made;
}

Device cublaslt_device(const std::string& fault = "") {
  Device device = emulated_devices().front();
  device.batch_invariant = false;
  device.cublaslt_fault = fault;
  return device;
}

Error error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  throw Failure{"no error was thrown"};
}

void expect_within(const std::string& text, const std::string& part) {
  expect(text.find(part) != std::string::npos, "\"" + text + "\" does not say \"" + part + "\"");
}

/// A matrix in host memory of either type, at an address that 256 divides plus `offset` elements.
class Matrix {
 public:
  Matrix(const Tensor& t, DType dtype, size_t offset)
      : dtype_(dtype), memory_(t.values.size() + offset + 256), first_(aligned() + offset * size_of(dtype)) {
    for (size_t i = 0; i < t.values.size(); i++) set(static_cast<int64_t>(i), t.values[i]);
  }
  void set(int64_t i, float x) const {
    if (dtype_ == DType::f32) reinterpret_cast<float*>(first_)[i] = x;
    if (dtype_ == DType::bf16) reinterpret_cast<uint16_t*>(first_)[i] = float_to_bf16(x);
  }
  float at(int64_t i) const {
    if (dtype_ == DType::f32) return reinterpret_cast<float*>(first_)[i];
    return bf16_to_float(reinterpret_cast<uint16_t*>(first_)[i]);
  }
  char* data() const { return first_; }

 private:
  char* aligned() {
    const auto address = reinterpret_cast<uintptr_t>(memory_.data());
    return reinterpret_cast<char*>((address + 255) / 256 * 256);
  }
  const DType dtype_;
  std::vector<float> memory_;
  char* const first_;
};

/// C (+)= A B for both ways to store each operand, odd sizes, and addresses that only an element's size divides.
void every_form(DType operands, DType result) {
  const auto lt = emulated();
  std::vector<float> workspace(CublasLt::kWorkspaceBytes / 4 + 64);
  auto* const aligned = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(workspace.data()) + 255) / 256 * 256);
  Rng rng(2);
  struct Size {
    int64_t m, n, k;
    size_t offset;
  };
  for (const Size& s : {Size{1, 1, 1, 0}, {3, 5, 7, 1}, {8, 16, 32, 0}, {13, 1, 9, 3}, {1, 33, 64, 8}, {17, 24, 41, 0}}) {
    for (int form = 0; form < 8; form++) {
      const bool a_transposed = form & 1, b_transposed = form & 2, accumulate = form & 4;
      const std::string what = std::to_string(s.m) + "x" + std::to_string(s.n) + "x" + std::to_string(s.k) + " form " +
                               std::to_string(form);
      const Matrix a(random(rng, "a", s.m, s.k), operands, s.offset), b(random(rng, "b", s.k, s.n), operands, s.offset);
      const Matrix c(random(rng, "c", s.m, s.n), result, s.offset);
      std::vector<double> want, magnitude;
      for (int64_t i = 0; i < s.m; i++) {
        for (int64_t j = 0; j < s.n; j++) {
          double sum = accumulate ? c.at(i * s.n + j) : 0, size = std::fabs(sum);
          for (int64_t l = 0; l < s.k; l++) {
            const double x = a.at(a_transposed ? l * s.m + i : i * s.k + l), y = b.at(b_transposed ? j * s.k + l : l * s.n + j);
            sum += x * y, size += std::fabs(x * y);
          }
          want.push_back(sum), magnitude.push_back(size);
        }
      }
      // What is overwritten may be NaN.
      for (int64_t i = 0; i < s.m * s.n && !accumulate; i++) c.set(i, NAN);
      Gemm g;
      g.c = {c.data(), s.m, s.n, result};
      g.accumulate = accumulate, g.a = a.data(), g.b = b.data();
      g.a_transposed = a_transposed, g.b_transposed = b_transposed, g.inner = s.k;
      const auto launch = lt->product(g, operands, aligned);
      expect(launch.has_value(), what + " was not served");
      launch->start(*launch, nullptr);
      for (size_t i = 0; i < want.size(); i++) {
        // k + 1 products and sums in fp32, and the rounding of the result.
        const double bound = 2 * static_cast<double>(s.k + 2) * kRoundoff * magnitude[i] +
                             (result == DType::bf16 ? std::fabs(want[i]) / 256 : 0);
        const double got = c.at(static_cast<int64_t>(i));
        expect(std::fabs(got - want[i]) <= bound, what + "[" + std::to_string(i) + "]: got " + std::to_string(got) +
                                                      ", expected " + std::to_string(want[i]));
      }
    }
  }
}

struct Small {
  Tensor x, w, bias;
};
Small small_product(int64_t rows) {
  Rng rng(4);
  return {random(rng, "x", rows, 24), random(rng, "w", 17, 24), random(rng, "bias", 1, 17)};
}
Tensor product(Backend& b, const Small& s, bool with_bias = false) {
  const auto w = make_weight(b, s.w, DType::f32, false);
  const OnDevice x(b, s.x), bias(b, s.bias), y(b, s.x.rows, 17);
  b.linear(y, false, x, *w, with_bias ? bias.view() : View{});
  return y.read("y");
}

void shapes_are_planned_once() {
  const auto b = cublaslt_device().open(DType::f32);
  const Counts before = counts();
  for (int i = 0; i < 3; i++) product(*b, small_product(5));
  product(*b, small_product(6));
  const Counts after = counts();
  const int64_t asked = after.suggestions - before.suggestions;
  expect(asked == 2, std::to_string(asked) + " suggestions for two shapes");
  expect(after.products - before.products == 4, "not every product was cuBLASLt's");
}

void nothing_is_left() {
  const int64_t before = counts().alive;
  for (int i = 0; i < 2; i++) {
    const auto b = cublaslt_device().open(DType::f32);
    product(*b, small_product(5));
    expect(counts().alive > before, "nothing was made");
  }
  expect(counts().alive == before, std::to_string(counts().alive - before) + " objects of cuBLASLt were left");
}

void same_call_same_bits_but_not_for_every_batch() {
  const auto b = cublaslt_device().open(DType::f32);
  const Small many = small_product(40);
  const Tensor all = product(*b, many);
  expect_same_bits(product(*b, many), all, "the same product again");
  Small one = many;
  one.x.rows = 1, one.x.values.resize(24);
  Tensor first = all;
  first.rows = 1, first.values.resize(17);
  expect(product(*b, one).values != first.values, "one row had the bits of forty: nothing here tells the modes apart");
}

/// What cuBLASLt has no form for has the bits of our own kernels.
void unserved_goes_to_own_kernels() {
  const Small s = small_product(40);
  Device own = emulated_devices().front();
  const Tensor biased = product(*own.open(DType::f32), s, true), plain = product(*own.open(DType::f32), s);
  const int64_t before = counts().products;
  expect_same_bits(product(*cublaslt_device().open(DType::f32), s, true), biased, "with a bias");
  expect_same_bits(product(*cublaslt_device("no-algorithm").open(DType::f32), s), plain, "without an algorithm");
  expect(counts().products == before, "cuBLASLt multiplied");
}

void adding_in_place_is_not_taken() {
  const int64_t before = counts().products;
  product(*cublaslt_device("in-place").open(DType::f32), small_product(40));
  expect(counts().products == before + 1, "the next suggestion was not taken");
}

void failures_are_errors() {
  const auto code = [](const std::string& fault, const char* expected) {
    const auto b = cublaslt_device(fault).open(DType::f32);
    const Error error = error_of([&] { product(*b, small_product(5)); });
    expect(error.code == expected, fault + ": code " + error.code);
    expect_within(error.what(), "5 x 17 x 24");
    expect_within(error.what(), "CUBLAS_STATUS_");
    expect_within(error.what(), "(cublaslt.cc:");
  };
  code("execution", "DEVICE_LOST");
  code("memory", "OUT_OF_MEMORY");
  code("refused", "INTERNAL");
  code("heuristic", "INTERNAL");
}

void what_computes_is_said() {
  const auto words = [](Device device) { return device.open(DType::f32)->describe(); };
  expect_within(words(cublaslt_device()), "products by cuBLASLt 13.1.1 (");
  expect_within(words(emulated_devices().front()), "batch-invariant");
  Device none = cublaslt_device();
  none.cublaslt.clear();
  expect_within(words(none), "products by own kernels. cuBLASLt was not found: install NVIDIA's package `nvidia-cublas`");
  expect_within(words(cublaslt_device("create")), "does not start, CUBLAS_STATUS_NOT_INITIALIZED: install");
  expect_within(words(cublaslt_device("old")), "cuBLASLt 11.11.3 (");
  expect_within(words(cublaslt_device("old")), "is too old: 12.0 is the oldest served");
  none.cublaslt = "act_cuda_emulated.so";
  expect_within(words(none), "is not a cuBLASLt of version 12 or newer: it has no cublasLtGetVersion");
  none.cublaslt = "nothing.so";
  expect_within(words(none), "cuBLASLt does not load");
  // Without cuBLASLt our own kernels are all there is: the bits of the batch-invariant mode.
  const Small s = small_product(40);
  expect_same_bits(product(*none.open(DType::f32), s), product(*emulated_devices().front().open(DType::f32), s), "own kernels");
}

void a_chosen_library_must_do() {
  std::string why;
  const std::vector<std::string> paths{own_folder() + "act_cuda_emulated.so", "/nowhere/libcublasLt.so", "libno_such.so"};
  for (const std::string& path : paths) {
    const Error error = error_of([&] { CublasLt::open({path, {}}, why); });
    expect(error.code == "DEVICE_UNAVAILABLE", "code " + error.code);
    expect_within(error.what(), path);
    expect_within(error.what(), "ACT_CUBLASLT_LIBRARY");
  }
}

/// A library that does not do is passed over.
void the_next_place_is_tried() {
  unsetenv("ACT_EMULATED_CUBLASLT_FAULT");
  std::string why;
  const std::string other = own_folder() + "act_cuda_emulated.so", right = own_folder() + "act_emulated_cublaslt.so";
  const auto lt = CublasLt::open({"", {"libno_such.so", other, right}}, why);
  expect(lt != nullptr && why.empty(), "nothing was opened: " + why);
}

void places_are_searched_in_order() {
  namespace fs = std::filesystem;
  char pattern[] = "/tmp/act-cublaslt-XXXXXX";
  const std::string root = mkdtemp(pattern);
  const auto put = [&](const std::string& path) {
    fs::create_directories(fs::path(root + path).parent_path());
    std::ofstream(root + path) << "x";
    return root + path;
  };
  const std::vector<std::string> files{
      put("/cuda/lib64/libcublasLt.so.12"),
      put("/env/lib/python3.11/site-packages/nvidia/cu13/lib/libcublasLt.so.13"),
      put("/env/lib/python3.11/site-packages/nvidia/cublas/lib/libcublasLt.so.12"),
      put("/conda/lib/libcublasLt.so.13"),
  };
  const auto places = cuda::cublaslt_places([&](const char* name) -> const char* {
    static std::string value;
    const std::string wanted = name;
    if (wanted == "CUDA_HOME") return (value = root + "/cuda").c_str();
    if (wanted == "VIRTUAL_ENV") return (value = root + "/env").c_str();
    if (wanted == "CONDA_PREFIX") return (value = root + "/conda").c_str();
    return nullptr;
  });
  fs::remove_all(root);
  std::vector<std::string> ours;
  for (const std::string& path : places.usual) {
    if (path.starts_with(root)) ours.push_back(path);
  }
  expect(places.chosen.empty() && places.usual.size() >= 6, "a place is missing");
  expect( places.usual[0] == "libcublasLt.so.13" && places.usual[1] == "libcublasLt.so.12",
         "the dynamic linker's own names must come first");
  expect(ours == files, "other files, or another order");
  const auto chosen = cuda::cublaslt_places([](const char* name) {
    return std::string(name) == "ACT_CUBLASLT_LIBRARY" ? "/mine.so" : nullptr;
  });
  expect(chosen.chosen == "/mine.so" && chosen.usual.empty(), "ACT_CUBLASLT_LIBRARY must be the only place");
}

/// The real library, where it is: its descriptors take what we set, in the sizes we set it. A handle needs a GPU.
void the_real_one_takes_our_descriptors() {
  std::optional<cuda::CublasLtLibrary> library;
  const auto places = cuda::cublaslt_places(std::getenv);
  std::string why;
  for (const std::string& path : places.chosen.empty() ? places.usual : std::vector{places.chosen}) {
    if (!library) library = cuda::load_cublaslt(path, why);
  }
  if (!library) {
    std::printf("left out: NVIDIA's cuBLASLt is not on this machine (an active Python environment may hold nvidia-cublas)\n");
    return;
  }
  namespace lt = cuda::lt;
  const lt::Functions& f = library->functions;
  const auto ok = [&](lt::Status status, const char* what) {
    expect(status == lt::kSuccess, library->name + ", " + what + ": " + f.cublasLtGetStatusName(status));
  };
  lt::Description d = nullptr;
  ok(f.cublasLtMatmulDescCreate(&d, lt::kCompute32F, lt::kFloat32), "description");
  for (const auto attribute : {lt::kTransposeA, lt::kTransposeB}) {
    const lt::Operation transposed = lt::kTransposed;
    ok(f.cublasLtMatmulDescSetAttribute(d, attribute, &transposed, sizeof transposed), "transpose");
    expect(f.cublasLtMatmulDescSetAttribute(d, attribute, &transposed, 8) == lt::kInvalidValue, "a wrong size was taken");
  }
  ok(f.cublasLtMatmulDescDestroy(d), "destroying the description");
  for (const lt::DataType type : {lt::kFloat32, lt::kBfloat16}) {
    lt::Layout layout = nullptr;
    ok(f.cublasLtMatrixLayoutCreate(&layout, type, 17, 5, 17), "layout");
    ok(f.cublasLtMatrixLayoutDestroy(layout), "destroying the layout");
  }
  lt::Preference p = nullptr;
  ok(f.cublasLtMatmulPreferenceCreate(&p), "preference");
  const uint64_t workspace = CublasLt::kWorkspaceBytes;
  ok(f.cublasLtMatmulPreferenceSetAttribute(p, lt::kMaxWorkspaceBytes, &workspace, sizeof workspace), "workspace");
  const uint32_t mask = lt::kReduceComputeType, alignment = 16;
  ok(f.cublasLtMatmulPreferenceSetAttribute(p, lt::kReductionSchemeMask, &mask, sizeof mask), "reduction schemes");
  for (const auto attribute : {lt::kMinAlignmentA, lt::kMinAlignmentB, lt::kMinAlignmentC, lt::kMinAlignmentD}) {
    ok(f.cublasLtMatmulPreferenceSetAttribute(p, attribute, &alignment, sizeof alignment), "alignment");
  }
  ok(f.cublasLtMatmulPreferenceDestroy(p), "destroying the preference");
  const lt::Algorithm nothing{};
  uint32_t reduction = 9;
  size_t written = 0;
  ok(f.cublasLtMatmulAlgoConfigGetAttribute(&nothing, lt::kAlgorithmReductionScheme, &reduction, sizeof reduction, &written),
     "reading an algorithm");
  expect(written == sizeof reduction && reduction == 0, "an algorithm without parts has a reduction scheme");
  std::printf("tried with %s\n", library->name.c_str());
}

}  // namespace

void cublaslt_checks(std::vector<Check>& checks) {
  checks.push_back({"cublaslt, every form fp32", [] { every_form(DType::f32, DType::f32); }});
  checks.push_back({"cublaslt, every form bf16", [] { every_form(DType::bf16, DType::bf16); }});
  checks.push_back({"cublaslt, every form bf16 to fp32", [] { every_form(DType::bf16, DType::f32); }});
  checks.push_back({"cublaslt, a shape is planned once", shapes_are_planned_once});
  checks.push_back({"cublaslt, nothing is left", nothing_is_left});
  checks.push_back({"cublaslt, the same call has the same bits", same_call_same_bits_but_not_for_every_batch});
  checks.push_back({"cublaslt, what it does not serve goes to own kernels", unserved_goes_to_own_kernels});
  checks.push_back({"cublaslt, an algorithm that adds in place is not taken", adding_in_place_is_not_taken});
  checks.push_back({"cublaslt, failures are errors", failures_are_errors});
  checks.push_back({"cublaslt, what computes is said", what_computes_is_said});
  checks.push_back({"cublaslt, a chosen library must do", a_chosen_library_must_do});
  checks.push_back({"cublaslt, the next place is tried", the_next_place_is_tried});
  checks.push_back({"cublaslt, places are searched in order", places_are_searched_in_order});
  checks.push_back({"cublaslt, the real one takes our descriptors", the_real_one_takes_our_descriptors});
  checks.push_back({"cublaslt, our declarations are those of cublasLt.h", [] {
                      if (cublaslt_header_compared()) return;
                      std::printf("left out: cublasLt.h was not there when the tests were built\n");
                    }});
}

}  // namespace act::test
