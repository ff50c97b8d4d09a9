// Results on their way from the engine's thread to the JavaScript thread that owns the engine object.
#pragma once
#include <napi.h>

#include <functional>

namespace act {

/// Runs on the JavaScript thread.
using Delivery = std::function<void(Napi::Env)>;

/// Keeps the event loop alive exactly while answers are expected. All methods but `post` on the JavaScript thread.
class Mailbox {
 public:
  explicit Mailbox(Napi::Env env);
  ~Mailbox() { close(); }
  Mailbox(const Mailbox&) = delete;
  Mailbox& operator=(const Mailbox&) = delete;

  /// From any thread, until `close`. Deliveries run in order; those still on the way when the environment ends are
  /// dropped.
  void post(Delivery delivery);
  void expect(Napi::Env env);
  void settled(Napi::Env env);
  /// Nothing may be posted afterwards. Safe to call twice.
  void close();

 private:
  static void deliver(Napi::Env env, Napi::Function, std::nullptr_t*, Delivery* delivery);
  using Channel = Napi::TypedThreadSafeFunction<std::nullptr_t, Delivery, deliver>;
  Channel channel_;
  bool open_ = true;
  int expected_ = 0;
};

}  // namespace act
