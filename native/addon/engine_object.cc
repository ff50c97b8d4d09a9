#include "engine_object.h"

#include "../formats/file_range.h"
#include "convert.h"

namespace act {

using Kind = Engine::Job::Kind;

Napi::Function EngineObject::define(Napi::Env env) {
  return DefineClass(env, "NativeEngine",
                     {
                         InstanceAccessor<&EngineObject::plan>("plan"),
                         InstanceAccessor<&EngineObject::device>("device"),
                         InstanceAccessor<&EngineObject::optimizer_step, &EngineObject::set_optimizer_step>(
                             "optimizerStep"),
                         InstanceMethod<&EngineObject::tensors>("tensors"),
                         InstanceMethod<&EngineObject::load_tensor>("loadTensor"),
                         InstanceMethod<&EngineObject::read_tensor>("readTensor"),
                         InstanceMethod<&EngineObject::write_tensor>("writeTensor"),
                         InstanceMethod<&EngineObject::initialize>("initialize"),
                         InstanceMethod<&EngineObject::generate>("generate"),
                         InstanceMethod<&EngineObject::cancel>("cancel"),
                         InstanceMethod<&EngineObject::score>("score"),
                         InstanceMethod<&EngineObject::accumulate>("accumulate"),
                         InstanceMethod<&EngineObject::step>("step"),
                         InstanceMethod<&EngineObject::zero_gradients>("zeroGradients"),
                         InstanceMethod<&EngineObject::stats>("stats"),
                         InstanceMethod<&EngineObject::dispose>("dispose"),
                     });
}

EngineObject::EngineObject(const Napi::CallbackInfo& info)
    : Napi::ObjectWrap<EngineObject>(info),
      env_(info.Env()),
      options_(guarded(info.Env(), [&] { return engine_options(info[0]); })),
      mailbox_(info.Env()) {
  guarded(env_, [&] {
    ready_key_ = expect(env_);
    const uint64_t key = ready_key_;
    const auto report = [this, key](const Engine::Started* started, const Error* error) {
      if (error != nullptr) {
        mailbox_.post([this, key, error = *error](Napi::Env env) {
          engine_.reset();
          state_ = State::ended;
          reject(env, key, error);
        });
      } else {
        mailbox_.post([this, key, started = *started](Napi::Env env) { this->started(env, key, started); });
      }
    };
    engine_ = std::make_unique<Engine>(options_, report);
    // Hooks run in reverse order: this one before the mailbox's own.
    napi_add_env_cleanup_hook(env_, environment_ends, this);
  });
}

EngineObject::~EngineObject() {
  napi_remove_env_cleanup_hook(env_, environment_ends, this);
  engine_.reset();
  Napi::MemoryManagement::AdjustExternalMemory(env_, -told_bytes_);
}

void EngineObject::environment_ends(void* self) {
  EngineObject& object = *static_cast<EngineObject*>(self);
  object.state_ = State::ended;
  object.engine_.reset();
  object.mailbox_.close();
}

Napi::Promise EngineObject::ready(Napi::Env env) { return pending_.at(ready_key_).deferred.Promise(); }

void EngineObject::started(Napi::Env env, uint64_t key, const Engine::Started& report) {
  report_ = report;
  told_bytes_ = static_cast<int64_t>(report.plan.total());
  Napi::MemoryManagement::AdjustExternalMemory(env, told_bytes_);
  const Napi::Value self = Value();
  take(env, key).deferred.Resolve(self);
}

/// The engine, for a caller who may still use it.
Engine& EngineObject::running() {
  if (state_ != State::running) throw Error("DISPOSED", "The engine was disposed of.");
  return *engine_;
}

uint64_t EngineObject::expect(Napi::Env env) {
  const uint64_t key = next_key_++;
  pending_.emplace(key, Pending{Napi::Promise::Deferred::New(env), {}, {}});
  mailbox_.expect(env);
  Ref();
  return key;
}

EngineObject::Pending EngineObject::take(Napi::Env env, uint64_t key) {
  auto node = pending_.extract(key);
  mailbox_.settled(env);
  Unref();
  return std::move(node.mapped());
}

void EngineObject::reject(Napi::Env env, uint64_t key, const Error& error) {
  take(env, key).deferred.Reject(to_js_error(env, error).Value());
}

template <class Result>
Napi::Object EngineObject::submit(Napi::Env env, Kind kind, std::function<Result(Engine::Core&)> run,
                                  std::function<Napi::Value(Napi::Env, const Result&)> convert) {
  Engine& engine = running();
  const uint64_t key = expect(env);
  const Napi::Promise promise = pending_.at(key).deferred.Promise();
  const auto result = std::make_shared<std::optional<Result>>();
  Engine::Job job;
  job.kind = kind;
  job.run = [run = std::move(run), result](Engine::Core& core) { result->emplace(run(core)); };
  job.done = [this, key, result, convert = std::move(convert)](const Error* error) {
    if (error != nullptr) {
      mailbox_.post([this, key, error = *error](Napi::Env env) { reject(env, key, error); });
      return;
    }
    mailbox_.post([this, key, result, convert](Napi::Env env) {
      const Pending pending = take(env, key);
      try {
        pending.deferred.Resolve(convert(env, **result));
      } catch (...) {
        pending.deferred.Reject(current_js_error(env).Value());
      }
    });
  };
  const uint64_t id = engine.submit(std::move(job));
  Napi::Object call = Napi::Object::New(env);
  call.Set("id", Napi::Number::New(env, static_cast<double>(id)));
  call.Set("done", promise);
  return call;
}

Napi::Value EngineObject::submit_void(Napi::Env env, Kind kind, std::function<void(Engine::Core&)> run) {
  const auto nothing = [](Napi::Env env, const std::monostate&) -> Napi::Value { return env.Undefined(); };
  return submit<std::monostate>(
             env, kind,
             [run = std::move(run)](Engine::Core& core) {
               run(core);
               return std::monostate{};
             },
             nothing)
      .Get("done");
}

Napi::Value EngineObject::plan(const Napi::CallbackInfo& info) { return to_js(info.Env(), report_->plan); }

Napi::Value EngineObject::device(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), report_->device);
}

Napi::Value EngineObject::optimizer_step(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    return Napi::Number::New(info.Env(), static_cast<double>(running().stats().optimizer_step));
  });
}

void EngineObject::set_optimizer_step(const Napi::CallbackInfo& info, const Napi::Value& value) {
  guarded(info.Env(), [&] {
    const double step = number(value, "optimizerStep");
    if (!(step >= 0) || step != static_cast<double>(static_cast<int64_t>(step))) {
      throw Error("BAD_ARGUMENT", "Expected an integer >= 0 for `optimizerStep`.");
    }
    running().set_optimizer_step(static_cast<int64_t>(step));
  });
}

Napi::Value EngineObject::tensors(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Array list = Napi::Array::New(env, report_->tensors.size());
  for (uint32_t i = 0; i < report_->tensors.size(); ++i) {
    const Engine::TensorInfo& tensor = report_->tensors[i];
    Napi::Array shape = Napi::Array::New(env, tensor.shape.size());
    for (uint32_t d = 0; d < tensor.shape.size(); ++d) {
      shape.Set(d, Napi::Number::New(env, static_cast<double>(tensor.shape[d])));
    }
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("name", Napi::String::New(env, tensor.name));
    entry.Set("shape", shape);
    entry.Set("trainable", Napi::Boolean::New(env, tensor.trainable));
    list.Set(i, entry);
  }
  return list;
}

const Engine::TensorInfo& EngineObject::tensor_info(const std::string& name) const {
  for (const Engine::TensorInfo& tensor : report_->tensors) {
    if (tensor.name == name) return tensor;
  }
  throw Error("UNKNOWN_TENSOR", "The model has no tensor `" + name + "`.");
}

Napi::Value EngineObject::load_tensor(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const std::string name = text(info[0], "name"), file = text(info[1], "file");
    const double offset = number(info[2], "offset"), length = number(info[3], "byteLength");
    const DType dtype = file_dtype(info[4]);
    const double expected = static_cast<double>(tensor_info(name).size()) * static_cast<double>(size_of(dtype));
    if (!(offset >= 0) || length != expected) {
      throw Error("MODEL_TENSORS", "Tensor `" + name + "` takes " + std::to_string(static_cast<int64_t>(expected)) +
                                       " bytes, but the file gives " + std::to_string(static_cast<int64_t>(length)) +
                                       ".");
    }
    Engine* engine = engine_.get();
    return submit_void(env, Kind::exclusive, [=](Engine::Core& core) {
      const auto bytes = read_file_range(file, static_cast<uint64_t>(offset), static_cast<uint64_t>(length));
      core.model.load(name, bytes.data(), dtype);
      engine->weights_changed(false);
    });
  });
}

Napi::Value EngineObject::read_tensor(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const std::string name = text(info[0], "name");
    const TensorKind kind = tensor_kind(info[1]);
    tensor_info(name);
    const DType dtype = kind == TensorKind::weight ? options_.sizes.dtype : DType::f32;
    return submit<std::vector<std::byte>>(
               env, Kind::shared, [=](Engine::Core& core) { return core.model.read(name, kind); },
               [=](Napi::Env env, const std::vector<std::byte>& values) { return to_js(env, values, dtype); })
        .Get("done");
  });
}

Napi::Value EngineObject::write_tensor(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const std::string name = text(info[0], "name");
    const TensorKind kind = tensor_kind(info[1]);
    std::vector<float> values = float_array(info[2], "data");
    if (static_cast<int64_t>(values.size()) != tensor_info(name).size()) {
      throw Error("BAD_ARGUMENT", "Tensor `" + name + "` has " + std::to_string(tensor_info(name).size()) +
                                        " values, got " + std::to_string(values.size()) + ".");
    }
    Engine* engine = engine_.get();
    return submit_void(env, Kind::exclusive, [=, values = std::move(values)](Engine::Core& core) {
      core.model.write(name, kind, values.data());
      if (kind == TensorKind::weight || kind == TensorKind::master) engine->weights_changed(true);
    });
  });
}

Napi::Value EngineObject::initialize(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    if (!info[0].IsBigInt()) throw Error("BAD_ARGUMENT", "Expected a bigint for `seed`.");
    bool lossless = false;
    const uint64_t seed = info[0].As<Napi::BigInt>().Uint64Value(&lossless);
    const double deviation = number(info[1], "std");
    if (!lossless || !(deviation > 0)) {
      throw Error("BAD_ARGUMENT", "Expected a `seed` from 0 to 2^64 - 1 and a positive `std`.");
    }
    Engine* engine = engine_.get();
    return submit_void(env, Kind::exclusive, [=](Engine::Core& core) {
      core.model.initialize(seed, deviation);
      engine->weights_changed(false);
    });
  });
}

Napi::Value EngineObject::generate(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    Engine& engine = running();
    GenerateRequest request =
        generate_request(info[0], options_.sizes.model.vocab_size, options_.sizes.model.max_positions);
    if (!info[1].IsFunction()) throw Error("BAD_ARGUMENT", "Expected a function for `onCompletion`.");
    const uint64_t key = expect(env);
    Pending& pending = pending_.at(key);
    pending.on_completion = Napi::Persistent(info[1].As<Napi::Function>());
    const Napi::Promise promise = pending.deferred.Promise();
    request.on_completion = [this, key](int32_t index, Completion&& completion) {
      mailbox_.post([this, key, index, completion = std::move(completion)](Napi::Env env) {
        Pending& pending = pending_.at(key);
        try {
          pending.on_completion.Call({Napi::Number::New(env, index), to_js(env, completion)});
        } catch (const Napi::Error& error) {
          // The caller's own function failed: the promise tells.
          pending.callback_error = Napi::Persistent<Napi::Value>(error.Value());
        }
      });
    };
    request.on_done = [this, key](const Error* error) {
      if (error != nullptr) {
        mailbox_.post([this, key, error = *error](Napi::Env env) { reject(env, key, error); });
        return;
      }
      mailbox_.post([this, key](Napi::Env env) {
        const Pending pending = take(env, key);
        if (pending.callback_error.IsEmpty()) {
          pending.deferred.Resolve(env.Undefined());
        } else {
          pending.deferred.Reject(pending.callback_error.Value());
        }
      });
    };
    const uint64_t id = engine.generate(std::move(request));
    Napi::Object call = Napi::Object::New(env);
    call.Set("id", Napi::Number::New(env, static_cast<double>(id)));
    call.Set("done", promise);
    return call;
  });
}

Napi::Value EngineObject::cancel(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    // After the end everything has been answered already.
    if (state_ == State::running) engine_->cancel(static_cast<uint64_t>(number(info[0], "id")));
    return info.Env().Undefined();
  });
}

Napi::Value EngineObject::score(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    if (!info[2].IsBoolean()) throw Error("BAD_ARGUMENT", "Expected a boolean for `adapters`.");
    const bool adapters = info[2].As<Napi::Boolean>().Value();
    Engine* engine = engine_.get();
    return submit<LossReport>(
        env, Kind::shared,
        [=, forest = token_forest(info[0]), rows = loss_rows(info[1])](Engine::Core& core) {
          return core.trainer.score(forest.view(), rows.view(), adapters, [engine] { return engine->job_cancelled(); });
        },
        [](Napi::Env env, const LossReport& report) { return to_js(env, report); });
  });
}

Napi::Value EngineObject::accumulate(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    Engine* engine = engine_.get();
    return submit<LossReport>(
        env, Kind::shared,
        [=, forest = token_forest(info[0]), rows = loss_rows(info[1])](Engine::Core& core) {
          return core.trainer.accumulate(forest.view(), rows.view(), [engine] { return engine->job_cancelled(); });
        },
        [](Napi::Env env, const LossReport& report) { return to_js(env, report); });
  });
}

Napi::Value EngineObject::step(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const StepOptions options = step_options(info[0]);
    Engine* engine = engine_.get();
    return submit<StepReport>(
               env, Kind::exclusive,
               [=](Engine::Core& core) {
                 const StepReport report = core.trainer.step(options);
                 engine->weights_changed(true);
                 return report;
               },
               [](Napi::Env env, const StepReport& report) {
                 Napi::Object result = Napi::Object::New(env);
                 result.Set("gradNorm", Napi::Number::New(env, report.grad_norm));
                 result.Set("step", Napi::Number::New(env, static_cast<double>(report.step)));
                 return result;
               })
        .Get("done");
  });
}

Napi::Value EngineObject::zero_gradients(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    return submit_void(env, Kind::shared, [](Engine::Core& core) { core.trainer.zero_gradients(); });
  });
}

Napi::Value EngineObject::stats(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] { return to_js(info.Env(), running().stats()); });
}

Napi::Value EngineObject::dispose(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto deferred = Napi::Promise::Deferred::New(env);
  if (state_ == State::ended) {
    deferred.Resolve(env.Undefined());
    return deferred.Promise();
  }
  disposals_.push_back(deferred);
  if (state_ == State::running) {
    state_ = State::ending;
    mailbox_.expect(env);
    Ref();
    engine_->stop([this] { mailbox_.post([this](Napi::Env env) { ended(env); }); });
  }
  return deferred.Promise();
}

/// The engine has answered everything and freed its memory; its thread is about to return.
void EngineObject::ended(Napi::Env env) {
  engine_.reset();
  state_ = State::ended;
  Napi::MemoryManagement::AdjustExternalMemory(env, -told_bytes_);
  told_bytes_ = 0;
  mailbox_.settled(env);
  mailbox_.close();
  Unref();
  for (const Napi::Promise::Deferred& deferred : disposals_) deferred.Resolve(env.Undefined());
  disposals_.clear();
}

}  // namespace act
