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
constexpr bool kAlike = std::is_pointer_v<Ours> == std::is_pointer_v<Theirs> && sizeof(Ours) == sizeof(Theirs);

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

#define ACT_EQUAL(ours, theirs) static_assert(static_cast<int64_t>(ours) == static_cast<int64_t>(theirs), #theirs)
ACT_EQUAL(kSuccess, CUBLAS_STATUS_SUCCESS);
ACT_EQUAL(kNotInitialized, CUBLAS_STATUS_NOT_INITIALIZED);
ACT_EQUAL(kAllocFailed, CUBLAS_STATUS_ALLOC_FAILED);
ACT_EQUAL(kInvalidValue, CUBLAS_STATUS_INVALID_VALUE);
ACT_EQUAL(kArchMismatch, CUBLAS_STATUS_ARCH_MISMATCH);
ACT_EQUAL(kExecutionFailed, CUBLAS_STATUS_EXECUTION_FAILED);
ACT_EQUAL(kInternalError, CUBLAS_STATUS_INTERNAL_ERROR);
ACT_EQUAL(kNotSupported, CUBLAS_STATUS_NOT_SUPPORTED);
ACT_EQUAL(kFloat32, CUDA_R_32F);
ACT_EQUAL(kBfloat16, CUDA_R_16BF);
ACT_EQUAL(kCompute32F, CUBLAS_COMPUTE_32F);
ACT_EQUAL(kNormal, CUBLAS_OP_N);
ACT_EQUAL(kTransposed, CUBLAS_OP_T);
ACT_EQUAL(kTransposeA, CUBLASLT_MATMUL_DESC_TRANSA);
ACT_EQUAL(kTransposeB, CUBLASLT_MATMUL_DESC_TRANSB);
ACT_EQUAL(kMaxWorkspaceBytes, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
ACT_EQUAL(kReductionSchemeMask, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK);
ACT_EQUAL(kMinAlignmentA, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
ACT_EQUAL(kMinAlignmentB, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES);
ACT_EQUAL(kMinAlignmentC, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES);
ACT_EQUAL(kMinAlignmentD, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);
ACT_EQUAL(0, CUBLASLT_REDUCTION_SCHEME_NONE);
ACT_EQUAL(kReduceInPlace, CUBLASLT_REDUCTION_SCHEME_INPLACE);
ACT_EQUAL(kReduceComputeType, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
ACT_EQUAL(kAlgorithmReductionScheme, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME);
static_assert(sizeof(Algorithm) == sizeof(cublasLtMatmulAlgo_t) && sizeof(Heuristic) == sizeof(cublasLtMatmulHeuristicResult_t));
static_assert(offsetof(Heuristic, workspace_bytes) == offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
static_assert(offsetof(Heuristic, state) == offsetof(cublasLtMatmulHeuristicResult_t, state));

}  // namespace
}  // namespace act::cuda::lt

bool act::test::cublaslt_header_compared() { return true; }
#else
bool act::test::cublaslt_header_compared() { return false; }
#endif
