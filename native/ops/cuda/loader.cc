#include "loader.h"

#include <cstdlib>

#include "api.h"

#if defined(__unix__) || defined(__APPLE__)
#include <dlfcn.h>
#include <unistd.h>
#endif

namespace act {
namespace {

#if defined(__unix__) || defined(__APPLE__)

/// The folder this code was loaded from: the shared objects lie beside the addon.
std::string own_folder() {
  Dl_info info{};
  if (!dladdr(reinterpret_cast<void*>(&own_folder), &info) || !info.dli_fname) return "";
  const std::string path = info.dli_fname;
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "" : path.substr(0, slash + 1);
}

ActCudaOpen find_entry(CudaFlavor flavor) {
  const bool emulated = flavor == CudaFlavor::emulated;
  const char* chosen = std::getenv(emulated ? "ACT_CUDA_EMULATED_LIBRARY" : "ACT_CUDA_LIBRARY");
  const std::string name = emulated ? "act_cuda_emulated.so" : "act_cuda.so";
  const std::string path = chosen && *chosen ? chosen : own_folder() + name;
  if (access(path.c_str(), F_OK) != 0) {
    throw Error("DEVICE_UNAVAILABLE",
                emulated ? "The emulated device is not built: `npm run test:kernels` builds it (" + path + ")."
                         : "CUDA support is not built (no " + path +
                               "): run `npm run build:cuda`, which needs a CUDA toolkit. Use device cpu meanwhile.");
  }
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* why = dlerror();
    throw Error("DEVICE_UNAVAILABLE", "The CUDA backend does not load, " + std::string(why ? why : path) +
                                          ": build it again on this machine (`npm run build:cuda`).");
  }
  void* entry = dlsym(library, kCudaEntry);
  if (!entry) throw Error("DEVICE_UNAVAILABLE", path + " is not a CUDA backend of act-trainer: build it again.");
  return reinterpret_cast<ActCudaOpen>(entry);
}

#else

ActCudaOpen find_entry(CudaFlavor) {
  throw Error("DEVICE_UNAVAILABLE", "The CUDA backend needs Linux. Use device cpu.");
}

#endif

}  // namespace

std::unique_ptr<Backend> make_cuda_backend(CudaFlavor flavor, DType activations, bool batch_invariant, int ordinal) {
  const ActCudaOpen open = find_entry(flavor);
  const ActCudaRequest request{kCudaContract, ordinal, activations == DType::bf16, batch_invariant};
  ActCudaAnswer answer{};
  open(&request, &answer);
  if (!answer.backend) throw Error(answer.code, answer.message);
  return std::unique_ptr<Backend>(answer.backend);
}

}  // namespace act
