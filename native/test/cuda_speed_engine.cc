// act_cuda_test --speed, second part: whole steps of the engine on models of the Qwen3 shapes with random weights and
// random tokens. One JSON line a piece of work; --small does the same pieces with a toy, to test them on any device.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>

#include "../ops/floats.h"
#include "cuda_checks.h"
#include "cuda_waiting.h"

namespace act::test {
namespace {

struct Shape {
  std::string name;
  int32_t hidden, layers, heads, kv_heads, head_dim, intermediate, vocabulary;
  bool tied;
};
const Shape kSmall{"toy", 32, 2, 4, 2, 16, 48, 61, true};
const Shape k06B{"0.6B", 1024, 28, 16, 8, 128, 3072, 151936, true};
const Shape k8B{"8B", 4096, 36, 32, 8, 128, 12288, 151936, false};

ModelConfig config_of(const Shape& s) {
  ModelConfig c;
  c.vocab_size = s.vocabulary, c.hidden_size = s.hidden, c.layers = s.layers, c.heads = s.heads, c.kv_heads = s.kv_heads;
  c.head_dim = s.head_dim, c.intermediate_size = s.intermediate, c.max_positions = 8192, c.norm_eps = 1e-6f;
  c.qk_norm = true, c.tied_embeddings = s.tied;
  for (int i = 0; i < c.head_dim / 2; i++) c.inv_freq.push_back(static_cast<float>(std::pow(1e6, -2.0 * i / c.head_dim)));
  return c;
}

/// Weights that take part in products: what a decoding step reads.
double matrix_weights(const Shape& s) {
  const double attention = static_cast<double>(s.hidden) * s.head_dim * (2 * s.heads + 2 * s.kv_heads);
  return s.layers * (attention + 3.0 * s.hidden * s.intermediate) + static_cast<double>(s.hidden) * s.vocabulary;
}
/// Bytes of one token's keys and values, bf16.
double kv_bytes(const Shape& s) { return 4.0 * s.layers * s.kv_heads * s.head_dim; }

/// Every matrix the same million of random numbers over and over: enough for timings, and quick to make.
void load_random(WaitingEngine& engine) {
  engine.run(Engine::Job::Kind::exclusive, [&](Engine::Core& core) {
    Rng rng(7);
    std::vector<float> pool(size_t{1} << 20);
    for (float& x : pool) x = rng.normal() * 0.02f;
    for (const auto& [name, p] : core.model.parameters()) {
      std::vector<uint16_t> values(static_cast<size_t>(p.size()), float_to_bf16(1));
      for (size_t i = 0; p.matrix && i < values.size(); i++) values[i] = float_to_bf16(pool[(i + values.size()) % pool.size()]);
      core.model.load(name, values.data(), DType::bf16);
    }
    engine.engine().weights_changed(true);
  });
}

double seconds_of(const std::function<void()>& call) {
  const auto start = std::chrono::steady_clock::now();
  call();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}
double median(std::vector<double> times) {
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

/// `tokens` per call; `flops` and `bytes` bound it (0: not meant as a bound).
void report(const std::string& name, double seconds, double tokens, double flops, double bytes, const WaitingEngine& engine) {
  std::printf(
      "{\"name\":\"%s\",\"seconds\":%.4g,\"tokens\":%.0f,\"tokens_per_s\":%.4g,\"flops\":%.4g,\"tflops\":%.4g,\"bytes\":%.4g,"
      "\"gbytes_per_s\":%.4g,\"peak_bytes\":%zu,\"planned_bytes\":%zu}\n",
      name.c_str(), seconds, tokens, tokens / seconds, flops, flops / seconds * 1e-12, bytes, bytes / seconds * 1e-9,
      engine.peak(), engine.plan().total());
  std::fflush(stdout);
}

/// Follows the name of work that is timed in both modes.
std::string mode_of(const Device& device) { return device.batch_invariant ? ", batch-invariant" : ""; }

EngineOptions options_of(const Device& device, const Shape& s, int64_t sequences, int64_t cache, int64_t batch, bool training) {
  EngineOptions o;
  o.device = device.name == "cuda" ? "cuda" : "emulated";
  o.batch_invariant = device.batch_invariant;
  o.sizes.model = config_of(s);
  o.sizes.dtype = DType::bf16;
  o.sizes.training = training;
  o.sizes.max_sequences = sequences;
  o.sizes.cache_tokens = cache;
  o.sizes.max_batch_tokens = batch;
  return o;
}

struct TrainingBatch {
  std::vector<int32_t> tokens, parents, lengths, rows, targets;
  std::vector<float> ce_weight, advantage, old_logprob, policy_weight;

  void add(int32_t parent, int32_t length, bool loss, Rng& rng, int32_t vocabulary) {
    parents.push_back(parent), lengths.push_back(length);
    for (int32_t i = 0; i < length; i++) {
      if (loss) rows.push_back(static_cast<int32_t>(tokens.size())), targets.push_back(rng.below(vocabulary));
      tokens.push_back(rng.below(vocabulary));
    }
  }
  double step(WaitingEngine& engine) {
    ce_weight.assign(rows.size(), 1.0f / static_cast<float>(rows.size()));
    ForestRows r;
    r.rows = rows, r.targets = targets, r.ce_weight = ce_weight;
    return seconds_of([&] {
      engine.run(Engine::Job::Kind::exclusive, [&](Engine::Core& core) {
        core.trainer.accumulate({tokens, parents, lengths}, r);
        core.trainer.step({.learning_rate = 1e-6, .max_grad_norm = 1});
      });
    });
  }
};

/// `compact`: in little memory, with the compact optimizer state and recomputed activations, whose operations are not
/// counted.
void training_step(const Device& device, const Shape& s, int sequences, int32_t length, int steps, bool compact) {
  EngineOptions options = options_of(device, s, 1, 64, int64_t{sequences} * length, true);
  options.sizes.compact_optimizer = options.sizes.recompute = compact;
  WaitingEngine engine(options);
  load_random(engine);
  Rng rng(5);
  TrainingBatch batch;
  for (int i = 0; i < sequences; i++) batch.add(-1, length, true, rng, s.vocabulary);
  batch.step(engine);
  const double tokens = static_cast<double>(sequences) * length;
  // 6 operations a weight and token; attention's products, causal, 4 + 10 a pair and head element, half of all pairs.
  const double flops = 6 * matrix_weights(s) * tokens + 7.0 * s.layers * s.heads * s.head_dim * tokens * length;
  std::vector<double> times;
  for (int i = 0; i < steps; i++) times.push_back(batch.step(engine));
  report("training step " + s.name + " " + std::to_string(sequences) + " x " + std::to_string(length) +
             (compact ? ", compact" : "") + mode_of(device),
         median(times), tokens, flops, 0, engine);
}

/// Sampling of a group and the step on it, as a tree and flattened: the same tokens, every prompt computed G times.
void group_step(const Device& device, const Shape& s, int32_t prompt, int32_t group, int32_t answer) {
  const int64_t flat_tokens = int64_t{group} * (prompt + answer);
  WaitingEngine engine(options_of(device, s, group, flat_tokens + 16 * group, flat_tokens, true));
  load_random(engine);
  Rng rng(5);
  for (const bool flat : {false, true}) {
    TrainingBatch batch;
    if (!flat) batch.add(-1, prompt, false, rng, s.vocabulary);
    for (int32_t g = 0; g < group; g++) {
      if (!flat) {
        batch.add(0, answer, true, rng, s.vocabulary);
      } else {
        batch.add(-1, prompt + answer, true, rng, s.vocabulary);
        batch.rows.erase(batch.rows.end() - prompt - answer, batch.rows.end() - answer);
        batch.targets.erase(batch.targets.end() - prompt - answer, batch.targets.end() - answer);
      }
    }
    const auto once = [&] {
      std::vector<GenerateRequest> requests;
      for (int32_t g = 0; g < (flat ? group : 1); g++) {  // flattened: prompts that share nothing
        GenerateRequest r;
        r.prompt.push_back(g);
        while (static_cast<int32_t>(r.prompt.size()) < prompt) r.prompt.push_back(rng.below(s.vocabulary));
        r.count = flat ? 1 : group;
        r.max_new_tokens = answer;
        r.rule.seed = rng.bits();
        requests.push_back(std::move(r));
      }
      return seconds_of([&] { engine.generate(std::move(requests)); }) + batch.step(engine);
    };
    once();
    report("group step " + s.name + " " + std::to_string(prompt) + " + " + std::to_string(group) + " x " +
               std::to_string(answer) + (flat ? ", flattened" : ""),
           median({once(), once(), once()}), static_cast<double>(group) * answer, 0, 0, engine);
  }
}

/// Time of a decoding step: long generations minus short ones, so that the prompts' own pass does not count.
void decode(Device device, const Shape& s, int32_t groups, int32_t group, int32_t prompt, int32_t steps, bool graphs) {
  device.graphs = graphs;
  device.open(DType::bf16);  // sets the environment
  const int64_t cache = int64_t{groups} * (prompt + 16 + int64_t{group} * (steps + 32));
  WaitingEngine engine(options_of(device, s, int64_t{groups} * group, cache, std::max<int64_t>(2, std::min<int64_t>(8192, int64_t{groups} * prompt)), false));
  load_random(engine);
  Rng rng(5);
  const auto generate = [&](int32_t tokens) {
    std::vector<GenerateRequest> requests(static_cast<size_t>(groups));
    for (GenerateRequest& r : requests) {
      for (int32_t i = 0; i < prompt; i++) r.prompt.push_back(rng.below(s.vocabulary));
      r.count = group;
      r.max_new_tokens = tokens;
    }
    return seconds_of([&] { engine.generate(std::move(requests)); });
  };
  const int32_t few = steps / 4;
  generate(few);
  std::vector<double> times;
  for (int i = 0; i < 3; i++) times.push_back((generate(steps) - generate(few)) / (steps - few));
  // Weights once, each shared prompt once, each sequence's own keys, on average over the steps that count.
  const double own = (steps + few) / 2.0;
  const double bytes = 2 * matrix_weights(s) + kv_bytes(s) * groups * (prompt + group * own);
  report("decode " + s.name + " " + std::to_string(groups) + " x " + std::to_string(group) + ", prompt " +
             std::to_string(prompt) + mode_of(device) + (graphs ? "" : ", without graphs"),
         median(times), static_cast<double>(groups) * group, 0, bytes, engine);
}

/// A shape that does not fit this card is left out with a line that says so.
void where_it_fits(const std::string& what, const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& error) {
    if (error.code != "MEMORY_PLAN" && error.code != "OUT_OF_MEMORY") throw;
    std::fprintf(stderr, "%s: left out, %s\n", what.c_str(), error.what());
  }
}

}  // namespace

int run_engine_speed(Device device, bool small) {
  device.batch_invariant = false;
  std::vector<Device> modes{device};
  if (by_cublaslt(*device.open(DType::bf16))) {  // else both modes are the same
    device.batch_invariant = true;
    modes.push_back(device);
  }
  for (const Device& mode : modes) {
    if (small) {
      training_step(mode, kSmall, 2, 24, 1, false);
      training_step(mode, kSmall, 2, 24, 1, true);
      for (const bool graphs : {true, false}) decode(mode, kSmall, 2, 2, 9, 8, graphs);
    } else {
      where_it_fits("training 0.6B", [&] { training_step(mode, k06B, 4, 4096, 3, false); });
      where_it_fits("training 8B", [&] { training_step(mode, k8B, 1, 4096, 2, true); });
      for (const bool graphs : {true, false}) {
        where_it_fits("decode 0.6B", [&] { decode(mode, k06B, 32, 8, 700, 64, graphs); });
        where_it_fits("decode 8B", [&] { decode(mode, k8B, 1, 1, 64, 64, graphs); });
      }
    }
  }
  if (small) {
    group_step(modes.front(), kSmall, 10, 2, 4);
  } else {
    where_it_fits("group step 0.6B", [&] { group_step(modes.front(), k06B, 700, 8, 300); });
  }
  return 0;
}

}  // namespace act::test
