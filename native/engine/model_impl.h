// What the translation units of Model share.
#pragma once
#include "model.h"
#include "model_layer.h"
#include "tape.h"

namespace act {

struct Model::Impl {
  Backend& backend;
  ModelConfig config;
  Options options;
  std::map<std::string, Parameter> parameters;
  Parameter *embedding = nullptr, *final_norm = nullptr, *head = nullptr;
  std::vector<LayerParameters> layers;
  Workspace work;
  int64_t missing = 0;  // parameters that are not loaded yet

  Impl(Backend& backend, const ModelConfig& config, const Options& options)
      : backend(backend), config(config), options(options) {}

  void connect();
  float lora_scale() const;
  void initialize_adapter(Parameter& parameter);
  void mark_loaded(Parameter& parameter);
  /// Sets the fp32 values of a parameter and everything derived from them.
  void set_values(Parameter& parameter, const float* values);
};

/// Name, shape and trainability of every parameter, in name order; no memory. Throws BAD_ARGUMENT.
struct ParameterShape {
  std::vector<int64_t> shape;
  bool trainable = false;
  bool twice_used = false;  // an embedding that is the head too
};
std::map<std::string, ParameterShape> parameter_shapes(const ModelConfig& config, const Model::Options& options);

}  // namespace act
