// The JavaScript object of one engine (NativeEngine in src/engine/native.ts).
//
// Lifetime: while an answer is owed the object holds itself and keeps the event loop alive; otherwise it is garbage
// like any other, and collecting it stops the engine. The end of the environment (process exit, worker termination)
// stops the engine too, before anything that its answers would need is gone.
#pragma once
#include <napi.h>

#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "../engine/engine.h"
#include "mailbox.h"

namespace act {

class EngineObject : public Napi::ObjectWrap<EngineObject> {
 public:
  static Napi::Function define(Napi::Env env);
  /// One argument, NativeEngineOptions. Starts the engine; `ready` promises this object.
  explicit EngineObject(const Napi::CallbackInfo& info);
  ~EngineObject() override;
  Napi::Promise ready(Napi::Env env);

 private:
  /// What JavaScript is waiting for. Lives on the JavaScript thread only; others know its key.
  struct Pending {
    Napi::Promise::Deferred deferred;
    Napi::FunctionReference on_completion;
    Napi::Reference<Napi::Value> callback_error;
  };

  Napi::Value plan(const Napi::CallbackInfo& info);
  Napi::Value device(const Napi::CallbackInfo& info);
  Napi::Value optimizer_step(const Napi::CallbackInfo& info);
  void set_optimizer_step(const Napi::CallbackInfo& info, const Napi::Value& value);
  Napi::Value tensors(const Napi::CallbackInfo& info);
  Napi::Value load_tensor(const Napi::CallbackInfo& info);
  Napi::Value read_tensor(const Napi::CallbackInfo& info);
  Napi::Value write_tensor(const Napi::CallbackInfo& info);
  Napi::Value initialize(const Napi::CallbackInfo& info);
  Napi::Value generate(const Napi::CallbackInfo& info);
  Napi::Value cancel(const Napi::CallbackInfo& info);
  Napi::Value score(const Napi::CallbackInfo& info);
  Napi::Value accumulate(const Napi::CallbackInfo& info);
  Napi::Value step(const Napi::CallbackInfo& info);
  Napi::Value zero_gradients(const Napi::CallbackInfo& info);
  Napi::Value stats(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);

  Engine& running();
  const Engine::TensorInfo& tensor_info(const std::string& name) const;
  uint64_t expect(Napi::Env env);
  Pending take(Napi::Env env, uint64_t key);
  void reject(Napi::Env env, uint64_t key, const Error& error);
  /// A job whose result becomes the promise's value through `convert`, on the JavaScript thread.
  template <class Result>
  Napi::Object submit(Napi::Env env, Engine::Job::Kind kind, std::function<Result(Engine::Core&)> run,
                      std::function<Napi::Value(Napi::Env, const Result&)> convert);
  Napi::Value submit_void(Napi::Env env, Engine::Job::Kind kind, std::function<void(Engine::Core&)> run);
  void started(Napi::Env env, uint64_t key, const Engine::Started& report);
  void ended(Napi::Env env);
  static void environment_ends(void* self);

  Napi::Env env_;
  EngineOptions options_;
  Mailbox mailbox_;
  std::unordered_map<uint64_t, Pending> pending_;
  uint64_t next_key_ = 1;
  uint64_t ready_key_ = 0;
  std::vector<Napi::Promise::Deferred> disposals_;
  enum class State : uint8_t { running, ending, ended } state_ = State::running;
  std::optional<Engine::Started> report_;
  int64_t told_bytes_ = 0;  // what V8 has been told of
  std::unique_ptr<Engine> engine_;  // last: its thread posts to the mailbox
};

}  // namespace act
