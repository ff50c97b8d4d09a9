// cuBLASLt in host memory, as far as it is used here (cublaslt_api.h): the shared object act_emulated_cublaslt.so, which
// the emulated device takes for cuBLASLt where ACT_EMULATED_CUBLASLT names it.
//
// It is strict where NVIDIA's documentation is: descriptors, attributes with their sizes, layouts, types that go
// together, algorithms that belong to the product, alignment and workspace they were chosen for. Products of more than 8
// columns are split and added in two parts, so that, as with the real one, another number of rows is another order.
//   ACT_EMULATED_CUBLASLT_FAULT   create, old, heuristic, no-algorithm, in-place (suggests an algorithm that adds in
//                                 place first, though told not to), execution, memory, refused
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "../../floats.h"
#include "../cublaslt_api.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace act::cuda::lt {

struct Context {};
struct MatmulDescription {
  std::map<int32_t, int32_t> operations{{kTransposeA, kNormal}, {kTransposeB, kNormal}};
  bool transposes(int32_t which) const { return operations.at(which) == kTransposed; }
};
struct MatrixLayout {
  DataType type;
  uint64_t rows, cols;
  int64_t leading;
};
struct MatmulPreference {
  uint64_t workspace = 0;
  uint32_t reductions = 7;
  std::map<int32_t, uint32_t> alignment{
      {kMinAlignmentA, 256}, {kMinAlignmentB, 256}, {kMinAlignmentC, 256}, {kMinAlignmentD, 256}};
};

namespace {

std::string fault() {
  const char* const name = std::getenv("ACT_EMULATED_CUBLASLT_FAULT");
  return name ? name : "";
}

/// Objects that were made and not destroyed: a call with any other is refused, and tests see that none is left.
std::set<const void*> alive;
std::mutex alive_mutex;
std::atomic<int64_t> suggestions = 0, products = 0;

bool known(std::initializer_list<const void*> objects) {
  const std::lock_guard lock(alive_mutex);
  for (const void* object : objects) {
    if (!alive.contains(object)) return false;
  }
  return true;
}

template <class Object, class... Values>
Status make(Object** to, Values... values) {
  if (!to) return kInvalidValue;
  *to = new Object{values...};
  const std::lock_guard lock(alive_mutex);
  alive.insert(*to);
  return kSuccess;
}

template <class Object>
Status destroy(Object* object) {
  const std::lock_guard lock(alive_mutex);
  if (alive.erase(object) == 0) return kInvalidValue;
  delete object;
  return kSuccess;
}

/// What an algorithm is for; it fits into the library's opaque 64 bytes.
struct Choice {
  uint32_t reduction, parts;
  uint32_t alignment[4];
  uint64_t workspace, product;  // a hash of the product's layouts and transposes
};
static_assert(sizeof(Choice) <= sizeof(Algorithm));

Algorithm pack(const Choice& choice) {
  Algorithm algorithm{};
  std::memcpy(&algorithm, &choice, sizeof choice);
  return algorithm;
}
Choice unpack(const Algorithm& algorithm) {
  Choice choice;
  std::memcpy(&choice, &algorithm, sizeof choice);
  return choice;
}

struct Product {
  uint64_t m, n, k;
};

/// Status and sizes of D = op(A) op(B) + C by the rules for layouts and types.
Status product_of(Product& p, const MatmulDescription& d, const MatrixLayout& a, const MatrixLayout& b,
                  const MatrixLayout& c, const MatrixLayout& to) {
  for (const MatrixLayout& x : {a, b, c, to}) {
    if (x.rows == 0 || x.cols == 0 || x.leading < static_cast<int64_t>(x.rows)) return kInvalidValue;
  }
  const bool a_transposed = d.transposes(kTransposeA), b_transposed = d.transposes(kTransposeB);
  p = {a_transposed ? a.cols : a.rows, b_transposed ? b.rows : b.cols, a_transposed ? a.rows : a.cols};
  if ((b_transposed ? b.cols : b.rows) != p.k) return kInvalidValue;
  for (const MatrixLayout& x : {c, to}) {
    if (x.rows != p.m || x.cols != p.n) return kInvalidValue;
  }
  // Sums in fp32: operands of one type; results of that type, or fp32.
  if (a.type != b.type || c.type != to.type || (to.type != a.type && to.type != kFloat32)) return kNotSupported;
  return kSuccess;
}

uint64_t hash_of(const MatmulDescription& d, const MatrixLayout& a, const MatrixLayout& b, const MatrixLayout& to) {
  uint64_t hash = 1469598103934665603ull;
  const auto add = [&](uint64_t x) { hash = (hash ^ x) * 1099511628211ull; };
  for (const auto& [attribute, operation] : d.operations) add(static_cast<uint64_t>(operation));
  for (const MatrixLayout& x : {a, b, to}) {
    for (const uint64_t number : {static_cast<uint64_t>(x.type), x.rows, x.cols, static_cast<uint64_t>(x.leading)}) add(number);
  }
  return hash;
}

float load(const void* from, DataType type, uint64_t index) {
  if (type == kFloat32) return static_cast<const float*>(from)[index];
  return bf16_to_float(static_cast<const uint16_t*>(from)[index]);
}
void store(void* to, DataType type, uint64_t index, float value) {
  if (type == kFloat32) {
    static_cast<float*>(to)[index] = value;
  } else {
    static_cast<uint16_t*>(to)[index] = float_to_bf16(value);
  }
}

bool aligned(const void* memory, uint64_t to) { return memory && reinterpret_cast<uintptr_t>(memory) % to == 0; }

}  // namespace
}  // namespace act::cuda::lt

using namespace act::cuda::lt;

/// For the tests: objects alive, suggestions asked for, products computed.
EXPORTED void act_emulated_cublaslt_counts(int64_t counts[3]) {
  counts[0] = static_cast<int64_t>(alive.size());
  counts[1] = suggestions;
  counts[2] = products;
}

EXPORTED size_t cublasLtGetVersion() { return fault() == "old" ? 111103 : 130101; }
EXPORTED const char* cublasLtGetStatusName(Status status) {
  switch (status) {
    case kSuccess: return "CUBLAS_STATUS_SUCCESS";
    case kNotInitialized: return "CUBLAS_STATUS_NOT_INITIALIZED";
    case kAllocFailed: return "CUBLAS_STATUS_ALLOC_FAILED";
    case kInvalidValue: return "CUBLAS_STATUS_INVALID_VALUE";
    case kArchMismatch: return "CUBLAS_STATUS_ARCH_MISMATCH";
    case kExecutionFailed: return "CUBLAS_STATUS_EXECUTION_FAILED";
    case kInternalError: return "CUBLAS_STATUS_INTERNAL_ERROR";
    case kNotSupported: return "CUBLAS_STATUS_NOT_SUPPORTED";
  }
  return "CUBLAS_STATUS_UNKNOWN";
}
EXPORTED Status cublasLtCreate(Handle* handle) { return fault() == "create" ? kNotInitialized : make(handle); }
EXPORTED Status cublasLtDestroy(Handle handle) { return destroy(handle); }
EXPORTED Status cublasLtMatmulDescCreate(Description* d, ComputeType compute, DataType scale) {
  return compute == kCompute32F && scale == kFloat32 ? make(d) : kInvalidValue;
}
EXPORTED Status cublasLtMatmulDescDestroy(Description d) { return destroy(d); }
EXPORTED Status cublasLtMatmulDescSetAttribute(Description d, DescriptionAttribute attribute, const void* value,
                                               size_t bytes) {
  if (!known({d}) || !value || !d->operations.contains(attribute) || bytes != sizeof(int32_t)) return kInvalidValue;
  int32_t operation = 0;
  std::memcpy(&operation, value, sizeof operation);
  if (operation != kNormal && operation != kTransposed) return kInvalidValue;
  d->operations[attribute] = operation;
  return kSuccess;
}
EXPORTED Status cublasLtMatrixLayoutCreate(Layout* layout, DataType type, uint64_t rows, uint64_t cols, int64_t leading) {
  return type == kFloat32 || type == kBfloat16 ? make(layout, type, rows, cols, leading) : kInvalidValue;
}
EXPORTED Status cublasLtMatrixLayoutDestroy(Layout layout) { return destroy(layout); }
EXPORTED Status cublasLtMatmulPreferenceCreate(Preference* preference) { return make(preference); }
EXPORTED Status cublasLtMatmulPreferenceDestroy(Preference preference) { return destroy(preference); }
EXPORTED Status cublasLtMatmulPreferenceSetAttribute(Preference p, PreferenceAttribute attribute, const void* value,
                                                     size_t bytes) {
  const size_t expected = attribute == kMaxWorkspaceBytes ? sizeof(uint64_t) : sizeof(uint32_t);
  if (!known({p}) || !value || bytes != expected) return kInvalidValue;
  if (attribute == kMaxWorkspaceBytes) {
    std::memcpy(&p->workspace, value, bytes);
  } else if (attribute == kReductionSchemeMask) {
    std::memcpy(&p->reductions, value, bytes);
  } else if (const auto alignment = p->alignment.find(attribute); alignment != p->alignment.end()) {
    std::memcpy(&alignment->second, value, bytes);
  } else {
    return kInvalidValue;
  }
  return kSuccess;
}

EXPORTED Status cublasLtMatmulAlgoGetHeuristic(Handle handle, Description d, Layout a, Layout b, Layout c, Layout to,
                                               Preference preference, int wanted, Heuristic* found, int* count) {
  suggestions++;
  if (fault() == "heuristic") return kInternalError;
  if (fault() == "no-algorithm") return kNotSupported;
  if (!known({handle, d, a, b, c, to, preference}) || wanted <= 0 || !found || !count) return kInvalidValue;
  Product p{};
  if (const Status status = product_of(p, *d, *a, *b, *c, *to); status != kSuccess) return status;
  const auto& alignment = preference->alignment;
  const bool split = p.n > 8 && preference->reductions & kReduceComputeType;
  const Choice choice{split ? uint32_t{kReduceComputeType} : 0, split ? 2u : 1u,
                      {alignment.at(kMinAlignmentA), alignment.at(kMinAlignmentB), alignment.at(kMinAlignmentC),
                       alignment.at(kMinAlignmentD)},
                      split ? p.m * p.n * 4 : 0, hash_of(*d, *a, *b, *to)};
  *count = 0;
  const auto suggest = [&](const Choice& one, Status state) {
    if (*count < wanted) found[(*count)++] = {pack(one), one.workspace, state, 1, {}};
  };
  Choice unsplit = choice;
  unsplit.reduction = 0, unsplit.parts = 1, unsplit.workspace = 0;
  if (fault() == "in-place") {
    Choice in_place = choice;
    in_place.reduction = kReduceInPlace;
    suggest(in_place, kSuccess);
  }
  suggest(choice, choice.workspace <= preference->workspace ? kSuccess : kNotSupported);
  suggest(unsplit, kSuccess);
  return kSuccess;
}

EXPORTED Status cublasLtMatmulAlgoConfigGetAttribute(const Algorithm* algorithm, AlgorithmAttribute attribute,
                                                     void* value, size_t bytes, size_t* written) {
  if (!algorithm || !value || !written || bytes != sizeof(uint32_t)) return kInvalidValue;
  if (attribute != kAlgorithmReductionScheme) return kInvalidValue;
  const uint32_t reduction = unpack(*algorithm).reduction;
  std::memcpy(value, &reduction, bytes);
  *written = bytes;
  return kSuccess;
}

EXPORTED Status cublasLtMatmul(Handle handle, Description d, const void* alpha, const void* a, Layout la, const void* b,
                               Layout lb, const void* beta, const void* c, Layout lc, void* to, Layout lto,
                               const Algorithm* algorithm, void* workspace, size_t workspace_bytes, void*) {
  if (fault() == "execution") return kExecutionFailed;
  if (fault() == "memory") return kAllocFailed;
  if (fault() == "refused") return kInvalidValue;
  if (!known({handle})) return kNotInitialized;
  if (!known({d, la, lb, lc, lto}) || !alpha || !beta || !algorithm) return kInvalidValue;
  Product p{};
  if (const Status status = product_of(p, *d, *la, *lb, *lc, *lto); status != kSuccess) return status;
  const Choice choice = unpack(*algorithm);
  if (choice.product != hash_of(*d, *la, *lb, *lto)) return kNotSupported;
  if (choice.reduction == kReduceInPlace) return kNotSupported;  // what the tests must never ask for
  const void* const operands[] = {a, b, c, to};
  for (int i = 0; i < 4; i++) {
    if (!aligned(operands[i], choice.alignment[i])) return kInvalidValue;
  }
  if (choice.workspace > workspace_bytes || (choice.workspace && !aligned(workspace, 256))) return kInvalidValue;
  products++;
  const float scale = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta);
  const bool a_transposed = d->transposes(kTransposeA), b_transposed = d->transposes(kTransposeB);
  const auto lda = static_cast<uint64_t>(la->leading), ldb = static_cast<uint64_t>(lb->leading);
  const auto ldc = static_cast<uint64_t>(lc->leading), ldd = static_cast<uint64_t>(lto->leading);
  // Parts one after the other, each over its share of the inner indices, from zero.
  std::vector<float> sums(p.m * p.n, 0.0f);
  for (uint32_t part = 0; part < choice.parts; part++) {
    const uint64_t first = p.k * part / choice.parts, end = p.k * (part + 1) / choice.parts;
    for (uint64_t j = 0; j < p.n; j++) {
      for (uint64_t i = 0; i < p.m; i++) {
        float sum = 0;
        for (uint64_t l = first; l < end; l++) {
          const float x = load(a, la->type, a_transposed ? l + i * lda : i + l * lda);
          sum += x * load(b, lb->type, b_transposed ? j + l * ldb : l + j * ldb);
        }
        sums[i + j * p.m] += sum;
      }
    }
  }
  if (choice.workspace) std::memcpy(workspace, sums.data(), choice.workspace);  // so that a workspace too small is noticed
  for (uint64_t j = 0; j < p.n; j++) {
    for (uint64_t i = 0; i < p.m; i++) {
      float value = scale * sums[i + j * p.m];
      if (keep != 0) value += keep * load(c, lc->type, i + j * ldc);  // C is not read where beta is 0
      store(to, lto->type, i + j * ldd, value);
    }
  }
  return kSuccess;
}
