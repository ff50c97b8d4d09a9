// Finds NVIDIA's cuBLASLt at run time: it weighs half a gigabyte, so it is never shipped, and nothing needs it.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "cublaslt_api.h"

namespace act::cuda {

/// Where it may lie: names for the dynamic linker and paths.
struct LibraryPlaces {
  std::string chosen;              // by the user; not empty: this one and no other
  std::vector<std::string> usual;  // in order of preference
};

/// The file named in ACT_CUBLASLT_LIBRARY, or: what the dynamic linker finds, CUDA_HOME, CUDA_PATH, /usr/local/cuda, the
/// packages of an active Python environment (VIRTUAL_ENV, CONDA_PREFIX); of each, version 13 before 12. `variable` gives
/// the value of an environment variable or null.
LibraryPlaces cublaslt_places(const std::function<const char*(const char*)>& variable);

struct CublasLtLibrary {
  lt::Functions functions;
  std::string name;  // with version and path
};

/// What `path` holds, loaded for good. Empty: `why` says in a sentence what is wrong with it, or is empty where the
/// dynamic linker found nothing of that name.
std::optional<CublasLtLibrary> load_cublaslt(const std::string& path, std::string& why);

/// What to do to have it, as the end of a sentence.
extern const char* const kInstallCublasLt;

}  // namespace act::cuda
