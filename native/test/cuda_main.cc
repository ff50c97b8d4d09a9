// act_cuda_test [--device emulated|cuda] [--jobs N] [--slow SECONDS] [NAME]
//     tests of the CUDA backend, those whose name contains NAME, in N processes; names those that take longer
// act_cuda_test --device cuda --speed
//     times single operations on the GPU, then whole steps (cuda_speed.cc, cuda_speed_engine.cc)
// act_cuda_test --device emulated --small
//     the same with a toy, to try the program; its times mean nothing
//
// Every case of native/test/cases against the reference backend: fp32 within the case's own bounds, and bf16 activations
// within bounds derived from them. On the emulated device four ways: cp.async landing early and late, two orders of warps
// and lanes. Then what is particular to this backend (cuda_checks.cc).
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "../ops/cuda/loader.h"
#include "../ops/floats.h"
#include "cuda_bf16.h"
#include "cuda_checks.h"
#include "harness.h"

namespace act::test {
namespace {

uint64_t seed_of(const std::string& name) {
  uint64_t h = 1469598103934665603ull;
  for (const char c : name) h = (h ^ static_cast<unsigned char>(c)) * 1099511628211ull;
  return h;
}

Tensors everything(Backend& backend, const Case& c, const Tensors& in, const Tensors& seeds) {
  Tensors results = c.forward(backend, in);
  for (Tensor& t : c.backward(backend, in, seeds)) results.push_back(std::move(t));
  return results;
}

void compare(const Tensors& got, const Tensors& want, const Tensors& bounds) {
  expect(got.size() == want.size() && got.size() == bounds.size(), "the case gives different numbers of results");
  for (size_t t = 0; t < got.size(); t++) {
    expect(got[t].values.size() == want[t].values.size() && got[t].values.size() == bounds[t].values.size(),
           got[t].name + ": sizes differ");
    for (size_t i = 0; i < got[t].values.size(); i++) {
      const double error = std::fabs(static_cast<double>(got[t].values[i]) - want[t].values[i]);
      if (error <= bounds[t].values[i]) continue;
      char text[200];
      std::snprintf(text, sizeof text, "%s[%zu]: got %.9g, reference %.9g, error %.3g, bound %.3g", got[t].name.c_str(), i,
                    got[t].values[i], want[t].values[i], error, bounds[t].values[i]);
      throw Failure{text};
    }
  }
}

void round_all(Tensors& tensors) {
  for (Tensor& t : tensors) {
    for (float& x : t.values) x = round_to_bf16(x);
  }
}

double largest_row_norm(const Tensor& t, int64_t width) {
  double most = 0;
  for (size_t i = 0; i < t.values.size(); i += static_cast<size_t>(width)) {
    double sum = 0;
    for (int64_t c = 0; c < width; c++) sum += std::pow(static_cast<double>(t.values[i + static_cast<size_t>(c)]), 2);
    most = std::max(most, std::sqrt(sum));
  }
  return most;
}

/// bf16 activations: what fp32 may be off, and the rounding of results. Attention also rounds the softmax's weights and
/// score gradients to bf16 before it multiplies them: where fp32 may be off by r of each product, bf16 may by r + 2^-6.
void widen_bounds(const Case& c, const Tensors& in, const Tensors& want, Tensors& bounds) {
  constexpr double kHalfUlp = 1.0 / 256;
  double factor = 1;
  if (c.name.starts_with("attention")) {
    const auto dim = std::atoll(c.name.substr(c.name.find(" d=") + 3).c_str());
    const double value = std::max(largest_row_norm(in[2], dim), largest_row_norm(in[4], dim));
    factor = 1 + 4 * kHalfUlp * value / bounds[0].values[0];
  }
  for (size_t t = 0; t < bounds.size(); t++) {
    const std::string& name = bounds[t].name;
    const bool exact = name == "(lse)" || name == "(rows)" || name == "(terms)" || name == "(bits)";
    for (size_t i = 0; i < bounds[t].values.size(); i++) {
      // add, then scale: two roundings.
      if (!exact) bounds[t].values[i] = static_cast<float>(bounds[t].values[i] * factor + 2 * kHalfUlp * std::fabs(want[t].values[i]));
    }
  }
}

void check_case(const Case& c, const Device& device, bool bf16) {
  auto reference = make_reference_backend();
  auto backend = device.open(bf16 ? DType::bf16 : DType::f32);
  if (bf16) backend = make_bf16_face(std::move(backend));
  Rng rng(seed_of(c.name));
  Tensors in = c.inputs(rng);
  if (bf16) round_all(in);
  Tensors seeds = c.forward(*reference, in);
  for (Tensor& t : seeds) t = random(rng, t.name, t.rows, t.cols);
  if (bf16) round_all(seeds);
  const Tensors want = everything(*reference, c, in, seeds);
  Tensors bounds = c.bounds(*reference, in, seeds);
  if (bf16) widen_bounds(c, in, want, bounds);
  compare(everything(*backend, c, in, seeds), want, bounds);
}

/// The cases, again with a shared object in which a kernel is broken: some must fail.
void expect_noticed(const Cases& cases, const Device& device, const std::string& which) {
  device.open(DType::f32);  // a shared object that is not there would be noticed for nothing
  int failed = 0;
  for (const auto& c : cases) {
    if (c->name.find(which) == std::string::npos) continue;
    try {
      check_case(*c, device, false);
    } catch (const Failure&) {
      failed++;
    } catch (const std::exception&) {
      failed++;
    }
  }
  expect(failed > 0, "a broken kernel went unnoticed");
}

std::vector<Check> all_checks(const Cases& cases, const std::string& device_name) {
  const bool emulated = device_name == "emulated";
  const std::vector<Device> devices = emulated ? emulated_devices() : std::vector<Device>{{.name = "cuda"}};
  devices.front().open(DType::f32);  // throws where there is none
  Device fast = devices.front();
  fast.batch_invariant = false;
  const auto opened = fast.open(DType::f32);
  const bool has_cublaslt = by_cublaslt(*opened);
  if (!has_cublaslt) std::printf("left out: products by cuBLASLt: %s\n", opened->describe().c_str());
  std::vector<Check> checks;
  for (const Device& device : devices) {
    for (const auto& owned : cases) {
      const Case* c = owned.get();
      if (c->name.starts_with("attention") && c->name.ends_with(" bf16")) continue;  // keys are stored as activations are
      for (const bool bf16 : {false, true}) {
        const std::string name = std::string(bf16 ? "bf16 " : "fp32 ") + c->name;
        checks.push_back({name + " " + device.name, [=] { check_case(*c, device, bf16); }});
        if (c->name.starts_with("attention")) {
          Device cut = device;
          cut.partition = "32";
          checks.push_back({name + ", partitions of 32 " + device.name, [=] { check_case(*c, cut, bf16); }});
        }
        if (has_cublaslt && (c->name.starts_with("linear") || c->name.starts_with("head"))) {
          Device by_cublaslt = device;
          by_cublaslt.batch_invariant = false;
          checks.push_back({name + " " + device.name + " by cublaslt", [=] { check_case(*c, by_cublaslt, bf16); }});
        }
      }
    }
    cuda_checks(checks, device);
    decode_checks(checks, device);
    engine_checks(checks, device);
  }
  graph_checks(checks, devices.front());
  plan_checks(checks);
  if (has_cublaslt) cublaslt_engine_checks(checks, fast);
  if (!emulated) return checks;
  cublaslt_checks(checks);
  memory_limit_checks(checks);
  for (const auto& [fault, where] : {std::pair{"MISSING_BARRIER", "linear bf16"}, {"OFF_BY_ONE", "attention"}}) {
    checks.push_back({std::string("seeded fault ") + fault, [&cases, fault, where] {
                        Device broken = emulated_devices().front();
                        broken.library = std::string("act_cuda_fault_") + fault + ".so";
                        expect_noticed(cases, broken, where);
                      }});
  }
  return checks;
}

/// Every `jobs`th check from `first` on; the number that failed.
int run_some(const std::vector<const Check*>& checks, size_t first, size_t jobs, double slow) {
  int failed = 0;
  for (size_t i = first; i < checks.size(); i += jobs) {
    const Check& check = *checks[i];
    const auto start = std::chrono::steady_clock::now();
    std::string problem;
    try {
      check.run();
    } catch (const Failure& f) {
      problem = f.what;
    } catch (const Error& e) {
      problem = e.code + ": " + e.what();
    } catch (const std::exception& e) {
      problem = e.what();
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (!problem.empty()) failed++;
    if (!problem.empty()) std::printf("FAILED  %s: %s\n", check.name.c_str(), problem.c_str());
    if (seconds > slow) std::printf("%6.2f s  %s\n", seconds, check.name.c_str());
    std::fflush(stdout);
  }
  return failed;
}

int run(const std::string& device_name, const std::string& filter, size_t jobs, double slow) {
  const Cases cases = all_cases();
  const std::vector<Check> checks = all_checks(cases, device_name);
  std::vector<const Check*> chosen;
  for (const Check& check : checks) {
    if (check.name.find(filter) != std::string::npos) chosen.push_back(&check);
  }
  int failed = 0;
  if (jobs <= 1) {
    failed = run_some(chosen, 0, 1, slow);
  } else {
    // The emulator's way is set for a whole process, so processes: each exits with the number of its failures.
    std::vector<pid_t> workers;
    for (size_t j = 0; j < jobs; j++) {
      const pid_t worker = fork();
      if (worker == 0) _exit(std::min(run_some(chosen, j, jobs, slow), 100));
      workers.push_back(worker);
    }
    for (const pid_t worker : workers) {
      int status = 0;
      if (worker < 0 || waitpid(worker, &status, 0) != worker || !WIFEXITED(status)) {
        std::printf("FAILED  a test process ended early\n");
        failed++;
      } else {
        failed += WEXITSTATUS(status);
      }
    }
  }
  std::printf("%d passed, %d failed\n", static_cast<int>(chosen.size()) - failed, failed);
  return failed > 0 || chosen.empty() ? 1 : 0;
}

}  // namespace
}  // namespace act::test

int main(int argc, char** argv) {
  std::string device = "emulated", filter;
  bool speed = false, small = false;
  size_t jobs = 1;
  double slow = 1e9;
  for (int i = 1; i < argc; i++) {
    if (!std::strcmp(argv[i], "--device") && i + 1 < argc) {
      device = argv[++i];
    } else if (!std::strcmp(argv[i], "--jobs") && i + 1 < argc) {
      jobs = static_cast<size_t>(std::clamp(std::atoi(argv[++i]), 1, 64));
    } else if (!std::strcmp(argv[i], "--slow") && i + 1 < argc) {
      slow = std::atof(argv[++i]);
    } else if (!std::strcmp(argv[i], "--speed")) {
      speed = true;
    } else if (!std::strcmp(argv[i], "--small")) {
      small = true;
    } else {
      filter = argv[i];
    }
  }
  if (device != "emulated" && device != "cuda") {
    std::fprintf(stderr, "expected --device emulated or cuda\n");
    return 2;
  }
  try {
    const act::test::Device one = device == "cuda" ? act::test::Device{.name = "cuda"} : act::test::emulated_devices().front();
    if (small || speed) return act::test::run_speed(one, small) + act::test::run_engine_speed(one, small);
    return act::test::run(device, filter, device == "cuda" ? 1 : jobs, slow);
  } catch (const act::Error& error) {  // no device: said once, not by every test
    std::fprintf(stderr, "%s: %s\n", error.code.c_str(), error.what());
    return error.code == "DEVICE_UNAVAILABLE" ? 3 : 1;
  }
}
