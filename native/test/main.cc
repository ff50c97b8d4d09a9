// act_ops_test                 every test; one line each, then "N passed, N failed"; exit status 1 on any failure
// act_ops_test NAME            only tests whose name contains NAME
// act_ops_test --speed [NAME] [--threads N] [--isa NAME]   times the cases of real size
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <ctime>

#include "harness.h"

namespace act::test {
namespace {

uint64_t seed_of(const std::string& name) {
  uint64_t h = 1469598103934665603ull;
  for (const char c : name) h = (h ^ static_cast<unsigned char>(c)) * 1099511628211ull;
  return h;
}

Tensors seeds_for(Backend& reference, const Case& c, const Tensors& in, Rng& rng) {
  Tensors seeds = c.forward(reference, in);
  for (Tensor& t : seeds) t = t.name[0] == '(' ? zeros(t.name, t.rows, t.cols) : random(rng, t.name, t.rows, t.cols);
  return seeds;
}

Tensors everything(Backend& backend, const Case& c, const Tensors& in, const Tensors& seeds) {
  Tensors results = c.forward(backend, in);
  for (Tensor& t : c.backward(backend, in, seeds)) results.push_back(std::move(t));
  return results;
}

/// Throws Failure, or returns the largest error as a share of its bound.
double compare(const Tensors& got, const Tensors& want, const Tensors& bounds) {
  expect(got.size() == want.size() && got.size() == bounds.size(), "the case gives different numbers of results");
  double worst = 0;
  for (size_t t = 0; t < got.size(); t++) {
    expect(got[t].values.size() == want[t].values.size() && got[t].values.size() == bounds[t].values.size(),
           got[t].name + ": sizes differ");
    for (size_t i = 0; i < got[t].values.size(); i++) {
      const double error = std::fabs(static_cast<double>(got[t].values[i]) - want[t].values[i]);
      const double bound = bounds[t].values[i];
      if (!(error <= bound)) {
        char text[200];
        std::snprintf(text, sizeof text, "%s[%zu]: got %.9g, reference %.9g, error %.3g, bound %.3g",
                      got[t].name.c_str(), i, got[t].values[i], want[t].values[i], error, bound);
        throw Failure{text};
      }
      if (bound > 0) worst = std::max(worst, error / bound);
    }
  }
  return worst;
}

double weighted_sum(const Tensors& out, const Tensors& seeds, double* magnitude) {
  double sum = 0, total = 0;
  for (size_t t = 0; t < out.size(); t++) {
    for (size_t i = 0; i < out[t].values.size(); i++) {
      const double term = static_cast<double>(out[t].values[i]) * seeds[t].values[i];
      sum += term;
      total += std::fabs(term);
    }
  }
  if (magnitude) *magnitude = total;
  return sum;
}

/// Central differences with steps h and h / 2, extrapolated (Richardson). Their difference bounds the truncation error;
/// the outputs' rounding to fp32 gives the noise.
void check_gradient(Backend& reference, const Case& c, const Tensors& in, const Tensors& seeds, Rng& rng) {
  const Tensors gradients = c.backward(reference, in, seeds);
  for (size_t t = 0; t < gradients.size(); t++) {
    expect(gradients[t].values.size() == in[t].values.size(), gradients[t].name + ": gradient has another size");
    const auto size = static_cast<int32_t>(in[t].values.size());
    for (int sample = 0; sample < std::min(size, 12); sample++) {
      const auto i = static_cast<size_t>(size <= 12 ? sample : rng.below(size));
      double magnitude = 0;
      auto slope = [&](double h) {
        Tensors moved = in;
        const float up = static_cast<float>(in[t].values[i] + h), down = static_cast<float>(in[t].values[i] - h);
        moved[t].values[i] = up;
        const double high = weighted_sum(c.forward(reference, moved), seeds, &magnitude);
        moved[t].values[i] = down;
        const double low = weighted_sum(c.forward(reference, moved), seeds, nullptr);
        return (high - low) / (static_cast<double>(up) - down);
      };
      const double h = 1.0 / 64, coarse = slope(h), fine = slope(h / 2), estimate = (4 * fine - coarse) / 3;
      const double noise = 4 * kRoundoff * magnitude / (h / 2);
      const double error = std::fabs(estimate - gradients[t].values[i]), bound = std::fabs(fine - coarse) + noise;
      if (!(error <= bound)) {
        char text[200];
        std::snprintf(text, sizeof text, "d/d %s[%zu]: backward %.9g, differences %.9g, error %.3g, bound %.3g",
                      in[t].name.c_str(), i, gradients[t].values[i], estimate, error, bound);
        throw Failure{text};
      }
    }
  }
}

int run_tests(const std::string& filter) {
  const Cases cases = all_cases();
  std::vector<Check> checks;
  for (const auto& owned : cases) {
    const Case* c = owned.get();
    for (const Isa isa : available_isas()) {
      checks.push_back({"value " + c->name + " " + isa_name(isa), [c, isa] {
                          auto reference = make_reference_backend();
                          auto backend = make_cpu_backend(2, isa);
                          Rng rng(seed_of(c->name));
                          const Tensors in = c->inputs(rng), seeds = seeds_for(*reference, *c, in, rng);
                          compare(everything(*backend, *c, in, seeds), everything(*reference, *c, in, seeds),
                                  c->bounds(*reference, in, seeds));
                        }});
    }
    if (!c->differentiable()) continue;
    checks.push_back({"gradient " + c->name, [c] {
                        auto reference = make_reference_backend();
                        Rng rng(seed_of(c->name));
                        const Tensors in = c->inputs(rng), seeds = seeds_for(*reference, *c, in, rng);
                        check_gradient(*reference, *c, in, seeds, rng);
                      }});
  }
  math_checks(checks);
  memory_checks(checks);
  equality_checks(checks);
  attention_equality_checks(checks);
  sampling_checks(checks);
  compact_checks(checks);

  int passed = 0, failed = 0;
  for (const Check& check : checks) {
    if (check.name.find(filter) == std::string::npos) continue;
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
    problem.empty() ? passed++ : failed++;
    std::printf("%s  %s%s%s\n", problem.empty() ? "ok    " : "FAILED", check.name.c_str(), problem.empty() ? "" : ": ",
                problem.c_str());
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed > 0 || passed == 0 ? 1 : 0;
}

struct Seconds {
  double median, least;  // the least is what an undisturbed machine gives
};
/// On one thread the clock is that thread's processor time, which other programs disturb less.
double now(bool one_thread) {
#ifdef CLOCK_THREAD_CPUTIME_ID
  if (one_thread) {
    timespec t{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  }
#endif
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
Seconds seconds_of(const std::function<void()>& call, bool one_thread) {
  call();
  std::vector<double> times;
  const double begin = now(one_thread);
  while (times.size() < 5 || (now(one_thread) - begin < 0.3 && times.size() < 200)) {
    const double start = now(one_thread);
    call();
    times.push_back(now(one_thread) - start);
  }
  std::sort(times.begin(), times.end());
  return {times[times.size() / 2], times.front()};
}

int run_speed(const std::string& filter, int threads, Isa isa) {
  std::vector<Timing> timings;
  product_timings(timings);
  attention_timings(timings);
  layer_timings(timings);
  head_timings(timings);
  std::printf("%s\n", make_cpu_backend(threads, isa)->describe().c_str());
  for (const Timing& t : timings) {
    if (t.name.find(filter) == std::string::npos) continue;
    auto backend = make_cpu_backend(threads, isa);
    const auto call = t.prepare(*backend);
    const Seconds s = seconds_of(call, threads == 1);
    std::printf("%-44s median %10.1f us  best %10.1f us", t.name.c_str(), s.median * 1e6, s.least * 1e6);
    if (t.flops > 0) std::printf(" %8.1f GFLOP/s", t.flops / s.least * 1e-9);
    if (t.bytes > 0) std::printf(" %7.1f GB/s", t.bytes / s.least * 1e-9);
    std::printf("\n");
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace act::test

int main(int argc, char** argv) {
  std::string filter;
  bool speed = false;
  int threads = 2;
  act::Isa isa = act::Isa::automatic;
  for (int i = 1; i < argc; i++) {
    if (!std::strcmp(argv[i], "--speed")) {
      speed = true;
    } else if (!std::strcmp(argv[i], "--threads") && i + 1 < argc) {
      threads = std::atoi(argv[++i]);
    } else if (!std::strcmp(argv[i], "--isa") && i + 1 < argc) {
      const std::string wanted = argv[++i];
      for (const act::Isa one : act::test::available_isas()) {
        if (act::test::isa_name(one) == wanted) isa = one;
      }
    } else {
      filter = argv[i];
    }
  }
  return speed ? act::test::run_speed(filter, threads, isa) : act::test::run_tests(filter);
}
