// Our declarations of cuBLASLt against NVIDIA's, at compile time, where cublasLt.h is (CMake looks in the toolkit and in an
// active Python environment; ACT_CUBLASLT_INCLUDE names its folder).
#include "../ops/cuda/cublaslt_api.h"
#include "cuda_checks.h"

#if __has_include(<cublasLt.h>)
#include <cublasLt.h>

#include <type_traits>

namespace act::cuda::lt {
namespace {

/// Whether a parameter or result is handed over alike: pointers as pointers, numbers and enumerators by their size.
template <class Ours, class Theirs>
constexpr bool kAlike = std::is_pointer_v<Ours> == std::is_pointer_v<Theirs> && sizeof(Ours) == sizeof(Theirs) &&
                        (std::is_integral_v<Ours> || std::is_enum_v<Ours>) == (std::is_integral_v<Theirs> || std::is_enum_v<Theirs>);

template <class Ours, class Theirs>
struct Same : std::false_type {};
template <class R, class... A, class S, class... B>
struct Same<R (*)(A...), S(CUBLASWINAPI*)(B...)> {
  static constexpr bool all() {
    if constexpr (sizeof...(A) == sizeof...(B)) return kAlike<R, S> && (kAlike<A, B> && ...);
    return false;
  }
  static constexpr bool value = all();
};
#define ACT_SAME(name, result, arguments) \
  static_assert(Same<result(*) arguments, decltype(&::name)>::value, #name " has another signature");
ACT_CUBLASLT_FUNCTIONS(ACT_SAME)

static_assert(kSuccess == static_cast<int>(CUBLAS_STATUS_SUCCESS) && kNotInitialized == static_cast<int>(CUBLAS_STATUS_NOT_INITIALIZED));
static_assert(kAllocFailed == static_cast<int>(CUBLAS_STATUS_ALLOC_FAILED) && kInvalidValue == static_cast<int>(CUBLAS_STATUS_INVALID_VALUE));
static_assert(kArchMismatch == static_cast<int>(CUBLAS_STATUS_ARCH_MISMATCH));
static_assert(kExecutionFailed == static_cast<int>(CUBLAS_STATUS_EXECUTION_FAILED));
static_assert(kInternalError == static_cast<int>(CUBLAS_STATUS_INTERNAL_ERROR) && kNotSupported == static_cast<int>(CUBLAS_STATUS_NOT_SUPPORTED));
static_assert(kFloat32 == static_cast<int>(CUDA_R_32F) && kBfloat16 == static_cast<int>(CUDA_R_16BF));
static_assert(kCompute32F == static_cast<int>(CUBLAS_COMPUTE_32F));
static_assert(kNormal == static_cast<int>(CUBLAS_OP_N) && kTransposed == static_cast<int>(CUBLAS_OP_T));
static_assert(kTransposeA == static_cast<int>(CUBLASLT_MATMUL_DESC_TRANSA) && kTransposeB == static_cast<int>(CUBLASLT_MATMUL_DESC_TRANSB));
static_assert(kMaxWorkspaceBytes == static_cast<int>(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES));
static_assert(kReductionSchemeMask == static_cast<int>(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK));
static_assert(kMinAlignmentA == static_cast<int>(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES));
static_assert(kMinAlignmentB == static_cast<int>(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES));
static_assert(kMinAlignmentC == static_cast<int>(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES));
static_assert(kMinAlignmentD == static_cast<int>(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES));
static_assert(0 == static_cast<int>(CUBLASLT_REDUCTION_SCHEME_NONE) && kReduceInPlace == static_cast<unsigned>(CUBLASLT_REDUCTION_SCHEME_INPLACE));
static_assert(kReduceComputeType == static_cast<unsigned>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
static_assert(kReduceOutputType == static_cast<unsigned>(CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE));
static_assert(kAlgorithmReductionScheme == static_cast<int>(CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME));
static_assert(sizeof(Algorithm) == sizeof(cublasLtMatmulAlgo_t) && sizeof(Heuristic) == sizeof(cublasLtMatmulHeuristicResult_t));
static_assert(offsetof(Heuristic, workspace_bytes) == offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
static_assert(offsetof(Heuristic, state) == offsetof(cublasLtMatmulHeuristicResult_t, state));

}  // namespace
}  // namespace act::cuda::lt

bool act::test::cublaslt_header_compared() { return true; }
#else
bool act::test::cublaslt_header_compared() { return false; }
#endif
