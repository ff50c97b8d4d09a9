// The whole engine on the device against the CPU backend: a training step and the generation of a group.
#include <cmath>
#include <cstdio>

#include "cuda_checks.h"
#include "cuda_waiting.h"

namespace act::test {
namespace {

ModelConfig tiny_model() {
  ModelConfig c;
  c.vocab_size = 61, c.hidden_size = 32, c.layers = 2, c.heads = 4, c.kv_heads = 2, c.head_dim = 16;
  c.intermediate_size = 48, c.max_positions = 128, c.norm_eps = 1e-6f, c.qk_norm = true;
  for (int i = 0; i < c.head_dim / 2; i++) c.inv_freq.push_back(static_cast<float>(std::pow(10000.0, -2.0 * i / c.head_dim)));
  return c;
}

}  // namespace

std::string engine_device(const Device& device) { return device.name == "cuda" ? "cuda" : "emulated"; }

EngineOptions tiny_options(const Device& device, DType dtype) {
  EngineOptions options;
  options.device = engine_device(device);
  options.batch_invariant = device.batch_invariant;
  options.threads = 1;
  options.sizes.model = tiny_model();
  options.sizes.dtype = dtype;
  options.sizes.training = true;
  options.sizes.max_sequences = 4;
  options.sizes.cache_tokens = 256;
  options.sizes.max_batch_tokens = 64;
  return options;
}

/// With seeded weights.
void initialize(WaitingEngine& engine) {
  engine.run(Engine::Job::Kind::exclusive, [&](Engine::Core& core) {
    core.model.initialize(11, 0.2);
    engine.engine().weights_changed(true);
  });
}

namespace {

struct Outcome {
  LossReport report;
  double grad_norm = 0;
  std::vector<float> gradients, weights;  // of all parameters, after accumulation and after the step
  std::vector<Completion> completions;
};

constexpr int kPrompt = 19, kAnswer = 5, kGroup = 3;

Outcome train_and_sample(WaitingEngine& engine) {
  initialize(engine);
  Outcome out;
  // A GRPO group: one prompt, three answers, every answer token a loss row.
  std::vector<int32_t> tokens, parents{-1}, lengths{kPrompt}, rows, targets;
  std::vector<float> advantage, old_logprob, policy_weight, clip, ce_weight;
  for (int i = 0; i < kPrompt; i++) tokens.push_back(i * 7 % 61);
  for (int g = 0; g < kGroup; g++) {
    parents.push_back(0);
    lengths.push_back(kAnswer);
    for (int i = 0; i < kAnswer; i++) {
      rows.push_back(static_cast<int32_t>(tokens.size()));
      tokens.push_back((g * 13 + i * 5 + 1) % 61);
      targets.push_back((g * 17 + i * 3 + 2) % 61);
      advantage.push_back(g == 0 ? 1.0f : -0.5f);
      old_logprob.push_back(-4.1f);
      policy_weight.push_back(0.1f);
      clip.push_back(0.9f);
      ce_weight.push_back(0.05f);
    }
  }
  const TokenForest forest{tokens, parents, lengths};
  ForestRows r;
  r.rows = rows, r.targets = targets, r.advantage = advantage, r.old_logprob = old_logprob, r.policy_weight = policy_weight;
  r.clip_low = clip, r.clip_high = clip, r.ce_weight = ce_weight;
  const auto collect = [](Engine::Core& core, TensorKind kind) {
    std::vector<float> all;
    for (const auto& [name, p] : core.model.parameters()) {
      const std::vector<std::byte> bytes = core.model.read(name, kind);
      const auto* values = reinterpret_cast<const float*>(bytes.data());
      all.insert(all.end(), values, values + p.size());
    }
    return all;
  };
  engine.run(Engine::Job::Kind::shared, [&](Engine::Core& core) {
    out.report = core.trainer.accumulate(forest, r);
    out.gradients = collect(core, TensorKind::gradient);
  });
  GenerateRequest request;
  request.prompt.assign(tokens.begin(), tokens.begin() + kPrompt);
  request.count = kGroup;
  request.max_new_tokens = kAnswer;
  request.rule.seed = 3;
  out.completions = engine.generate({request});
  engine.run(Engine::Job::Kind::exclusive, [&](Engine::Core& core) {
    out.grad_norm = core.trainer.step({.learning_rate = 1e-3, .max_grad_norm = 1}).grad_norm;
    out.weights = collect(core, TensorKind::master);
  });
  return out;
}

/// Largest absolute value: what relative errors of sums with canceling terms are measured by.
double largest(const std::vector<float>& x) {
  double most = 0;
  for (const float v : x) most = std::max(most, std::fabs(static_cast<double>(v)));
  return most;
}
void expect_near(const std::vector<float>& got, const std::vector<float>& want, double bound, const std::string& what) {
  expect(got.size() == want.size(), what + ": sizes differ");
  for (size_t i = 0; i < got.size(); i++) {
    const double error = std::fabs(static_cast<double>(got[i]) - want[i]);
    expect(error <= bound, what + "[" + std::to_string(i) + "]: got " + std::to_string(got[i]) + ", CPU " +
                               std::to_string(want[i]) + ", bound " + std::to_string(bound));
  }
}

/// fp32: both backends round every operation once, in different orders. A value passes through about 2 layers of sums of
/// at most 64 terms forward and as many backward: 2 * 2 * 2 * 64 roundings, each of at most the largest value.
/// bf16: the CPU backend keeps activations in fp32, this one rounds them, about 12 times a layer each way: 48 half units
/// in the last place of the largest value.
double roundings(DType dtype) { return dtype == DType::f32 ? 512 * kRoundoff : 48.0 / 256; }

void agrees_with_cpu(const Device& device, DType dtype, bool recompute) {
  device.open(dtype);  // sets the emulator's way
  EngineOptions options = tiny_options(device, dtype);
  options.sizes.recompute = recompute;
  WaitingEngine gpu(options);
  options.device = "cpu";
  WaitingEngine cpu(options);
  const Outcome want = train_and_sample(cpu), got = train_and_sample(gpu);
  const double relative = roundings(dtype);
  expect_near(got.report.logprob, want.report.logprob, relative * largest(want.report.logprob), "logprob");
  expect_near(got.report.entropy, want.report.entropy, relative * largest(want.report.entropy), "entropy");
  expect_near(got.gradients, want.gradients, relative * largest(want.gradients), "gradient");
  expect(std::fabs(got.grad_norm - want.grad_norm) <= relative * want.grad_norm, "gradient norm");
  // A first AdamW step moves a weight by the learning rate times the gradient's sign: two steps apart at most, where the
  // gradient is no more than its error.
  expect_near(got.weights, want.weights, 2.01e-3, "weight");
  for (int g = 0; g < kGroup; g++) {
    const Completion &a = got.completions[static_cast<size_t>(g)], &b = want.completions[static_cast<size_t>(g)];
    expect(a.tokens.size() == b.tokens.size() && a.finish_reason == b.finish_reason, "completions differ in length");
    if (dtype == DType::f32) {
      expect(a.tokens == b.tokens, "completion " + std::to_string(g) + ": other tokens");
      expect_near(a.logprobs, b.logprobs, relative * largest(b.logprobs), "sampled logprob");
    }
  }
  expect(gpu.peak() <= gpu.plan().total(),
         "peak " + std::to_string(gpu.peak()) + " bytes, planned " + std::to_string(gpu.plan().total()));
}

struct LogProbs {
  Tensor sampled, scored;
};
/// Of the same tokens, of a group sampled here and then scored.
LogProbs sample_and_score(const Device& device, DType dtype) {
  device.open(dtype);
  WaitingEngine engine(tiny_options(device, dtype));
  initialize(engine);
  GenerateRequest request;
  for (int i = 0; i < kPrompt; i++) request.prompt.push_back(i * 3 % 61);
  request.count = kGroup;
  request.max_new_tokens = kAnswer;
  request.rule.seed = 9;
  const std::vector<Completion> sampled = engine.generate({request});
  std::vector<int32_t> tokens = request.prompt, parents{-1}, lengths{kPrompt}, rows, targets;
  std::vector<float> logprobs;
  for (const Completion& c : sampled) {
    parents.push_back(0);
    lengths.push_back(static_cast<int32_t>(c.tokens.size()));
    for (size_t i = 0; i < c.tokens.size(); i++) {
      rows.push_back(i == 0 ? kPrompt - 1 : static_cast<int32_t>(tokens.size()) - 1);
      targets.push_back(c.tokens[i]);
      logprobs.push_back(c.logprobs[i]);
      tokens.push_back(c.tokens[i]);
    }
  }
  ForestRows r;
  r.rows = rows, r.targets = targets;
  LogProbs result;
  result.sampled = result.scored = zeros("", 1, static_cast<int64_t>(logprobs.size()));
  result.sampled.values = logprobs;
  engine.run(Engine::Job::Kind::shared, [&](Engine::Core& core) {
    result.scored.values = core.trainer.score({tokens, parents, lengths}, r).logprob;
  });
  return result;
}

/// What sampling reports is what scoring computes, bit for bit: sampler and trainer cut attention and products alike.
void sampled_equals_scored(const Device& device, DType dtype) {
  const LogProbs of = sample_and_score(device, dtype);
  expect_same_bits(of.scored, of.sampled, "log-prob");
}

/// Not batch-invariant: products of few rows add in another order than those of many, and no more than that.
void sampled_is_near_scored(const Device& device, DType dtype) {
  const LogProbs of = sample_and_score(device, dtype);
  expect_near(of.scored.values, of.sampled.values, roundings(dtype) * largest(of.sampled.values), "log-prob");
  expect(of.scored.values != of.sampled.values, "the emulated cuBLASLt added in one order for every number of rows");
}

/// Optimizer steps on two sequences; the loss before the last one.
double train(WaitingEngine& engine, int steps) {
  const std::vector<int32_t> tokens{3, 14, 15, 9, 26, 5, 35, 8, 9, 7}, parents{-1, -1}, lengths{5, 5},
      rows{0, 1, 2, 3, 5, 6, 7, 8}, targets{14, 15, 9, 26, 35, 8, 9, 7};
  const std::vector<float> weights(rows.size(), 1.0f / 8);
  ForestRows r;
  r.rows = rows, r.targets = targets, r.ce_weight = weights;
  double loss = 0;
  for (int i = 0; i < steps; i++) {
    engine.run(Engine::Job::Kind::exclusive, [&](Engine::Core& core) {
      loss = core.trainer.accumulate({tokens, parents, lengths}, r).ce;
      core.trainer.step({.learning_rate = 2e-2, .weight_decay = 0.01, .max_grad_norm = 1, .seed = 4});
    });
  }
  return loss;
}

constexpr TensorKind kStateKinds[] = {TensorKind::master, TensorKind::moment1, TensorKind::moment2};
using State = std::vector<std::vector<std::byte>>;

State state_of(WaitingEngine& engine) {
  State all;
  engine.run(Engine::Job::Kind::shared, [&](Engine::Core& core) {
    for (const auto& [name, p] : core.model.parameters()) {
      for (const TensorKind kind : kStateKinds) all.push_back(core.model.read(name, kind));
    }
  });
  return all;
}

void load_state(WaitingEngine& engine, const State& state, int64_t step) {
  engine.run(Engine::Job::Kind::exclusive, [&](Engine::Core& core) {
    size_t i = 0;
    for (const auto& [name, p] : core.model.parameters()) {
      for (const TensorKind kind : kStateKinds) core.model.write(name, kind, reinterpret_cast<const float*>(state[i++].data()));
    }
    core.trainer.optimizer_step = step;
  });
}

/// "Ten steps" and "five, saved as fp32 values, loaded by another engine, five more" are the same bits. The first engine
/// keeps its optimizer state in host memory and the other one on the device, which changes no bit either; memory stays
/// within the plan.
void training_resumes(const Device& device, bool compact) {
  device.open(DType::bf16);
  EngineOptions options = tiny_options(device, DType::bf16);
  options.sizes.compact_optimizer = compact;
  WaitingEngine second(options);
  options.sizes.offload_optimizer = true;
  WaitingEngine whole(options);
  initialize(whole);
  const double before = train(whole, 1);
  const size_t held = whole.engine().stats().bytes_allocated;
  train(whole, 4);
  const State saved = state_of(whole);
  load_state(second, saved, 5);
  expect(state_of(second) == saved, "a state read, written and read again differs");
  const double after = train(whole, 5);
  expect(after < 0.7 * before, "the loss went from " + std::to_string(before) + " to " + std::to_string(after));
  train(second, 5);
  expect(state_of(second) == state_of(whole), "five steps, a load and five steps differ from ten");
  const MemoryPlan &plan = whole.plan(), &resident = second.plan();
  const size_t masters = resident.weights - plan.weights;
  expect(resident.host == 0 && plan.optimizer == 0 && plan.host == resident.optimizer + masters && (masters > 0) != compact,
         "state does not lie where it should");
  expect(whole.engine().stats().bytes_allocated == held, "memory grows over steps");
  for (const WaitingEngine* engine : {&whole, &second}) expect(engine->peak() <= engine->plan().total(), "peak over the plan");
}

ModelConfig qwen3(int32_t hidden, int32_t heads, int32_t intermediate, bool tied) {
  ModelConfig c;
  c.vocab_size = 151936, c.hidden_size = hidden, c.layers = 36, c.heads = heads, c.kv_heads = 8, c.head_dim = 128;
  c.intermediate_size = intermediate, c.max_positions = 40960, c.qk_norm = true, c.tied_embeddings = tied;
  c.inv_freq.assign(64, 1);
  return c;
}

/// Planned sizes of full fine-tuning with 64 sequences of 2,048 tokens in the cache and batches of 4,096 tokens.
EngineSizes full_fine_tuning(const ModelConfig& model, bool compact, bool offload) {
  EngineSizes sizes;
  sizes.model = model;
  sizes.dtype = DType::bf16;
  sizes.training = sizes.recompute = true;
  sizes.compact_optimizer = compact;
  sizes.offload_optimizer = offload;
  sizes.max_sequences = 64;
  sizes.cache_tokens = 64 * 2048;
  sizes.max_batch_tokens = 4096;
  return sizes;
}

}  // namespace

/// A plan that the device cannot hold is refused before anything is allocated; a limit that is given goes before the
/// device's, and 0 asks nobody.
void device_memory_is_planned() {
  Device small = emulated_devices().front();
  small.bytes = "300000";
  small.open(DType::f32);
  EngineOptions options = tiny_options(emulated_devices().front(), DType::f32);
  const auto refusal = [&] {
    try {
      WaitingEngine engine(options);
    } catch (const Error& error) {
      return error.code + " " + error.what();
    }
    throw Failure{"an engine larger than the device was made"};
  };
  const auto expect_in = [](const std::string& text, const std::string& part) { expect(text.find(part) != std::string::npos, text); };
  expect_in(refusal(), "The device has 0.3 MB free.");
  options.sizes.memory_limit = 200000;
  expect_in(refusal(), "The limit is 0.2 MB.");
  options.sizes.memory_limit = 0;
  expect_in(refusal(), "OUT_OF_MEMORY");
  emulated_devices().front().open(DType::f32);  // sets back what this process's devices have
  options = tiny_options(emulated_devices().front(), DType::f32);
  options.sizes.offload_optimizer = true;
  options.sizes.host_memory = 100000;
  options.sizes.memory_limit = 0;
  expect_in(refusal(), "Choose optimizerState compact");
}

/// What full fine-tuning of Qwen3 4B and 8B takes: compact, 4B fits a card of 80 GB and 8B one of 141 GB; in full fp32
/// state with masters and moments in host memory too. In full state on the device neither does.
void large_models_fit() {
  Device card = emulated_devices().front();
  const auto plan = [&](const char* bytes, const EngineSizes& sizes) {
    card.bytes = bytes;
    return plan_memory(*card.open(DType::bf16), sizes);
  };
  struct Fit {
    const char *name, *bytes;
    ModelConfig model;
  };
  const Fit fits[] = {{"4B", "80000000000", qwen3(2560, 32, 9728, true)}, {"8B", "141000000000", qwen3(4096, 32, 12288, false)}};
  for (const Fit& fit : fits) {
    for (const auto& [compact, offload] : {std::pair{true, false}, {true, true}, {false, true}}) {
      const MemoryPlan p = plan(fit.bytes, full_fine_tuning(fit.model, compact, offload));
      const auto gb = [](size_t bytes) { return static_cast<double>(bytes) / 1e9; };
      std::printf("plan %s %s%s: %.1f GB (weights %.1f, gradients %.1f, optimizer %.1f, cache %.1f, rest %.1f), host %.1f GB\n",
                  fit.name, compact ? "compact" : "full", offload ? ", offloaded" : "", gb(p.total()), gb(p.weights),
                  gb(p.gradients), gb(p.optimizer), gb(p.cache), gb(p.activations + p.head + p.scratch), gb(p.host));
    }
    try {
      plan(fit.bytes, full_fine_tuning(fit.model, false, false));
      throw Failure{std::string(fit.name) + " in full state fits, which makes this test meaningless"};
    } catch (const Error& error) {
      expect(error.code == "MEMORY_PLAN", error.code + ": " + error.what());
    }
  }
}

/// A lost device ends the engine: the call that met it, and, whatever the device does then, every later one.
void loss_of_the_device_ends_the_engine(const Device& device, bool while_sampling) {
  device.open(DType::f32);  // sets the environment
  WaitingEngine engine(tiny_options(device, DType::f32));
  initialize(engine);
  const auto sample = [&] {
    std::vector<GenerateRequest> requests(1);
    requests[0].prompt = {1, 2, 3};
    requests[0].max_new_tokens = 4;
    engine.generate(std::move(requests));
  };
  const auto score = [&] {
    engine.run(Engine::Job::Kind::shared, [](Engine::Core& core) {
      const std::vector<int32_t> tokens{1, 2, 3, 4}, parents{-1}, lengths{4}, rows{0, 1}, targets{2, 3};
      ForestRows r;
      r.rows = rows, r.targets = targets;
      core.trainer.score({tokens, parents, lengths}, r, true);
    });
  };
  const auto expect_lost = [](const std::string& when, const auto& call) {
    std::string code = "no error";
    try {
      call();
    } catch (const Error& error) {
      code = error.code;
    }
    expect(code == "DEVICE_LOST", when + ": " + code);
  };
  score();
  setenv("ACT_EMULATED_CUBLASLT_FAULT", "execution", 1);
  while_sampling ? expect_lost("the call that met it", sample) : expect_lost("the call that met it", score);
  unsetenv("ACT_EMULATED_CUBLASLT_FAULT");
  expect_lost("scoring afterwards", score);
  expect_lost("sampling afterwards", sample);
}

void cublaslt_engine_checks(std::vector<Check>& checks, const Device& device) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const std::string type = dtype == DType::f32 ? " fp32 " : " bf16 ";
    const auto add = [&](const std::string& name, std::function<void()> run) {
      checks.push_back({"engine with cublaslt" + name + type + device.name, std::move(run)});
    };
    add(" agrees with the CPU", [=] { agrees_with_cpu(device, dtype, false); });
    if (device.name == "cuda") continue;  // there, whether the bits differ is not ours to say
    add(", sampled log-probs are near scored ones", [=] { sampled_is_near_scored(device, dtype); });
  }
  if (device.name == "cuda") return;
  for (const bool while_sampling : {false, true}) {
    checks.push_back({std::string("a device lost while ") + (while_sampling ? "sampling" : "scoring") + " ends the engine",
                      [=] { loss_of_the_device_ends_the_engine(device, while_sampling); }});
  }
}

void engine_checks(std::vector<Check>& checks, const Device& device) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const std::string type = dtype == DType::f32 ? " fp32 " : " bf16 ";
    checks.push_back({"engine agrees with the CPU" + type + device.name, [=] { agrees_with_cpu(device, dtype, false); }});
    checks.push_back({"engine, sampled log-probs equal scored ones" + type + device.name, [=] { sampled_equals_scored(device, dtype); }});
    Device cut = device;
    cut.partition = "16";
    checks.push_back({"engine, sampled log-probs equal scored ones, partitions of 16" + type + device.name,
                      [=] { sampled_equals_scored(cut, dtype); }});
  }
  for (const bool compact : {false, true}) {
    checks.push_back({std::string("engine resumes exactly, optimizer ") + (compact ? "compact " : "full ") + device.name,
                      [=] { training_resumes(device, compact); }});
  }
  checks.push_back({"engine agrees with the CPU, recompute fp32 " + device.name, [=] { agrees_with_cpu(device, DType::f32, true); }});
}

}  // namespace act::test
