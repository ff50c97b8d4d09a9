#include "convert.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace act {
namespace {

[[noreturn]] void refuse(const char* key, const char* expected) {
  throw Error("BAD_ARGUMENT", std::string("Expected ") + expected + " for `" + key + "`.");
}

Napi::Value member(const Napi::Object& object, const char* key) { return object.Get(key); }

Napi::Object object(const Napi::Value& value, const char* key) {
  if (!value.IsObject()) refuse(key, "an object");
  return value.As<Napi::Object>();
}

bool boolean(const Napi::Value& value, const char* key) {
  if (!value.IsBoolean()) refuse(key, "a boolean");
  return value.As<Napi::Boolean>().Value();
}

template <class Integer>
Integer integer(const Napi::Value& value, const char* key, int64_t lowest, int64_t highest) {
  const double given = number(value, key);
  if (!(given == std::floor(given)) || given < static_cast<double>(lowest) || given > static_cast<double>(highest)) {
    throw Error("BAD_ARGUMENT", "Expected an integer from " + std::to_string(lowest) + " to " +
                                    std::to_string(highest) + " for `" + key + "`, got " + std::to_string(given) + ".");
  }
  return static_cast<Integer>(given);
}
constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();
constexpr int64_t kMaxDraftTokens = 64;

uint64_t bits64(const Napi::Value& value, const char* key) {
  if (!value.IsBigInt()) refuse(key, "a bigint");
  bool lossless = false;
  const uint64_t bits = value.As<Napi::BigInt>().Uint64Value(&lossless);
  if (!lossless) refuse(key, "a bigint from 0 to 2^64 - 1");
  return bits;
}

template <class Element>
std::vector<Element> typed_array(const Napi::Value& value, const char* key, napi_typedarray_type type,
                                 const char* expected) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != type) refuse(key, expected);
  const auto array = value.As<Napi::TypedArrayOf<Element>>();
  const size_t count = array.ElementLength();
  std::vector<Element> copy(count);
  // The data pointer of an empty array may be null.
  if (count > 0) std::memcpy(copy.data(), array.Data(), count * sizeof(Element));
  return copy;
}

std::vector<int32_t> int_array(const Napi::Value& value, const char* key) {
  return typed_array<int32_t>(value, key, napi_int32_array, "an Int32Array");
}

template <class Array, class Element>
Array make_array(Napi::Env env, const std::vector<Element>& values) {
  Array array = Array::New(env, values.size());
  if (!values.empty()) std::memcpy(array.Data(), values.data(), values.size() * sizeof(Element));
  return array;
}

Napi::Float32Array floats(Napi::Env env, const std::vector<float>& values) {
  return make_array<Napi::Float32Array>(env, values);
}

ModelConfig model_config(const Napi::Object& from) {
  const auto size = [&](const char* key) { return integer<int32_t>(member(from, key), key, 1, kMaxInt32); };
  ModelConfig config;
  config.vocab_size = size("vocabSize");
  config.hidden_size = size("hiddenSize");
  config.layers = size("layers");
  config.heads = size("heads");
  config.kv_heads = size("kvHeads");
  config.head_dim = size("headDim");
  config.intermediate_size = size("intermediateSize");
  config.max_positions = size("maxPositions");
  config.norm_eps = static_cast<float>(number(member(from, "normEps"), "normEps"));
  config.tied_embeddings = boolean(member(from, "tiedEmbeddings"), "tiedEmbeddings");
  config.qkv_bias = boolean(member(from, "qkvBias"), "qkvBias");
  config.qk_norm = boolean(member(from, "qkNorm"), "qkNorm");
  config.inv_freq = float_array(member(from, "invFreq"), "invFreq");
  config.rope_factor = static_cast<float>(number(member(from, "ropeFactor"), "ropeFactor"));
  return config;
}

LoraConfig lora_config(const Napi::Object& from) {
  LoraConfig lora;
  lora.rank = integer<int32_t>(member(from, "rank"), "lora.rank", 1, kMaxInt32);
  lora.alpha = static_cast<float>(number(member(from, "alpha"), "lora.alpha"));
  // Seeds in configuration files are plain numbers: integers a double holds exactly.
  lora.seed = integer<uint64_t>(member(from, "seed"), "lora.seed", 0, (int64_t{1} << 53) - 1);
  const Napi::Object targets = object(member(from, "targets"), "lora.targets");
  if (!targets.IsArray()) refuse("lora.targets", "an array");
  const auto list = targets.As<Napi::Array>();
  for (uint32_t i = 0; i < list.Length(); ++i) lora.targets.push_back(text(list.Get(i), "lora.targets"));
  return lora;
}

TokenBytes token_bytes(const Napi::Object& from, int32_t vocabulary) {
  const auto bytes = typed_array<uint8_t>(member(from, "bytes"), "tokenBytes.bytes", napi_uint8_array, "a Uint8Array");
  TokenBytes result;
  result.bytes.assign(bytes.begin(), bytes.end());
  result.offsets =
      typed_array<uint32_t>(member(from, "offsets"), "tokenBytes.offsets", napi_uint32_array, "a Uint32Array");
  if (result.offsets.size() != static_cast<size_t>(vocabulary) + 1 || result.offsets.front() != 0 ||
      result.offsets.back() != result.bytes.size() || !std::is_sorted(result.offsets.begin(), result.offsets.end())) {
    refuse("tokenBytes.offsets", "ascending offsets into the bytes, one more than the vocabulary has tokens");
  }
  return result;
}

void check_tokens(const std::vector<int32_t>& tokens, int32_t vocabulary, const char* key) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] >= 0 && tokens[i] < vocabulary) continue;
    throw Error("TOKEN_OUT_OF_RANGE", "Expected token ids from 0 to " + std::to_string(vocabulary - 1) + " for `" +
                                          key + "`, got " + std::to_string(tokens[i]) + " at index " +
                                          std::to_string(i) + ".");
  }
}

std::vector<int32_t> ascending(std::vector<int32_t> values) {
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
  return values;
}

}  // namespace

Napi::Error to_js_error(Napi::Env env, const Error& error) {
  Napi::Error result = Napi::Error::New(env, error.what());
  result.Value().Set("code", Napi::String::New(env, error.code));
  return result;
}

Napi::Error current_js_error(Napi::Env env) {
  try {
    throw;
  } catch (const Napi::Error& error) {
    return error;
  } catch (const Error& error) {
    return to_js_error(env, error);
  } catch (const std::bad_alloc&) {
    return to_js_error(env, Error("OUT_OF_MEMORY", "Not enough memory."));
  } catch (const std::exception& error) {
    return to_js_error(env, Error("INTERNAL", std::string("The addon failed in an unforeseen way: ") + error.what()));
  } catch (...) {
    return to_js_error(env, Error("INTERNAL", "The addon failed in an unforeseen way."));
  }
}

double number(const Napi::Value& value, const char* key) {
  if (!value.IsNumber()) refuse(key, "a number");
  return value.As<Napi::Number>().DoubleValue();
}

std::string text(const Napi::Value& value, const char* key) {
  if (!value.IsString()) refuse(key, "a string");
  return value.As<Napi::String>().Utf8Value();
}

std::vector<float> float_array(const Napi::Value& value, const char* key) {
  return typed_array<float>(value, key, napi_float32_array, "a Float32Array");
}

EngineOptions engine_options(const Napi::Value& value) {
  const Napi::Object from = object(value, "options");
  EngineOptions options;
  EngineSizes& sizes = options.sizes;
  sizes.model = model_config(object(member(from, "model"), "model"));
  const std::string dtype = text(member(from, "dtype"), "dtype");
  if (dtype != "fp32" && dtype != "bf16") refuse("dtype", "fp32 or bf16");
  sizes.dtype = dtype == "bf16" ? DType::bf16 : DType::f32;
  sizes.training = boolean(member(from, "training"), "training");
  sizes.recompute = boolean(member(from, "recompute"), "recompute");
  const std::string state = text(member(from, "optimizerState"), "optimizerState");
  if (state != "full" && state != "compact") refuse("optimizerState", "full or compact");
  sizes.compact_optimizer = state == "compact";
  sizes.offload_optimizer = boolean(member(from, "offloadOptimizer"), "offloadOptimizer");
  if (const Napi::Value lora = member(from, "lora"); !lora.IsNull()) sizes.lora = lora_config(object(lora, "lora"));
  sizes.max_sequences = integer<int64_t>(member(from, "maxSequences"), "maxSequences", 1, kMaxInt32);
  sizes.draft_tokens = integer<int64_t>(member(from, "draftTokens"), "draftTokens", 0, kMaxDraftTokens);
  sizes.cache_tokens = integer<int64_t>(member(from, "cacheTokens"), "cacheTokens", 1, kMaxInt32);
  sizes.max_batch_tokens = integer<int64_t>(member(from, "maxBatchTokens"), "maxBatchTokens", 2, kMaxInt32 - 1);
  if (const Napi::Value limit = member(from, "memoryLimit"); !limit.IsNull())
    sizes.memory_limit = integer<size_t>(limit, "memoryLimit", 0, int64_t{1} << 53);
  sizes.host_memory = integer<size_t>(member(from, "hostMemory"), "hostMemory", 0, int64_t{1} << 53);
  options.device = text(member(from, "device"), "device");
  options.instruction_set = text(member(from, "instructionSet"), "instructionSet");
  options.threads = integer<int>(member(from, "threads"), "threads", 1, 1024);
  options.batch_invariant = boolean(member(from, "batchInvariant"), "batchInvariant");
  if (const Napi::Value bytes = member(from, "tokenBytes"); !bytes.IsNull()) {
    options.token_bytes = token_bytes(object(bytes, "tokenBytes"), sizes.model.vocab_size);
  }
  return options;
}

GenerateRequest generate_request(const Napi::Value& value, int32_t vocabulary, int32_t context) {
  const Napi::Object from = object(value, "request");
  GenerateRequest request;
  request.prompt = int_array(member(from, "prompt"), "prompt");
  if (request.prompt.empty()) refuse("prompt", "at least one token");
  check_tokens(request.prompt, vocabulary, "prompt");
  if (request.prompt.size() >= static_cast<size_t>(context)) {
    throw Error("PROMPT_TOO_LONG", "The prompt has " + std::to_string(request.prompt.size()) +
                                       " tokens, but the model's context of " + std::to_string(context) +
                                       " has to hold the prompt and at least one new token. Shorten the prompt.");
  }
  request.count = integer<int32_t>(member(from, "count"), "count", 1, kMaxInt32);
  request.max_new_tokens = integer<int32_t>(member(from, "maxNewTokens"), "maxNewTokens", 1, kMaxInt32);
  request.adapters = boolean(member(from, "adapters"), "adapters");

  SamplingRule& rule = request.rule;
  const auto ratio = [&](const char* key) {
    const double given = number(member(from, key), key);
    if (!(given >= 0 && given <= 1)) refuse(key, "a number from 0 to 1");
    return static_cast<float>(given);
  };
  rule.temperature = static_cast<float>(number(member(from, "temperature"), "temperature"));
  if (!(rule.temperature >= 0) || std::isinf(rule.temperature)) refuse("temperature", "a finite number >= 0");
  rule.top_k = integer<int32_t>(member(from, "topK"), "topK", 0, kMaxInt32);
  rule.top_p = ratio("topP");
  rule.min_p = ratio("minP");
  rule.seed = bits64(member(from, "seed"), "seed");
  rule.stream = bits64(member(from, "stream"), "stream");
  rule.stop_tokens = ascending(int_array(member(from, "stopTokens"), "stopTokens"));
  check_tokens(rule.stop_tokens, vocabulary, "stopTokens");

  const Napi::Value strings = member(from, "stopStrings");
  if (!strings.IsArray()) refuse("stopStrings", "an array of Uint8Array");
  const auto list = strings.As<Napi::Array>();
  for (uint32_t i = 0; i < list.Length(); ++i) {
    const auto bytes = typed_array<uint8_t>(list.Get(i), "stopStrings", napi_uint8_array, "an array of Uint8Array");
    if (bytes.empty()) refuse("stopStrings", "texts that are not empty");
    rule.stop_strings.emplace_back(bytes.begin(), bytes.end());
  }

  const Napi::Value choices = member(from, "choices");
  if (choices.IsNull()) return request;
  if (!choices.IsArray() || choices.As<Napi::Array>().Length() == 0) refuse("choices", "null or an array with entries");
  if (rule.stop_tokens.empty()) refuse("stopTokens", "at least one token with `choices`");
  if (!rule.stop_strings.empty()) refuse("stopStrings", "an empty array with `choices`");
  std::vector<std::vector<int32_t>> sequences;
  for (uint32_t i = 0; i < choices.As<Napi::Array>().Length(); ++i) {
    sequences.push_back(int_array(choices.As<Napi::Array>().Get(i), "choices"));
    if (sequences.back().empty()) refuse("choices", "sequences of at least one token");
    check_tokens(sequences.back(), vocabulary, "choices");
  }
  rule.choices.emplace(sequences, rule.stop_tokens);
  return request;
}

ForestRows OwnedRows::view() const {
  return {rows,          targets,     ce_weight, advantage,      old_logprob, clip_low,           clip_high,
          policy_weight, ref_logprob, kl_weight, entropy_weight, kl,          inverse_temperature};
}

OwnedForest token_forest(const Napi::Value& value) {
  const Napi::Object from = object(value, "forest");
  return {int_array(member(from, "tokens"), "tokens"), int_array(member(from, "parents"), "parents"),
          int_array(member(from, "lengths"), "lengths")};
}

OwnedRows loss_rows(const Napi::Value& value) {
  const Napi::Object from = object(value, "rows");
  const auto stream = [&](const char* key) { return float_array(member(from, key), key); };
  OwnedRows rows;
  rows.rows = int_array(member(from, "rows"), "rows");
  rows.targets = int_array(member(from, "targets"), "targets");
  rows.ce_weight = stream("ceWeight");
  rows.advantage = stream("advantage");
  rows.old_logprob = stream("oldLogprob");
  rows.clip_low = stream("clipLow");
  rows.clip_high = stream("clipHigh");
  rows.policy_weight = stream("policyWeight");
  rows.ref_logprob = stream("refLogprob");
  rows.kl_weight = stream("klWeight");
  rows.entropy_weight = stream("entropyWeight");
  const std::string kl = text(member(from, "klEstimator"), "klEstimator");
  if (kl != "k1" && kl != "k2" && kl != "k3") refuse("klEstimator", "k1, k2 or k3");
  rows.kl = kl == "k1" ? KlEstimator::k1 : kl == "k2" ? KlEstimator::k2 : KlEstimator::k3;
  rows.inverse_temperature = static_cast<float>(number(member(from, "inverseTemperature"), "inverseTemperature"));
  if (!(rows.inverse_temperature > 0) || std::isinf(rows.inverse_temperature)) {
    refuse("inverseTemperature", "a finite number > 0");
  }
  return rows;
}

StepOptions step_options(const Napi::Value& value) {
  const Napi::Object from = object(value, "options");
  const auto get = [&](const char* key) { return number(member(from, key), key); };
  return {get("learningRate"), get("beta1"),       get("beta2"),       get("epsilon"),
          get("weightDecay"),  get("maxGradNorm"), bits64(member(from, "seed"), "seed")};
}

TensorKind tensor_kind(const Napi::Value& value) {
  const std::string kind = text(value, "kind");
  if (kind == "weight") return TensorKind::weight;
  if (kind == "master") return TensorKind::master;
  if (kind == "gradient") return TensorKind::gradient;
  if (kind == "moment1") return TensorKind::moment1;
  if (kind == "moment2") return TensorKind::moment2;
  refuse("kind", "weight, master, gradient, moment1 or moment2");
}

DType file_dtype(const Napi::Value& value) {
  const std::string dtype = text(value, "dtype");
  if (dtype == "F32") return DType::f32;
  if (dtype == "F16") return DType::f16;
  if (dtype == "BF16") return DType::bf16;
  refuse("dtype", "F32, F16 or BF16");
}

Napi::Object to_js(Napi::Env env, const MemoryPlan& plan) {
  Napi::Object result = Napi::Object::New(env);
  const auto set = [&](const char* key, size_t bytes) {
    result.Set(key, Napi::Number::New(env, static_cast<double>(bytes)));
  };
  set("weights", plan.weights);
  set("gradients", plan.gradients);
  set("optimizer", plan.optimizer);
  set("cache", plan.cache);
  set("activations", plan.activations);
  set("head", plan.head);
  set("scratch", plan.scratch);
  set("total", plan.total());
  set("host", plan.host);
  return result;
}

Napi::Object to_js(Napi::Env env, const Completion& completion) {
  static constexpr const char* kReasons[] = {"stop", "length", "aborted"};
  Napi::Object result = Napi::Object::New(env);
  result.Set("tokens", make_array<Napi::Int32Array>(env, completion.tokens));
  result.Set("logprobs", floats(env, completion.logprobs));
  result.Set("samplingLogprobs", floats(env, completion.sampling_logprobs));
  result.Set("keptMass", floats(env, completion.kept_mass));
  result.Set("entropy", floats(env, completion.entropy));
  result.Set("finishReason", Napi::String::New(env, kReasons[static_cast<int>(completion.finish_reason)]));
  result.Set("weightVersion", Napi::Number::New(env, static_cast<double>(completion.weight_version)));
  return result;
}

Napi::Object to_js(Napi::Env env, const LossReport& report) {
  Napi::Object result = Napi::Object::New(env);
  result.Set("logprob", floats(env, report.logprob));
  result.Set("entropy", floats(env, report.entropy));
  result.Set("ratio", floats(env, report.ratio));
  result.Set("kl", floats(env, report.kl));
  result.Set("clipped", make_array<Napi::Uint8Array>(env, report.clipped));
  result.Set("loss", Napi::Number::New(env, report.loss()));
  result.Set("ce", Napi::Number::New(env, report.ce));
  result.Set("policy", Napi::Number::New(env, report.policy));
  result.Set("klTerm", Napi::Number::New(env, report.kl_term));
  result.Set("entropyTerm", Napi::Number::New(env, report.entropy_term));
  return result;
}

Napi::Object to_js(Napi::Env env, const Engine::Stats& stats) {
  Napi::Object result = Napi::Object::New(env);
  const auto set = [&](const char* key, auto value) {
    result.Set(key, Napi::Number::New(env, static_cast<double>(value)));
  };
  set("bytesAllocated", stats.bytes_allocated);
  set("bytesPeak", stats.bytes_peak);
  set("activeSequences", stats.active_sequences);
  set("cachedTokens", stats.cached_tokens);
  set("prefillTokens", stats.counters.prefill_tokens);
  set("reusedTokens", stats.counters.reused_tokens);
  set("decodedTokens", stats.counters.decoded_tokens);
  set("draftedTokens", stats.counters.drafted_tokens);
  set("acceptedDrafts", stats.counters.accepted_drafts);
  set("weightVersion", stats.weight_version);
  return result;
}

Napi::Value to_js(Napi::Env env, const std::vector<std::byte>& values, DType dtype) {
  Napi::ArrayBuffer buffer = Napi::ArrayBuffer::New(env, values.size());
  if (!values.empty()) std::memcpy(buffer.Data(), values.data(), values.size());
  const size_t count = values.size() / size_of(dtype);
  if (dtype == DType::bf16) return Napi::Uint16Array::New(env, count, buffer, 0);
  return Napi::Float32Array::New(env, count, buffer, 0);
}

}  // namespace act
