#include "cublaslt.h"

#include <cstring>

namespace act::cuda {
namespace {

/// Plans kept: training sees a new number of rows in every micro-batch. A plan made again is the same plan.
constexpr size_t kMaxPlans = 4096;
/// Suggestions looked at for a shape, the fastest first.
constexpr int kMaxSuggestions = 8;

lt::DataType type_of(DType dtype) { return dtype == DType::bf16 ? lt::kBfloat16 : lt::kFloat32; }

/// The largest power of two that divides an address; 256 is all that algorithms ask for.
uint32_t alignment_of(const void* memory) {
  const auto address = reinterpret_cast<uintptr_t>(memory) | 256;
  return static_cast<uint32_t>(address & (~address + 1));
}

}  // namespace

std::unique_ptr<CublasLt> CublasLt::open(const LibraryPlaces& places, std::string& why) {
  std::string first_problem;
  const std::vector<std::string> paths = places.chosen.empty() ? places.usual : std::vector{places.chosen};
  for (const std::string& path : paths) {
    std::string problem;
    if (auto library = load_cublaslt(path, problem)) {
      lt::Handle handle = nullptr;
      const lt::Status status = library->functions.cublasLtCreate(&handle);
      if (status == lt::kSuccess) return std::unique_ptr<CublasLt>(new CublasLt(std::move(*library), handle));
      problem = library->name + " does not start, " + library->functions.cublasLtGetStatusName(status);
    }
    if (first_problem.empty()) first_problem = problem;
  }
  if (!places.chosen.empty()) {
    throw Error("DEVICE_UNAVAILABLE", (first_problem.empty() ? "There is no " + places.chosen : first_problem) +
                                          ". ACT_CUBLASLT_LIBRARY names it: correct it, or unset it to use the usual one.");
  }
  why = (first_problem.empty() ? "cuBLASLt was not found" : first_problem) + ": " + kInstallCublasLt;
  return nullptr;
}

CublasLt::~CublasLt() {
  plans_.clear();
  library_.functions.cublasLtDestroy(handle_);
}

void CublasLt::check(lt::Status status, const char* call, const Shape& s, int line) const {
  if (status == lt::kSuccess) return;
  const std::string what = std::string(call) + " of " + std::to_string(s.m) + " x " + std::to_string(s.n) + " x " +
                           std::to_string(s.k) + ": " + library_.functions.cublasLtGetStatusName(status) +
                           " (cublaslt.cc:" + std::to_string(line) + ")";
  if (status == lt::kAllocFailed) {
    throw Error("OUT_OF_MEMORY", "The GPU is out of memory, " + what + ".");
  }
  if (status == lt::kExecutionFailed) {
    throw Error("DEVICE_LOST", "The GPU is lost to this process, " + what +
                                   ". Dispose of the engine and start a new process; if it happens again, check the system "
                                   "log for Xid errors.");
  }
  throw Error("INTERNAL", library_.name + " refused a product, " + what +
                              ". This is a defect: report it; the option batchInvariant does without cuBLASLt.");
}
#define ACT_CHECK_LT(call, arguments, shape) check(library_.functions.call arguments, #call, shape, __LINE__)

void CublasLt::choose_algorithm(Plan& plan, const Shape& s) {
  const lt::Functions& f = library_.functions;
  lt::Preference made = nullptr;
  ACT_CHECK_LT(cublasLtMatmulPreferenceCreate, (&made), s);
  const Owned<lt::Preference> preference(made, f.cublasLtMatmulPreferenceDestroy);
  const auto prefer = [&](lt::PreferenceAttribute attribute, auto value) {
    ACT_CHECK_LT(cublasLtMatmulPreferenceSetAttribute, (made, attribute, &value, sizeof value), s);
  };
  prefer(lt::kMaxWorkspaceBytes, uint64_t{kWorkspaceBytes});
  prefer(lt::kReductionSchemeMask, uint32_t{lt::kReduceComputeType});
  prefer(lt::kMinAlignmentA, s.b_alignment);
  prefer(lt::kMinAlignmentB, s.a_alignment);
  prefer(lt::kMinAlignmentC, s.c_alignment);
  prefer(lt::kMinAlignmentD, s.c_alignment);
  lt::Heuristic found[kMaxSuggestions] = {};
  int count = 0;
  lt::Layout result = plan.result.get();
  const lt::Status status =
      f.cublasLtMatmulAlgoGetHeuristic(handle_, plan.description.get(), plan.first.get(), plan.second.get(), result, result,
                                       made, kMaxSuggestions, found, &count);
  if (status == lt::kNotSupported) return;  // no algorithm within these rules
  check(status, "cublasLtMatmulAlgoGetHeuristic", s, __LINE__);
  for (const lt::Heuristic& h : std::span(found, static_cast<size_t>(count))) {
    if (h.state != lt::kSuccess || h.workspace_bytes > kWorkspaceBytes) continue;
    // Asked for above; read back, because everything that is reproducible here rests on it.
    uint32_t reduction = 0;
    size_t written = 0;
    ACT_CHECK_LT(cublasLtMatmulAlgoConfigGetAttribute,
                 (&h.algorithm, lt::kAlgorithmReductionScheme, &reduction, sizeof reduction, &written), s);
    if (reduction != 0 && reduction != lt::kReduceComputeType) continue;
    plan.algorithm = h.algorithm;
    plan.served = true;
    return;
  }
}

CublasLt::Plan CublasLt::make_plan(const Shape& s) {
  const lt::Functions& f = library_.functions;
  lt::Description description = nullptr;
  ACT_CHECK_LT(cublasLtMatmulDescCreate, (&description, lt::kCompute32F, lt::kFloat32), s);
  Owned<lt::Description> owned(description, f.cublasLtMatmulDescDestroy);
  const auto layout = [&](DType dtype, int64_t rows, int64_t cols) {
    lt::Layout made = nullptr;
    ACT_CHECK_LT(cublasLtMatrixLayoutCreate,
                 (&made, type_of(dtype), static_cast<uint64_t>(rows), static_cast<uint64_t>(cols), rows), s);
    return Owned<lt::Layout>(made, f.cublasLtMatrixLayoutDestroy);
  };
  // As stored, read column by column: [k][n] is n x k.
  Plan plan{std::move(owned), s.b_transposed ? layout(s.operands, s.k, s.n) : layout(s.operands, s.n, s.k),
            s.a_transposed ? layout(s.operands, s.m, s.k) : layout(s.operands, s.k, s.m), layout(s.result, s.n, s.m)};
  const auto transpose = [&](lt::DescriptionAttribute attribute, bool transposed) {
    const lt::Operation operation = transposed ? lt::kTransposed : lt::kNormal;
    ACT_CHECK_LT(cublasLtMatmulDescSetAttribute, (description, attribute, &operation, sizeof operation), s);
  };
  transpose(lt::kTransposeA, s.b_transposed);
  transpose(lt::kTransposeB, s.a_transposed);
  choose_algorithm(plan, s);
  return plan;
}

const CublasLt::Plan& CublasLt::plan_for(const Shape& shape) {
  if (const auto known = plans_.find(shape); known != plans_.end()) return known->second;
  if (plans_.size() >= kMaxPlans) plans_.clear();
  return plans_.emplace(shape, make_plan(shape)).first->second;
}

std::optional<Launch> CublasLt::product(const Gemm& g, DType operands, void* workspace) {
  if (g.bias || g.inner == 0 || (operands == DType::f32 && g.c.dtype != DType::f32)) return std::nullopt;
  const Shape s{g.c.rows, g.c.cols, g.inner, g.a_transposed, g.b_transposed, operands, g.c.dtype,
                alignment_of(g.a), alignment_of(g.b), alignment_of(g.c.data)};
  if (!plan_for(s).served) return std::nullopt;
  return launch_of({this, s, g.a, g.b, g.c.data, workspace, g.accumulate});
}

/// One by one: a struct would have bytes between its members, and launches are compared byte for byte.
Launch CublasLt::launch_of(const Call& call) {
  const Shape& s = call.shape;
  Launch launch;
  launch.name = "cublasLtMatmul";
  launch.kernel = [] {};
  launch.start = [](const Launch& started, void* stream) {
    const Call it = call_of(started);
    it.library->run(it, stream);
  };
  launch.add_argument(reinterpret_cast<uintptr_t>(call.library));  // no pointer to device memory
  launch.add_argument(call.a);
  launch.add_argument(call.b);
  launch.add_argument(call.c);
  launch.add_argument(call.workspace);
  for (const int64_t size : {s.m, s.n, s.k}) launch.add_argument(size);
  launch.add_argument(s.operands);
  launch.add_argument(s.result);
  for (const bool flag : {s.a_transposed, s.b_transposed, call.accumulate}) launch.add_argument(flag);
  return launch;
}

CublasLt::Call CublasLt::call_of(const Launch& launch) {
  size_t end = 0;
  const auto next = [&]<class T>(T) {
    const size_t at = Launch::place<T>(end);
    end = at + sizeof(T);
    T value;
    std::memcpy(&value, launch.arguments + at, sizeof value);
    return value;
  };
  Call call{};
  call.library = reinterpret_cast<CublasLt*>(next(uintptr_t{}));
  call.a = next(call.a), call.b = next(call.b), call.c = next(call.c), call.workspace = next(call.workspace);
  Shape& s = call.shape;
  for (int64_t* size : {&s.m, &s.n, &s.k}) *size = next(int64_t{});
  s.operands = next(DType{}), s.result = next(DType{});
  for (bool* flag : {&s.a_transposed, &s.b_transposed, &call.accumulate}) *flag = next(bool{});
  s.a_alignment = alignment_of(call.a), s.b_alignment = alignment_of(call.b), s.c_alignment = alignment_of(call.c);
  return call;
}

void CublasLt::run(const Call& call, void* stream) {
  const Plan& plan = plan_for(call.shape);
  const float alpha = 1, beta = call.accumulate ? 1 : 0;
  ACT_CHECK_LT(cublasLtMatmul,
               (handle_, plan.description.get(), &alpha, call.b, plan.first.get(), call.a, plan.second.get(), &beta, call.c,
                plan.result.get(), call.c, plan.result.get(), &plan.algorithm, call.workspace, kWorkspaceBytes, stream),
               call.shape);
}

}  // namespace act::cuda
