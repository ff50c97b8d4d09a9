#include "cublaslt_library.h"

#include <dlfcn.h>

#include <algorithm>
#include <filesystem>

namespace act::cuda {
namespace {

constexpr size_t kOldestVersion = 120000;
constexpr const char* kNames[] = {"libcublasLt.so.13", "libcublasLt.so.12"};

std::string version_text(size_t version) {
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." + std::to_string(version % 100);
}

/// Folders of NVIDIA's wheels in a Python environment: .../site-packages/nvidia/cu13/lib, and nvidia/cublas/lib for 12.
std::vector<std::string> wheel_folders(const std::string& environment) {
  namespace fs = std::filesystem;
  std::vector<std::string> folders;
  std::error_code failed;  // an environment that cannot be read holds nothing for us
  for (const auto& python : fs::directory_iterator(environment + "/lib", failed)) {
    for (const char* package : {"cu13", "cublas"}) {
      folders.push_back((python.path() / "site-packages" / "nvidia" / package / "lib").string());
    }
  }
  std::sort(folders.begin(), folders.end());
  return folders;
}

}  // namespace

const char* const kInstallCublasLt =
    "install NVIDIA's package `nvidia-cublas` (pip, in an active environment; `nvidia-cublas-cu12` for CUDA 12) or "
    "`libcublas` (apt, dnf), or name its libcublasLt.so in ACT_CUBLASLT_LIBRARY";

LibraryPlaces cublaslt_places(const std::function<const char*(const char*)>& variable) {
  const auto value = [&](const char* name) {
    const char* const text = variable(name);
    return std::string(text ? text : "");
  };
  LibraryPlaces places{value("ACT_CUBLASLT_LIBRARY"), {}};
  if (!places.chosen.empty()) return places;
  std::vector<std::string> folders;
  for (const std::string& toolkit : {value("CUDA_HOME"), value("CUDA_PATH"), std::string("/usr/local/cuda")}) {
    if (!toolkit.empty()) folders.push_back(toolkit + "/lib64");
  }
  for (const std::string& environment : {value("VIRTUAL_ENV"), value("CONDA_PREFIX")}) {
    if (environment.empty()) continue;
    folders.push_back(environment + "/lib");  // conda's own packages
    for (std::string& folder : wheel_folders(environment)) folders.push_back(std::move(folder));
  }
  places.usual.assign(std::begin(kNames), std::end(kNames));
  for (const std::string& folder : folders) {
    for (const char* name : kNames) {
      const std::string path = folder + "/" + name;
      std::error_code failed;
      if (std::filesystem::exists(path, failed)) places.usual.push_back(path);
    }
  }
  return places;
}

std::optional<CublasLtLibrary> load_cublaslt(const std::string& path, std::string& why) {
  why.clear();
  void* const file = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!file) {
    const char* const reason = dlerror();
    const std::string text = reason ? reason : path;
    const bool absent = path.find('/') == std::string::npos && text.starts_with(path + ": cannot open shared object file");
    if (!absent) why = "cuBLASLt does not load, " + text;
    return {};
  }
  CublasLtLibrary library;
  lt::Functions& f = library.functions;
#define ACT_RESOLVE(name, result, arguments)                                       \
  f.name = reinterpret_cast<decltype(f.name)>(dlsym(file, #name));                 \
  if (!f.name) {                                                                   \
    why = path + " is not a cuBLASLt of version 12 or newer: it has no " #name;    \
    return {};                                                                     \
  }
  ACT_CUBLASLT_FUNCTIONS(ACT_RESOLVE)
#undef ACT_RESOLVE
  const size_t version = f.cublasLtGetVersion();
  library.name = "cuBLASLt " + version_text(version) + " (" + path + ")";
  if (version < kOldestVersion) {
    why = library.name + " is too old: 12.0 is the oldest served";
    return {};
  }
  return library;
}

}  // namespace act::cuda
