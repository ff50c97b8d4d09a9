#include "requirements.h"

namespace act::cuda {
namespace {

std::string version(int number) { return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10); }

}  // namespace

std::string what_is_missing(const Found& f) {
  const std::string major = std::to_string(f.runtime / 1000);
  if (f.driver == 0) return "This machine has no NVIDIA driver (libcuda.so.1): install one for CUDA " + major + ".";
  if (f.driver_too_old) {
    return "The NVIDIA driver is too old: it serves CUDA " + version(f.driver) + ", this build needs CUDA " + major +
           ": install a newer driver.";
  }
  if (f.devices == 0) {
    return "The NVIDIA driver shows no GPU (is CUDA_VISIBLE_DEVICES empty, or was the container started without it?).";
  }
  if (f.ordinal < 0 || f.ordinal >= f.devices) {
    return "There is no GPU number " + std::to_string(f.ordinal) + "; this machine has " + std::to_string(f.devices) + ".";
  }
  if (f.major < 8) return "The " + f.name + " is too old: compute capability 8.0 (Ampere) is the oldest served.";
  return "";
}

}  // namespace act::cuda
