#include "../host.h"
namespace act {
// Interim: until the vectorized backend is committed, the reference computes for it.
std::unique_ptr<Backend> make_cpu_backend(int threads, Isa) {
  require(threads >= 1, "threads: expected at least 1");
  return make_reference_backend();
}
}  // namespace act
