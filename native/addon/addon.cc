// The module's exports (NativeAddon in src/engine/native.ts). No state outside the environment's instance data: the
// addon may be loaded by the main thread and any number of worker threads at once.
#include <napi.h>

#include "convert.h"
#include "engine_object.h"

namespace act {
namespace {

/// Number of this boundary; src/engine/addon.ts refuses a binary that speaks another.
constexpr const char* kContractVersion = "1";

struct InstanceData {
  Napi::FunctionReference engine_class;
};

Napi::Value create_engine(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const Napi::Object object = env.GetInstanceData<InstanceData>()->engine_class.New({info[0]});
    return EngineObject::Unwrap(object)->ready(env);
  });
}

Napi::Value plan_memory_of(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const EngineOptions options = engine_options(info[0]);
    const std::unique_ptr<Backend> backend = make_backend(options);
    return to_js(info.Env(), plan_memory(*backend, options.sizes));
  });
}

Napi::Value instruction_sets(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Array list = Napi::Array::New(env);
  for (const char* name : {"portable", "avx2", "avx512", "avx512vnni", "avx512bf16", "amx"}) {
    EngineOptions options;
    options.instruction_set = name;
    try {
      make_backend(options);
    } catch (const Error&) {
      continue;  // this processor lacks it
    }
    list.Set(list.Length(), Napi::String::New(env, name));
  }
  return list;
}

Napi::Value describe_device(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    EngineOptions options;
    options.device = text(info[0], "device");
    return Napi::String::New(info.Env(), make_backend(options)->describe());
  });
}

Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  auto* data = new InstanceData;
  env.SetInstanceData(data);
  data->engine_class = Napi::Persistent(EngineObject::define(env));
  exports.Set("createEngine", Napi::Function::New(env, create_engine, "createEngine"));
  exports.Set("planMemory", Napi::Function::New(env, plan_memory_of, "planMemory"));
  exports.Set("instructionSets", Napi::Function::New(env, instruction_sets, "instructionSets"));
  exports.Set("describeDevice", Napi::Function::New(env, describe_device, "describeDevice"));
  exports.Set("version", Napi::String::New(env, kContractVersion));
  return exports;
}

}  // namespace
}  // namespace act

// The macro wants an unqualified name.
static Napi::Object initialize_addon(Napi::Env env, Napi::Object exports) { return act::initialize(env, exports); }
NODE_API_MODULE(act_addon, initialize_addon)
