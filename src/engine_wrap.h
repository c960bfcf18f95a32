// NativeEngine: one Engine for JavaScript. Its thread reports through one ThreadSafeFunction, which keeps the
// process alive exactly while tasks live.
#pragma once

#include <napi.h>

#include <cstdint>
#include <memory>

#include "engine/engine.h"

namespace longhaul {

class EngineWrap : public Napi::ObjectWrap<EngineWrap> {
 public:
  static Napi::Function define(Napi::Env env);
  // Napi calls this for every method. Hides the base's, which would take any wrapped object for an engine.
  static EngineWrap* Unwrap(Napi::Object object);

  // new NativeEngine(options, onEvents): task 0 loads the model.
  explicit EngineWrap(const Napi::CallbackInfo& info);

  // The engine is gone and its thread with it: nothing calls the ThreadSafeFunction any more.
  void finish();

 private:
  Napi::Value create_sequence(const Napi::CallbackInfo& info);
  Napi::Value release_sequence(const Napi::CallbackInfo& info);
  Napi::Value unite(const Napi::CallbackInfo& info);
  Napi::Value load_adapter(const Napi::CallbackInfo& info);
  Napi::Value release_adapter(const Napi::CallbackInfo& info);
  Napi::Value ingest(const Napi::CallbackInfo& info);
  Napi::Value ingest_together(const Napi::CallbackInfo& info);
  Napi::Value ingest_shared(const Napi::CallbackInfo& info);
  Napi::Value generate(const Napi::CallbackInfo& info);
  Napi::Value truncate(const Napi::CallbackInfo& info);
  Napi::Value export_sequence(const Napi::CallbackInfo& info);
  Napi::Value export_rows(const Napi::CallbackInfo& info);
  Napi::Value import_sequence(const Napi::CallbackInfo& info);
  Napi::Value import_rows(const Napi::CallbackInfo& info);
  Napi::Value score(const Napi::CallbackInfo& info);
  Napi::Value embed(const Napi::CallbackInfo& info);
  Napi::Value profile(const Napi::CallbackInfo& info);
  void cancel(const Napi::CallbackInfo& info);
  void confirm(const Napi::CallbackInfo& info);
  Napi::Value memory(const Napi::CallbackInfo& info);
  Napi::Value sequence_memory(const Napi::CallbackInfo& info);
  Napi::Value model(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);

  Engine& engine(Napi::Env env) const;
  Napi::Value started(Napi::Env env, uint64_t task);
  void deliver(Napi::Env env, const Napi::Function& on_events);

  static void call_js(napi_env env, napi_value callback, void* context, void* data);
  static void at_environment_exit(void* self);

  std::unique_ptr<Engine> engine_;  // null once disposed of
  napi_threadsafe_function events_ = nullptr;
  int64_t live_tasks_ = 0;
  bool loaded_ = false;
};

}  // namespace longhaul
