// Matrix products by cuBLASLt, for the mode that is not batch-invariant.
//
// The same call gives the same bits: an algorithm is a function of shape, types and alignment, takes the same workspace,
// and either does not split the inner dimension or adds the parts in fp32, in a step of its own - no atomics. But another
// number of rows may be another algorithm, with another order of additions.
//
// The rounding of ops.h holds: fp32 operands are multiplied and added in fp32 (no TF32), bf16 operands are added in fp32,
// the present value enters the sum in fp32 (beta = 1), the result is rounded once. What cuBLASLt has no such form for is
// refused (`product` gives nothing) and goes to our own kernels: a bias (its epilogue wants it in the output's type, ours
// is fp32), bf16 results of fp32 operands, and shapes for which it offers no algorithm within these rules.
#pragma once
#include <map>
#include <memory>
#include <optional>

#include "../ops.h"
#include "cublaslt_library.h"
#include "kernels/kernels.h"
#include "launch_queue.h"

namespace act::cuda {

class CublasLt {
 public:
  /// Memory a product may use beside its operands; what NVIDIA advises for Hopper. 256-byte aligned.
  static constexpr size_t kWorkspaceBytes = size_t{32} << 20;

  /// Null: `why` says in a sentence why there is none. A library that was chosen and cannot be used is an error instead:
  /// throws DEVICE_UNAVAILABLE.
  static std::unique_ptr<CublasLt> open(const LibraryPlaces& places, std::string& why);
  ~CublasLt();

  const std::string& name() const { return library_.name; }
  /// The product as a launch, so that it takes its turn in the queue and has its place in graphs; nothing: not served.
  /// `operands` is the type of a and b. Throws INTERNAL; so does starting it, and OUT_OF_MEMORY and DEVICE_LOST.
  std::optional<Launch> product(const Gemm& g, DType operands, void* workspace);

 private:
  struct Shape {
    int64_t m, n, k;
    bool a_transposed, b_transposed;
    DType operands, result;
    uint32_t a_alignment, b_alignment, c_alignment;  // bytes
    auto operator<=>(const Shape&) const = default;
  };
  template <class Object>
  using Owned = std::unique_ptr<std::remove_pointer_t<Object>, lt::Status (*)(Object)>;
  /// Row-major C = A B is column-major C^T = B^T A^T: cuBLASLt's first operand is our b, its rows are our columns.
  struct Plan {
    Owned<lt::Description> description;
    Owned<lt::Layout> first, second, result;
    bool served = false;
    lt::Algorithm algorithm{};
  };

  CublasLt(CublasLtLibrary library, lt::Handle handle) : library_(std::move(library)), handle_(handle) {}
  /// Everything that a product depends on. No plan: plans are made again, a launch is compared with those of other steps.
  struct Call {
    CublasLt* library;
    Shape shape;
    const void *a, *b;
    void *c, *workspace;
    bool accumulate;
  };
  static Launch launch_of(const Call& call);
  static Call call_of(const Launch& launch);
  void run(const Call& call, void* stream);
  const Plan& plan_for(const Shape& shape);
  Plan make_plan(const Shape& shape);
  void choose_algorithm(Plan& plan, const Shape& shape);
  void check(lt::Status status, const char* call, const Shape& shape, int line) const;

  const CublasLtLibrary library_;
  const lt::Handle handle_;
  std::map<Shape, Plan> plans_;
};

}  // namespace act::cuda
