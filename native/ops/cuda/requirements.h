// What this machine must have for the CUDA backend, apart from CUDA itself, so that every sentence is tested without it.
#pragma once
#include <string>

namespace act::cuda {

/// What was found: versions as CUDA numbers them (13.0 is 13000), 0: none.
struct Found {
  int driver = 0;            // the newest CUDA the driver serves
  int runtime = 0;           // the CUDA of this build
  bool driver_too_old = false;  // CUDA's own finding
  int devices = 0;
  int ordinal = 0;           // the wanted device
  std::string name = {};     // the wanted device's
  int major = 0;             // its compute capability
};

/// One sentence that names what is missing and what to do; empty: nothing is.
std::string what_is_missing(const Found& found);

}  // namespace act::cuda
