#include "mailbox.h"

#include <memory>

namespace act {

Mailbox::Mailbox(Napi::Env env) : channel_(Channel::New(env, "act-trainer engine", 0, 1)) { channel_.Unref(env); }

void Mailbox::post(Delivery delivery) {
  auto owned = std::make_unique<Delivery>(std::move(delivery));
  // Fails only when the environment is ending: nobody is left to tell.
  if (channel_.NonBlockingCall(owned.get()) == napi_ok) owned.release();
}

void Mailbox::expect(Napi::Env env) {
  if (expected_++ == 0) channel_.Ref(env);
}

void Mailbox::settled(Napi::Env env) {
  if (--expected_ == 0) channel_.Unref(env);
}

void Mailbox::close() {
  if (!open_) return;
  open_ = false;
  channel_.Release();
}

void Mailbox::deliver(Napi::Env env, Napi::Function, std::nullptr_t*, Delivery* delivery) {
  const std::unique_ptr<Delivery> owned(delivery);
  if (static_cast<napi_env>(env) == nullptr) return;  // the environment is ending
  const Napi::HandleScope scope(env);
  (*owned)(env);
}

}  // namespace act
