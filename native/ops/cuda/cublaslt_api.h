// The part of cuBLASLt that is used here, declared by ourselves: nothing of NVIDIA's is needed to build. Values and
// signatures are cublasLt.h's; native/test/cuda_cublaslt_header.cc compares them where that header is.
#pragma once
#include <cstddef>
#include <cstdint>

namespace act::cuda::lt {

using Status = int32_t;
enum : Status {
  kSuccess = 0,
  kNotInitialized = 1,
  kAllocFailed = 3,
  kInvalidValue = 7,
  kArchMismatch = 8,
  kExecutionFailed = 13,
  kInternalError = 14,
  kNotSupported = 15,
};

enum DataType : int32_t { kFloat32 = 0, kBfloat16 = 14 };
enum ComputeType : int32_t { kCompute32F = 68 };  // fp32 products and sums: no TF32
enum Operation : int32_t { kNormal = 0, kTransposed = 1 };

enum DescriptionAttribute : int32_t { kTransposeA = 3, kTransposeB = 4 };
enum PreferenceAttribute : int32_t {
  kMaxWorkspaceBytes = 1,     // uint64_t
  kReductionSchemeMask = 3,   // uint32_t
  kMinAlignmentA = 5,         // uint32_t, bytes
  kMinAlignmentB = 6,
  kMinAlignmentC = 7,
  kMinAlignmentD = 8,
};
/// How the parts of a product whose inner dimension is split are added. 0: it is not split.
enum ReductionScheme : uint32_t { kReduceInPlace = 1, kReduceComputeType = 2 };
enum AlgorithmAttribute : int32_t { kAlgorithmReductionScheme = 3 };  // uint32_t

using Handle = struct Context*;
using Description = struct MatmulDescription*;
using Layout = struct MatrixLayout*;  // column-major
using Preference = struct MatmulPreference*;
struct Algorithm {
  uint64_t data[8];
};
struct Heuristic {
  Algorithm algorithm;
  size_t workspace_bytes;
  Status state;
  float waves;
  int32_t reserved[4];
};

/// X(name, result, arguments)
#define ACT_CUBLASLT_FUNCTIONS(X)                                                                                        \
  X(cublasLtGetVersion, size_t, ())                                                                                      \
  X(cublasLtGetStatusName, const char*, (Status))                                                                        \
  X(cublasLtCreate, Status, (Handle*))                                                                                   \
  X(cublasLtDestroy, Status, (Handle))                                                                                   \
  X(cublasLtMatmulDescCreate, Status, (Description*, ComputeType, DataType scale))                                       \
  X(cublasLtMatmulDescDestroy, Status, (Description))                                                                    \
  X(cublasLtMatmulDescSetAttribute, Status, (Description, DescriptionAttribute, const void*, size_t bytes))              \
  X(cublasLtMatrixLayoutCreate, Status, (Layout*, DataType, uint64_t rows, uint64_t cols, int64_t leading))              \
  X(cublasLtMatrixLayoutDestroy, Status, (Layout))                                                                       \
  X(cublasLtMatmulPreferenceCreate, Status, (Preference*))                                                               \
  X(cublasLtMatmulPreferenceDestroy, Status, (Preference))                                                               \
  X(cublasLtMatmulPreferenceSetAttribute, Status, (Preference, PreferenceAttribute, const void*, size_t bytes))          \
  X(cublasLtMatmulAlgoGetHeuristic, Status,                                                                              \
    (Handle, Description, Layout a, Layout b, Layout c, Layout d, Preference, int wanted, Heuristic*, int* found))       \
  X(cublasLtMatmulAlgoConfigGetAttribute, Status,                                                                        \
    (const Algorithm*, AlgorithmAttribute, void*, size_t bytes, size_t* written))                                        \
  X(cublasLtMatmul, Status,                                                                                              \
    (Handle, Description, const void* alpha, const void* a, Layout, const void* b, Layout, const void* beta,             \
     const void* c, Layout, void* d, Layout, const Algorithm*, void* workspace, size_t workspace_bytes, void* stream))

/// The library's functions, by their names.
struct Functions {
#define ACT_CUBLASLT_MEMBER(name, result, arguments) result(*name) arguments = nullptr;
  ACT_CUBLASLT_FUNCTIONS(ACT_CUBLASLT_MEMBER)
#undef ACT_CUBLASLT_MEMBER
};

}  // namespace act::cuda::lt
