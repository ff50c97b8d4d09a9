// JavaScript values to the engine's types and back, as src/engine/native.ts declares them.
#pragma once
#include <napi.h>

#include <exception>
#include <string>
#include <vector>

#include "../engine/engine.h"

namespace act {

/// A JavaScript Error with the code of `error`.
Napi::Error to_js_error(Napi::Env env, const Error& error);
/// The exception being handled as a JavaScript error; for the edges of the addon, where C++ exceptions must end.
Napi::Error current_js_error(Napi::Env env);

/// Runs `body`, turning every C++ exception into a thrown JavaScript error.
template <class Body>
auto guarded(Napi::Env env, Body&& body) {
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (...) {
    throw current_js_error(env);
  }
}

// All of these throw Error BAD_ARGUMENT naming the key that is wrong.
EngineOptions engine_options(const Napi::Value& value);
/// Everything but id and callbacks.
GenerateRequest generate_request(const Napi::Value& value, int32_t vocabulary, int32_t context);

/// A forest and its loss rows with the memory behind the views.
struct OwnedForest {
  std::vector<int32_t> tokens, parents, lengths;
  TokenForest view() const { return {tokens, parents, lengths}; }
};
struct OwnedRows {
  std::vector<int32_t> rows, targets;
  std::vector<float> ce_weight, advantage, old_logprob, clip_low, clip_high, policy_weight, ref_logprob, kl_weight,
      entropy_weight;
  KlEstimator kl = KlEstimator::k3;
  float inverse_temperature = 1;
  ForestRows view() const;
};
OwnedForest token_forest(const Napi::Value& value);
OwnedRows loss_rows(const Napi::Value& value);
StepOptions step_options(const Napi::Value& value);
TensorKind tensor_kind(const Napi::Value& value);
DType file_dtype(const Napi::Value& value);
std::vector<float> float_array(const Napi::Value& value, const char* key);
double number(const Napi::Value& value, const char* key);
std::string text(const Napi::Value& value, const char* key);

Napi::Object to_js(Napi::Env env, const MemoryPlan& plan);
Napi::Object to_js(Napi::Env env, const Completion& completion);
Napi::Object to_js(Napi::Env env, const LossReport& report);
Napi::Object to_js(Napi::Env env, const Engine::Stats& stats);
/// Uint16Array for bf16, Float32Array otherwise.
Napi::Value to_js(Napi::Env env, const std::vector<std::byte>& values, DType dtype);

}  // namespace act
